//! Memory arenas on the CPU: each loaded model's weights, KV cache and activations in an address range
//! of its own, so that an unload can prove that every byte is back.
//!
//! It corresponds to having one `CUmemoryPool` per model. A single address range is reserved at first use and cut into
//! slots; an open [`Arena`] owns one slot. While a thread is inside [`Arena::enter`], every heap allocation of at least
//! [`MIN_BYTES`] that it makes comes from that slot, including those of libraries (candle's tensors are plain `Vec`s).
//! Smaller allocations, and those of other threads, stay on the system heap. The address of a block tells which slot it
//! belongs to, so it may be freed on any thread, inside or outside.
//!
//! Freed blocks are kept by size class for the next step (`reserved` stays, `used` falls), like in a CUDA pool whose
//! release threshold is at its maximum. [`Arena::close`] requires `used == 0`, returns all pages to the system in one
//! call, and reports both figures. A slot that still has live blocks is never reused: a leak costs address space, not
//! soundness. Decision: docs/decisions/002.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Allocations below this many bytes stay on the system heap.
pub const MIN_BYTES: usize = 4096;
const PAGE: usize = 4096;
/// Address space of one arena. Reserved, not backed: untouched addresses cost nothing.
const SLOT_BYTES: usize = 1 << 38;
const SLOTS: usize = 64;
/// Pages are made accessible in pieces of this size.
const GROW_BYTES: usize = 8 << 20;
/// Four size classes per doubling, from 4 KiB up to the size of a slot.
const CLASSES: usize = 4 * 25;
const NO_SLOT: usize = usize::MAX;

/// The process's allocator: the system's, plus arenas for threads that entered one.
struct ArenaAlloc;

#[global_allocator]
static ALLOCATOR: ArenaAlloc = ArenaAlloc;

static ZONE: AtomicUsize = AtomicUsize::new(0);
static SLOT_TABLE: [Mutex<Slot>; SLOTS] = [const { Mutex::new(Slot::EMPTY) }; SLOTS];

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(NO_SLOT) };
}

/// What can go wrong when an arena is opened.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The system has refused the address space that all arenas share.
    #[error(
        "cannot reserve {} GiB of address space for model memory: {source}; raise the limit (ulimit -v unlimited)",
        (SLOT_BYTES * SLOTS) >> 30
    )]
    Reserve {
        /// The system's error.
        source: std::io::Error,
    },
    /// No arena is free; there is a fixed number of them.
    #[error(
        "all {SLOTS} model arenas are taken, {leaked} of them by memory that an earlier unload could not free; restart the server"
    )]
    Full {
        /// Arenas retired because an unload left live allocations behind.
        leaked: usize,
    },
}

/// An arena's figures, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArenaUsage {
    /// In live allocations.
    pub used: usize,
    /// Taken from the system and not yet given back: live, cached for reuse, or rounding.
    pub reserved: usize,
}

/// One model's memory. Dropping it closes it.
#[derive(Debug)]
pub struct Arena {
    slot: usize,
    closed: bool,
}

/// While this lives, the thread's large allocations come from the arena it was made from.
#[must_use = "allocations go to the arena only while the guard lives"]
pub struct Entered<'a> {
    before: usize,
    _arena: PhantomData<(&'a Arena, *const ())>,
}

impl Arena {
    /// Opens an arena in a free slot. Fails if all slots are taken, or if the system refuses the address space.
    pub fn open() -> Result<Arena, ArenaError> {
        reserve_zone()?;
        for (index, slot) in SLOT_TABLE.iter().enumerate() {
            let mut slot = lock(slot);
            if slot.state == SlotState::Free {
                slot.state = SlotState::Open;
                return Ok(Arena { slot: index, closed: false });
            }
        }
        let leaked = SLOT_TABLE.iter().filter(|s| lock(s).state == SlotState::Leaked).count();
        Err(ArenaError::Full { leaked })
    }

