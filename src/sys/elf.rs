//! The build id that the linker put into this very program (`.note.gnu.build-id`): which build wrote a record, without
//! hashing a file at every start.

use std::fmt::Write as _;

/// The GNU build id in lowercase hex, or none when the program was linked without one.
pub fn build_id() -> Option<String> {
    let mut found: Option<String> = None;
    // SAFETY: dl_iterate_phdr(3) calls back with valid pointers for each loaded object; the first is the program itself,
    // after which the callback stops it. `found` outlives the call.
    unsafe {
        libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast());
    }
    found
}

/// Looks through the notes of the first object only.
unsafe extern "C" fn visit(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands over a valid dl_phdr_info with dlpi_phnum headers, whose PT_NOTE segments are mapped.
    let notes = unsafe {
        let info = &*info;
        std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum))
            .iter()
            .filter(|header| header.p_type == libc::PT_NOTE)
            .map(|header| {
                let start = (info.dlpi_addr + header.p_vaddr) as *const u8;
                std::slice::from_raw_parts(start, header.p_memsz as usize)
            })
    };
    for bytes in notes {
        if let Some(id) = id_in(bytes) {
            // SAFETY: `found` is the Option that build_id() passed in.
            unsafe { *found.cast::<Option<String>>() = Some(id) };
            return 1;
        }
    }
    1
}

/// The build id among these notes. A note: name size, descriptor size, type, then both padded to four bytes (elf(5)).
fn id_in(mut notes: &[u8]) -> Option<String> {
    const NT_GNU_BUILD_ID: u32 = 3;
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let word =
            |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let (name_len, desc_len, kind) = (word(0) as usize, word(4) as usize, word(8));
        let desc_at = name_len.next_multiple_of(4);
        let (name, desc) = (rest.get(..name_len)?, rest.get(desc_at..desc_at + desc_len)?);
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            let mut hex = String::with_capacity(desc_len * 2);
            for byte in desc {
                let _ = write!(hex, "{byte:02x}");
            }
            return Some(hex);
        }
        notes = rest.get(desc_at + desc_len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], desc: &[u8], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, desc.len() as u32, kind] {
            note.extend(word.to_ne_bytes());
        }
        for part in [name, desc] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let notes =
            [note(b"GNU\0", &[9; 16], 1), note(b"stapsdt\0", &[1; 5], 3), note(b"GNU\0", &[0xab; 3], 3)];
        assert_eq!(id_in(&notes.concat()), Some("ababab".to_owned()));
        assert_eq!(id_in(&notes.concat()[..40]), None);
        for end in 0..notes[2].len() - 1 {
            assert_eq!(id_in(&notes[2][..end]), None, "cut at {end}");
        }
        assert_eq!(id_in(&note(b"GNU\0", &[], 1)), None);
        assert_eq!(id_in(&[0xff; 64]), None, "lengths that lead far away");
    }

    #[test]
    #[cfg_attr(miri, ignore = "dl_iterate_phdr(3) asks the loader, and Miri has none")]
    fn this_program_has_one() {
        assert!(build_id().is_none_or(|id| id.len() >= 16 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
