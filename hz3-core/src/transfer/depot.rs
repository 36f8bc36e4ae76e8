//! A lock-free stack of magazines, and the depots made of it.
//!
//! ```text
//! 63          34 33     26 25         0
//! |   version   |  count  |  first id  |  → links(first).next → …
//! ```
//!
//! Every change is one compare-exchange and raises the version: an exchange based on an old word fails, unless exactly
//! 2^30 changes have passed. Magazines are never unmapped, so `pop` may read the link of one just taken.

use crate::platform::atomic::{AtomicU32, AtomicU64, Ordering, fence_after_exchange};

/// Bits of a magazine id.
pub const ID_BITS: u32 = 26;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const COUNT_BITS: u32 = 8;
/// Most magazines in one stack.
pub const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;
const COUNT_ONE: u64 = 1 << ID_BITS;
const VERSION_ONE: u64 = 1 << (ID_BITS + COUNT_BITS);
const VERSION_MASK: u64 = !(VERSION_ONE - 1);

/// The links of all magazines.
pub trait Links {
    /// The id below magazine `id` in its stack; 0 at the bottom.
    fn next(&self, id: u32) -> &AtomicU32;
}

/// A stack of magazines.
pub struct Stack {
    word: AtomicU64,
}

impl Stack {
    /// An empty stack.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// An empty stack.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Pushes magazine `id`, which the caller gives up; false if the stack has `limit`, at most [`MAX_COUNT`].
    #[inline]
    pub fn push(&self, links: &impl Links, id: u32, limit: u32) -> bool {
        // Relaxed: the exchange checks the value.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let count = ((word >> ID_BITS) as u32) & MAX_COUNT;
            if count >= limit.min(MAX_COUNT) {
                return false;
            }
            // Relaxed: the exchange publishes it.
            links.next(id).store((word & ID_MASK) as u32, Ordering::Relaxed);
            let new =
                (word & VERSION_MASK).wrapping_add(VERSION_ONE) | ((u64::from(count) + 1) << ID_BITS) | u64::from(id);
            // Release: publishes the magazine's slots, count and link. Pairs with the Acquire in `pop`.
            match self.word.compare_exchange_weak(word, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Pops the top magazine; the caller owns it. `None` if the stack is empty.
    #[inline]
    pub fn pop(&self, links: &impl Links) -> Option<u32> {
        // Acquire: the link is at least as new as this word. Pairs with the Release in `push`.
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let id = (word & ID_MASK) as u32;
            if id == 0 {
                return None;
            }
            // Relaxed: if it is stale, the exchange fails.
            let next = links.next(id).load(Ordering::Relaxed);
            let count = ((word >> ID_BITS) & u64::from(MAX_COUNT)) - 1;
            let new = (word & VERSION_MASK).wrapping_add(VERSION_ONE) | (count * COUNT_ONE) | u64::from(next);
            // Acquire: the contents, or the next link. Pairs with the Release in `push`.
            match self.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(id),
                Err(now) => word = now,
            }
        }
    }

    /// Pops all magazines; the caller owns them. Returns the top one, linked to the rest; `None` if the stack is empty.
    #[inline]
    pub fn pop_all(&self) -> Option<u32> {
        // Relaxed: the exchange checks the value.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let id = (word & ID_MASK) as u32;
            if id == 0 {
                return None;
            }
            let new = (word & VERSION_MASK).wrapping_add(VERSION_ONE);
            // Acquire: all contents and links; exchanges continue a release sequence. Pairs with the Release in `push`.
            match self.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(id),
                Err(now) => word = now,
            }
        }
    }

    /// Calls `visit` with each magazine's id, top first. If the stack changes, the walk may stray, but it ends.
    pub fn each(&self, links: &impl Links, mut visit: impl FnMut(u32)) {
        // Acquire: links and contents. Pairs with the Release in `push`.
        let word = self.word.load(Ordering::Acquire);
        let mut id = (word & ID_MASK) as u32;
        for _ in 0..(word >> ID_BITS) as u32 & MAX_COUNT {
            if id == 0 {
                break;
            }
            visit(id);
            // Relaxed: acquired above, or stale if the stack has changed.
            id = links.next(id).load(Ordering::Relaxed);
        }
    }

    /// Magazines in the stack.
    #[inline]
    pub fn count(&self) -> u32 {
        // Relaxed: a count.
        (self.word.load(Ordering::Relaxed) >> ID_BITS) as u32 & MAX_COUNT
    }

    /// Whether the stack is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

/// The full magazines of one shard and bin, in a cache line of their own.
#[cfg(not(loom))]
#[repr(align(64))]
pub struct Depot {
    /// Spilled by this shard's threads.
    pub full: Stack,
    /// Sent home by other shards' threads.
    pub inbox: Stack,
    /// Low-water mark: fewest magazines in both stacks since the last [`Depot::make_surplus_due`].
    low: AtomicU32,
    /// Surplus magazines to send home.
    due: AtomicU32,
    /// Slots by which the magazines in both stacks are not full.
    lacking: AtomicU32,
}

#[cfg(not(loom))]
impl Depot {
    /// An empty depot.
    pub const fn new() -> Self {
        Self {
            full: Stack::new(),
            inbox: Stack::new(),
            low: AtomicU32::new(0),
            due: AtomicU32::new(0),
            lacking: AtomicU32::new(0),
        }
    }

    /// Magazines in both stacks.
    #[inline]
    pub fn count(&self) -> u32 {
        self.full.count() + self.inbox.count()
    }

    /// Slots in both stacks, whose magazines have room for `capacity` each: exact while nobody changes them.
    pub fn slot_count(&self, capacity: u16) -> usize {
        // Relaxed: a count.
        let lacking = self.lacking.load(Ordering::Relaxed) as usize;
        (self.count() as usize * usize::from(capacity)).saturating_sub(lacking)
    }

