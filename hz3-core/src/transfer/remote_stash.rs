//! Collects a thread's remotely freed slots into batches for the shards that own them.
//!
//! ```text
//! dense   bank[owner][bin] → a magazine that fills up      (few shards: one magazine per pair)
//! sparse  | entry | entry | …    | 256 entries {owner, bin, pointer}      (size independent of shards)
//! ```
//!
//! The owner's lock or inbox is touched once per batch. A stash belongs to one thread.

use crate::pages::bins::{BINS, FOREIGN};
use crate::pages::slot::{Batch, Slot, no_slots};
use crate::platform::units::{Bin, ShardId};
use crate::transfer::magazine::Magazine;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

/// Where batches go, and magazines come from.
pub trait Carrier {
    /// Sends slots, all of `bin` and `owner`, home.
    fn deliver(&mut self, owner: ShardId, bin: Bin, slots: Batch<'_>);
    /// An empty magazine for `bin`. `None` when memory has run out.
    fn empty_magazine(&mut self, bin: Bin) -> Option<*mut Magazine>;
    /// Sends a magazine with slots of `bin` to `owner`'s inbox.
    ///
    /// # Safety
    /// The caller owns `magazine`, which is not loaded, and gives it up.
    unsafe fn send_to_inbox(&mut self, owner: ShardId, bin: Bin, magazine: *mut Magazine);
}

fn deliver_one(carrier: &mut impl Carrier, owner: ShardId, bin: Bin, slot: Slot) {
    let mut one = [MaybeUninit::new(slot)];
    // SAFETY: the place holds the slot.
    carrier.deliver(owner, bin, unsafe { Batch::of(&mut one, 1) });
}

/// A remote stash of either kind.
pub trait RemoteStash {
    /// Adds a free slot of `bin` and `owner`; may send batches.
    fn put(&mut self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier);
    /// Sends all slots.
    fn flush(&mut self, carrier: &mut impl Carrier);
    /// Slots in the stash.
    fn slot_count(&self) -> usize;
    /// Calls `visit` with each group of slots: bin, first place, number. The caller need not own the stash: exact while
    /// its owner leaves it alone.
    ///
    /// # Safety
    /// `this` is a stash; it and its magazines are never unmapped.
    unsafe fn peek(this: *const Self, visit: impl FnMut(Bin, *const *mut u8, usize));
}

/// A stash with a magazine for each owner and bin. All zeros is empty.
pub struct Dense<const SHARDS: usize> {
    bank: [[*mut Magazine; BINS]; SHARDS],
}

impl<const SHARDS: usize> RemoteStash for Dense<SHARDS> {
    fn put(&mut self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier) {
        let Some(place) = self.bank.get_mut(usize::from(owner.0)).and_then(|bins| bins.get_mut(usize::from(bin.0)))
        else {
            return;
        };
        if bin == FOREIGN {
            // Not a slot: delivery stops the process.
            return deliver_one(carrier, owner, bin, slot);
        }
        if place.is_null() {
            let Some(magazine) = carrier.empty_magazine(bin) else { return deliver_one(carrier, owner, bin, slot) };
            *place = magazine;
        }
        let magazine = *place;
        // SAFETY: the bank owns the magazine, which is never full; it leaves the bank before it is given up.
        unsafe {
            Magazine::slots(magazine).add(usize::from((*magazine).count)).write(slot);
            (*magazine).count += 1;
            if (*magazine).count == (*magazine).capacity {
                *place = null_mut();
                carrier.send_to_inbox(owner, bin, magazine);
            }
        }
    }

    fn flush(&mut self, carrier: &mut impl Carrier) {
        for (owner, bins) in self.bank.iter_mut().enumerate() {
            for (bin, place) in bins.iter_mut().enumerate() {
                let magazine = core::mem::replace(place, null_mut());
                if !magazine.is_null() {
                    // SAFETY: the bank owned the magazine, and has forgotten it.
                    unsafe { carrier.send_to_inbox(ShardId(owner as u8), Bin(bin as u8), magazine) };
                }
            }
        }
    }

    fn slot_count(&self) -> usize {
        let magazines = self.bank.iter().flatten().filter(|place| !place.is_null());
        // SAFETY: the bank owns its magazines.
        magazines.map(|&magazine| usize::from(unsafe { (*magazine).count })).sum()
    }

    unsafe fn peek(this: *const Self, mut visit: impl FnMut(Bin, *const *mut u8, usize)) {
        for owner in 0..SHARDS {
            for bin in 1..BINS {
                // SAFETY: in the bank. Volatile: the owner may be storing it, in one piece.
                let magazine = unsafe { (&raw const (*this).bank[owner][bin]).read_volatile() };
                if !magazine.is_null() {
                    // SAFETY: not null, so a magazine.
                    let (slots, count) = unsafe { Magazine::peek(magazine) };
                    visit(Bin(bin as u8), slots, count);
                }
            }
        }
    }
}

/// A stash of `ENTRIES` entries. All zeros is empty.
pub struct Sparse<const ENTRIES: usize> {
    used: usize,
    /// Owner and bin above, address below: sorted, they form batches.
    entries: [u64; ENTRIES],
}

impl<const ENTRIES: usize> Sparse<ENTRIES> {
    /// An empty stash.
    pub const fn new() -> Self {
        Self { used: 0, entries: [0; ENTRIES] }
    }
}

impl<const ENTRIES: usize> Default for Sparse<ENTRIES> {
    fn default() -> Self {
        Self::new()
    }
}

/// Bits of a user address: 47 on x86-64, 48 on AArch64.
const ADDRESS_BITS: u32 = 48;

fn start_of(entry: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((entry & ((1 << ADDRESS_BITS) - 1)) as usize)
}

impl<const ENTRIES: usize> RemoteStash for Sparse<ENTRIES> {
    fn put(&mut self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier) {
        if self.used == ENTRIES {
            self.flush(carrier);
        }
        if let Some(entry) = self.entries.get_mut(self.used) {
            let key = u64::from(owner.0) << 8 | u64::from(bin.0);
            *entry = key << ADDRESS_BITS | slot.into_block().expose_provenance() as u64;
            self.used += 1;
        }
    }

