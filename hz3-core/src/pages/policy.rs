//! Policy: the numbers and choices of a lane, as plain constants that every lower part takes as a type argument.

use crate::pages::bins::{self, BINS};
use crate::pages::shape::{MAX_SLOTS, capacity_of};
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

/// The shapes for a lane that allows `most_slots` slots and `most_bytes` of blocks per magazine, but
/// never fewer than `fewest_slots`.
pub const fn shapes(most_slots: usize, most_bytes: usize, fewest_slots: usize) -> [Shape; BINS] {
    let mut shapes = [Shape { capacity: 0, class: 0 }; BINS];
    let mut bin = 1;
    while bin < BINS {
        let by_bytes = most_bytes / bins::slot_bytes_of(bin);
        let mut capacity = if by_bytes < most_slots { by_bytes } else { most_slots };
        if capacity < fewest_slots {
            capacity = fewest_slots;
        }
        if capacity > MAX_SLOTS {
            capacity = MAX_SLOTS;
        }
        let mut class = 0;
        while capacity_of(class) < capacity {
            class += 1;
        }
        shapes[bin] = Shape { capacity: capacity as u16, class: class as u8 };
        bin += 1;
    }
    shapes
}

/// Bytes of a small slot that its canary takes, at least.
pub const CANARY_BYTES: usize = 8;

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
    const TRAILER_BYTES: usize = if Self::HARDENED { CANARY_BYTES } else { 0 };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magazine_keeps_to_its_byte_budget_and_its_room() {
        static SHAPES: [Shape; BINS] = shapes(62, 32 << 10, 2);
        for bin in (1..BINS as u8).map(Bin) {
            let shape = SHAPES[usize::from(bin.0)];
            let capacity = usize::from(shape.capacity);
            assert!(capacity >= 2 && capacity <= capacity_of(usize::from(shape.class)));
            assert!(capacity == 2 || capacity * bins::info(bin).slot_bytes as usize <= 32 << 10);
        }
    }
}
