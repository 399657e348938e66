//! Reads a PCRE as far as we have it, and writes it for regex-lite: so that what passes means the same in both.
#![forbid(unsafe_code)]

use std::iter::Peekable;
use std::str::CharIndices;

/// What an expression is made of.
#[derive(Debug)]
pub(super) struct Scanned {
    /// For regex-lite.
    pub(super) written: String,
    /// Set when it is plain text between anchors.
    pub(super) exact: Option<String>,
    /// The longest run of characters that a match must have.
    pub(super) run: String,
    /// Neither groups, sets nor counts: regex-lite can build it, and it is small.
    pub(super) simple: bool,
    /// It has an inline `(?i)`.
    pub(super) caseless: bool,
}

/// What we do not have.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) why: &'static str,
    /// In characters, from 1.
    pub(super) at: usize,
}

/// One thing that a match is made of.
enum Item {
    Char(char),
    /// Takes a character, but not a certain one; a group ends here.
    Other,
    /// `^` and `$` at the outermost level.
    Start,
    End,
    /// A word's boundary; the beginning of a group; a flag.
    Nothing,
    /// `|`
    Or,
}

struct Scan<'a> {
    chars: Peekable<CharIndices<'a>>,
    source: &'a str,
    written: String,
    depth: usize,
    simple: bool,
    caseless: bool,
    items: Vec<Item>,
}

type Step<T> = Result<T, &'static str>;

pub(super) fn scan(source: &str) -> Result<Scanned, Fault> {
    let mut scan = Scan {
        chars: source.char_indices().peekable(),
        source,
        written: String::with_capacity(source.len() + 16),
        depth: 0,
        simple: true,
        caseless: false,
        items: Vec::new(),
    };
    match scan.all() {
        Ok(()) => {}
        Err(why) => {
            let rest = scan.chars.peek().map_or(source.len(), |(index, _)| *index);
            return Err(Fault {
                why,
                at: source.get(..rest).map_or(0, |before| before.chars().count()).max(1),
            });
        }
    }
    let run = longest_run(&scan.items);
    let exact = plain_between_anchors(&scan.items);
    Ok(Scanned { exact, run, written: scan.written, simple: scan.simple, caseless: scan.caseless })
}

/// The text of `^text$`.
fn plain_between_anchors(items: &[Item]) -> Option<String> {
    let [Item::Start, inner @ .., Item::End] = items else {
        return None;
    };
    inner.iter().map(|item| if let Item::Char(c) = item { Some(*c) } else { None }).collect()
}

fn longest_run(items: &[Item]) -> String {
    if items.iter().any(|item| matches!(item, Item::Or)) {
        return String::new();
    }
    let mut longest = String::new();
    let mut run = String::new();
    for item in items.iter().chain([&Item::Other]) {
        if let Item::Char(c) = item {
            run.push(*c);
            continue;
        }
        if run.len() > longest.len() {
            longest.clone_from(&run);
        }
        run.clear();
    }
    longest
}

