//! Rest: takes what threads keep in their caches while they rest, and sends it home.
//!
//! ```text
//! look    look    look                       at each heap, four times per purge delay
//!   | top   | top   | top                    the same: the bin rests
//!                   ask ══ hold, raise ══ confirm, take ── home          ══ all threads pass a fence
//! ```
//!
//! What a thread's hits may be about to use stays: a slot in each bin ([`crate::thread::loaded`]). In a lane whose hits are
//! changes nothing stays. Whoever is in a change keeps everything ([`crate::thread::claim`]). Where the system makes no
//! threads pass a fence, nothing is taken.

use crate::hardening::quarantine::Quarantine;
use crate::pages::bins::{BINS, FOREIGN};
use crate::pages::page_heap::PageHeap;
use crate::pages::slot::{Slot, no_slots};
use crate::platform::atomic::Ordering;
use crate::platform::options::NEVER;
use crate::platform::os::Os;
use crate::platform::own_stack::{self, Signals};
use crate::platform::units::{Bin, ShardId};
use crate::thread::claim::Ticket;
use crate::thread::heap::{Heap, used_bins};
use crate::thread::heaps::Heaps;
use crate::transfer::carve::carve;
use crate::transfer::depot::Links;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{Homeward, restore_one};
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::{ON_STACK, RemoteStash, Sparse};
use crate::upkeep::schedule::Rests;
use core::ptr::{NonNull, null_mut};

/// Passes over all heaps per purge delay.
const PASSES_PER_DELAY: u32 = 4;
/// Fewest milliseconds between the starts of two passes.
const MIN_PASS_MS: u32 = 50;
/// Heaps looked at per step.
const LOOKS: u32 = 256;
/// Heaps taken from per step. Chosen: at most 35,000 slots, a millisecond.
const BATCH: usize = 8;
/// Looks that see no change before a bin rests.
const QUIET_LOOKS: u8 = 2;

/// A step, if one is due: looks at some heaps, and takes what rests in some. True if the pass goes on. The caller holds no
/// lock and is in no change. Takes owners' locks.
#[cold]
#[inline(never)]
pub fn tick<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
    rests: &Rests,
) -> bool {
    let delay_ms = pages.options().purge_delay_ms();
    // One heap is the caller's, or soon nobody's.
    if delay_ms == NEVER || heaps.made() < 2 {
        return false;
    }
    let Some(first) = rests.claim_step(P::Os::now_ms(), (delay_ms / PASSES_PER_DELAY).max(MIN_PASS_MS)) else {
        return rests.is_in_pass();
    };
    // The heaps' list and the stash take more stack than a miss may.
    own_stack::call(Signals::Wait, || step(pages, exchange, heaps, rests, first)) == Some(true)
}

/// The step at heap `first`; whether the pass goes on.
fn step<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
    rests: &Rests,
    first: u32,
) -> bool {
    let end = heaps.made() + 1;
    let mut taking = Taking::new();
    let mut id = first;
    while id < end.min(first.saturating_add(LOOKS)) && !taking.is_full() {
        if let Some(heap) = heaps.peek(id) {
            // SAFETY: heaps are never unmapped, and other threads read and write only what is atomic.
            let heap = unsafe { &*heap };
            heaps.note_cached(heap, heap.cached_bytes());
            taking.add(heap, resting_bins(heap));
        }
        id += 1;
    }
    rests.set_next_heap(if id < end { id } else { 0 });
    taking.take(pages, exchange);
    id < end
}

/// Takes all that is not in use out of every thread's cache. The caller holds no lock and is in no change. Takes owners'
/// locks.
#[cold]
#[inline(never)]
pub fn take_all<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
) {
    own_stack::call(Signals::Wait, || take_all_here(pages, exchange, heaps));
}

