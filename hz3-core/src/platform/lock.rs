//! Lock: the mutual exclusion lock that everything shared is under.
//!
//! Under `--cfg loom` its word is one of loom's, so that what is built on it can be explored exhaustively.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::Waiter;
use crate::platform::rank::{self, Ranked};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// A lock as `fork` sees it.
pub trait ForkLock {
    /// Takes the lock for a fork, once its value is settled.
    fn acquire_for_fork(&self);
    /// Releases it, in the parent or in the child.
    ///
    /// # Safety
    /// The calling thread took it by [`ForkLock::acquire_for_fork`], before the fork or not, and holds no guard of it.
    unsafe fn release_after_fork(&self);
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// Tries of the word before a thread gives its processor away. Short, because the holder of a lock is
/// often not running when threads outnumber processors.
const SPINS: u32 = if cfg!(loom) { 1 } else { 40 };
/// Times the processor is given away before the thread sleeps.
const YIELDS: u32 = if cfg!(loom) { 1 } else { 4 };

/// A mutual exclusion lock of one word that never allocates: spin, then yield, then sleep.
///
/// ```text
/// 0 free → 1 held → 2 held, and somebody may sleep → 0
/// ```
///
/// A release wakes all sleepers. Woken one by one, each would have to get a processor before the next one is
/// woken, and where threads outnumber processors that is a turn of all others; the lock, free meanwhile, is held
/// too briefly for those who come back together to meet.
pub struct Mutex<T: Ranked, W: Waiter> {
    word: AtomicU32,
    /// Whether it is held for a fork, by the thread that forks: 1 or 0. Nobody else's holding is to be passed through.
    by_fork: AtomicU32,
    value: UnsafeCell<T>,
    waiter: core::marker::PhantomData<fn() -> W>,
}

// SAFETY: the value is reached only through a guard, and one guard exists at a time.
unsafe impl<T: Ranked + Send, W: Waiter> Sync for Mutex<T, W> {}
// SAFETY: moving the lock moves the value.
unsafe impl<T: Ranked + Send, W: Waiter> Send for Mutex<T, W> {}

impl<T: Ranked, W: Waiter> Mutex<T, W> {
    /// An unlocked lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            by_fork: AtomicU32::new(0),
            value: UnsafeCell::new(value),
            waiter: core::marker::PhantomData,
        }
    }

    /// An unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            by_fork: AtomicU32::new(0),
            value: UnsafeCell::new(value),
            waiter: core::marker::PhantomData,
        }
    }

    /// Takes the lock, waiting for it where it is held.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T, W> {
        // Acquire: as in `try_lock`.
        let taken = self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let held = taken || self.lock_slow();
        if held {
            rank::note_lock(T::RANK, W::is_forking);
        }
        Guard { mutex: self, held }
    }

    /// Waits for the lock and takes it; false where the thread holds it already, for a fork.
    #[cold]
    #[inline(never)]
    fn lock_slow(&self) -> bool {
        // Relaxed: what the forking thread sees there is what it wrote itself, or that it did not.
        if W::is_forking() && self.by_fork.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.acquire_slow();
        true
    }

    /// Takes the lock if it is free. Any thread may try any lock: it does not wait.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T, W>> {
        // Acquire: sees what the last holder wrote. Pairs with the Release in `unlock`.
        self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| {
            rank::note_try(T::RANK);
            Guard { mutex: self, held: true }
        })
    }

    /// The value, in a model of a fork.
    ///
    /// # Safety
    /// The calling thread holds the lock for the fork.
    #[cfg(loom)]
    pub unsafe fn value_while_held(&self) -> &T {
        // SAFETY: the caller's promise.
        unsafe { &*self.value.get() }
    }

    #[cold]
    #[inline(never)]
    fn acquire_slow(&self) {
        for turn in 0..SPINS + YIELDS {
            if turn < SPINS {
                core::hint::spin_loop();
            } else {
                W::yield_now();
            }
            // Relaxed: only a guess at whether the exchange is worth its cost.
            if self.word.load(Ordering::Relaxed) == FREE
                // Acquire: as in `try_lock`.
                && self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
        // From here on this thread may sleep, so the word says so for as long as it holds the lock:
        // whoever releases it wakes the others. Acquire: as in `try_lock`.
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            W::wait((&raw const self.word).cast(), CONTENDED);
        }
    }

    #[inline]
    fn unlock(&self) {
        rank::note_unlock(T::RANK);
        // Release: publishes the value. Pairs with every Acquire above.
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            W::wake((&raw const self.word).cast());
        }
    }
}