impl Scan<'_> {
    fn next(&mut self) -> Option<char> {
        self.chars.next().map(|(_, c)| c)
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn take(&mut self, wanted: char) -> bool {
        self.chars.next_if(|(_, c)| *c == wanted).is_some()
    }

    fn all(&mut self) -> Step<()> {
        while let Some(c) = self.next() {
            let item = self.atom(c)?;
            self.repeated(item)?;
        }
        if self.depth > 0 { Err("has a group that is not closed") } else { Ok(()) }
    }

    /// One atom, written; what it takes.
    fn atom(&mut self, c: char) -> Step<Item> {
        match c {
            '\\' => self.escape(),
            '[' => {
                self.set()?;
                Ok(Item::Other)
            }
            '(' => {
                self.open()?;
                Ok(Item::Nothing)
            }
            ')' => {
                self.depth = self.depth.checked_sub(1).ok_or("closes a group that was not opened")?;
                self.written.push(')');
                Ok(Item::Other)
            }
            '|' => {
                self.written.push('|');
                Ok(Item::Or)
            }
            '^' => {
                self.written.push('^');
                Ok(Item::Start)
            }
            '$' => {
                self.written.push('$');
                Ok(Item::End)
            }
            '.' => {
                self.written.push('.');
                Ok(Item::Other)
            }
            '*' | '+' | '?' => Err("repeats nothing"),
            '{' if is_count(self.chars.clone()) => Err("repeats nothing"),
            c => Ok(self.literal(c)),
        }
    }

    fn literal(&mut self, c: char) -> Item {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            self.written.push('\\');
        }
        self.written.push(c);
        Item::Char(c)
    }

    /// How often, and what that leaves certain.
    fn repeated(&mut self, item: Item) -> Step<()> {
        let may_repeat = matches!(item, Item::Char(_) | Item::Other);
        let at_least = match self.peek() {
            Some('*' | '?') => Some(0),
            Some('+') => Some(1),
            Some('{') => {
                let mut ahead = self.chars.clone();
                ahead.next();
                count(&mut ahead)?.map(|(low, _)| low)
            }
            _ => None,
        };
        let Some(at_least) = at_least else {
            self.note(item);
            return Ok(());
        };
        if !may_repeat {
            return Err("repeats nothing");
        }
        let first = self.next();
        match first {
            Some('{') => {
                self.simple = false;
                let (low, high) = count(&mut self.chars)?.ok_or("has a count that cannot be read")?;
                let high = match high {
                    Some(high) if high == low => String::new(),
                    Some(high) => format!(",{high}"),
                    None => ",".to_owned(),
                };
                self.written.extend(["{", &low.to_string(), &high, "}"]);
            }
            Some(c) => self.written.push(c),
            None => {}
        }
        if self.take('?') {
            self.written.push('?');
        } else if self.peek() == Some('+') {
            return Err("has a possessive repetition, which is not supported");
        }
        let again = match self.peek() {
            Some('*' | '?') => true,
            Some('{') => {
                let mut ahead = self.chars.clone();
                ahead.next();
                is_count(ahead)
            }
            _ => false,
        };
        if again {
            return Err("repeats a repetition");
        }
        match item {
            // The first of them is certain; what follows it is not.
            Item::Char(_) if at_least > 0 => {
                self.note(item);
                self.note(Item::Other);
            }
            _ => self.note(Item::Other),
        }
        Ok(())
    }

    /// What is within a group says nothing about the whole.
    fn note(&mut self, item: Item) {
        if self.depth == 0 {
            self.items.push(item);
        } else if !matches!(self.items.last(), Some(Item::Other)) {
            self.items.push(Item::Other);
        }
    }

    fn escape(&mut self) -> Step<Item> {
        let c = self.next().ok_or("ends with a backslash")?;
        match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' => {
                self.written.extend(['\\', c]);
                Ok(Item::Other)
            }
            'b' | 'B' => {
                if self.peek() == Some('{') {
                    return Err("has a brace behind \\b, which is read in two ways");
                }
                self.written.extend(['\\', c]);
                Ok(Item::Nothing)
            }
            'A' => {
                self.written.push_str("\\A");
                Ok(if self.depth == 0 { Item::Start } else { Item::Nothing })
            }
            'z' | 'Z' => {
                self.written.push_str("\\z");
                Ok(if self.depth == 0 { Item::End } else { Item::Nothing })
            }
            'x' => self.hex().map(|c| self.literal(c)),
            '0'..='9' => Err("has a back reference or an octal number, which are not supported"),
            c if c.is_ascii_alphabetic() => Err("has an escape that is not supported"),
            c => Ok(self.literal(c)),
        }
    }

    fn hex(&mut self) -> Step<char> {
        let mut digits = String::new();
        if self.take('{') {
            while let Some(c) = self.next().filter(|c| *c != '}') {
                digits.push(c);
            }
        } else {
            while digits.len() < 2 && self.peek().is_some_and(|c| c.is_ascii_hexdigit()) {
                digits.extend(self.next());
            }
        }
        let fits = (1..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = u32::from_str_radix(&digits, 16).ok().filter(|_| fits);
        code.and_then(char::from_u32).ok_or("has an \\x that cannot be read")
    }

    /// Behind `(`.
    fn open(&mut self) -> Step<()> {
        self.simple = false;
        if self.peek() == Some('*') {
            return Err("has a verb, which is not supported");
        }
        if !self.take('?') {
            self.depth += 1;
            self.written.push_str("(?:");
            return Ok(());
        }
        if self.take('P') && self.peek() != Some('<') {
            return Err("has a back reference by name, which is not supported");
        }
        match self.peek() {
            Some('=' | '!') => return Err("has look-ahead, which is not supported"),
            Some('>') => return Err("has an atomic group, which is not supported"),
            Some('<') => {
                self.next();
                if matches!(self.peek(), Some('=' | '!')) {
                    return Err("has look-behind, which is not supported");
                }
                let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                while self.chars.next_if(|(_, c)| name(*c)).is_some() {}
                if !self.take('>') {
                    return Err("has a group whose name cannot be read");
                }
                self.depth += 1;
                self.written.push_str("(?:");
                return Ok(());
            }
            _ => {}
        }
        let mut flags = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| "imsU-".contains(*c)) {
            flags.push(c);
        }
        self.caseless |= flags.contains('i');
        match self.next() {
            Some(')') if !flags.is_empty() => self.written.extend(["(?", &flags, ")"]),
            Some(':') => {
                self.depth += 1;
                self.written.extend(["(?", &flags, ":"]);
            }
            _ => return Err("has a kind of group that is not supported"),
        }
        Ok(())
    }

    /// Behind `[`.
    fn set(&mut self) -> Step<()> {
        const OPEN: &str = "has a set that is not closed";
        self.simple = false;
        self.written.push('[');
        if self.take('^') {
            self.written.push('^');
        }
        let mut first = true;
        // Whether a dash that comes now is one of a range.
        let mut begins_range = false;
        loop {
            let c = self.next().ok_or(OPEN)?;
            match c {
                ']' if !first => {
                    self.written.push(']');
                    return Ok(());
                }
                '[' if matches!(self.peek(), Some(':' | '.' | '=')) => {
                    self.class_by_name()?;
                    begins_range = false;
                }
                '\\' => {
                    let c = self.next().ok_or(OPEN)?;
                    match c {
                        'd' | 'D' | 'w' | 'W' | 's' | 'S' => {
                            self.written.extend(['\\', c]);
                            begins_range = false;
                        }
                        'x' => {
                            let c = self.hex()?;
                            self.literal(c);
                            begins_range = true;
                        }
                        c if c.is_ascii_alphanumeric() => {
                            return Err("has an escape in a set that is not supported");
                        }
                        c => {
                            self.literal(c);
                            begins_range = true;
                        }
                    }
                }
                '-' if begins_range && self.peek().is_some_and(|c| c != ']') => {
                    self.written.push('-');
                    begins_range = false;
                }
                c => {
                    self.literal(c);
                    begins_range = c != '-';
                }
            }
            first = false;
        }
    }

    /// `[:name:]` in a set, behind its bracket.
    fn class_by_name(&mut self) -> Step<()> {
        const WRONG: &str = "has a class whose name cannot be read";
        let start = self.chars.peek().map_or(0, |(index, _)| *index);
        let rest = self.source.get(start..).unwrap_or_default();
        let (name, _) = rest.strip_prefix(':').and_then(|rest| rest.split_once(":]")).ok_or(WRONG)?;
        if name.len() > 7 || !name.trim_start_matches('^').bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(WRONG);
        }
        self.written.extend(["[:", name, ":]"]);
        for _ in 0..name.chars().count() + 3 {
            self.next();
        }
        Ok(())
    }
}

