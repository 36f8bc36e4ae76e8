//! Depot: lock-free stacks of magazines, full ones on their way to whoever allocates, empty ones back.
//!
//! ```text
//! 63          34 33     26 25         0
//! |   version   |  count  |  first id  |  → links(first).next → …
//! ```
//!
//! The word changes by one compare-exchange, and every change raises the version, so a thread that was
//! stopped between its read and its exchange fails unless exactly 2^30 changes passed meanwhile.
//! A magazine's memory is never unmapped, so reading the link of one that was just taken away is safe;
//! the value read is then thrown away with the failed exchange.

use crate::platform::atomic::{AtomicU32, AtomicU64, Ordering, fence_after_exchange};

/// Bits of a magazine id.
pub const ID_BITS: u32 = 26;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const COUNT_BITS: u32 = 8;
/// Most magazines that one stack counts.
pub const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;
const COUNT_ONE: u64 = 1 << ID_BITS;
const VERSION_ONE: u64 = 1 << (ID_BITS + COUNT_BITS);
const VERSION_MASK: u64 = !(VERSION_ONE - 1);

/// Where the stack's links are kept.
pub trait Links {
    /// The link of magazine `id`: the id below it in its stack.
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

    /// Puts magazine `id` on top unless the stack holds `limit` already (at most [`MAX_COUNT`]); returns
    /// whether it did. The caller owned the magazine and, on success, no longer does.
    #[inline]
    pub fn push(&self, links: &impl Links, id: u32, limit: u32) -> bool {
        // Relaxed: the exchange below checks what was read.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let count = ((word >> ID_BITS) as u32) & MAX_COUNT;
            if count >= limit.min(MAX_COUNT) {
                return false;
            }
            // Relaxed: published by the exchange.
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

    /// Takes the magazine on top, which the caller then owns; `None` where there is none.
    #[inline]
    pub fn pop(&self, links: &impl Links) -> Option<u32> {
        // Acquire: the link read below is at least as new as the push that this word came from. Pairs
        // with the Release in `push`.
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let id = (word & ID_MASK) as u32;
            if id == 0 {
                return None;
            }
            // Relaxed: may be stale or another stack's if the magazine was taken; the version tells.
            let next = links.next(id).load(Ordering::Relaxed);
            let count = ((word >> ID_BITS) & u64::from(MAX_COUNT)) - 1;
            let new = (word & VERSION_MASK).wrapping_add(VERSION_ONE) | (count * COUNT_ONE) | u64::from(next);
            // Acquire: sees the magazine's contents, and, on failure, the next candidate's link.
            match self.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(id),
                Err(now) => word = now,
            }
        }
    }

    /// Takes all magazines, which the caller then owns; returns the one on top, whose link leads to the next one, and so
    /// on to a link of 0. `None` where there is none.
    #[inline]
    pub fn pop_all(&self) -> Option<u32> {
        // Relaxed: the exchange below checks what was read.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let id = (word & ID_MASK) as u32;
            if id == 0 {
                return None;
            }
            let new = (word & VERSION_MASK).wrapping_add(VERSION_ONE);
            // Acquire: sees the contents and links of all of them: each push was an exchange on this word, and the later ones
            // continue the release of the earlier ones. Pairs with the Release in `push`.
            match self.word.compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(id),
                Err(now) => word = now,
            }
        }
    }

    /// Calls `look` with the id of each magazine in the stack, top first. Exact while nobody pushes or pops;
    /// otherwise the walk may stray into the stacks that its magazines went to, and ends all the same.
    pub fn each(&self, links: &impl Links, mut look: impl FnMut(u32)) {
        // Acquire: sees the links and counts of what was pushed. Pairs with the Release in `push`.
        let word = self.word.load(Ordering::Acquire);
        let mut id = (word & ID_MASK) as u32;
        for _ in 0..(word >> ID_BITS) as u32 & MAX_COUNT {
            if id == 0 {
                break;
            }
            look(id);
            // Relaxed: as in `pop`, except that nothing tells whether it is stale.
            id = links.next(id).load(Ordering::Relaxed);
        }
    }

    /// Magazines in the stack at some moment during the call.
    #[inline]
    pub fn count(&self) -> u32 {
        // Relaxed: a count.
        (self.word.load(Ordering::Relaxed) >> ID_BITS) as u32 & MAX_COUNT
    }

    /// Whether the stack was empty at some moment during the call.
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

/// The full magazines of one shard and bin.
#[cfg(not(loom))]
pub struct Depot {
    /// Spilled by this shard's threads.
    pub full: Stack,
    /// Sent home by other shards' threads.
    pub inbox: Stack,
    /// Fewest magazines that lay in both since the last [`Depot::make_surplus_due`]: nobody needed those.
    low: AtomicU32,
    /// Magazines that are to be unpacked.
    due: AtomicU32,
}

#[cfg(not(loom))]
impl Depot {
    /// Empty.
    pub const fn new() -> Self {
        Self { full: Stack::new(), inbox: Stack::new(), low: AtomicU32::new(0), due: AtomicU32::new(0) }
    }

    /// Magazines in both stacks.
    #[inline]
    pub fn count(&self) -> u32 {
        self.full.count() + self.inbox.count()
    }

    /// Notes that a magazine was taken.
    #[inline]
    pub fn note_taken(&self) {
        let count = self.count();
        // Relaxed, here and below: a gauge; a lost update makes the surplus a little larger or smaller.
        if count < self.low.load(Ordering::Relaxed) {
            self.low.store(count, Ordering::Relaxed);
        }
    }

    /// Makes magazines due to be unpacked that were not needed since the last call: half of them, so that a swing of
    /// demand finds some; all of them where nobody touched the depot.
    pub fn make_surplus_due(&self) {
        let (low, count) = (self.low.load(Ordering::Relaxed), self.count());
        if count > 0 || low > 0 {
            self.low.store(count, Ordering::Relaxed);
        }
        let due = if low == count { count } else { low.min(count).div_ceil(2) };
        // Relaxed, here and below: a gauge, as above. Tested first, so that an idle depot costs no write.
        if due != self.due.load(Ordering::Relaxed) {
            self.due.store(due, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` of the magazines that are due to be unpacked; returns how many.
    pub fn take_due(&self, most: u32) -> u32 {
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

/// Which shards may have full magazines of a bin, a bit for each. A bit may be there in vain; it is never
/// missing for longer than a call of [`Stocked::note_pushed`] or [`Stocked::note_taken`] by the thread that
/// pushed or took takes.
pub struct Stocked {
    word: AtomicU32,
}

impl Stocked {
    /// No shard has any.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// No shard has any.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// The bits.
    #[inline]
    pub fn mask(&self) -> u32 {
        // Relaxed: publishes nothing; the stacks do.
        self.word.load(Ordering::Relaxed)
    }

    /// Notes that the calling thread has just pushed a magazine in the shard of `bit`.
    #[inline]
    pub fn note_pushed(&self, bit: u32) {
        // Pairs with the fence in `note_taken`: either this sees the bit taken away there, or the look there
        // sees the magazine.
        fence_after_exchange();
        // Relaxed: ordered by the fences. Tested first so that a stocked depot costs no write to a shared line.
        if self.word.load(Ordering::Relaxed) & bit == 0 {
            self.word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Notes that the calling thread has looked for a magazine in the shard of `bit`, which may be empty now.
    #[inline]
    pub fn note_taken(&self, bit: u32, is_empty: impl Fn() -> bool) {
        if is_empty() {
            // Relaxed, both: ordered by the fences.
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
