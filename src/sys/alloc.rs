//! Memory of the launcher and of the recorder: blocks that the main thread freed are kept by their size, in front of the C
//! library's allocator. The launcher's come from one piece of memory, the [`Arena`], one behind the other.
//!
//! A launch record is some hundred short strings, made, copied and freed again for every launch; in a general allocator they
//! cost more than the record's JSON does. A launcher that has just started pays most: each size is new to the C library.
//!
//! 1. A block's class follows from the size that its owner asked for, and nothing stands beside the block. Whoever frees it
//!    names the same size, so it finds the same class.
//! 2. Only a thread that said so ([`keep_here`]) keeps blocks, and it must live as long as the process: what others free goes
//!    back at once, so that a thread that ends leaves nothing behind.
//! 3. What is kept is bounded, class by class ([`KEPT`]); blocks of the arena are, by its size. They never go back to the C
//!    library: freed by a thread that keeps nothing, they are lost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Small sizes are classes of so many bytes, up to [`SMALL`].
const STEP: usize = 16;
const SMALL: usize = 1024;
/// Larger ones of so many, up to [`LARGE`].
const LARGE_STEP: usize = 512;
const LARGE: usize = 8192;
const CLASSES: usize = SMALL / STEP + (LARGE - SMALL) / LARGE_STEP;
/// Bytes that are kept of one class.
const KEPT: usize = 128 << 10;
/// What every block of a class is aligned to.
const ALIGNMENT: usize = 16;

/// The allocator.
#[derive(Debug)]
pub struct Keeping;

/// A block that nobody has; its first bytes say which is next.
struct Block {
    next: *mut Block,
}

/// The blocks of one class.
struct Kept {
    first: Cell<*mut Block>,
    count: Cell<usize>,
}

/// Memory for small blocks, untouched until they are made.
#[repr(align(4096))]
struct Arena(UnsafeCell<[MaybeUninit<u8>; ARENA]>);

/// A launch needs a third of it.
const ARENA: usize = 256 << 10;

// SAFETY: it is lent once, to the one thread that won `LENT`; nobody else reads or writes it but through blocks that this
// thread handed out, whose owners are as with any allocator.
unsafe impl Sync for Arena {}

static FIRST_BLOCKS: Arena = Arena(UnsafeCell::new([MaybeUninit::uninit(); ARENA]));
static LENT: AtomicBool = AtomicBool::new(false);

impl Arena {
    fn has(block: *mut u8) -> bool {
        let start = FIRST_BLOCKS.0.get().addr();
        (start..start + ARENA).contains(&block.addr())
    }
}

struct Thread {
    keeps: Cell<bool>,
    /// What is left of the arena: where, and how many bytes.
    rest: Cell<(*mut u8, usize)>,
    classes: [Kept; CLASSES],
}

thread_local! {
    // Made by the linker and never dropped: it is there whenever somebody allocates.
    static THREAD: Thread = const {
        Thread {
            keeps: Cell::new(false),
            rest: Cell::new((null_mut(), 0)),
            classes: [const { Kept { first: Cell::new(null_mut()), count: Cell::new(0) } }; CLASSES],
        }
    };
}

/// From now on this thread keeps what it frees. It must not end before the process does.
pub fn keep_here() {
    THREAD.with(|thread| thread.keeps.set(true));
}

/// As [`keep_here`], and takes small blocks from the arena as long as it lasts. Once in a process: whoever comes second has none.
pub fn keep_here_with_arena() {
    keep_here();
    if !LENT.swap(true, Ordering::AcqRel) {
        THREAD.with(|thread| thread.rest.set((FIRST_BLOCKS.0.get().cast(), ARENA)));
    }
}