fn take_all_here<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
) {
    let mut id = 1;
    while id <= heaps.made() {
        let mut taking = Taking::new();
        while id <= heaps.made() && !taking.is_full() {
            if let Some(heap) = heaps.peek(id) {
                // SAFETY: as in `tick`.
                let heap = unsafe { &*heap };
                let mut bins = Bins::NONE;
                // SAFETY: the heap is one of all.
                unsafe { used_bins(heap) }.filter(|&bin| is_any_spared(heap, bin)).for_each(|bin| bins.add(bin));
                if holds_others(heap) {
                    bins.add(FOREIGN);
                }
                heap.rest.note_sum(sum_of(heap));
                taking.add(heap, bins);
            }
            id += 1;
        }
        if !taking.take(pages, exchange) {
            return;
        }
    }
}

/// Exchanges the slot that [`take_all`] left in each bin of a thread for one without memory, and sends it home, if the
/// thread rests: nothing of its heap has changed since. All free memory was just purged. The caller holds no lock and is in
/// no change. Takes owners' locks. Whether any went.
///
/// A hit in this very moment may leave it [open](crate::transfer::doubts) which of the two it took.
#[cold]
#[inline(never)]
pub fn exchange_last<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
) -> bool {
    // Elsewhere, what a hit stored is not seen in order.
    !P::HARDENED
        && cfg!(target_arch = "x86_64")
        && own_stack::call(Signals::Wait, || exchange_here(pages, exchange, heaps)) == Some(true)
}

fn exchange_here<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
) -> bool {
    let mut is_any = false;
    for bin in (1..BINS as u8).map(Bin) {
        // What goes home has memory: after all are exchanged.
        let mut parting = 0;
        let mut id = 1;
        while id <= heaps.made() {
            let mut swaps = Swaps { heaps: [const { None }; BATCH], count: 0 };
            while id <= heaps.made() && swaps.count < BATCH {
                if let Some(heap) = heaps.peek(id) {
                    // SAFETY: as in `tick`.
                    swaps.add(pages, exchange, unsafe { &*heap }, bin);
                }
                id += 1;
            }
            swaps.act(pages, exchange, bin, &mut parting);
        }
        if parting != 0 {
            // SAFETY: these magazines are this thread's, linked, and not loaded.
            unsafe { Homeward::idle(pages, exchange, ShardId(0)).send_chain(bin, parting) };
            is_any = true;
        }
    }
    is_any
}

/// A heap whose last slot of a bin is exchanged.
struct Swap<'a, S, Q> {
    heap: &'a Heap<S, Q>,
    ticket: Option<Ticket>,
    /// The slot to leave there, until it is there.
    other: Option<Slot>,
    /// Then its address, the former slot's, and their place among the doubts.
    pair: Option<(*mut u8, *mut u8, usize)>,
}

struct Swaps<'a, S, Q> {
    heaps: [Option<Swap<'a, S, Q>>; BATCH],
    count: usize,
}

impl<'a, S: RemoteStash, Q: Quarantine> Swaps<'a, S, Q> {
    fn add<P: Sharded>(&mut self, pages: &PageHeap<P>, exchange: &Exchange<P>, heap: &'a Heap<S, Q>, bin: Bin) {
        let Some(place) = self.heaps.get_mut(self.count) else { return };
        let is_resting = heap.has_one(bin) && heap.rest.is_sum(sum_of(heap));
        let mut out = no_slots::<1>();
        if !is_resting || carve(pages, exchange, ShardId(0), bin, &mut out) == 0 {
            return;
        }
        let [slot] = out;
        // SAFETY: the place was filled.
        let slot = unsafe { slot.assume_init() };
        *place = Some(Swap { heap, ticket: heap.claim().request(), other: Some(slot), pair: None });
        self.count += 1;
    }