    /// Directs this thread's large allocations here until the guard is dropped. Nests.
    pub fn enter(&self) -> Entered<'_> {
        let before = CURRENT.replace(self.slot);
        Entered { before, _arena: PhantomData }
    }

    /// Bytes used and reserved now.
    pub fn usage(&self) -> ArenaUsage {
        lock(&SLOT_TABLE[self.slot]).usage()
    }

    /// Gives the pages of cached free blocks back to the system. Called after a load, whose temporaries
    /// (a checkpoint's bf16 read before widening) would otherwise stay cached for ever.
    pub fn trim(&self) {
        lock(&SLOT_TABLE[self.slot]).trim();
    }

    /// Closes the arena and returns what was left: (0, 0) when every allocation had been dropped. With
    /// live allocations the slot is retired as it is, and the figures say how much leaked.
    pub fn close(mut self) -> ArenaUsage {
        self.shut()
    }

    fn shut(&mut self) -> ArenaUsage {
        self.closed = true;
        lock(&SLOT_TABLE[self.slot]).close(slot_start(self.slot))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.closed {
            self.shut();
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The arena that a thread is in, or none; for other threads that work on the same model.
#[derive(Debug, Clone, Copy)]
pub struct Current(usize);

/// The arena that this thread is in.
pub fn current() -> Current {
    Current(CURRENT.try_with(Cell::get).unwrap_or(NO_SLOT))
}

impl Current {
    /// As [`Arena::enter`]. The thread must end before the arena is closed: what it still holds then is a leak,
    /// and counts as one.
    pub fn enter(self) -> Entered<'static> {
        Entered { before: CURRENT.replace(self.0), _arena: PhantomData }
    }
}

/// Runs `f` with this thread's allocations on the system heap, even inside an arena: for state that
/// outlives the model (thread-local workspaces of libraries, say).
pub fn outside<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(NO_SLOT));
    f()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Free,
    Open,
    Leaked,
}

/// The state of one slot. Free blocks of a class form a list through their first word.
struct Slot {
    state: SlotState,
    /// Bytes handed out from the start of the slot so far; beyond lies untouched (zero) memory.
    bump: usize,
    /// Bytes made accessible.
    accessible: usize,
    used: usize,
    /// Bytes of trimmed blocks whose pages were given back.
    trimmed: usize,
    free: [usize; CLASSES],
    /// Trimmed free blocks: pages beyond the first are gone (and read as zero).
    cold: [usize; CLASSES],
}

impl Slot {
    const EMPTY: Slot = Slot {
        state: SlotState::Free,
        bump: 0,
        accessible: 0,
        used: 0,
        trimmed: 0,
        free: [0; CLASSES],
        cold: [0; CLASSES],
    };

    fn usage(&self) -> ArenaUsage {
        ArenaUsage { used: self.used, reserved: self.bump - self.trimmed }
    }

    /// Returns the block's address and whether it is known to be zero, or `None` when the slot is full.
    fn alloc(&mut self, start: usize, size: usize) -> Option<(usize, bool)> {
        let (class, bytes) = class_of(size)?;
        let taken = if let Some(block) = pop(&mut self.free[class]) {
            (block, false)
        } else if let Some(block) = pop(&mut self.cold[class]) {
            self.trimmed -= bytes - PAGE;
            (block, false)
        } else {
            (self.carve(start, bytes)?, true)
        };
        self.used += size;
        Some(taken)
    }

    fn carve(&mut self, start: usize, bytes: usize) -> Option<usize> {
        let end = self.bump.checked_add(bytes).filter(|&end| end <= SLOT_BYTES)?;
        if end > self.accessible {
            let target = end.next_multiple_of(GROW_BYTES).min(SLOT_BYTES);
            let from = (start + self.accessible) as *mut libc::c_void;
            let flags = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the range lies in the zone that this module reserved and nobody else maps.
            if unsafe { libc::mprotect(from, target - self.accessible, flags) } != 0 {
                return None;
            }
            self.accessible = target;
        }
        let block = start + self.bump;
        self.bump = end;
        Some(block)
    }

    fn free(&mut self, block: usize, size: usize) {
        self.used -= size;
        if let Some((class, _)) = class_of(size) {
            push(&mut self.free[class], block);
        }
    }

    fn trim(&mut self) {
        for class in 0..CLASSES {
            let bytes = class_bytes(class);
            while let Some(block) = pop(&mut self.free[class]) {
                if bytes > PAGE {
                    discard(block + PAGE, bytes - PAGE);
                    self.trimmed += bytes - PAGE;
                }
                push(&mut self.cold[class], block);
            }
        }
    }

    fn close(&mut self, start: usize) -> ArenaUsage {
        if self.used > 0 {
            self.state = SlotState::Leaked;
            return self.usage();
        }
        if self.accessible > 0 {
            discard(start, self.accessible);
            // SAFETY: as in `carve`; no live block is left in the slot (`used == 0`).
            unsafe { libc::mprotect(start as *mut libc::c_void, self.accessible, libc::PROT_NONE) };
        }
        *self = Slot::EMPTY;
        self.usage()
    }
}

