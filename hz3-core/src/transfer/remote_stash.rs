//! Collects a thread's remotely freed slots into batches for the shards that own them.
//!
//! ```text
//! dense   bank[owner][bin] → a magazine that fills up      (few shards: one magazine per pair)
//! sparse  | entry | entry | …    | 256 entries {owner, bin, pointer}      (size independent of shards)
//! ```
//!
//! The owner's lock or inbox is touched once per batch. A stash belongs to one thread.

use crate::pages::bins::{BINS, FOREIGN};
use crate::pages::slot::{Batch, Slot};
use crate::platform::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
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
    fn put(&self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier);
    /// Sends all slots.
    fn flush(&self, carrier: &mut impl Carrier);
    /// Takes up to `most` slots out, each for `take` with its owner and bin; returns how many.
    fn lift(&self, most: usize, take: &mut dyn FnMut(ShardId, Bin, Slot)) -> usize;
    /// Slots in the stash.
    fn slot_count(&self) -> usize;
    /// Calls `visit` with each group of slots: bin, first place, number. The caller need not own the stash: exact while
    /// its owner leaves it alone.
    fn peek(&self, visit: impl FnMut(Bin, *const *mut u8, usize));
}

/// A stash with a magazine for each owner and bin. All zeros is empty.
pub struct Dense<const SHARDS: usize> {
    bank: [[AtomicPtr<Magazine>; BINS]; SHARDS],
    /// Magazines in the bank: most stashes have few, and who looks at them stops after the last.
    held: AtomicUsize,
}

impl<const SHARDS: usize> Dense<SHARDS> {
    // Relaxed, all: the owner's own words; to others, a snapshot.

    /// The magazines with their owners and bins.
    fn magazines(&self) -> impl Iterator<Item = (ShardId, Bin, &AtomicPtr<Magazine>, *mut Magazine)> {
        let places = self.bank.iter().enumerate().flat_map(|(owner, bins)| {
            bins.iter().enumerate().map(move |(bin, place)| (ShardId(owner as u8), Bin(bin as u8), place))
        });
        places
            .map(|(owner, bin, place)| (owner, bin, place, place.load(Ordering::Relaxed)))
            .filter(|(.., magazine)| !magazine.is_null())
            .take(self.held.load(Ordering::Relaxed))
    }

    fn note_held(&self, place: &AtomicPtr<Magazine>, magazine: *mut Magazine) {
        let held = self.held.load(Ordering::Relaxed);
        place.store(magazine, Ordering::Relaxed);
        self.held
            .store(if magazine.is_null() { held.wrapping_sub(1) } else { held.wrapping_add(1) }, Ordering::Relaxed);
    }
}

impl<const SHARDS: usize> RemoteStash for Dense<SHARDS> {
    // Relaxed, all: the owner's own words; to others, a snapshot.

    fn put(&self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier) {
        let Some(place) = self.bank.get(usize::from(owner.0)).and_then(|bins| bins.get(usize::from(bin.0))) else {
            return;
        };
        if bin == FOREIGN {
            // Not a slot: delivery stops the process.
            return deliver_one(carrier, owner, bin, slot);
        }
        let mut magazine = place.load(Ordering::Relaxed);
        if magazine.is_null() {
            let Some(empty) = carrier.empty_magazine(bin) else { return deliver_one(carrier, owner, bin, slot) };
            self.note_held(place, empty);
            magazine = empty;
        }
        // SAFETY: the bank owns the magazine, which is never full; it leaves the bank before it is given up.
        unsafe {
            Magazine::push(magazine, slot);
            if (*magazine).count() == (*magazine).capacity {
                self.note_held(place, null_mut());
                carrier.send_to_inbox(owner, bin, magazine);
            }
        }
    }

    fn flush(&self, carrier: &mut impl Carrier) {
        for (owner, bin, place, magazine) in self.magazines() {
            self.note_held(place, null_mut());
            // SAFETY: the bank owned the magazine, and has forgotten it.
            unsafe { carrier.send_to_inbox(owner, bin, magazine) };
        }
    }

    fn lift(&self, most: usize, take: &mut dyn FnMut(ShardId, Bin, Slot)) -> usize {
        let mut left = most;
        for (owner, bin, _, magazine) in self.magazines() {
            // SAFETY: the bank owns its magazines; a slot that no longer counts is taken.
            while left > 0 && unsafe { (*magazine).count() } > 0 {
                // SAFETY: as above.
                let slot = unsafe {
                    let last = (*magazine).count() - 1;
                    (*magazine).set_count(last);
                    Magazine::slots(magazine).add(usize::from(last)).read()
                };
                take(owner, bin, slot);
                left -= 1;
            }
        }
        most - left
    }

