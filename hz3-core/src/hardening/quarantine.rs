//! Keeps a thread's freed slots out of reuse for a while.
//!
//! ```text
//! oldest → | slot | slot | … | slot | … room … |      leaves: one of the oldest four, drawn at random
//! ```
//!
//! Meanwhile its mark exposes a second `free`, and a dangling pointer reaches no other block. Bounded in slots and
//! bytes; of `n` slots, each stays for more than `n - 4` frees.

use crate::pages::bins;
use crate::pages::slot::Slot;
use crate::platform::units::Bin;

/// A quarantine of one thread, or none. All zeros is empty.
pub trait Quarantine {
    /// Takes a slot out that must leave before one of `bytes` bytes enters. `random` chooses it.
    fn make_room(&mut self, bytes: usize, random: u32) -> Option<(Bin, Slot)>;
    /// Adds a slot of `bin`, after [`Quarantine::make_room`] returned `None`.
    fn put(&mut self, bin: Bin, slot: Slot);
    /// Takes the oldest slot out.
    fn take(&mut self) -> Option<(Bin, Slot)>;
    /// Calls `visit` with each slot. The caller need not own the quarantine: exact while its owner leaves it alone.
    ///
    /// # Safety
    /// `this` is a quarantine whose memory is never unmapped.
    unsafe fn peek(this: *const Self, visit: impl FnMut(Bin, *mut u8));
}

/// For a lane without quarantine.
pub struct None;

impl Quarantine for None {
    fn make_room(&mut self, _: usize, _: u32) -> Option<(Bin, Slot)> {
        Option::None
    }
    fn put(&mut self, _: Bin, _: Slot) {}
    fn take(&mut self) -> Option<(Bin, Slot)> {
        Option::None
    }
    unsafe fn peek(_: *const Self, _: impl FnMut(Bin, *mut u8)) {}
}

/// At most `SLOTS` slots, a power of two, and `BYTES` bytes, unless a single slot has more.
pub struct Ring<const SLOTS: usize, const BYTES: usize> {
    /// Place of the oldest slot.
    head: u32,
    used: u32,
    bytes: usize,
    /// Bin above, address below.
    slots: [u64; SLOTS],
}

/// How many of the oldest slots may be drawn. Chosen: few, so that slots leave nearly in order.
const DRAW_AMONG: u32 = 4;

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
        Self { head: 0, used: 0, bytes: 0, slots: [0; SLOTS] }
    }

    /// The place `after` places behind the oldest.
    fn place(&mut self, after: u32) -> &mut u64 {
        let index = self.head.wrapping_add(after) as usize & (SLOTS - 1);
        // SAFETY: the mask keeps the index below SLOTS.
        unsafe { self.slots.get_unchecked_mut(index) }
    }

    fn remove(&mut self, after: u32) -> (Bin, Slot) {
        let oldest = *self.place(0);
        let entry = core::mem::replace(self.place(after), oldest);
        self.head = self.head.wrapping_add(1);
        self.used -= 1;
        let (bin, start) = parts_of(entry);
        self.bytes = self.bytes.saturating_sub(bins::info(bin).slot_bytes as usize);
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
    fn make_room(&mut self, bytes: usize, random: u32) -> Option<(Bin, Slot)> {
        if self.used == 0 || (self.used as usize) < SLOTS && self.bytes + bytes <= BYTES {
            return Option::None;
        }
        let drawn = u64::from(self.used.div_ceil(2).min(DRAW_AMONG));
        Some(self.remove(((u64::from(random) * drawn) >> 32) as u32))
    }

    #[inline]
    fn put(&mut self, bin: Bin, slot: Slot) {
        let used = self.used;
        *self.place(used) = entry_of(bin, slot);
        self.used += 1;
        self.bytes += bins::info(bin).slot_bytes as usize;
    }

    fn take(&mut self) -> Option<(Bin, Slot)> {
        if self.used == 0 { Option::None } else { Some(self.remove(0)) }
    }

    unsafe fn peek(this: *const Self, mut visit: impl FnMut(Bin, *mut u8)) {
        // SAFETY: the quarantine is mapped. Volatile: the owner may be storing the words, each in one piece.
        let (head, used) =
            unsafe { ((&raw const (*this).head).read_volatile(), (&raw const (*this).used).read_volatile()) };
        for after in 0..used.min(SLOTS as u32) {
            let index = head.wrapping_add(after) as usize & (SLOTS - 1);
            // SAFETY: the mask keeps the index below SLOTS. Volatile: the owner may be storing the word.
            let (bin, slot) = parts_of(unsafe { (&raw const (*this).slots[index]).read_volatile() });
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
        let mut ring = Ring::<SLOTS, BYTES>::new();
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
            // SAFETY: this thread's ring.
            unsafe { Ring::peek(&raw const ring, |bin, slot| seen.push((bin, slot))) };
            assert_eq!(seen.len(), inside.len());
            assert!(seen.len() <= SLOTS && (seen.len() == 1 || seen.len() * bytes <= BYTES));
        }
        let left: Vec<_> = core::iter::from_fn(|| ring.take()).collect();
        assert_eq!(left.len(), inside.len());
        assert!(left.iter().all(|(_, slot)| inside.iter().any(|&(inside, _)| inside == slot.address())));
        assert!(ring.bytes == 0 && ring.make_room(usize::MAX, 0).is_none());
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