fn pop(head: &mut usize) -> Option<usize> {
    let block = *head;
    if block == 0 {
        return None;
    }
    // SAFETY: a listed block is free, accessible, page-aligned, and holds the next one's address.
    *head = unsafe { ptr::read(block as *const usize) };
    Some(block)
}

fn push(head: &mut usize, block: usize) {
    // SAFETY: the caller owns the block, which is at least one page and page-aligned.
    unsafe { ptr::write(block as *mut usize, *head) };
    *head = block;
}

fn discard(start: usize, bytes: usize) {
    // SAFETY: only called on page-aligned ranges of the zone in which no live allocation lies.
    unsafe { libc::madvise(start as *mut libc::c_void, bytes, libc::MADV_DONTNEED) };
}

/// Size class and its block size for a request, or `None` when it is larger than a slot.
fn class_of(size: usize) -> Option<(usize, usize)> {
    let pages = size.max(1).div_ceil(PAGE);
    if pages <= 4 {
        return Some((pages - 1, pages * PAGE));
    }
    let doubling = usize::BITS - 1 - (pages - 1).leading_zeros(); // 2^doubling <= pages-1 < 2^(doubling+1)
    let quarter = 1usize << (doubling - 2);
    let step = (pages - 1 - (1 << doubling)) / quarter; // 0..=3
    let class = 4 * (doubling as usize - 1) + step;
    (class < CLASSES).then(|| (class, class_bytes(class)))
}

fn class_bytes(class: usize) -> usize {
    if class < 4 {
        return (class + 1) * PAGE;
    }
    let doubling = class / 4 + 1;
    let quarter = 1usize << (doubling - 2);
    ((1usize << doubling) + (class % 4 + 1) * quarter) * PAGE
}

fn slot_start(slot: usize) -> usize {
    ZONE.load(Ordering::Acquire) + slot * SLOT_BYTES
}