    fn slot_count(&self) -> usize {
        // SAFETY: the bank owns its magazines.
        self.magazines().map(|(.., magazine)| usize::from(unsafe { (*magazine).count() })).sum()
    }

    fn peek(&self, mut visit: impl FnMut(Bin, *const *mut u8, usize)) {
        for (_, bin, _, magazine) in self.magazines() {
            // SAFETY: what was in the bank is a magazine, and magazines are never unmapped.
            let (slots, count) = unsafe { Magazine::peek(magazine) };
            visit(bin, slots, count);
        }
    }
}

/// A stash of `ENTRIES` entries. All zeros is empty.
pub struct Sparse<const ENTRIES: usize> {
    used: AtomicUsize,
    /// Owner and bin above, address below: sorted, they form batches.
    entries: [AtomicU64; ENTRIES],
}

impl<const ENTRIES: usize> Sparse<ENTRIES> {
    /// An empty stash.
    pub const fn new() -> Self {
        Self { used: AtomicUsize::new(0), entries: [const { AtomicU64::new(0) }; ENTRIES] }
    }
}

impl<const ENTRIES: usize> Default for Sparse<ENTRIES> {
    fn default() -> Self {
        Self::new()
    }
}

/// Bits of a user address: 47 on x86-64, 48 on AArch64.
const ADDRESS_BITS: u32 = 48;

/// Slots of one owner and bin that go home together, at most. Chosen: a lock for dozens.
const BATCH: usize = 64;

/// Entries of a stash that lies on the stack. Chosen: 264 bytes, and a lock for dozens: whole magazines pass through,
/// whose slots have few owners.
pub const ON_STACK: usize = 32;

fn owner_of(key: u64) -> ShardId {
    ShardId((key >> 8) as u8)
}

fn bin_of(key: u64) -> Bin {
    Bin(key as u8)
}

fn start_of(entry: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((entry & ((1 << ADDRESS_BITS) - 1)) as usize)
}

fn key_of(entry: &AtomicU64) -> u64 {
    // Relaxed: the owner's own word.
    entry.load(Ordering::Relaxed) >> ADDRESS_BITS
}

/// Leaves a slot in the place of an entry, so that a batch lies where the entries are and takes no stack. To readers it
/// is an entry of no bin.
fn become_slot(entry: &AtomicU64) {
    const { assert!(size_of::<Slot>() == size_of::<AtomicU64>() && align_of::<Slot>() <= align_of::<AtomicU64>()) };
    // SAFETY: a pointer has the entry's size and alignment, and all accesses by other threads are atomic.
    let place = unsafe { AtomicPtr::from_ptr(entry.as_ptr().cast::<*mut u8>()) };
    // Relaxed, both: the owner's own word.
    place.store(start_of(entry.load(Ordering::Relaxed)), Ordering::Relaxed);
}

/// Sorts `entries` by Shell's method: short, in place, and by whole words, which other threads may read meanwhile.
fn sort(entries: &[AtomicU64]) {
    // Relaxed, all: the owner's own words.
    for gap in [57, 23, 10, 4, 1] {
        for (end, entry) in entries.iter().enumerate().skip(gap) {
            let value = entry.load(Ordering::Relaxed);
            let mut at = end;
            while let Some((lower, other, place)) =
                at.checked_sub(gap).and_then(|lower| Some((lower, entries.get(lower)?, entries.get(at)?)))
            {
                let larger = other.load(Ordering::Relaxed);
                if larger <= value {
                    break;
                }
                place.store(larger, Ordering::Relaxed);
                at = lower;
            }
            if let Some(place) = entries.get(at) {
                place.store(value, Ordering::Relaxed);
            }
        }
    }
}

impl<const ENTRIES: usize> RemoteStash for Sparse<ENTRIES> {
    // Relaxed, all: the owner's own words; to others, a snapshot.

