//! Courier: what a stash calls to take slots to where they belong.

use crate::allocator::Allocator;
use crate::lane::Lane;
use crate::platform::units::{Bin, ShardId};
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::{Carrier, RemoteStash};

/// Takes slots from a stash to where they belong, on behalf of a thread of `shard`.
pub struct Courier<'a, L: Lane> {
    /// The allocator.
    pub allocator: &'a Allocator<L>,
    /// The sender's shard, whose empty magazines are used.
    pub shard: ShardId,
    /// Whether nobody needed the slots for a while.
    pub idle: bool,
}

impl<L: Lane> Courier<'_, L> {
    /// Sends the slots of `magazine`, of `bin`, home through `stash`, and the empty magazine back.
    ///
    /// # Safety
    /// The caller owns the magazine, and no longer does afterwards.
    pub unsafe fn unpack(&mut self, bin: Bin, magazine: *mut Magazine, stash: &mut impl RemoteStash) {
        // SAFETY: the caller's promise.
        unsafe {
            for &mut slot in Magazine::held(magazine) {
                let owner = self.allocator.runs.arenas.tag_value(slot.addr()).owner();
                stash.put(owner, bin, slot, self);
            }
            self.allocator.return_empty(magazine);
        }
    }

    fn note_batch(&self, bin: Bin, slots: usize) {
        if self.allocator.options().counts_heat() {
            self.allocator.heat.note_batch(bin, slots);
        }
    }
}

impl<L: Lane> Carrier for Courier<'_, L> {
    fn deliver(&mut self, owner: ShardId, bin: Bin, slots: &[*mut u8]) {
        self.note_batch(bin, slots.len());
        self.allocator.deliver(owner, bin, slots, self.idle);
    }

    fn empty_magazine(&mut self, bin: Bin) -> *mut Magazine {
        self.allocator.empty_magazine(self.shard, bin)
    }

    unsafe fn post(&mut self, owner: ShardId, bin: Bin, magazine: *mut Magazine) {
        // SAFETY: the stash hands its magazine over.
        unsafe {
            self.note_batch(bin, usize::from((*magazine).count));
            if !(*magazine).is_worthwhile() || !self.allocator.put_full(owner, bin, magazine, true) {
                self.allocator.deliver(owner, bin, Magazine::held(magazine), self.idle);
                self.allocator.return_empty(magazine);
            }
        }
    }
}
