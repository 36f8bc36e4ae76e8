//! Models of the depot's stacks and of the lock, explored exhaustively by loom.
#![cfg(loom)]

use hz3_core::depot::{Links, Stack};
use hz3_core::sync::{AtomicU32, Mutex, Waiter};
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
    // The classic: one thread reads the top and its link, the other pops two and pushes the first back.
    loom::model(|| {
        let shared = Arc::new((Magazines::new(), Stack::new()));
        for id in [1, 2] {
            assert!(shared.1.push(&shared.0, id, 63));
        }
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let first = shared.1.pop(&shared.0);
                let second = shared.1.pop(&shared.0);
                if let Some(id) = first {
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
        assert_eq!(all, [1, 2]);
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

/// A waiter that lets loom run somebody else.
struct Turns;

// SAFETY: returns at once, which `wait` may; allocates nothing.
unsafe impl Waiter for Turns {
    fn yield_now() {
        thread::yield_now();
    }
    fn wait(_: &AtomicU32, _: u32) {
        thread::yield_now();
    }
    fn wake(_: &AtomicU32) {}
    fn is_forking() -> bool {
        false
    }
}

#[test]
fn a_locked_value_is_one_threads_at_a_time() {
    loom::model(|| {
        let shared = Arc::new((Mutex::<(), Turns>::new(()), UnsafeCell::new(0)));
        let add = |shared: &(Mutex<(), Turns>, UnsafeCell<u32>)| {
            let _held = shared.0.lock();
            // SAFETY: the lock is held; loom reports it where that does not order the accesses.
            shared.1.with_mut(|value| unsafe { *value += 1 });
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || add(&shared))
        };
        add(&shared);
        other.join().unwrap();
        // SAFETY: the other thread has ended.
        assert_eq!(shared.1.with(|value| unsafe { *value }), 2);
    });
}
