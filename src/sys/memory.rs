//! madvise(2) on our own program: a process that only waits keeps no page of it mapped.

/// Unmaps the pages of this program's own file that nobody can have written: code and constants. They stay in the page
/// cache and come back one by one when they are needed. A launcher and an init that wait for days then cost a node hardly
/// any memory. Does not allocate; what the kernel refuses stays as it was.
pub fn drop_own_file_pages() {
    // SAFETY: dl_iterate_phdr(3) calls back with valid pointers; the callback keeps none of them.
    unsafe {
        libc::dl_iterate_phdr(Some(drop_segments), std::ptr::null_mut());
    }
}

/// Gives back the pages of the main thread's stack that only calls which have returned had used: a launch goes deep once, and
/// then waits. On any other thread it does nothing. Does not allocate.
pub fn drop_unused_stack() {
    const PAGE: usize = 4096;
    /// What this function and a handler of signals need below.
    const NEEDED: usize = 16 << 10;
    /// Less than the gap that the kernel keeps free below a stack that grows (`stack_guard_gap`, 1 MiB): nothing else lies there.
    const MOST: usize = 256 << 10;
    // SAFETY: no arguments.
    if unsafe { libc::gettid() != libc::getpid() } {
        return;
    }
    let here = 0_u8;
    let end = ((&raw const here).addr() - NEEDED) / PAGE * PAGE;
    // SAFETY: the main thread's stack grows down. Below its pointer, and what the ABI grants below that, nothing is alive: no
    // reference into a frame outlives the frame, and the payload's process, which ran in this memory, had a stack of its own.
    // Those pages are private and anonymous, so that they read as zero when a call needs them again; what is not mapped is
    // left alone (ENOMEM).
    unsafe {
        libc::madvise((end - MOST) as *mut libc::c_void, MOST, libc::MADV_DONTNEED);
    }
}

/// Gives freed memory of the heap back to the kernel (malloc_trim(3)), after much was needed for a moment.
pub fn give_back() {
    // SAFETY: malloc_trim touches nothing but the allocator's own free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" fn drop_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: u64 = 4096;
    // SAFETY: the loader hands over a valid dl_phdr_info with dlpi_phnum headers. Only loadable segments without write
    // permission are touched: they map the file, privately and never modified, so MADV_DONTNEED brings the same bytes back
    // (writable ones, in which relocations live, would lose them). The range is cut to whole pages inside the segment.
    unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
            let start = (info.dlpi_addr + header.p_vaddr).next_multiple_of(PAGE);
            let end = (info.dlpi_addr + header.p_vaddr + header.p_filesz) / PAGE * PAGE;
            if end > start {
                libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED);
            }
        }
    }
    1
}