    fn each(&mut self, act: impl FnMut(&mut Swap<'a, S, Q>)) {
        self.heaps.iter_mut().flatten().for_each(act);
    }

    #[inline(never)]
    fn act<P: Sharded>(&mut self, pages: &PageHeap<P>, exchange: &Exchange<P>, bin: Bin, parting: &mut u32) {
        if self.count == 0 {
            return;
        }
        if P::Os::fence_all() {
            self.each(|swap| swap.begin(exchange, bin));
            let is_fenced = P::Os::fence_all();
            self.each(|swap| {
                if let Some(slot) = swap.end(exchange, bin, is_fenced) {
                    part(pages, exchange, bin, slot, parting);
                }
            });
        }
        self.each(|swap| {
            if let Some(held) = swap.ticket.take() {
                swap.heap.claim().done(held);
            }
            if let Some(slot) = swap.other.take() {
                part(pages, exchange, bin, slot, parting);
            }
        });
    }
}

impl<S, Q> Swap<'_, S, Q> {
    fn begin<P: Sharded>(&mut self, exchange: &Exchange<P>, bin: Bin) {
        self.ticket = self.ticket.and_then(|asked| self.heap.claim().hold(asked));
        let Some(held) = self.ticket.take() else { return };
        if !self.heap.claim().enter(held) {
            return;
        }
        let former = self.heap.last_of(bin);
        if let Some((former, other)) = former.and_then(|former| Some((former, self.other.take()?))) {
            let address = other.as_ptr();
            // First, as the one that circulates may come home at once.
            let place = exchange.doubts.enter(former.expose_provenance(), address.expose_provenance());
            self.other = match place {
                None => Some(other),
                // SAFETY: this thread holds the heap and keeps its owner out.
                Some(place) => match unsafe { self.heap.exchange(bin, former, other) } {
                    Ok(()) => {
                        self.pair = Some((address, former, place));
                        None
                    }
                    // The former slot was popped. If it has come home already, it took the other along.
                    Err(other) => exchange.doubts.settle(place, former.addr()).then_some(other),
                },
            };
        }
        self.ticket = Some(self.heap.claim().leave(held, false));
    }

    /// The former slot, if it is this thread's now.
    fn end<P: Sharded>(&mut self, exchange: &Exchange<P>, bin: Bin, is_fenced: bool) -> Option<Slot> {
        let (other, former, place) = self.pair?;
        let held = self.ticket.take().filter(|held| self.heap.claim().enter(*held))?;
        let is_exchanged = is_fenced && self.heap.is_exchanged(bin, other);
        self.ticket = Some(self.heap.claim().leave(held, false));
        // SAFETY: no hit has read it, another slot is in its place, and that has not come home.
        (is_exchanged && exchange.doubts.settle(place, former.addr())).then(|| unsafe { Slot::new(former) })
    }
}

/// Adds `slot` to the magazines that will go home.
fn part<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bin: Bin, slot: Slot, parting: &mut u32) {
    // SAFETY: ids in the chain are those of this thread's magazines, and one that is not full has a place.
    unsafe {
        let mut magazine = if *parting == 0 { null_mut() } else { exchange.magazines.get(*parting) };
        if magazine.is_null() || (*magazine).lacking() == 0 {
            let Some(empty) = exchange.empty_magazine(ShardId(0), bin) else {
                return restore_one(pages, exchange, slot);
            };
            // Relaxed: this thread's.
            exchange.magazines.next((*empty).id).store(*parting, Ordering::Relaxed);
            *parting = (*empty).id;
            magazine = empty;
        }
        Magazine::push(magazine, slot);
    }
}

/// A set of bins. The foreign one stands for stash and quarantine.
#[derive(Clone, Copy)]
struct Bins([u64; BINS.div_ceil(64)]);

impl Bins {
    const NONE: Bins = Bins([0; BINS.div_ceil(64)]);

    fn add(&mut self, bin: Bin) {
        if let Some(word) = self.0.get_mut(usize::from(bin.0 / 64)) {
            *word |= 1 << (bin.0 % 64);
        }
    }

    fn has(&self, bin: Bin) -> bool {
        self.0.get(usize::from(bin.0 / 64)).is_some_and(|word| word >> (bin.0 % 64) & 1 != 0)
    }

    fn small(self) -> impl Iterator<Item = Bin> {
        (1..BINS as u8).map(Bin).filter(move |&bin| self.has(bin))
    }
}

