//! Keeps a thread's freed slots out of reuse for a while.
//!
//! ```text
//! oldest → | slot | slot | … | slot | … room … |      leaves: one of the oldest four, drawn at random
//! ```
//!
//! Meanwhile its mark exposes a second `free`, and a dangling pointer reaches no other block. Bounded in slots and
//! bytes; of `n` slots, each stays for more than `n - 4` frees.

use crate::pages::bins;
use crate::pages::guards::Wait;
use crate::pages::slot::Slot;
use crate::platform::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::platform::units::{Bin, elapsed_ms};
use core::cell::Cell;

/// A quarantine of one thread, or none. All zeros is empty.
pub trait Quarantine {
    /// Takes a slot out that must leave before one of `bytes` bytes enters. `random` chooses it.
    fn make_room(&self, bytes: usize, random: u32) -> Option<(Bin, Slot)>;
    /// Adds a slot of `bin`, after [`Quarantine::make_room`] returned `None`.
    fn put(&self, bin: Bin, slot: Slot);
    /// Takes the oldest slot out.
    fn take(&self) -> Option<(Bin, Slot)>;
    /// A number that changes with each slot that leaves or enters, modulo 2^32, and the slots inside, for other threads.
    fn turns(&self) -> (u32, u32);
    /// Calls `visit` with each slot. The caller need not own the quarantine: exact while its owner leaves it alone.
    fn peek(&self, visit: impl FnMut(Bin, *mut u8));
    /// How one more large block of `pages`, freed at `now` in milliseconds, is to wait.
    fn claim_wait(&self, now: u32, pages: usize) -> Wait;
}

/// For a lane without quarantine.
pub struct NoQuarantine;

impl Quarantine for NoQuarantine {
    fn make_room(&self, _: usize, _: u32) -> Option<(Bin, Slot)> {
        None
    }
    fn put(&self, _: Bin, _: Slot) {}
    fn take(&self) -> Option<(Bin, Slot)> {
        None
    }
    fn turns(&self) -> (u32, u32) {
        (0, 0)
    }
    fn peek(&self, _: impl FnMut(Bin, *mut u8)) {}
    fn claim_wait(&self, _: u32, _: usize) -> Wait {
        Wait::Whole
    }
}

/// At most `SLOTS` slots, a power of two, and `BYTES` bytes, unless a single slot has more.
pub struct Ring<const SLOTS: usize, const BYTES: usize> {
    /// Place of the oldest slot.
    head: AtomicU32,
    used: AtomicU32,
    bytes: Cell<usize>,
    /// When the present window began, in milliseconds, and the large blocks that were to wait since.
    window: Cell<u32>,
    waits: Cell<u32>,
    /// Pages of those that were guarded whole.
    guarded: Cell<usize>,
    /// Bin above, address below.
    slots: [AtomicU64; SLOTS],
}

/// How many of the oldest slots may be drawn. Chosen: few, so that slots leave nearly in order.
const DRAW_AMONG: u32 = 4;

/// Most pages of large blocks that a thread guards in [`WINDOW_MS`] milliseconds, and then blocks whose ends it guards. Chosen:
/// either takes a twentieth of its time, or a tenth.
const PAGES: usize = 512;
const WAITS: u32 = 64;
const WINDOW_MS: u32 = 16;

/// Bits of a user address: 47 on x86-64, 48 on AArch64.
const ADDRESS_BITS: u32 = 48;

fn entry_of(bin: Bin, slot: Slot) -> u64 {
    u64::from(bin.0) << ADDRESS_BITS | slot.into_block().expose_provenance() as u64
}

fn parts_of(entry: u64) -> (Bin, *mut u8) {
    let address = entry & ((1 << ADDRESS_BITS) - 1);
    (Bin((entry >> ADDRESS_BITS) as u8), core::ptr::with_exposed_provenance_mut(address as usize))
}