    /// Notes a magazine that enters or leaves and lacks so many slots: mostly none, and then this costs a test.
    #[inline]
    pub fn note_lacking(&self, slots: u16, enters: bool) {
        if slots > 0 {
            let more = if enters { u32::from(slots) } else { 0_u32.wrapping_sub(u32::from(slots)) };
            // Relaxed: a count.
            self.lacking.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Lowers the low-water mark after a magazine was taken.
    #[inline]
    pub fn note_taken(&self) {
        let count = self.count();
        // Relaxed, all: a gauge; a lost update hardly matters.
        if count < self.low.load(Ordering::Relaxed) {
            self.low.store(count, Ordering::Relaxed);
        }
    }

    /// Makes half of the surplus since the last call due (a swing of demand finds the rest), or all magazines if their
    /// number is at its low-water mark now, as in an untouched depot.
    pub fn make_surplus_due(&self) {
        // Relaxed, all: gauges. Tested first, so that an idle depot costs no write.
        let (low, count) = (self.low.load(Ordering::Relaxed), self.count());
        if count > 0 || low > 0 {
            self.low.store(count, Ordering::Relaxed);
        }
        let due = if low == count { count } else { low.min(count).div_ceil(2) };
        if due != self.due.load(Ordering::Relaxed) {
            self.due.store(due, Ordering::Relaxed);
        }
    }

    /// Claims up to `most` of the due magazines for the caller to send home; returns how many.
    pub fn take_due(&self, most: u32) -> u32 {
        // Relaxed, both: a gauge.
        let due = self.due.load(Ordering::Relaxed);
        if due > 0 {
            self.due.store(due - due.min(most), Ordering::Relaxed);
        }
        due.min(most)
    }
}

#[cfg(not(loom))]
impl Default for Depot {
    fn default() -> Self {
        Self::new()
    }
}

/// A hint word: the shards that may have full magazines of a bin. A bit may be set in vain. A bit that should be set is
/// missing only during a call of [`Stocked::note_pushed`] or [`Stocked::note_taken`].
pub struct Stocked {
    word: AtomicU32,
}

impl Stocked {
    /// No bit set.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// No bit set.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// The bits.
    #[inline]
    pub fn mask(&self) -> u32 {
        // Relaxed: a hint; the stacks publish the magazines.
        self.word.load(Ordering::Relaxed)
    }

    /// Sets a shard's `bit` after this thread pushed a magazine there.
    #[inline]
    pub fn note_pushed(&self, bit: u32) {
        // Pairs with the fence in `note_taken`: this sees the bit cleared, or the check there sees the magazine.
        fence_after_exchange();
        // Relaxed, both: the fences order them. Tested first, to spare the shared line a write.
        if self.word.load(Ordering::Relaxed) & bit == 0 {
            self.word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Clears a shard's `bit` after this thread tried to pop a magazine there, if `is_empty`.
    #[inline]
    pub fn note_taken(&self, bit: u32, is_empty: impl Fn() -> bool) {
        if is_empty() {
            // Relaxed, both: the fences order them.
            self.word.fetch_and(!bit, Ordering::Relaxed);
            // Pairs with the fence in `note_pushed`.
            fence_after_exchange();
            if !is_empty() {
                self.word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}

impl Default for Stocked {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Array([AtomicU32; 512]);

    impl Links for Array {
        fn next(&self, id: u32) -> &AtomicU32 {
            &self.0[id as usize]
        }
    }

    #[test]
    fn magazines_come_back_last_in_first_out() {
        let links = Array([const { AtomicU32::new(0) }; 512]);
        let stack = Stack::new();
        for id in 1..=20 {
            assert!(stack.push(&links, id, MAX_COUNT));
        }
        assert_eq!(stack.count(), 20);
        let mut seen = std::vec::Vec::new();
        stack.each(&links, |id| seen.push(id));
        assert!(seen.into_iter().eq((1..=20).rev()));
        for id in (1..=20).rev() {
            assert_eq!(stack.pop(&links), Some(id));
        }
        assert_eq!(stack.pop(&links), None);
    }

    #[test]
    fn a_full_stack_refuses() {
        let links = Array([const { AtomicU32::new(0) }; 512]);
        let stack = Stack::new();
        for id in 1..=MAX_COUNT {
            assert!(stack.push(&links, id, u32::MAX));
        }
        assert!(!stack.push(&links, 400, u32::MAX));
        let small = Stack::new();
        assert!(small.push(&links, 401, 1) && !small.push(&links, 402, 1));
    }

    #[test]
    fn no_magazine_is_lost_or_doubled_among_threads() {
        static LINKS: Array = Array([const { AtomicU32::new(0) }; 512]);
        static STACKS: [Stack; 2] = [const { Stack::new() }; 2];
        for id in 1..=60 {
            assert!(STACKS[id as usize % 2].push(&LINKS, id, MAX_COUNT));
        }
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                scope.spawn(move || {
                    for turn in 0..if cfg!(miri) { 100 } else { 100_000 } {
                        if let Some(id) = STACKS[(thread + turn) % 2].pop(&LINKS) {
                            assert!(
                                STACKS[turn % 2].push(&LINKS, id, MAX_COUNT)
                                    || STACKS[(turn + 1) % 2].push(&LINKS, id, MAX_COUNT)
                            );
                        }
                    }
                });
            }
        });
        let mut all: std::vec::Vec<u32> =
            STACKS.iter().flat_map(|stack| core::iter::from_fn(|| stack.pop(&LINKS))).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=60));
    }
}