    fn put(&self, owner: ShardId, bin: Bin, slot: Slot, carrier: &mut impl Carrier) {
        if self.used.load(Ordering::Relaxed) == ENTRIES {
            self.flush(carrier);
        }
        let used = self.used.load(Ordering::Relaxed);
        if let Some(entry) = self.entries.get(used) {
            let key = u64::from(owner.0) << 8 | u64::from(bin.0);
            entry.store(key << ADDRESS_BITS | slot.into_block().expose_provenance() as u64, Ordering::Relaxed);
            self.used.store(used + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self, carrier: &mut impl Carrier) {
        let Some(entries) = self.entries.get(..self.used.load(Ordering::Relaxed)) else { return };
        self.used.store(0, Ordering::Relaxed);
        sort(entries);
        let mut rest = entries;
        while let Some(key) = rest.first().map(key_of) {
            let count = rest.iter().take(BATCH).take_while(|entry| key_of(entry) == key).count();
            let Some((batch, others)) = rest.split_at_checked(count) else { return };
            batch.iter().for_each(become_slot);
            // SAFETY: these entries have become slots, which `put` took; they leave once, because `used` is 0.
            carrier.deliver(owner_of(key), bin_of(key), unsafe { Batch::at(batch.as_ptr().cast(), count) });
            rest = others;
        }
    }

    fn lift(&self, most: usize, take: &mut dyn FnMut(ShardId, Bin, Slot)) -> usize {
        let used = self.used.load(Ordering::Relaxed);
        let left = used.saturating_sub(most);
        self.used.store(left, Ordering::Relaxed);
        for entry in self.entries.iter().take(used).skip(left) {
            let key = key_of(entry);
            // SAFETY: `put` took this slot, which no longer counts.
            take(owner_of(key), bin_of(key), unsafe { Slot::new(start_of(entry.load(Ordering::Relaxed))) });
        }
        used - left
    }

    fn slot_count(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn peek(&self, mut visit: impl FnMut(Bin, *const *mut u8, usize)) {
        for entry in self.entries.iter().take(self.used.load(Ordering::Relaxed)) {
            let entry = entry.load(Ordering::Relaxed);
            let slot = start_of(entry);
            visit(bin_of(entry >> ADDRESS_BITS), &slot, 1);
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

    fn everything_arrives_once(stash: &impl RemoteStash) -> usize {
        let mut post = Post::default();
        let mut sent = BTreeSet::new();
        for turn in 0..if cfg!(miri) { 40 } else { 3000_usize } {
            let (owner, bin, address) = (turn % 7, turn % 31 + 1, 0x7f00_0000_0000 + turn * 16);
            sent.insert((owner as u8, bin as u8, address));
            // SAFETY: stands for a slot; nothing accesses its memory.
            let slot = unsafe { Slot::new(core::ptr::without_provenance_mut(address)) };
            stash.put(ShardId(owner as u8), Bin(bin as u8), slot, &mut post);
            // Both looks walk a whole dense stash, for which an interpreter takes a second.
            if cfg!(miri) && turn % 20 != 19 {
                continue;
            }
            assert_eq!(stash.slot_count() + post.delivered.len(), sent.len());
            let mut seen = 0;
            stash.peek(|_, _, count| seen += count);
            assert_eq!(seen, stash.slot_count());
        }
        stash.flush(&mut post);
        assert_eq!(stash.slot_count(), 0);
        assert_eq!(post.delivered, sent);
        post.batches
    }

    #[test]
    fn a_dense_stash_delivers_every_slot_once_in_full_batches() {
        let stash =
            Dense::<8> { bank: [const { [const { AtomicPtr::new(null_mut()) }; BINS] }; 8], held: AtomicUsize::new(0) };
        assert!(everything_arrives_once(&stash) <= 3000 / 6 + 7 * 31);
    }

    #[test]
    fn entries_are_sorted() {
        let mut number = 1_u64;
        // Miri takes minutes for all lengths. The largest gap wants more than 57.
        let (end, step) = if cfg!(miri) { (79, 39) } else { (300, 1) };
        for length in (0..end).step_by(step) {
            let entries: std::vec::Vec<_> = (0..length)
                .map(|_| {
                    number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    AtomicU64::new(number >> 33 & 0x3f)
                })
                .collect();
            let values = || entries.iter().map(|entry| entry.load(Ordering::Relaxed)).collect::<std::vec::Vec<_>>();
            let mut expected = values();
            expected.sort_unstable();
            sort(&entries);
            assert_eq!(values(), expected);
        }
    }

    #[test]
    fn a_sparse_stash_delivers_every_slot_once_in_few_batches() {
        let stash = Sparse::<256>::new();
        assert!(everything_arrives_once(&stash) <= 12 * 217);
    }
}
