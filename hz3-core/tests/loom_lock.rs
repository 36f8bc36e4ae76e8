//! Models of the lock, with sleepers that only a wake-up wakes, explored exhaustively by loom.
#![cfg(loom)]

use hz3_core::platform::atomic::{AtomicU32, Ordering};
use hz3_core::platform::forks::Forks;
use hz3_core::platform::lock::{ForkLock, Mutex, Ranked};
use hz3_core::platform::os::Waiter;
use hz3_core::platform::rank::Rank;
use hz3_core::platform::transit::Transit;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar};
use loom::thread;
use std::cell::Cell;

loom::thread_local! {
    /// The calling thread's identity.
    static THREAD: Cell<usize> = Cell::new(1);
}

loom::lazy_static! {
    /// The kernel's queue of sleepers.
    static ref QUEUE: (loom::sync::Mutex<()>, Condvar) = (loom::sync::Mutex::new(()), Condvar::new());
}

/// A futex: the word is compared and the thread put to sleep in one step. A wake-up that is missed leaves the
/// sleeper asleep for ever, which loom reports.
struct Futex;

// SAFETY: allocates nothing of the allocator's; `wait` returns where the word differs or somebody wakes.
unsafe impl Waiter for Futex {
    fn yield_now() {
        thread::yield_now();
    }
    fn wait(word: *const u32, expected: u32) {
        // SAFETY: the address is that of a lock's word, which outlives the call.
        let word = unsafe { &*word.cast::<AtomicU32>() };
        let queue = QUEUE.0.lock().unwrap();
        // A read-modify-write sees the newest value, as the kernel does.
        if word.fetch_add(0, Ordering::Relaxed) == expected {
            drop(QUEUE.1.wait(queue).unwrap());
        }
    }
    fn wake(_: *const u32) {
        let _queue = QUEUE.0.lock().unwrap();
        QUEUE.1.notify_all();
    }
    fn this_thread() -> usize {
        THREAD.with(Cell::get)
    }
    fn is_forking() -> bool {
        false
    }
}

/// What the lock protects lies beside it, where loom watches.
struct Beside;

impl Ranked for Beside {
    const RANK: Rank = Rank::Shard;
}

struct Shared {
    lock: Mutex<Beside, Futex>,
    value: UnsafeCell<u32>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: Mutex::new(Beside), value: UnsafeCell::new(0) })
    }

    fn add(&self) {
        let _held = self.lock.lock();
        self.add_unlocked();
    }

    fn add_unlocked(&self) {
        // SAFETY: the lock is held; loom reports it where that does not order the accesses.
        self.value.with_mut(|value| unsafe { *value += 1 });
    }
}

#[test]
fn a_locked_value_is_one_threads_at_a_time_and_no_sleeper_is_forgotten() {
    loom::model(|| {
        let shared = Shared::new();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.add())
        };
        shared.add();
        other.join().unwrap();
        // SAFETY: the other thread has ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 2);
    });
}

#[test]
fn no_sleeper_of_two_is_forgotten() {
    let mut model = loom::model::Builder::new();
    // Three threads at one word: exhaustive up to three switches that nobody asked for.
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Shared::new();
        let others = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || shared.add())
        });
        shared.add();
        others.into_iter().for_each(|other| other.join().unwrap());
        // SAFETY: the other threads have ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 3);
    });
}

/// The forking thread holds the lock; in the child an earlier handler has started a thread, which wants it.
#[test]
fn a_lock_freed_after_a_fork_wakes_a_thread_that_a_handler_started() {
    loom::model(|| {
        let shared = Shared::new();
        shared.lock.acquire_for_fork();
        shared.add_unlocked();
        let started = {
            let shared = shared.clone();
            thread::spawn(move || shared.add())
        };
        // SAFETY: acquired above, and no guard of it is left.
        unsafe { shared.lock.release_after_fork() };
        started.join().unwrap();
        shared.add();
        // SAFETY: the other thread has ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 3);
    });
}

#[test]
fn a_lock_that_is_tried_is_never_two_threads() {
    loom::model(|| {
        let shared = Shared::new();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let held = shared.lock.try_lock();
                held.map(|_held| shared.add_unlocked()).is_some()
            })
        };
        shared.add();
        let both = other.join().unwrap();
        // SAFETY: the other thread has ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 1 + u32::from(both));
    });
}

/// A thing that threads take out of a locked value, without the lock meanwhile, and put back.
struct Lent {
    things: u32,
    transit: Transit,
}

impl Ranked for Lent {
    const RANK: Rank = Rank::Runs;

    fn transit(&mut self) -> Option<&mut Transit> {
        Some(&mut self.transit)
    }
}

struct Lender {
    lock: Mutex<Lent, Futex>,
    forks: Forks,
}

impl Lender {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: Mutex::new(Lent { things: 2, transit: Transit::new() }), forks: Forks::new() })
    }

    /// Takes a thing out and puts it back; `meanwhile` runs without the lock.
    fn lend(&self, meanwhile: impl FnOnce()) {
        let _transit = self.forks.begin_transit::<Futex>();
        let take = |lent: &mut Lent| {
            lent.things -= 1;
            lent.transit.begin(Futex::this_thread());
        };
        take(&mut self.lock.lock());
        meanwhile();
        let put_back = |lent: &mut Lent| {
            lent.things += 1;
            lent.transit.end(Futex::this_thread());
        };
        put_back(&mut self.lock.lock());
    }

    /// The things that a child forked now has, if the fork found a moment without other threads' transits.
    fn fork(&self) -> Option<u32> {
        let acquire = || self.lock.acquire_for_fork();
        // SAFETY: acquired by this thread, which has no guard.
        let release = || unsafe { self.lock.release_after_fork() };
        let is_settled = self.forks.acquire_settled::<Futex>(acquire, release);
        // SAFETY: as above.
        let things = unsafe { self.lock.value_while_held() }.things;
        release();
        is_settled.then_some(things)
    }
}

#[test]
fn a_fork_leaves_nothing_of_other_threads_in_transit() {
    let mut model = loom::model::Builder::new();
    // Two threads and a fork at one lock: exhaustive up to two switches that nobody asked for.
    model.preemption_bound = Some(2);
    model.check(|| {
        let lender = Lender::new();
        let others = [2, 3].map(|identity| {
            let lender = lender.clone();
            thread::spawn(move || {
                THREAD.with(|thread| thread.set(identity));
                lender.lend(|| {});
            })
        });
        assert!(lender.fork().is_none_or(|things| things == 2));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(lender.fork(), Some(2));
    });
}

/// As a library in the place of libc's functions may.
#[test]
fn a_thread_in_transit_forks_and_does_not_wait_for_itself() {
    let mut model = loom::model::Builder::new();
    // As above.
    model.preemption_bound = Some(2);
    model.check(|| {
        let lender = Lender::new();
        let other = {
            let lender = lender.clone();
            thread::spawn(move || {
                THREAD.with(|thread| thread.set(2));
                lender.lend(|| {});
            })
        };
        lender.lend(|| assert!(lender.fork().is_none_or(|things| things == 1)));
        other.join().unwrap();
        assert_eq!(lender.fork(), Some(2));
    });
}
