//! One way: bins that a thread only allocates from, or only frees into, as both ends of a queue do.
//!
//! ```text
//! balance = magazines spilled − magazines refilled      −64 … −32  producer     32 … 64  consumer
//!
//! consumer   a full magazine of one owner's slots goes to that owner's inbox as it is
//! producer   takes from its own shard's inbox what came first, and of it the slot that came first; then slots of
//!            its own spans, up to a bound; then what everybody takes
//! ```
//!
//! Slots that come back in the order in which they were handed out lie side by side in memory, and stay so however often they
//! go round: the processor fetches the next ones ahead of both ends. Last in, first out, they would be cut and
//! turned round once per round trip, until each lies on a page of its own.

use crate::allocator::Allocator;
use crate::bins::BINS;
use crate::courier::Courier;
use crate::depot::{Links, MAX_COUNT};
use crate::lane::Lane;
use crate::magazine::Magazine;
use crate::remote_stash::{RemoteStash, Sparse};
use crate::sync::Ordering;
use crate::units::{Bin, ShardId};

/// Magazines that a thread spills or refills more than the other before it counts as one end of a queue. Chosen: more than
/// threads that free each other's blocks drift apart in a time slice.
const ONE_WAY: i8 = 32;
/// The balance beyond which nothing is counted: how long an end of a queue stays one.
const MOST: i8 = 64;

/// Bytes of a producer's bin that may be out before it takes slots of other shards. Chosen: a queue of some
/// thousand small blocks.
pub const OWN_BYTES: usize = 1 << 20;

/// A thread's balances, by bin.
#[derive(Clone, Copy)]
pub struct Balances([i8; BINS]);

impl Balances {
    /// Nothing counted yet.
    pub const NONE: Self = Self([0; BINS]);

    fn add(&mut self, bin: Bin, more: i8) {
        if let Some(balance) = self.0.get_mut(usize::from(bin.0)) {
            *balance = balance.saturating_add(more).clamp(-MOST, MOST);
        }
    }

    fn of(&self, bin: Bin) -> i8 {
        self.0.get(usize::from(bin.0)).copied().unwrap_or(0)
    }

    /// Counts a magazine of `bin` that the thread got.
    pub fn note_refill(&mut self, bin: Bin) {
        self.add(bin, -1);
    }

    /// Counts a magazine of `bin` that the thread handed on.
    pub fn note_spill(&mut self, bin: Bin) {
        self.add(bin, 1);
    }

    /// Forgets what was counted of `bin`.
    pub fn forget(&mut self, bin: Bin) {
        if let Some(balance) = self.0.get_mut(usize::from(bin.0)) {
            *balance = 0;
        }
    }

    /// Whether the thread allocates blocks of `bin` that others free.
    pub fn is_producer(&self, bin: Bin) -> bool {
        self.of(bin) <= -ONE_WAY
    }

    /// Whether the thread frees blocks of `bin` that others allocate.
    pub fn is_consumer(&self, bin: Bin) -> bool {
        self.of(bin) >= ONE_WAY
    }
}

/// The shard that owns `slots`, by the first, the middle and the last of them; `None` where those differ, or there
/// is none. A guess that is good enough: any shard may have any slot.
pub fn owner_of_all<L: Lane>(allocator: &Allocator<L>, slots: &[*mut u8]) -> Option<ShardId> {
    let owner = |slot: &*mut u8| allocator.runs.arenas.tag_value(slot.addr()).owner();
    let first = owner(slots.first()?);
    let others = [slots.get(slots.len() / 2)?, slots.last()?];
    others.into_iter().all(|slot| owner(slot) == first).then_some(first)
}

impl<L: Lane> Allocator<L> {
    /// As [`Allocator::take_full_of`], but of the inbox the magazine that came first. The inbox is turned over into the
    /// depot for that.
    pub fn take_in_order(&'static self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let depot = self.shard(shard).depot(bin);
        if depot.full.is_empty() && !depot.inbox.is_empty() {
            let mut homeless = 0;
            {
                // No fork may come between: the child would not have what is on its way.
                let _owned = self.shard(shard).owned().lock();
                let mut next = depot.inbox.pop_all().unwrap_or(0);
                while next != 0 {
                    let id = next;
                    // Relaxed, both: this thread's own since the exchange.
                    next = self.magazines.next(id).load(Ordering::Relaxed);
                    if !depot.full.push(&self.magazines, id, MAX_COUNT) {
                        self.magazines.next(id).store(homeless, Ordering::Relaxed);
                        homeless = id;
                    }
                }
            }
            self.stocked(bin).note_pushed(Self::bit(shard));
            // Others of the shard have filled the depot meanwhile.
            let (mut courier, mut stash) = (Courier { allocator: self, shard, idle: false }, Sparse::<256>::new());
            while homeless != 0 {
                let id = homeless;
                // Relaxed: as above.
                homeless = self.magazines.next(id).load(Ordering::Relaxed);
                // SAFETY: ids in stacks are magazines', and this one is this thread's.
                unsafe { courier.unpack(bin, self.magazines.get(id), &mut stash) };
            }
            stash.flush(&mut courier);
        }
        self.take_full_of(shard, bin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_an_end_of_a_queue_late_and_stays_one_for_a_while() {
        let (mut balances, bin) = (Balances::NONE, Bin(4));
        for _ in 1..ONE_WAY {
            balances.note_spill(bin);
        }
        assert!(!balances.is_consumer(bin));
        for _ in 0..1000 {
            balances.note_spill(bin);
        }
        assert!(balances.is_consumer(bin) && !balances.is_producer(bin) && !balances.is_consumer(Bin(5)));
        for _ in 0..=MOST - ONE_WAY {
            assert!(balances.is_consumer(bin));
            balances.note_refill(bin);
        }
        assert!(!balances.is_consumer(bin));
        for _ in 0..1000 {
            balances.note_refill(bin);
        }
        assert!(balances.is_producer(bin));
        balances.forget(bin);
        assert!(!balances.is_producer(bin));
    }
}
