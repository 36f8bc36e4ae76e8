//! Sends free slots home, from magazines to the spans they belong to.
//!
//! ```text
//! magazine → stash → batch of one owner and bin → its spans → an empty span → runs
//!                  → magazine of one owner and bin → its inbox          (dense stash)
//! ```

use crate::hardening::unwritten::require_span_unwritten;
use crate::pages::bins::{self, BINS};
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::Kind;
use crate::pages::slot::{Batch, Slot};
use crate::pages::span::{NotReturned, at};
use crate::platform::abort;
use crate::platform::atomic::Ordering;
use crate::platform::units::{Bin, ShardId, SpanId};
use crate::transfer::depot::{Depot, Links};
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::{Carrier, ON_STACK, RemoteStash, Sparse};
use core::mem::MaybeUninit;

/// Sends slots home for a thread of one shard.
pub struct Homeward<'a, P: Sharded> {
    pages: &'a PageHeap<P>,
    exchange: &'a Exchange<P>,
    /// The sender's shard: it supplies empty magazines.
    shard: ShardId,
    /// The slots have been unused for a while.
    idle: bool,
}

impl<'a, P: Sharded> Homeward<'a, P> {
    /// For slots just freed: their spans become young.
    pub const fn new(pages: &'a PageHeap<P>, exchange: &'a Exchange<P>, shard: ShardId) -> Self {
        Self { pages, exchange, shard, idle: false }
    }

    /// For slots unused for a while: their spans' age stays.
    pub const fn idle(pages: &'a PageHeap<P>, exchange: &'a Exchange<P>, shard: ShardId) -> Self {
        Self { pages, exchange, shard, idle: true }
    }

    /// Sends one slot of `bin` home through `stash`.
    #[inline]
    pub fn send_slot(&mut self, bin: Bin, slot: Slot, stash: &impl RemoteStash) {
        let owner = self.pages.owner(slot.address());
        stash.put(owner, bin, slot, self);
    }

    /// Sends the slots of `magazine`, all of `bin`, home through `stash`; empties it.
    ///
    /// # Safety
    /// The caller owns the magazine, which is not loaded.
    pub unsafe fn send_slots(&mut self, bin: Bin, magazine: *mut Magazine, stash: &impl RemoteStash) {
        // SAFETY: the caller owns the magazine, which is not loaded.
        for slot in unsafe { Magazine::drain(magazine) } {
            self.send_slot(bin, slot, stash);
        }
    }

    /// Like [`Homeward::send_slots`]; returns the empty magazine to its shard.
    ///
    /// # Safety
    /// The caller owns the magazine, which is not loaded, and gives it up.
    pub unsafe fn send_magazine(&mut self, bin: Bin, magazine: *mut Magazine, stash: &impl RemoteStash) {
        // SAFETY: the caller owns the magazine, which is not loaded, and gives it up.
        unsafe {
            self.send_slots(bin, magazine, stash);
            self.exchange.return_empty(magazine);
        }
    }

    /// Sends the magazines of `bin` that are linked from id `first` on home.
    ///
    /// # Safety
    /// The caller owns the magazines, which are not loaded, and gives them up.
    // Not inlined: the stash would be in every refill's frame, and stacks are small.
    #[cold]
    #[inline(never)]
    pub unsafe fn send_chain(&mut self, bin: Bin, first: u32) {
        let stash = Sparse::<ON_STACK>::new();
        let mut next = first;
        while next != 0 {
            let id = next;
            // Relaxed: this thread owns the magazine.
            next = self.exchange.magazines.next(id).load(Ordering::Relaxed);
            // SAFETY: links lead to magazines' ids; the caller gave up these, which are not loaded.
            unsafe { self.send_magazine(bin, self.exchange.magazines.get(id), &stash) };
        }
        stash.flush(self);
    }

    fn note_batch(&self, bin: Bin, slots: usize) {
        if self.pages.options().counts_heat() {
            self.exchange.heat.note_batch(bin, slots);
        }
    }
}

impl<P: Sharded> Carrier for Homeward<'_, P> {
    fn deliver(&mut self, owner: ShardId, bin: Bin, slots: Batch<'_>) {
        self.note_batch(bin, slots.len());
        restore_batch(self.pages, self.exchange, owner, bin, slots, self.idle);
    }

    fn empty_magazine(&mut self, bin: Bin) -> Option<*mut Magazine> {
        self.exchange.empty_magazine(self.shard, bin)
    }

    unsafe fn send_to_inbox(&mut self, owner: ShardId, bin: Bin, magazine: *mut Magazine) {
        // SAFETY: the caller gives up the magazine, which is not loaded.
        unsafe {
            self.note_batch(bin, usize::from((*magazine).count()));
            if !(*magazine).is_worthwhile() || !self.exchange.put_full(owner, bin, magazine, true) {
                restore_batch(self.pages, self.exchange, owner, bin, Magazine::drain(magazine), self.idle);
                self.exchange.return_empty(magazine);
            }
        }
    }
}

/// Most slots that a batch brings home from their [doubts](crate::transfer::doubts). Chosen: one is rare.
const MOST_OTHERS: usize = 4;

/// [`restore_one`] that leaves the span's age alone.
pub fn restore_idle<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, slot: Slot) {
    restore_as(pages, exchange, slot, true);
}