impl<T: Ranked, W: Waiter> ForkLock for Mutex<T, W> {
    fn acquire_for_fork(&self) {
        loop {
            // Acquire: as in `try_lock`.
            if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
                self.acquire_slow();
            }
            rank::note_lock(T::RANK, W::is_forking);
            // SAFETY: the lock is held, and there is no guard of it.
            if unsafe { &*self.value.get() }.is_settled() {
                // Relaxed: read by this thread alone, until the release.
                return self.by_fork.store(1, Ordering::Relaxed);
            }
            self.unlock();
            W::yield_now();
        }
    }

    /// The word may count sleepers of the parent, whose threads are gone in the child; to wake them is harmless. A thread
    /// that another library's handler started in the child may sleep too, and needs it.
    unsafe fn release_after_fork(&self) {
        // Relaxed: as in `acquire_for_fork`.
        self.by_fork.store(0, Ordering::Relaxed);
        self.unlock();
    }
}

/// The right to touch what a [`Mutex`] protects.
pub struct Guard<'a, T: Ranked, W: Waiter> {
    mutex: &'a Mutex<T, W>,
    /// Whether the lock is this guard's to release, and not the forking thread's as a whole.
    held: bool,
}

impl<T: Ranked, W: Waiter> Deref for Guard<'_, T, W> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one, so nobody else refers to the value.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: Ranked, W: Waiter> DerefMut for Guard<'_, T, W> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: Ranked, W: Waiter> Drop for Guard<'_, T, W> {
    fn drop(&mut self) {
        if self.held {
            self.mutex.unlock();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::platform::rank::Rank;
    use std::cell::Cell;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    std::thread_local! {
        static FORKS: Cell<bool> = const { Cell::new(false) };
    }

    struct Turns(u32);

    impl Ranked for Turns {
        const RANK: Rank = Rank::Shard;
        fn is_settled(&self) -> bool {
            self.0 != 1
        }
    }

    /// Waits by yielding.
    struct Patient;

    // SAFETY: returns early, which is allowed.
    unsafe impl Waiter for Patient {
        fn yield_now() {
            std::thread::yield_now();
        }
        fn wait(_: *const u32, _: u32) {
            std::thread::yield_now();
        }
        fn wake(_: *const u32) {}
        fn is_forking() -> bool {
            FORKS.get()
        }
    }

    #[test]
    fn a_forking_thread_passes_through_what_it_holds_and_waits_for_what_others_hold() {
        static LOCK: Mutex<Turns, Patient> = Mutex::new(Turns(0));
        FORKS.set(true);
        for by_fork in [false, true] {
            let (held, is_held) = channel();
            let other = std::thread::spawn(move || {
                let mut value = LOCK.lock();
                held.send(()).expect("somebody waits");
                // Time for the other one to go wrong in; where it does not, this is only slow.
                std::thread::sleep(Duration::from_millis(20));
                value.0 += 1;
            });
            is_held.recv().expect("a message");
            let expected = 1 + u32::from(by_fork);
            if by_fork {
                LOCK.acquire_for_fork();
                assert_eq!(LOCK.lock().0, expected);
                assert_eq!(LOCK.lock().0, expected);
                // SAFETY: acquired above; the guards are gone.
                unsafe { LOCK.release_after_fork() };
            } else {
                assert_eq!(LOCK.lock().0, expected);
            }
            other.join().expect("no panic");
        }
        assert!(LOCK.try_lock().is_some());
    }

    struct Last;

    impl Ranked for Last {
        const RANK: Rank = Rank::Runs;
    }

    #[test]
    fn who_has_released_its_locks_in_whatever_order_holds_none() {
        static FIRST: Mutex<Turns, Patient> = Mutex::new(Turns(0));
        static SECOND: Mutex<Turns, Patient> = Mutex::new(Turns(0));
        static LAST: Mutex<Last, Patient> = Mutex::new(Last);
        let (first, second, last) = (FIRST.lock(), SECOND.lock(), LAST.lock());
        assert!(!rank::IS_COUNTED || !rank::is_none_held());
        drop(first);
        drop(last);
        drop(second);
        assert!(rank::is_none_held());
        // Who does not wait may try any.
        let last = LAST.lock();
        drop((FIRST.try_lock(), last));
        FIRST.acquire_for_fork();
        LAST.acquire_for_fork();
        FORKS.set(true);
        drop((LAST.lock(), FIRST.lock()));
        FORKS.set(false);
        // SAFETY: acquired above; the guards are gone.
        unsafe {
            LAST.release_after_fork();
            FIRST.release_after_fork();
        }
        assert!(rank::is_none_held());
    }

    #[test]
    fn a_lock_of_a_lower_rank_is_not_waited_for_below_a_higher_one() {
        static FIRST: Mutex<Turns, Patient> = Mutex::new(Turns(0));
        static LAST: Mutex<Last, Patient> = Mutex::new(Last);
        let other = std::thread::spawn(|| {
            let _last = LAST.lock();
            drop(FIRST.lock());
        });
        assert_eq!(other.join().is_err(), rank::IS_COUNTED);
    }
}