/// Whether a count stands behind a brace.
fn is_count(mut chars: Peekable<CharIndices<'_>>) -> bool {
    count(&mut chars).is_ok_and(|count| count.is_some())
}

/// `n}`, `n,}` or `n,m}` behind a brace. `None` for anything else, where the brace is itself, as PCRE has it; `{,m}` means one
/// thing in an old PCRE and another in a new one.
fn count(chars: &mut Peekable<CharIndices<'_>>) -> Step<Option<(u32, Option<u32>)>> {
    let mut number = || {
        let mut digits = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
            digits.push(c);
        }
        (digits, chars.next().map(|(_, c)| c))
    };
    let (low, end) = number();
    match end {
        Some('}') if !low.is_empty() => {
            let low = low.parse().map_err(|_| "has a count that is too large")?;
            Ok(Some((low, Some(low))))
        }
        Some(',') => {
            let (high, end) = number();
            if end != Some('}') {
                return Ok(None);
            }
            if low.is_empty() {
                return if high.is_empty() {
                    Ok(None)
                } else {
                    Err("has a count without its beginning, which is read in two ways")
                };
            }
            let low = low.parse().map_err(|_| "has a count that is too large")?;
            let high = if high.is_empty() {
                None
            } else {
                Some(high.parse().map_err(|_| "has a count that is too large")?)
            };
            Ok(Some((low, high)))
        }
        _ => Ok(None),
    }
}