impl<const SLOTS: usize, const BYTES: usize> Ring<SLOTS, BYTES> {
    /// An empty quarantine.
    pub const fn new() -> Self {
        assert!(SLOTS.is_power_of_two());
        Self {
            head: AtomicU32::new(0),
            used: AtomicU32::new(0),
            bytes: Cell::new(0),
            window: Cell::new(0),
            waits: Cell::new(0),
            guarded: Cell::new(0),
            slots: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    // Relaxed, all accesses: the owner's own words; to others, a snapshot.

    fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// The place `after` places behind the oldest.
    fn place(&self, after: u32) -> &AtomicU64 {
        let index = self.head.load(Ordering::Relaxed).wrapping_add(after) as usize & (SLOTS - 1);
        // SAFETY: the mask keeps the index below SLOTS.
        unsafe { self.slots.get_unchecked(index) }
    }

    fn remove(&self, after: u32) -> (Bin, Slot) {
        let oldest = self.place(0).load(Ordering::Relaxed);
        let entry = self.place(after).load(Ordering::Relaxed);
        self.place(after).store(oldest, Ordering::Relaxed);
        self.head.store(self.head.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.used.store(self.used() - 1, Ordering::Relaxed);
        let (bin, start) = parts_of(entry);
        self.bytes.set(self.bytes.get().saturating_sub(bins::info(bin).slot_bytes as usize));
        // SAFETY: `put` took this slot, which leaves here.
        (bin, unsafe { Slot::new(start) })
    }
}

impl<const SLOTS: usize, const BYTES: usize> Default for Ring<SLOTS, BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const SLOTS: usize, const BYTES: usize> Quarantine for Ring<SLOTS, BYTES> {
    #[inline]
    fn make_room(&self, bytes: usize, random: u32) -> Option<(Bin, Slot)> {
        let used = self.used();
        if used == 0 || (used as usize) < SLOTS && self.bytes.get() + bytes <= BYTES {
            return None;
        }
        let drawn = u64::from(used.div_ceil(2).min(DRAW_AMONG));
        Some(self.remove(((u64::from(random) * drawn) >> 32) as u32))
    }

    #[inline]
    fn put(&self, bin: Bin, slot: Slot) {
        let used = self.used();
        self.place(used).store(entry_of(bin, slot), Ordering::Relaxed);
        self.used.store(used + 1, Ordering::Relaxed);
        self.bytes.set(self.bytes.get() + bins::info(bin).slot_bytes as usize);
    }

    fn take(&self) -> Option<(Bin, Slot)> {
        if self.used() > 0 {
            return Some(self.remove(0));
        }
        // The next thread begins anew.
        self.waits.set(0);
        self.guarded.set(0);
        None
    }

    fn claim_wait(&self, now: u32, pages: usize) -> Wait {
        if elapsed_ms(self.window.get(), now) >= WINDOW_MS {
            self.window.set(now);
            self.waits.set(0);
            self.guarded.set(0);
        }
        let guarded = self.guarded.get().saturating_add(pages);
        if guarded <= PAGES {
            self.guarded.set(guarded);
            return Wait::Whole;
        }
        self.waits.set(self.waits.get().saturating_add(1));
        if self.waits.get() <= WAITS { Wait::Ends } else { Wait::Ready }
    }

    fn turns(&self) -> (u32, u32) {
        let (left, used) = (self.head.load(Ordering::Relaxed), self.used());
        (left.wrapping_mul(2).wrapping_add(used), used)
    }

    fn peek(&self, mut visit: impl FnMut(Bin, *mut u8)) {
        for after in 0..self.used().min(SLOTS as u32) {
            let (bin, slot) = parts_of(self.place(after).load(Ordering::Relaxed));
            visit(bin, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    /// Frees slots in turn; returns how many frees each one stayed for.
    fn stays<const SLOTS: usize, const BYTES: usize>(bin: Bin, count: usize) -> Vec<usize> {
        let ring = Ring::<SLOTS, BYTES>::new();
        let bytes = bins::info(bin).slot_bytes as usize;
        let (mut stays, mut inside, mut random) = (Vec::new(), VecDeque::new(), 1_u32);
        for number in 0..count {
            random = random.wrapping_mul(0x915f_77f5).wrapping_add(12345);
            while let Some((left, slot)) = ring.make_room(bytes, random) {
                assert_eq!(left, bin);
                let at =
                    inside.iter().position(|&(inside, _)| inside == slot.address()).expect("a slot that is inside");
                stays.push(number - inside.remove(at).expect("it was found").1);
            }
            let address = 0x7f00_0000_0000 + number * 16;
            // SAFETY: stands for a slot; nothing accesses its memory.
            ring.put(bin, unsafe { Slot::new(core::ptr::without_provenance_mut(address)) });
            inside.push_back((address, number));
            let mut seen = Vec::new();
            ring.peek(|bin, slot| seen.push((bin, slot)));
            assert_eq!(seen.len(), inside.len());
            assert!(seen.len() <= SLOTS && (seen.len() == 1 || seen.len() * bytes <= BYTES));
        }
        let left: Vec<_> = core::iter::from_fn(|| ring.take()).collect();
        assert_eq!(left.len(), inside.len());
        assert!(left.iter().all(|(_, slot)| inside.iter().any(|&(inside, _)| inside == slot.address())));
        assert!(ring.bytes.get() == 0 && ring.make_room(usize::MAX, 0).is_none());
        stays
    }

    #[test]
    fn a_slot_stays_for_nearly_a_whole_quarantine_and_leaves_out_of_turn() {
        let stays = stays::<256, { 1 << 20 }>(Bin(4), 5000);
        assert!(stays.iter().all(|&stay| stay > 256 - DRAW_AMONG as usize));
        assert!(stays.iter().any(|&stay| stay > 256) && stays.iter().any(|&stay| stay < 256));
    }

    #[test]
    fn a_quarantine_keeps_to_its_bytes_and_takes_a_slot_that_exceeds_them() {
        let largest = Bin(bins::BINS as u8 - 1);
        let stays = stays::<256, { 1 << 20 }>(largest, 500);
        assert!(stays.iter().all(|&stay| stay >= 16));
        assert!(self::stays::<4, 64>(largest, 50).iter().all(|&stay| stay == 1));
    }
}
