//! Models of a thread whose loaded magazine another one takes slots from. Explored by loom, with a fence in place of the
//! system's call: on the owner's side one between any two accesses, as the system may have a thread pass it anywhere.
#![cfg(loom)]

mod loom_system;

use hz3_core::pages::slot::Slot;
use hz3_core::thread::claim::Claim;
use hz3_core::thread::loaded::Loaded;
use hz3_core::thread::loaded::place::Place;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::thread;
use loom_system::System;
use std::ptr::without_provenance_mut;

const CAPACITY: usize = 4;
/// What lies before the first place.
const HEADER: usize = 1000;

/// Tries all interleavings up to so many switches that nobody asked for, where all would take hours.
fn explore(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

type Patient = System<()>;

fn slot(number: usize) -> Slot {
    // SAFETY: stands for a slot; nothing accesses its memory.
    unsafe { Slot::new(without_provenance_mut(number * 16)) }
}

fn number(slot: Slot) -> usize {
    slot.into_block().addr() / 16
}

/// The heavy side of the fence: between its beginning and its end, the owner passes one.
fn fence_all() {
    fence(Ordering::SeqCst);
}

/// A heap with one bin, whose magazine is loaded.
struct Heap {
    claim: Claim,
    loaded: Loaded,
    /// Sync: as in the heap.
    gone: AtomicUsize,
    /// The first one stands for the magazine's header.
    places: Box<[Place; CAPACITY + 1]>,
}

impl Heap {
    /// With slots 1 to `count`.
    fn new(count: usize) -> Arc<Self> {
        let number = |at: usize| {
            if at == 0 {
                HEADER
            } else if at <= count {
                at
            } else {
                0
            }
        };
        let places = Box::new(std::array::from_fn(|at| Place::new(without_provenance_mut(number(at) * 16))));
        let heap = Self { claim: Claim::new(), loaded: Loaded::new(), gone: AtomicUsize::new(0), places };
        // SAFETY: nobody else has the heap; its first `count` places hold slots.
        unsafe { heap.loaded.load(heap.places.as_ptr().cast_mut().add(1), count, CAPACITY) };
        Arc::new(heap)
    }

    fn loaded(&self) -> *mut Loaded {
        (&raw const self.loaded).cast_mut()
    }

    /// As `api::miss`: a slow path makes the heap whole first.
    fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        if self.claim.begin() && self.claim.take_back::<Patient>() {
            // SAFETY: the owner's, in a change.
            unsafe { self.loaded.mend(CAPACITY, self.gone.load(Ordering::Relaxed)) };
            self.gone.store(0, Ordering::Relaxed);
        }
        let result = change();
        self.claim.end();
        result
    }

    /// A hit, or else a miss, which finds the magazine empty only if it is.
    fn pop(&self) -> Option<usize> {
        // SAFETY: the caller is the owner.
        let hit = unsafe { Loaded::pop(self.loaded()) };
        // SAFETY: as above, in a change.
        hit.or_else(|| self.change(|| unsafe { Loaded::pop(self.loaded()) })).map(number)
    }

    /// A hit, or else a miss, which empties the whole magazine for `spilled`.
    fn push(&self, slot: Slot, spilled: &mut Vec<usize>) {
        let block = slot.into_block();
        // SAFETY: the caller is the owner, and gives the slot up.
        if unsafe { Loaded::push_if(self.loaded(), block, || true) } {
            return;
        }
        self.change(|| {
            // SAFETY: the owner's, in a change.
            unsafe {
                if let Some((base, count)) = self.loaded.look() {
                    for at in 0..count {
                        spilled.push((*base.add(at)).load(Ordering::Relaxed).addr() / 16);
                    }
                    self.loaded.set_count(0);
                }
                Loaded::push(self.loaded(), Slot::new(block));
            }
        });
    }

    /// As `upkeep::rest`. The slots taken.
    fn take(&self) -> Vec<usize> {
        let mut taken = Vec::new();
        let Some(asked) = self.claim.request() else { return taken };
        fence_all();
        let Some(held) = self.claim.hold(asked) else { return taken };
        if !self.claim.enter(held) {
            return taken;
        }
        self.loaded.raise();
        let held = self.claim.leave(held, true);
        fence_all();
        if !self.claim.enter(held) {
            return taken;
        }
        self.loaded.confirm(CAPACITY, self.gone.load(Ordering::Relaxed));
        let mut held = self.claim.leave(held, false);
        fence_all();
        // One at a time, as where a stash is full.
        for _ in 0..CAPACITY {
            if !self.claim.enter(held) {
                return taken;
            }
            let gone = self.gone.load(Ordering::Relaxed);
            // SAFETY: this thread holds the heap and has confirmed.
            let count = unsafe { self.loaded.lift(CAPACITY, gone, 1, |slot| taken.push(number(slot))) };
            self.gone.store(gone + count, Ordering::Relaxed);
            held = self.claim.leave(held, false);
        }
        self.claim.done(held);
        taken
    }

    /// As `upkeep::rest`: leaves slot `other` in the last one's place. That one, `other` if it is still this thread's, or
    /// both in doubt.
    fn exchange(&self, other: usize) -> (Vec<usize>, Option<(usize, usize)>) {
        let Some(asked) = self.claim.request() else { return (vec![other], None) };
        fence_all();
        let Some(held) = self.claim.hold(asked) else { return (vec![other], None) };
        if !self.claim.enter(held) {
            return (vec![other], None);
        }
        let other = slot(other);
        let address = other.as_ptr();
        let former = self.loaded.last();
        let left = match former {
            // SAFETY: this thread holds the heap.
            Some(former) => unsafe { self.loaded.exchange(former, other) },
            None => Err(other),
        };
        let held = self.claim.leave(held, false);
        if let Err(other) = left {
            self.claim.done(held);
            return (vec![number(other)], None);
        }
        let former = former.unwrap();
        fence_all();
        let is_held = self.claim.enter(held);
        let is_exchanged = is_held && self.loaded.is_exchanged(address);
        if is_held {
            let held = self.claim.leave(held, false);
            self.claim.done(held);
        }
        if is_exchanged {
            (vec![former.addr() / 16], None)
        } else {
            (vec![], Some((former.addr() / 16, address.addr() / 16)))
        }
    }

    /// All slots, of which the owner has some: each is in one place.
    fn audit(&self, mut all: Vec<usize>, count: usize) {
        self.change(|| {
            // SAFETY: the owner's, in a change.
            while let Some(slot) = unsafe { Loaded::pop(self.loaded()) } {
                all.push(number(slot));
            }
        });
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=count), "{all:?}");
    }
}