    fn flush(&mut self, carrier: &mut impl Carrier) {
        let used = core::mem::replace(&mut self.used, 0);
        let Some(entries) = self.entries.get_mut(..used) else { return };
        entries.sort_unstable();
        let mut batch = no_slots::<ENTRIES>();
        for group in entries.chunk_by(|a, b| a >> ADDRESS_BITS == b >> ADDRESS_BITS) {
            for (place, entry) in batch.iter_mut().zip(group) {
                // SAFETY: `put` took this slot; it leaves once, because `used` is 0.
                place.write(unsafe { Slot::new(start_of(*entry)) });
            }
            if let Some(first) = group.first() {
                let key = first >> ADDRESS_BITS;
                // SAFETY: the loop filled the first places.
                let slots = unsafe { Batch::of(&mut batch, group.len()) };
                carrier.deliver(ShardId((key >> 8) as u8), Bin(key as u8), slots);
            }
        }
    }

    fn slot_count(&self) -> usize {
        self.used
    }

    unsafe fn peek(this: *const Self, mut visit: impl FnMut(Bin, *const *mut u8, usize)) {
        // SAFETY: the stash is mapped. Volatile: the owner may be storing it, in one piece.
        let used = unsafe { (&raw const (*this).used).read_volatile() };
        for index in 0..used.min(ENTRIES) {
            // SAFETY: an index below ENTRIES. Volatile: the owner may be storing the entry.
            let entry = unsafe { (&raw const (*this).entries[index]).read_volatile() };
            let slot = start_of(entry);
            visit(Bin((entry >> ADDRESS_BITS) as u8), &slot, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;
    use crate::transfer::magazine::Magazines;
    use std::collections::BTreeSet;

    static MAGAZINES: Magazines = Magazines::new();

    #[derive(Default)]
    struct Post {
        delivered: BTreeSet<(u8, u8, usize)>,
        batches: usize,
    }

    impl Carrier for Post {
        fn deliver(&mut self, owner: ShardId, bin: Bin, slots: Batch<'_>) {
            self.batches += 1;
            for slot in slots {
                assert!(self.delivered.insert((owner.0, bin.0, slot.address())), "delivered twice");
            }
        }
        fn empty_magazine(&mut self, _: Bin) -> Option<*mut Magazine> {
            let magazine = MAGAZINES.create::<Linux>(0).expect("memory");
            // SAFETY: just created, this thread's alone.
            unsafe { (*magazine).capacity = 6 };
            Some(magazine)
        }
        unsafe fn send_to_inbox(&mut self, owner: ShardId, bin: Bin, magazine: *mut Magazine) {
            // SAFETY: the bank gave it up.
            let slots = unsafe { Magazine::drain(magazine) };
            self.deliver(owner, bin, slots);
        }
    }

    fn everything_arrives_once(stash: &mut impl RemoteStash) -> usize {
        let mut post = Post::default();
        let mut sent = BTreeSet::new();
        for turn in 0..if cfg!(miri) { 40 } else { 3000_usize } {
            let (owner, bin, address) = (turn % 7, turn % 31 + 1, 0x7f00_0000_0000 + turn * 16);
            sent.insert((owner as u8, bin as u8, address));
            // SAFETY: stands for a slot; nothing accesses its memory.
            let slot = unsafe { Slot::new(core::ptr::without_provenance_mut(address)) };
            stash.put(ShardId(owner as u8), Bin(bin as u8), slot, &mut post);
            assert_eq!(stash.slot_count() + post.delivered.len(), sent.len());
            let mut seen = 0;
            // SAFETY: this thread's stash.
            unsafe { RemoteStash::peek(stash, |_, _, count| seen += count) };
            assert_eq!(seen, stash.slot_count());
        }
        stash.flush(&mut post);
        assert_eq!(stash.slot_count(), 0);
        assert_eq!(post.delivered, sent);
        post.batches
    }

    #[test]
    fn a_dense_stash_delivers_every_slot_once_in_full_batches() {
        let mut stash = Dense::<8> { bank: [[null_mut(); BINS]; 8] };
        assert!(everything_arrives_once(&mut stash) <= 3000 / 6 + 7 * 31);
    }

    #[test]
    fn a_sparse_stash_delivers_every_slot_once_in_few_batches() {
        let mut stash = Sparse::<256>::new();
        assert!(everything_arrives_once(&mut stash) <= 12 * 217);
    }
}