fn is_any_spared<S, Q>(heap: &Heap<S, Q>, bin: Bin) -> bool {
    heap.spared(bin) != (0, 0)
}

fn holds_others<S: RemoteStash, Q: Quarantine>(heap: &Heap<S, Q>) -> bool {
    heap.stash.slot_count() > 0 || heap.quarantine.turns().1 > 0
}

/// The bins that rest in `heap` and have something to take. Notes this look.
fn resting_bins<S: RemoteStash, Q: Quarantine>(heap: &Heap<S, Q>) -> Bins {
    let mut bins = Bins::NONE;
    let mut is_used = false;
    // SAFETY: the heap is one of all.
    for bin in unsafe { used_bins(heap) } {
        is_used = true;
        let looks = heap.rest.note(bin, heap.top_address(bin) as u32);
        if looks >= QUIET_LOOKS && is_any_spared(heap, bin) {
            bins.add(bin);
        }
    }
    if is_used {
        let looks = heap.rest.note(FOREIGN, slow_paths(heap).wrapping_add(heap.quarantine.turns().0));
        if looks == QUIET_LOOKS && holds_others(heap) {
            bins.add(FOREIGN);
        }
    }
    bins
}

/// A count of the owner's slow paths.
fn slow_paths<S, Q>(heap: &Heap<S, Q>) -> u32 {
    let counters = &heap.counters;
    let counts = [&counters.refills, &counters.steals, &counters.carves, &counters.spills, &counters.homeward];
    // Relaxed: counts.
    counts.into_iter().map(|count| count.load(Ordering::Relaxed) as u32).fold(0, u32::wrapping_add)
}

/// A number that changes with nearly all that its owner does.
fn sum_of<S, Q>(heap: &Heap<S, Q>) -> u32 {
    // SAFETY: the heap is one of all.
    let tops = unsafe { used_bins(heap) }.map(|bin| heap.top_address(bin) as u32);
    tops.fold(slow_paths(heap), |sum, top| sum.rotate_left(5).wrapping_add(top))
}

/// A heap to take from, and the bins.
struct Taken<'a, S, Q> {
    heap: &'a Heap<S, Q>,
    bins: Bins,
    ticket: Option<Ticket>,
}

/// Heaps that are taken from together: a fence of all threads serves them all.
struct Taking<'a, S, Q> {
    heaps: [Option<Taken<'a, S, Q>>; BATCH],
    count: usize,
}