/// A freed block of the arena that is a little too large. (It counts as one of the smaller class from then on, which only the
/// arena's may, because none of them goes back to the C library.)
fn larger(class: usize) -> Option<*mut u8> {
    const MORE: usize = 4;
    (class + 1..=class + MORE).find_map(|class| {
        with_kept(class, |kept| {
            let block = kept.first.get();
            if block.is_null() || !Arena::has(block.cast()) {
                return None;
            }
            // SAFETY: what is on the list is a block that nobody owns, and `dealloc` wrote its `next`.
            kept.first.set(unsafe { (*block).next });
            kept.count.set(kept.count.get().saturating_sub(1));
            Some(block.cast())
        })
    })
}

/// A block of this size, a class's, from what is left of the arena.
fn carve(size: usize) -> Option<*mut u8> {
    THREAD.with(|thread| {
        let (start, left) = thread.rest.get();
        if size > SMALL || size > left {
            return None;
        }
        // SAFETY: `left` bytes follow `start` inside the arena, and `size` is not more.
        thread.rest.set((unsafe { start.add(size) }, left - size));
        Some(start)
    })
}

/// The class of a block, and its real layout; `None` where the C library's own is used.
fn class_of(layout: Layout) -> Option<(usize, Layout)> {
    let size = layout.size();
    if size == 0 || size > LARGE || layout.align() > ALIGNMENT {
        return None;
    }
    let (class, size) = if size <= SMALL {
        let class = (size - 1) / STEP;
        (class, (class + 1) * STEP)
    } else {
        let class = (size - SMALL - 1) / LARGE_STEP;
        (SMALL / STEP + class, SMALL + (class + 1) * LARGE_STEP)
    };
    Layout::from_size_align(size, ALIGNMENT).ok().map(|layout| (class, layout))
}

/// The kept blocks of a class, where this thread keeps any.
fn with_kept<R>(class: usize, then: impl FnOnce(&Kept) -> Option<R>) -> Option<R> {
    THREAD.with(|thread| if thread.keeps.get() { then(thread.classes.get(class)?) } else { None })
}