fn with_taker(heap: &Arc<Heap>) -> thread::JoinHandle<Vec<usize>> {
    let heap = heap.clone();
    thread::spawn(move || heap.take())
}

/// The owner pops and pushes at full speed, down to the bottom, while slots are taken.
#[test]
fn a_slot_is_popped_or_taken_and_never_both() {
    explore(2, || {
        let heap = Heap::new(3);
        let taker = with_taker(&heap);
        let mut own: Vec<_> = [(); 4].iter().filter_map(|()| heap.pop()).collect();
        if let Some(number) = own.pop() {
            heap.push(slot(number), &mut own);
        }
        own.extend(heap.pop());
        own.extend(taker.join().unwrap());
        heap.audit(own, 3);
    });
}

/// A pop has read the former `base`, and is stopped before it steps `top`, which is where `base` is by then.
#[test]
fn a_pop_that_is_stopped_half_way_has_its_slot() {
    explore(3, || {
        let heap = Heap::new(3);
        let taker = with_taker(&heap);
        // SAFETY: this is the owner.
        let mut own: Vec<_> =
            [(); 2].iter().filter_map(|()| unsafe { Loaded::pop(heap.loaded()) }.map(number)).collect();
        own.extend(taker.join().unwrap());
        heap.audit(own, 3);
    });
}

/// The owner is at the top, and its slow path empties the magazine.
#[test]
fn a_slow_path_and_a_taker_exclude_each_other() {
    explore(2, || {
        let heap = Heap::new(CAPACITY);
        let taker = with_taker(&heap);
        let mut own = Vec::new();
        heap.push(slot(CAPACITY + 1), &mut own);
        own.extend(heap.pop());
        own.extend(taker.join().unwrap());
        heap.audit(own, CAPACITY + 1);
    });
}

/// A pop that began before `base` was raised ends whenever it likes, with other hits between.
#[test]
fn a_slot_that_is_freed_again_meanwhile_is_not_taken_from_below() {
    explore(2, || {
        let heap = Heap::new(2);
        let taker = with_taker(&heap);
        let mut own = Vec::new();
        for _ in 0..2 {
            own.extend(heap.pop());
        }
        // In the other order, as the program frees them.
        for number in std::mem::take(&mut own) {
            heap.push(slot(number), &mut own);
        }
        own.extend(taker.join().unwrap());
        heap.audit(own, 2);
    });
}

/// The last slot is exchanged while the owner pops it, frees it, and takes its heap back.
#[test]
fn a_last_slot_is_popped_or_exchanged_or_in_doubt() {
    explore(5, || {
        let heap = Heap::new(1);
        let taker = {
            let heap = heap.clone();
            thread::spawn(move || heap.exchange(2))
        };
        let mut own = Vec::new();
        own.extend(heap.pop());
        if let Some(number) = own.pop() {
            heap.push(slot(number), &mut own);
        }
        let (left, doubt) = taker.join().unwrap();
        own.extend(left);
        heap.change(|| {
            // SAFETY: the owner's, in a change.
            while let Some(slot) = unsafe { Loaded::pop(heap.loaded()) } {
                own.push(number(slot));
            }
        });
        // Of a pair, one circulates.
        if let Some((former, other)) = doubt {
            assert_eq!(own.iter().filter(|number| [former, other].contains(number)).count(), 1, "{own:?}");
        } else {
            own.sort_unstable();
            assert_eq!(own, [1, 2]);
        }
    });
}

/// Two takers at once, and an owner whose slow path takes its heap back from the first.
#[test]
fn two_takers_never_hold_a_heap_at_once() {
    explore(1, || {
        let heap = Heap::new(3);
        let takers = [with_taker(&heap), with_taker(&heap)];
        let mut own = Vec::new();
        own.extend(heap.change(|| {
            // SAFETY: the owner's, in a change.
            unsafe { Loaded::pop(heap.loaded()) }.map(number)
        }));
        for taker in takers {
            own.extend(taker.join().unwrap());
        }
        heap.audit(own, 3);
    });
}
