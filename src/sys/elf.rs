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
    const NT_GNU_BUILD_ID: u32 = 3;
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
    for mut note in notes {
        // A note: name size, descriptor size, type, then both padded to four bytes (elf(5)).
        while let Some((head, rest)) = note.split_first_chunk::<12>() {
            let word = |at: usize| {
                head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
            };
            let (name_len, desc_len, kind) = (word(0) as usize, word(4) as usize, word(8));
            let desc_at = name_len.next_multiple_of(4);
            let (Some(name), Some(desc)) = (rest.get(..name_len), rest.get(desc_at..desc_at + desc_len))
            else {
                break;
            };
            if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
                let mut hex = String::with_capacity(desc_len * 2);
                for byte in desc {
                    let _ = write!(hex, "{byte:02x}");
                }
                // SAFETY: `found` is the Option that build_id() passed in.
                unsafe { *found.cast::<Option<String>>() = Some(hex) };
                return 1;
            }
            note = rest.get(desc_at + desc_len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    1
}
