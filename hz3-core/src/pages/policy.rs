//! Policy: the numbers and choices of a lane, as plain constants that every lower part takes as a type argument.

use crate::pages::bins::BINS;
use crate::platform::os::Os;
use crate::platform::units::Bin;

/// How many slots a magazine of one bin holds, and its size class.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Slots, at most what the class has room for.
    pub capacity: u16,
    /// Class of capacity: a magazine of class `c` has 64 · 2^c bytes.
    pub class: u8,
}

/// The choices of a lane.
pub trait Policy: Sized + Sync + 'static {
    /// The operating system below.
    type Os: Os;

    /// Name of the lane.
    const NAME: &'static str;
    /// Number of shards: at most 32, a power of two.
    const SHARD_COUNT: usize;
    /// Address space of the first arena in bytes, unless the environment says otherwise.
    const FIRST_ARENA_BYTES: usize;
    /// Whether remote slots may stay in the depot of the thread that freed them ("adopted"). Otherwise they go home when
    /// their magazine spills.
    const ADOPT: bool;
    /// Most bytes of blocks in one depot (one shard, one bin). What is above goes home to its spans.
    const DEPOT_BYTES: usize;
    /// Most magazines in one depot.
    const DEPOT_MAGAZINES: u32;
    /// Slots that a thread's first refill of a bin carves. Each further one doubles it.
    const FIRST_BATCH: u8;
    /// Whether a free slot carries a [mark](crate::hardening::free_mark), which tells a second `free` of it at once.
    const MARKS: bool;
    /// Whether free slots are wiped and checked, drawn at random, kept in quarantine, and blocks end in canaries and
    /// guards. Needs [`Policy::MARKS`].
    const HARDENED: bool;
    /// Milliseconds after which free pages are given back, unless the environment says otherwise.
    const PURGE_DELAY_MS: u32;

    /// Bytes of a slot beyond the requested size, at least: the room of a canary. Derived.
    const TRAILER_BYTES: usize = if Self::HARDENED { 8 } else { 0 };
    /// Pages at the end of a span in use that are without access, if the system grants that. Derived.
    const GUARD_PAGES: usize = if Self::HARDENED { 1 } else { 0 };
    /// Whether slots that go one way come back in order ([`crate::thread::flow`]). Derived.
    const KEEPS_ORDER: bool = !Self::HARDENED;

    /// The shapes of magazines, by bin.
    fn shapes() -> &'static [Shape; BINS];
}

/// The shape of a magazine of `bin`.
#[inline]
pub fn shape<P: Policy>(bin: Bin) -> Shape {
    let index = usize::from(bin.0);
    // A clamp instead of a bounds check: nothing in the allocator may panic.
    P::shapes()[if index < BINS { index } else { 0 }]
}