// SAFETY: a block is handed out with at least the size and alignment that were asked for: its class's layout has both, and it
// comes from `System` with that layout, or from the arena, whose blocks are as large and aligned as their class. It is on at most one list at a time, and on none while somebody owns it: `dealloc` puts
// it there, `alloc` takes it away, and both only on their own thread's lists. Its class is a function of the layout that the
// caller must name again, so it goes back to `System` with the layout that it came with; what lies in the arena never goes there. No call here panics or allocates.
unsafe impl GlobalAlloc for Keeping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, whole)) = class_of(layout) else {
            // SAFETY: the caller's own promise.
            return unsafe { System.alloc(layout) };
        };
        let kept = with_kept(class, |kept| {
            let block = kept.first.get();
            if block.is_null() {
                return None;
            }
            // SAFETY: what is on the list is a block that nobody owns, and `dealloc` wrote its `next`.
            kept.first.set(unsafe { (*block).next });
            kept.count.set(kept.count.get().saturating_sub(1));
            Some(block.cast())
        });
        // SAFETY: the layout of a class has a size above zero.
        kept.or_else(|| larger(class))
            .or_else(|| carve(whole.size()))
            .unwrap_or_else(|| unsafe { System.alloc(whole) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            // Large ones come from the kernel with zeros in them, page by page when they are touched.
            // SAFETY: the caller's own promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's own promise; the block has that size.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((class, whole)) = class_of(layout) else {
            // SAFETY: the caller's own promise; it came from there.
            return unsafe { System.dealloc(block, layout) };
        };
        let kept = with_kept(class, |kept| {
            let count = kept.count.get();
            if count >= KEPT / whole.size() && !Arena::has(block) {
                return None;
            }
            #[expect(clippy::cast_ptr_alignment, reason = "a class's blocks are aligned to 16 bytes")]
            let free = block.cast::<Block>();
            // SAFETY: nobody owns the block any more; it has room for a `Block` and is aligned for it, as its class is.
            unsafe { free.write(Block { next: kept.first.get() }) };
            kept.first.set(free);
            kept.count.set(count + 1);
            Some(())
        });
        if kept.is_none() && !Arena::has(block) {
            // SAFETY: it came from `System` with its class's layout.
            unsafe { System.dealloc(block, whole) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        match (class_of(layout), class_of(wanted)) {
            (Some((old, _)), Some((new, _))) if old == new => block,
            // SAFETY: the caller's own promise; the block came from there, and stays there.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            _ => {
                // SAFETY: the size is not zero, as the caller promises. Both blocks have the smaller of both sizes, and they
                // are two blocks. The old one is given back with its own layout.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        std::ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    new
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block full of one byte.
    struct Held {
        block: *mut u8,
        layout: Layout,
        byte: u8,
    }

    // SAFETY: whoever has it is the block's only owner.
    unsafe impl Send for Held {}

    impl Held {
        fn new(size: usize, align: usize, byte: u8) -> Self {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the size is above zero.
            let block = unsafe { Keeping.alloc(layout) };
            assert!(!block.is_null() && block.addr().is_multiple_of(align));
            // SAFETY: the block has that size.
            unsafe { block.write_bytes(byte, size) };
            Self { block, layout, byte }
        }

        fn is_whole(&self) -> bool {
            let step = if cfg!(miri) { 61 } else { 1 }; // an interpreter takes its time
            // SAFETY: all of it was written.
            let bytes = unsafe { std::slice::from_raw_parts(self.block, self.layout.size()) };
            bytes.iter().step_by(step).all(|b| *b == self.byte)
        }

        fn resized(self, size: usize) -> Self {
            assert!(self.is_whole());
            let kept = size.min(self.layout.size());
            // SAFETY: the block and its own layout; the size is above zero.
            let block = unsafe { Keeping.realloc(self.block, self.layout, size) };
            assert!(!block.is_null());
            // SAFETY: so much was written before.
            let before = unsafe { std::slice::from_raw_parts(block, kept) };
            assert!(before.iter().all(|b| *b == self.byte));
            // SAFETY: the block has that size.
            unsafe { block.write_bytes(self.byte, size) };
            Self { block, layout: Layout::from_size_align(size, self.layout.align()).unwrap(), ..self }
        }

        fn free(self) {
            assert!(self.is_whole(), "somebody else wrote into it");
            // SAFETY: the block and its own layout, once.
            unsafe { Keeping.dealloc(self.block, self.layout) };
        }
    }

    /// A thread of these tests ends, and must leave nothing behind.
    fn let_go() {
        THREAD.with(|thread| {
            thread.keeps.set(false);
            for size in (1..=LARGE).step_by(STEP) {
                let (class, whole) = class_of(Layout::from_size_align(size, 8).unwrap()).unwrap();
                let kept = &thread.classes[class];
                while !kept.first.get().is_null() {
                    let block = kept.first.get();
                    // SAFETY: nobody owns it; it came from there with that layout.
                    unsafe {
                        kept.first.set((*block).next);
                        if !Arena::has(block.cast()) {
                            System.dealloc(block.cast(), whole);
                        }
                    }
                }
                kept.count.set(0);
            }
        });
    }

    #[test]
    fn a_class_has_room_and_each_size_one_class() {
        let mut last = 0;
        for size in 1..=LARGE {
            let (class, whole) = class_of(Layout::from_size_align(size, 8).unwrap()).unwrap();
            assert!(whole.size() >= size && whole.size() - size < LARGE_STEP && class < CLASSES);
            assert_eq!(class_of(whole), Some((class, whole)));
            assert!(class == last || class == last + 1, "{size}");
            last = class;
        }
        assert_eq!(last, CLASSES - 1);
        for (size, align) in [(LARGE + 1, 8), (64, 32), (0, 1)] {
            assert_eq!(class_of(Layout::from_size_align(size, align).unwrap()), None);
        }
    }

    #[test]
    fn blocks_are_nobody_elses() {
        for keeps in [false, true] {
            if keeps {
                keep_here();
            }
            let mut held: Vec<Held> = Vec::new();
            let mut seed = 1_u32;
            let rounds = if cfg!(miri) { 300 } else { 20_000 };
            for round in 0..rounds {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let size = 1 + (seed >> 8) as usize % if round % 7 == 0 { 12_000 } else { 300 };
                let align = 1 << (seed >> 4 & 5);
                match seed % 5 {
                    0 | 1 => held.push(Held::new(size, align, round as u8)),
                    2 if !held.is_empty() => {
                        let at = seed as usize % held.len();
                        let one = held.swap_remove(at).resized(size);
                        held.push(one);
                    }
                    _ if !held.is_empty() => held.swap_remove(seed as usize % held.len()).free(),
                    _ => {}
                }
            }
            held.into_iter().for_each(Held::free);
        }
        let_go();
    }

    #[test]
    fn what_is_freed_is_used_again_and_not_kept_without_end() {
        keep_here();
        let first = Held::new(100, 8, 1);
        let place = first.block;
        first.free();
        let again = Held::new(112, 8, 2); // of the same class
        assert_eq!(again.block, place);
        again.free();
        let many: Vec<Held> = (0..2 * KEPT / 4096).map(|_| Held::new(4000, 8, 3)).collect();
        let (class, whole) = class_of(many[0].layout).unwrap();
        many.into_iter().for_each(Held::free);
        let count = with_kept(class, |kept| Some(kept.count.get())).unwrap();
        assert_eq!(count, KEPT / whole.size());
        // Another thread keeps nothing, and may free what this one made.
        let block = Held::new(4000, 8, 4);
        std::thread::spawn(move || {
            block.free();
            assert!(with_kept(class, |kept| Some(kept.count.get())).is_none());
        })
        .join()
        .unwrap();
        let_go();
    }

    #[test]
    fn zeroed_blocks_are_zero() {
        keep_here();
        for size in [40, 700, 5_000, 20_000, 300_000] {
            Held::new(size, 8, 0xff).free();
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: the size is above zero.
            let block = unsafe { Keeping.alloc_zeroed(layout) };
            let held = Held { block, layout, byte: 0 };
            assert!(!block.is_null() && held.is_whole(), "{size}");
            held.free();
        }
        let_go();
    }

    #[test]
    fn small_blocks_lie_in_the_arena_and_never_leave_it() {
        keep_here_with_arena();
        let (first, second) = (Held::new(40, 8, 1), Held::new(33, 16, 2));
        assert!(Arena::has(first.block) && second.block.addr() == first.block.addr() + 48);
        let large = Held::new(SMALL + 1, 8, 3);
        assert!(!Arena::has(large.block));
        large.free();
        // Who keeps nothing gives nothing of it back, to nobody.
        let lost = first.block;
        std::thread::spawn(move || first.free()).join().unwrap();
        let mut all = vec![second];
        while let Some(last) = all.last()
            && Arena::has(last.block)
        {
            assert!(last.block != lost);
            all.push(Held::new(700, 8, all.len() as u8));
        }
        let count = all.len();
        assert!(count > (ARENA - 1024) / 704, "{count}");
        all.into_iter().for_each(Held::free);
        let again: Vec<Held> = (0..count - 2).map(|_| Held::new(704, 8, 9)).collect();
        assert!(again.iter().filter(|held| Arena::has(held.block)).count() >= count - 3);
        again.into_iter().for_each(Held::free);
        let smaller = Held::new(650, 8, 6);
        assert!(Arena::has(smaller.block), "a freed block that is a little too large does as well");
        let small = Held::new(40, 8, 7);
        assert!(small.block != smaller.block);
        small.free();
        smaller.free();
        let_go();
        // There is one arena, and it is lent.
        let other = std::thread::spawn(|| {
            keep_here_with_arena();
            let block = Held::new(40, 8, 5);
            let has = Arena::has(block.block);
            block.free();
            let_go();
            has
        });
        assert!(!other.join().unwrap());
    }
}