/// Puts one slot into its span. Takes the owner's lock.
pub fn restore_one<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, slot: Slot) {
    restore_as(pages, exchange, slot, false);
}

fn restore_as<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, slot: Slot, idle: bool) {
    let tag = pages.tag(slot.address());
    let mut one = [MaybeUninit::new(slot)];
    // SAFETY: the place holds the slot.
    restore_batch(pages, exchange, tag.owner(), tag.bin(), unsafe { Batch::of(&mut one, 1) }, idle);
}

/// Puts `slots`, all of `bin` and `owner`, into their spans, and releases empty spans. A slot that is invalid or free
/// already stops the process. `idle` slots leave their spans' age alone. Takes the owner's lock.
fn restore_batch<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    owner: ShardId,
    bin: Bin,
    slots: Batch<'_>,
    idle: bool,
) {
    let mut emptied = SpanId::NONE;
    let mut refused = None;
    let (is_doubtful, mut others) = (exchange.doubts.is_any(), [const { None }; MOST_OTHERS]);
    {
        let mut owned = exchange.shard(owner).owned().lock();
        for slot in slots {
            let address = slot.address();
            let tag = pages.tag(address);
            if tag.kind() != Kind::Small || tag.bin() != bin || tag.owner() != owner {
                refused = Some((NotReturned::NotASlot, address));
                break;
            }
            if is_doubtful {
                if let Some(place) = others.iter_mut().find(|other| other.is_none()) {
                    *place = exchange.doubts.resolve(address);
                }
            }
            // SAFETY: a small span of `owner`, whose lock is held.
            match unsafe { owned.restore(pages.spans(), tag.span(), slot, idle) } {
                Ok(false) => {}
                Ok(true) => {
                    // SAFETY: the span is empty and unlisted: this thread's alone.
                    unsafe { (*at(pages.spans(), tag.span())).next = emptied };
                    emptied = tag.span();
                }
                Err(reason) => {
                    refused = Some((reason, address));
                    break;
                }
            }
        }
        if owned.has_home(pages.spans(), bin) {
            exchange.set_home_hint(bin, owner, true);
        }
    }
    // Without the lock: the program's SIGABRT handler may allocate.
    if let Some((reason, address)) = refused {
        let fault = match reason {
            NotReturned::AlreadyFree => "double free of",
            NotReturned::NotASlot => "invalid pointer",
        };
        abort::misuse_in_bin::<P::Os>("free()", fault, address, bins::info(bin).slot_bytes as usize);
    }
    others.into_iter().flatten().for_each(|other| restore_one(pages, exchange, other));
    while !emptied.is_none() {
        // SAFETY: the chained spans are this thread's alone; each is released once.
        unsafe {
            let next = (*at(pages.spans(), emptied)).next;
            require_span_unwritten::<P>(&*at(pages.spans(), emptied));
            pages.release_small(emptied, idle);
            emptied = next;
        }
    }
}

/// Most magazines that a turn of upkeep sends home: bounds the time of one thread. Chosen: half a millisecond.
pub const TURN_MAGAZINES: u32 = 128;

/// Sends magazines of all depots and inboxes home, at most `most`. `share` says how many of a bin's depot, given the
/// rest of `most`. Returns the sum of the shares.
// Not inlined: what its callers do next would lie below its stash.
#[inline(never)]
pub fn send_depots<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    most: u32,
    share: impl Fn(Bin, &Depot, u32) -> u32,
) -> u32 {
    let stash = Sparse::<ON_STACK>::new();
    let mut left = most;
    for shard in exchange.shard_ids() {
        let mut homeward = Homeward::idle(pages, exchange, shard);
        for bin in (1..BINS as u8).map(Bin) {
            if left == 0 {
                break;
            }
            let due = share(bin, exchange.shard(shard).depot(bin), left);
            left -= due;
            for _ in 0..due {
                let Some(magazine) = exchange.take_full_of(shard, bin) else { break };
                // SAFETY: this thread took the magazine, which is not loaded.
                unsafe { homeward.send_magazine(bin, magazine, &stash) };
            }
        }
    }
    stash.flush(&mut Homeward::idle(pages, exchange, ShardId(0)));
    most - left
}

/// Sends all depots and inboxes home; whether there was a magazine. It ends even if other threads refill them: each gets
/// one turn.
pub fn empty_depots<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) -> bool {
    send_depots(pages, exchange, u32::MAX, |_, depot, most| depot.count().min(most)) > 0
}

/// [`empty_depots`] of those that are known to have a magazine. Where none is, it costs a look per bin.
// Not inlined: what its callers do next would lie below its stash.
#[inline(never)]
pub fn empty_stocked_depots<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) -> bool {
    let stash = Sparse::<ON_STACK>::new();
    let mut is_any = false;
    for bin in (1..BINS as u8).map(Bin) {
        for shard in exchange.stocked_shards(bin) {
            let mut homeward = Homeward::idle(pages, exchange, shard);
            // One more than there are clears the hint.
            for _ in 0..=exchange.shard(shard).depot(bin).count() {
                let Some(magazine) = exchange.take_full_of(shard, bin) else { break };
                is_any = true;
                // SAFETY: this thread took the magazine, which is not loaded.
                unsafe { homeward.send_magazine(bin, magazine, &stash) };
            }
        }
    }
    stash.flush(&mut Homeward::idle(pages, exchange, ShardId(0)));
    is_any
}
