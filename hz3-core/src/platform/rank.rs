//! Rank: the order in which locks nest, and, in debug builds, a count of those that the calling thread holds.
//!
//! ```text
//! byte 0: locks of rank 0 | byte 1: of rank 1 | … | byte 7: of rank 7        one thread-local word
//! ```
//!
//! Debug builds stop where a thread takes a lock out of order. Release builds count nothing.

/// Every lock of an allocator, in the order in which they may nest: a thread takes only locks of a higher rank than
/// those that it holds, or shards' in the order of their numbers. A fork takes all of them in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// The list of unused heaps.
    Heaps,
    /// A shard's spans; one lock each.
    Shard,
    /// The table of direct mappings.
    Direct,
    /// The waiting runs of the hardened lane.
    Waiting,
    /// The spare empty magazines.
    Magazines,
    /// The heap profile.
    Profile,
    /// The growth of arenas.
    Growth,
    /// The index of free runs.
    Runs,
}

impl Rank {
    /// All ranks, in order.
    pub const ALL: [Rank; 8] = [
        Rank::Heaps,
        Rank::Shard,
        Rank::Direct,
        Rank::Waiting,
        Rank::Magazines,
        Rank::Profile,
        Rank::Growth,
        Rank::Runs,
    ];
}

/// What a [`Mutex`](crate::platform::lock::Mutex) protects.
pub trait Ranked {
    /// The lock's rank.
    const RANK: Rank;

    /// Whether nothing is under way that a thread took out under the lock and will put back. A fork waits for this: in
    /// the child nobody would put it back.
    fn is_settled(&self) -> bool {
        true
    }
}

/// Notes that the calling thread has taken a lock of `rank`, for which it may have waited.
#[inline]
pub fn note_lock(rank: Rank, is_forking: impl FnOnce() -> bool) {
    // A forking thread holds every lock of its lane; what it takes meanwhile are its own, or another lane's.
    if IS_COUNTED && !is_forking() {
        assert!(word::get() >> (8 * rank as u32) < 1 << 8, "a lock of rank {rank:?} is taken below {:#x}", word::get());
    }
    note_try(rank);
}

/// Notes that the calling thread has taken a lock of `rank` without waiting.
#[inline]
pub fn note_try(rank: Rank) {
    word::set(word::get().wrapping_add(1 << (8 * rank as u32)));
}

/// Notes that the calling thread has released a lock of `rank`.
#[inline]
pub fn note_unlock(rank: Rank) {
    word::set(word::get().wrapping_sub(1 << (8 * rank as u32)));
}

/// Whether this build counts.
pub const IS_COUNTED: bool = word::IS_COUNTED;

/// Whether the calling thread holds no lock. True in builds that do not count.
#[inline]
pub fn is_none_held() -> bool {
    word::get() == 0
}

#[cfg(all(debug_assertions, target_arch = "x86_64", not(loom), not(miri)))]
mod word {
    pub const IS_COUNTED: bool = true;

    core::arch::global_asm!(
        ".pushsection .tbss.hz3_held_ranks,\"awT\",%nobits",
        ".balign 8",
        ".globl hz3_held_ranks",
        ".hidden hz3_held_ranks",
        ".type hz3_held_ranks, %object",
        ".size hz3_held_ranks, 8",
        "hz3_held_ranks:",
        ".zero 8",
        ".popsection",
    );

    #[inline]
    pub fn get() -> u64 {
        let word;
        // SAFETY: reads the thread-local word that is defined above.
        unsafe {
            core::arch::asm!(
                "mov {word}, qword ptr [rip + hz3_held_ranks@GOTTPOFF]",
                "mov {word}, qword ptr fs:[{word}]",
                word = out(reg) word,
                options(readonly, nostack, preserves_flags),
            );
        }
        word
    }

    #[inline]
    pub fn set(word: u64) {
        // SAFETY: writes the thread-local word that is defined above.
        unsafe {
            core::arch::asm!(
                "mov {offset}, qword ptr [rip + hz3_held_ranks@GOTTPOFF]",
                "mov qword ptr fs:[{offset}], {word}",
                offset = out(reg) _,
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(debug_assertions, target_arch = "x86_64", not(loom), not(miri))))]
mod word {
    pub const IS_COUNTED: bool = false;

    #[inline]
    pub fn get() -> u64 {
        0
    }

    #[inline]
    pub fn set(_: u64) {}
}
