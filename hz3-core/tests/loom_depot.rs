//! Models of the depot's stacks and of the hint that finds them, explored exhaustively by loom.
#![cfg(loom)]

use hz3_core::platform::atomic::AtomicU32;
use hz3_core::transfer::depot::{Links, Stack, Stocked};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Three magazines: a link each, and contents that loom watches for unordered access.
struct Magazines {
    links: [AtomicU32; 4],
    contents: [UnsafeCell<u32>; 4],
}

impl Magazines {
    fn new() -> Self {
        Self {
            links: std::array::from_fn(|_| AtomicU32::new(0)),
            contents: std::array::from_fn(|_| UnsafeCell::new(0)),
        }
    }

    fn fill(&self, id: u32, value: u32) {
        // SAFETY: the caller owns the magazine; loom reports it where the stack's order does not say so.
        self.contents[id as usize].with_mut(|slot| unsafe { *slot = value });
    }

    fn read(&self, id: u32) -> u32 {
        // SAFETY: as above.
        self.contents[id as usize].with(|slot| unsafe { *slot })
    }
}

impl Links for Magazines {
    fn next(&self, id: u32) -> &AtomicU32 {
        &self.links[id as usize]
    }
}

#[test]
fn contents_travel_with_the_magazine() {
    loom::model(|| {
        let shared = Arc::new((Magazines::new(), Stack::new()));
        let pusher = {
            let shared = shared.clone();
            thread::spawn(move || {
                for id in [1, 2] {
                    shared.0.fill(id, id * 10);
                    assert!(shared.1.push(&shared.0, id, 63));
                }
            })
        };
        let mut seen = 0;
        for _ in 0..2 {
            if let Some(id) = shared.1.pop(&shared.0) {
                assert_eq!(shared.0.read(id), id * 10);
                seen += 1;
            }
        }
        pusher.join().unwrap();
        while let Some(id) = shared.1.pop(&shared.0) {
            assert_eq!(shared.0.read(id), id * 10);
            seen += 1;
        }
        assert_eq!(seen, 2);
        assert_eq!(shared.1.count(), 0);
    });
}

#[test]
fn a_magazine_that_was_popped_and_pushed_again_is_not_taken_twice() {
    // The classic: one thread reads the top and its link; the other pops two, and pushes another one and then the
    // first again, so that top and count are what they were and the link is not.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((Magazines::new(), Stack::new()));
        for id in [1, 2] {
            assert!(shared.1.push(&shared.0, id, 63));
        }
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let first = shared.1.pop(&shared.0);
                let second = shared.1.pop(&shared.0);
                for id in [Some(3), first].into_iter().flatten() {
                    shared.0.fill(id, 7);
                    assert!(shared.1.push(&shared.0, id, 63));
                }
                second
            })
        };
        let mine = shared.1.pop(&shared.0);
        if let Some(id) = mine {
            shared.0.fill(id, 9);
        }
        let theirs = other.join().unwrap();
        let mut all: Vec<u32> = mine.into_iter().chain(theirs).collect();
        while let Some(id) = shared.1.pop(&shared.0) {
            all.push(id);
        }
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
    });
}

#[test]
fn a_limit_holds_against_two_pushers() {
    loom::model(|| {
        let shared = Arc::new((Magazines::new(), Stack::new()));
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.1.push(&shared.0, 1, 1))
        };
        let mine = shared.1.push(&shared.0, 2, 1);
        assert!(mine ^ other.join().unwrap());
        assert_eq!(shared.1.count(), 1);
    });
}

/// What the allocator does with a depot and its hint, for a bin of one shard.
struct Depot {
    magazines: Magazines,
    stack: Stack,
    stocked: Stocked,
}

const BIT: u32 = 1;

impl Depot {
    fn put(&self, id: u32) {
        assert!(self.stack.push(&self.magazines, id, 63));
        self.stocked.note_pushed(BIT);
    }

    fn take(&self) -> Option<u32> {
        let id = self.stack.pop(&self.magazines);
        self.stocked.note_taken(BIT, || self.stack.is_empty());
        id
    }
}

/// One thread pushes while `takers` threads, this one among them, take.
fn a_stocked_depot_has_its_bit(takers: usize, bound: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = bound;
    model.check(move || {
        let depot = Arc::new(Depot { magazines: Magazines::new(), stack: Stack::new(), stocked: Stocked::new() });
        depot.put(1);
        let mut others = vec![{
            let depot = depot.clone();
            thread::spawn(move || depot.put(2))
        }];
        others.extend((1..takers).map(|_| {
            let depot = depot.clone();
            thread::spawn(move || {
                depot.take();
            })
        }));
        depot.take();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(depot.stack.is_empty() || depot.stocked.mask() & BIT != 0, "stocked, and nobody is told");
    });
}

#[test]
fn a_magazine_pushed_while_the_last_one_is_taken_stays_in_sight() {
    a_stocked_depot_has_its_bit(1, None);
}

#[test]
fn a_magazine_pushed_between_two_takers_stays_in_sight() {
    a_stocked_depot_has_its_bit(2, Some(3));
}

#[test]
fn whoever_takes_all_gets_them_in_the_order_in_which_they_came() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((Magazines::new(), Stack::new()));
        let pusher = {
            let shared = shared.clone();
            thread::spawn(move || {
                for id in [1, 2, 3] {
                    shared.0.fill(id, id * 10);
                    assert!(shared.1.push(&shared.0, id, 63));
                }
            })
        };
        let take_all = || {
            let mut taken = Vec::new();
            let mut next = shared.1.pop_all().unwrap_or(0);
            while next != 0 {
                assert_eq!(shared.0.read(next), next * 10);
                taken.push(next);
                next = shared.0.next(next).load(loom::sync::atomic::Ordering::Relaxed);
            }
            taken.reverse();
            taken
        };
        let mut all = take_all();
        pusher.join().unwrap();
        all.extend(take_all());
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(shared.1.count(), 0);
    });
}
