//! Rank: the order in which locks nest, checked in debug builds.
//!
//! ```text
//! 6 bits: locks of rank 0 | 6 bits: of rank 1 | … | 6 bits: of rank 8        one thread-local word
//! ```
//!
//! Debug builds count the locks that each thread holds and stop at one taken out of order. Release builds don't.

/// Every lock of an allocator, in nesting order. A thread may take locks of a higher rank than those it holds, and
/// further shards' and regions' locks by rising number. A fork takes all locks, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// The list of unused heaps.
    Heaps,
    /// Regions: one lock for each thirty-second of them.
    Regions,
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
    pub const ALL: [Rank; 9] = [
        Rank::Heaps,
        Rank::Regions,
        Rank::Shard,
        Rank::Direct,
        Rank::Waiting,
        Rank::Magazines,
        Rank::Profile,
        Rank::Growth,
        Rank::Runs,
    ];
}

/// Bits of a rank's count: up to 63 locks, more than a fork takes of one.
const BITS: u32 = 6;

const _: () = assert!(BITS * Rank::ALL.len() as u32 <= u64::BITS);

/// Stops the calling thread if it may not wait for a lock of `rank`, because it holds one of a higher rank.
#[inline]
pub fn check(rank: Rank, is_forking: impl FnOnce() -> bool) {
    // A forking thread holds every lock of its lane. It passes through those, or takes another lane's.
    if IS_COUNTED && !is_forking() {
        assert!(
            word::get() >> (BITS * rank as u32) < 1 << BITS,
            "a lock of rank {rank:?} is taken below {:#x}",
            word::get()
        );
    }
}

/// Counts a lock of `rank` that the calling thread took.
#[inline]
pub fn note_lock(rank: Rank) {
    word::set(word::get().wrapping_add(1 << (BITS * rank as u32)));
}

/// Counts a lock of `rank` as released by the calling thread.
#[inline]
pub fn note_unlock(rank: Rank) {
    word::set(word::get().wrapping_sub(1 << (BITS * rank as u32)));
}

/// Whether this build counts.
pub const IS_COUNTED: bool = word::IS_COUNTED;

/// Whether the calling thread holds no lock; true in builds that do not count.
#[inline]
pub fn is_none_held() -> bool {
    word::get() == 0
}

#[cfg(all(debug_assertions, not(loom), not(miri)))]
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
        // SAFETY: reads this thread's copy of the word defined above; changes no memory and no flags.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!(
                "mov {word}, qword ptr [rip + hz3_held_ranks@GOTTPOFF]",
                "mov {word}, qword ptr fs:[{word}]",
                word = out(reg) word,
                options(readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "adrp {offset}, :gottprel:hz3_held_ranks",
                "ldr {offset}, [{offset}, :gottprel_lo12:hz3_held_ranks]",
                "mrs {word}, tpidr_el0",
                "ldr {word}, [{word}, {offset}]",
                offset = out(reg) _,
                word = out(reg) word,
                options(readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "riscv64")]
        unsafe {
            core::arch::asm!(
                "la.tls.ie {word}, hz3_held_ranks",
                "add {word}, {word}, tp",
                "ld {word}, 0({word})",
                word = out(reg) word,
                options(readonly, nostack, preserves_flags),
            );
        }
        word
    }

    #[inline]
    pub fn set(word: u64) {
        // SAFETY: writes this thread's copy of the word defined above, which only this module uses; changes no flags.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!(
                "mov {offset}, qword ptr [rip + hz3_held_ranks@GOTTPOFF]",
                "mov qword ptr fs:[{offset}], {word}",
                offset = out(reg) _,
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "adrp {offset}, :gottprel:hz3_held_ranks",
                "ldr {offset}, [{offset}, :gottprel_lo12:hz3_held_ranks]",
                "mrs {thread}, tpidr_el0",
                "str {word}, [{thread}, {offset}]",
                offset = out(reg) _,
                thread = out(reg) _,
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "riscv64")]
        unsafe {
            core::arch::asm!(
                "la.tls.ie {place}, hz3_held_ranks",
                "add {place}, {place}, tp",
                "sd {word}, 0({place})",
                place = out(reg) _,
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom), not(miri))))]
mod word {
    pub const IS_COUNTED: bool = false;

    #[inline]
    pub fn get() -> u64 {
        0
    }

    #[inline]
    pub fn set(_: u64) {}
}