impl<'a, S: RemoteStash, Q: Quarantine> Taking<'a, S, Q> {
    fn new() -> Self {
        Self { heaps: [const { None }; BATCH], count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// Asks for the `bins` of `heap`, if there are any.
    fn add(&mut self, heap: &'a Heap<S, Q>, bins: Bins) {
        if bins.0 == Bins::NONE.0 {
            return;
        }
        let ticket = heap.claim().request();
        if ticket.is_none() {
            return;
        }
        if let Some(place) = self.heaps.get_mut(self.count) {
            *place = Some(Taken { heap, bins, ticket });
            self.count += 1;
        }
    }

    fn each(&mut self, act: impl FnMut(&mut Taken<'a, S, Q>)) {
        self.heaps.iter_mut().flatten().for_each(act);
    }

    /// Takes all that is added. False if the system makes no threads pass a fence.
    fn take<P: Sharded>(&mut self, pages: &PageHeap<P>, exchange: &Exchange<P>) -> bool {
        if self.count == 0 {
            return true;
        }
        let mut is_fenced = P::Os::fence_all();
        if is_fenced {
            self.each(Taken::hold);
            if !P::HARDENED {
                self.each(Taken::raise);
                is_fenced = P::Os::fence_all();
                if is_fenced {
                    self.each(Taken::confirm::<P>);
                    // On x86-64, stores are seen in order.
                    is_fenced = cfg!(target_arch = "x86_64") || P::Os::fence_all();
                }
            }
        }
        // What was raised and not confirmed, its owner makes whole.
        if is_fenced {
            self.each(|taken| taken.send_home(pages, exchange));
        }
        self.each(Taken::finish);
        is_fenced
    }
}

impl<S: RemoteStash, Q: Quarantine> Taken<'_, S, Q> {
    fn hold(&mut self) {
        self.ticket = self.ticket.and_then(|asked| self.heap.claim().hold(asked));
    }

    fn finish(&mut self) {
        if let Some(held) = self.ticket.take() {
            self.heap.claim().done(held);
        }
    }

    /// Runs `act` while the owner is kept out; `None` if it took its heap back. `act` returns a value and whether the owner
    /// has something to mend.
    #[inline]
    fn inside<T>(&mut self, act: impl FnOnce(&Heap<S, Q>) -> (T, bool)) -> Option<T> {
        let held = self.ticket.take()?;
        if !self.heap.claim().enter(held) {
            return None;
        }
        let (result, touched) = act(self.heap);
        self.ticket = Some(self.heap.claim().leave(held, touched));
        Some(result)
    }

    fn raise(&mut self) {
        let bins = self.bins;
        self.inside(|heap| ((), bins.small().fold(false, |touched, bin| heap.raise(bin) | touched)));
    }

    fn confirm<P: Sharded>(&mut self) {
        let bins = self.bins;
        self.inside(|heap| (bins.small().for_each(|bin| heap.confirm::<P>(bin)), false));
    }

    // Not inlined: what its caller does next would lie below its stash.
    #[inline(never)]
    fn send_home<P: Sharded>(&mut self, pages: &PageHeap<P>, exchange: &Exchange<P>) {
        // Idle: these slots do not restart their spans' purge delay. The shard supplies no magazine: the stash is sparse.
        let mut homeward = Homeward::idle(pages, exchange, ShardId(0));
        let stash = Sparse::<ON_STACK>::new();
        let bins = self.bins;
        for bin in bins.small() {
            // SAFETY: this thread holds the heap and keeps its owner out. What was raised is confirmed, and what is taken out
            // of the entry is this thread's, not loaded, and sent once.
            let magazines = self.inside(|heap| unsafe {
                let entry = heap.entry(bin);
                if P::HARDENED {
                    return (entry.unload_all(), false);
                }
                let spare = NonNull::new(entry.spare());
                entry.set_spare(null_mut());
                ([None, spare], false)
            });
            for magazine in magazines.into_iter().flatten().flatten() {
                // SAFETY: as above.
                unsafe { homeward.send_magazine(bin, magazine.as_ptr(), &stash) };
            }
            if !P::HARDENED {
                self.send_some(&mut homeward, &stash, |heap, room, put| {
                    // SAFETY: as above.
                    unsafe { heap.lift::<P>(bin, room, |slot| put(pages.owner(slot.address()), bin, slot)) }
                });
            }
        }
        if bins.has(FOREIGN) {
            self.send_some(&mut homeward, &stash, |heap, room, put| heap.stash.lift(room, put));
            self.send_some(&mut homeward, &stash, |heap, room, put| {
                (0..room)
                    .map_while(|_| heap.quarantine.take())
                    .map(|(bin, slot)| put(pages.owner(slot.address()), bin, slot))
                    .count()
            });
        }
        stash.flush(&mut homeward);
    }

    /// Sends home what `lift` takes out of the heap, by a stash's room at a time, until it takes less.
    fn send_some<P: Sharded>(
        &mut self,
        homeward: &mut Homeward<'_, P>,
        stash: &Sparse<ON_STACK>,
        lift: impl Fn(&Heap<S, Q>, usize, &mut dyn FnMut(ShardId, Bin, Slot)) -> usize,
    ) {
        loop {
            if stash.slot_count() == ON_STACK {
                stash.flush(homeward);
            }
            let room = ON_STACK - stash.slot_count();
            // There is room: nothing is sent while the owner waits.
            let taken = self.inside(|heap| {
                (lift(heap, room, &mut |owner, bin, slot| stash.put(owner, bin, slot, homeward)), false)
            });
            if taken.is_none_or(|taken| taken < room) {
                break;
            }
        }
    }
}
