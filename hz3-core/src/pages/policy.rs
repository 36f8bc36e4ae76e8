//! Policy: a lane's numbers and choices, as constants of a type.

use crate::pages::bins::{self, BINS};
use crate::pages::shape::{MAX_SLOTS, capacity_of};
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::units::Bin;

/// The size of a bin's magazines.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Slots, at most [`capacity_of`] the class.
    pub capacity: u16,
    /// Capacity class: a magazine of class `c` has 64 · 2^c bytes.
    pub class: u8,
}

/// Shapes by bin, of at most `most_slots` slots and `most_bytes` of blocks, but at least `fewest_slots`.
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
    /// The operating system.
    type Os: Os;

    /// Name of the lane.
    const NAME: &'static str;
    /// Shards: a power of two, at most 32.
    const SHARD_COUNT: usize;
    /// Default of [`Options::arena_bytes`](crate::platform::options::Options::arena_bytes).
    const FIRST_ARENA_BYTES: usize;
    /// Whether remote slots may be adopted, into the depot of the thread that freed them. Else spills send them home.
    const ADOPT: bool;
    /// Most bytes of blocks in a depot. More go home.
    const DEPOT_BYTES: usize;
    /// Most magazines in one depot.
    const DEPOT_MAGAZINES: u32;
    /// Slots that a thread's first refill of a bin carves; each further refill doubles them.
    const FIRST_BATCH: u8;
    /// Whether a free slot carries a [mark](crate::hardening::free_mark), which detects a second `free`.
    const MARKS: bool;
    /// Whether slots are wiped, checked, drawn at random and quarantined, behind canaries and guards. Needs `MARKS`.
    const HARDENED: bool;
    /// Default milliseconds before free pages are purged.
    const PURGE_DELAY_MS: u32;

    /// Bytes of a slot kept behind the requested size, for a canary. Derived.
    const TRAILER_BYTES: usize = if Self::HARDENED { CANARY_BYTES } else { 0 };
    /// Whether slots of one-way traffic come back in order ([`crate::thread::flow`]). Derived.
    const KEEPS_ORDER: bool = !Self::HARDENED;

    /// Shapes by bin.
    fn shapes() -> &'static [Shape; BINS];

    /// Guard pages at the end of a span in use: one of the system's, or none. Derived.
    fn guard_pages() -> usize {
        if Self::HARDENED { system_page::pages() } else { 0 }
    }
}

/// The shape of a magazine of `bin`.
#[inline]
pub fn shape<P: Policy>(bin: Bin) -> Shape {
    let index = usize::from(bin.0);
    // A clamp instead of a bounds check, which could panic.
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