fn slot_of(address: usize) -> Option<usize> {
    let zone = ZONE.load(Ordering::Acquire);
    let offset = address.wrapping_sub(zone);
    (zone != 0 && offset < SLOT_BYTES * SLOTS).then_some(offset / SLOT_BYTES)
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn reserve_zone() -> Result<(), ArenaError> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if ZONE.load(Ordering::Acquire) != 0 {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping at an address of the system's choice touches no other memory.
    let zone =
        unsafe { libc::mmap(ptr::null_mut(), SLOT_BYTES * SLOTS, libc::PROT_NONE, flags, -1, 0) };
    if zone == libc::MAP_FAILED {
        return Err(ArenaError::Reserve { source: std::io::Error::last_os_error() });
    }
    ZONE.store(zone as usize, Ordering::Release);
    Ok(())
}

fn arena_alloc(layout: Layout) -> Option<(*mut u8, bool)> {
    if layout.size() < MIN_BYTES || layout.align() > PAGE {
        return None;
    }
    let slot = CURRENT.try_with(Cell::get).unwrap_or(NO_SLOT);
    let entry = SLOT_TABLE.get(slot)?;
    // What a panic's message and backtrace need is kept by the standard library for ever: it is no model's memory.
    if std::thread::panicking() {
        return None;
    }
    let (block, zeroed) = lock(entry).alloc(slot_start(slot), layout.size())?;
    Some((block as *mut u8, zeroed))
}

/// Hands free pages of the system heap back, so that the resident set tells what is really held.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

// SAFETY: blocks come from the system allocator or from a slot that hands each address out once until it
// is freed; a block's origin is decided by its address alone, so `dealloc` always reaches its allocator.
unsafe impl GlobalAlloc for ArenaAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match arena_alloc(layout) {
            Some((block, _)) => block,
            // SAFETY: the caller's contract is passed on unchanged.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match arena_alloc(layout) {
            Some((block, true)) => block,
            Some((block, false)) => {
                // SAFETY: the block holds at least `layout.size()` bytes and is ours alone.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            // SAFETY: the caller's contract is passed on unchanged.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match slot_of(block as usize) {
            Some(slot) => lock(&SLOT_TABLE[slot]).free(block as usize, layout.size()),
            // SAFETY: outside the zone, so the system allocator made it.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let inside = CURRENT.try_with(Cell::get).unwrap_or(NO_SLOT) != NO_SLOT;
        if slot_of(block as usize).is_none() && !(inside && new_size >= MIN_BYTES) {
            // SAFETY: outside the zone, so the system allocator made it.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: `new_size` is valid for `layout.align()` by the caller's contract; old and new blocks
        // are distinct, and `min` of both sizes is readable and writable.
        unsafe {
            let new_layout = Layout::from_size_align_unchecked(new_size, layout.align());
            let new_block = self.alloc(new_layout);
            if !new_block.is_null() {
                ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new_block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_cover_every_size_with_at_most_a_quarter_wasted() {
        for pages in (1..2000).chain([4097, 65_535, 65_536, 65_537, 1 << 25]) {
            let size = pages * PAGE;
            let (class, bytes) = class_of(size).unwrap();
            assert_eq!(class_bytes(class), bytes);
            assert!(bytes >= size, "{size}");
            assert!(bytes <= size + size / 4, "{size} got {bytes}");
        }
        assert_eq!(class_of(SLOT_BYTES * 4), None);
    }

    #[test]
    fn large_allocations_inside_are_counted_and_returned() {
        let arena = Arena::open().unwrap();
        let weights = {
            let _in = arena.enter();
            vec![1.0f32; 1 << 20]
        };
        assert_eq!(arena.usage().used, 4 << 20);
        let elsewhere = vec![1u8; 1 << 20];
        assert_eq!(arena.usage().used, 4 << 20, "outside the guard nothing is charged");
        std::thread::spawn(move || drop(weights)).join().unwrap();
        let usage = arena.usage();
        assert_eq!(usage.used, 0);
        assert!(usage.reserved >= 4 << 20, "freed blocks stay reserved until closed");
        drop(elsewhere);
        assert_eq!(arena.close(), ArenaUsage::default());
    }

    #[test]
    fn another_thread_can_join_an_arena() {
        let arena = Arena::open().unwrap();
        let here = {
            let _in = arena.enter();
            current()
        };
        let kept = std::thread::spawn(move || {
            let _in = here.enter();
            vec![1u8; 1 << 20]
        });
        let kept = kept.join().unwrap();
        assert_eq!(arena.usage().used, 1 << 20);
        drop(kept);
        assert_eq!(arena.close(), ArenaUsage::default());
        let _nowhere = current().enter();
        drop(vec![0u8; 1 << 20]);
    }

    #[test]
    fn what_is_allocated_in_a_panic_is_no_models_memory() {
        struct Keeps(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);
        impl Drop for Keeps {
            fn drop(&mut self) {
                *self.0.borrow_mut() = vec![1u8; 1 << 20];
            }
        }
        let (arena, kept) = (Arena::open().unwrap(), std::rc::Rc::default());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _in = arena.enter();
            let _keeps = Keeps(std::rc::Rc::clone(&kept));
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && kept.borrow().len() == 1 << 20);
        assert_eq!(arena.close(), ArenaUsage::default());
    }

    #[test]
    fn freed_blocks_are_reused_and_zeroed_when_asked() {
        let arena = Arena::open().unwrap();
        let _in = arena.enter();
        drop(vec![7u8; 100_000]);
        let reserved = arena.usage().reserved;
        for _ in 0..100 {
            let zeros = vec![0u8; 100_000];
            assert!(zeros.iter().all(|&b| b == 0));
        }
        assert_eq!(arena.usage().reserved, reserved);
    }

    #[test]
    fn trim_gives_pages_back_and_keeps_the_blocks_usable() {
        let arena = Arena::open().unwrap();
        let _in = arena.enter();
        drop(vec![7u8; 1 << 20]);
        arena.trim();
        assert!(arena.usage().reserved <= PAGE);
        let again = vec![9u8; 1 << 20];
        assert!(again.iter().all(|&b| b == 9));
        assert!(arena.usage().reserved >= 1 << 20);
    }

    #[test]
    fn growing_moves_between_heap_and_arena() {
        let arena = Arena::open().unwrap();
        let mut data: Vec<u32> = (0..100).collect();
        {
            let _in = arena.enter();
            data.extend(100..100_000);
        }
        assert!(arena.usage().used >= 400_000);
        data.extend(100_000..300_000);
        assert_eq!(arena.usage().used, 0, "grown outside: back on the heap");
        assert!(data.iter().enumerate().all(|(i, &v)| i == v as usize));
    }

    #[test]
    fn closing_returns_pages_to_the_system_and_a_leak_is_told() {
        let arena = Arena::open().unwrap();
        let kept = {
            let _in = arena.enter();
            vec![1u8; 1 << 20]
        };
        let left = arena.close();
        assert_eq!(left.used, 1 << 20);
        assert!(kept.iter().all(|&b| b == 1), "leaked memory stays valid");
    }
}
