//! What was asked for and is not done, in a size that every record takes: a user writes these words too, with every name of a
//! variable and of a path.
#![forbid(unsafe_code)]

/// Entries of the list.
const ENTRIES: usize = 64;
/// Bytes of one entry.
const ENTRY: usize = 4 << 10;
/// Bytes of all. A byte becomes at most six in a record.
const ALL: usize = 12 << 10;
/// Names in one entry, and bytes of a name.
const NAMES: usize = 50;
const NAME: usize = 64;

/// Names one after the other, as many as anybody reads.
pub(super) fn names(names: &[String]) -> String {
    let mut text = String::new();
    for name in names.iter().take(NAMES) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&cut(name.clone(), NAME));
    }
    match names.len().saturating_sub(NAMES) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// The list, cut where it is too long; what is left out is counted.
pub(super) fn bounded(list: Vec<String>) -> Vec<String> {
    let whole = list.len();
    let mut left = ALL;
    let mut kept: Vec<String> = Vec::with_capacity(whole.min(ENTRIES));
    for entry in list.into_iter().take(ENTRIES) {
        let entry = cut(entry, ENTRY);
        if entry.len() > left {
            break;
        }
        left -= entry.len();
        kept.push(entry);
    }
    if kept.len() < whole {
        kept.push(format!("and {} more", whole - kept.len()));
    }
    kept
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_reads_stays_as_it_is() {
        let few = vec!["A".to_owned(), "B".to_owned()];
        assert_eq!(names(&few), "A B");
        assert_eq!(bounded(few.clone()), few);
        assert_eq!(names(&[]), "");
    }

    #[test]
    fn nothing_makes_a_record_too_large() {
        let odd: Vec<String> = (0..5500).map(|number| format!("A{number}-{}", "ü".repeat(120))).collect();
        let text = names(&odd);
        assert!(text.len() < 4 << 10 && text.ends_with("... and 5450 more"), "{text}");
        let kept = bounded(odd.clone());
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (51, "and 5450 more"));
        for list in [odd, vec!["\u{1}".repeat(1 << 20); 9], vec![String::new(); 5500]] {
            let kept = bounded(list);
            let json = serde_json::to_string(&kept).unwrap();
            assert!(kept.len() <= ENTRIES + 1 && json.len() < 80 << 10, "{} {}", kept.len(), json.len());
            assert!(kept.last().unwrap().ends_with(" more"));
        }
    }
}
