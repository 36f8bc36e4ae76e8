//! Lock: a mutex that never allocates, and that a fork can take and release.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::Waiter;
use crate::platform::rank::{self, Rank};
use crate::platform::transit::Transit;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// What a [`Mutex`] protects.
pub trait Ranked {
    /// The lock's rank.
    const RANK: Rank;

    /// What threads took out and will put back.
    fn transit(&mut self) -> Option<&mut Transit> {
        None
    }
}

/// A lock as `fork` sees it, whatever it protects.
pub trait ForkLock {
    /// Takes the lock for a fork. Whether nobody but the calling thread has anything in [transit](Ranked::transit).
    fn acquire_for_fork(&self) -> bool;
    /// In a forked child: forgets what other threads had in transit.
    ///
    /// # Safety
    /// The calling thread took the lock by [`ForkLock::acquire_for_fork`] and has no guard.
    unsafe fn forget_others(&self);
    /// Releases the lock, in the parent or in the child.
    ///
    /// # Safety
    /// The calling thread took it by [`ForkLock::acquire_for_fork`], perhaps in the parent, and has no guard.
    unsafe fn release_after_fork(&self);
    /// Whether the calling thread, which is forking, took the lock for that.
    fn is_held_for_fork(&self) -> bool;
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// Spins before a thread yields. Few, because the holder is often not running when threads outnumber processors.
const SPINS: u32 = if cfg!(loom) { 1 } else { 40 };
const YIELDS: u32 = if cfg!(loom) { 1 } else { 4 };

/// A mutex of one word: a thread that waits spins, then yields, then sleeps.
///
/// ```text
/// 0 free → 1 held → 2 held, and threads may sleep → 0
/// ```
///
/// A release wakes all sleepers. Woken one by one, each would need a processor before it could wake the next: a full
/// scheduling round when threads outnumber processors. The lock is held too briefly for the woken threads to collide.
pub struct Mutex<T: Ranked, W: Waiter> {
    word: AtomicU32,
    /// 1 while a forking thread holds the lock for its fork, else 0. Only that thread passes through.
    held_for_fork: AtomicU32,
    value: UnsafeCell<T>,
    waiter: core::marker::PhantomData<fn() -> W>,
}

// SAFETY: only the thread that holds the lock reaches the value.
unsafe impl<T: Ranked + Send, W: Waiter> Sync for Mutex<T, W> {}
// SAFETY: moving the lock moves the value.
unsafe impl<T: Ranked + Send, W: Waiter> Send for Mutex<T, W> {}

impl<T: Ranked, W: Waiter> Mutex<T, W> {
    /// An unlocked lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            held_for_fork: AtomicU32::new(0),
            value: UnsafeCell::new(value),
            waiter: core::marker::PhantomData,
        }
    }

    /// An unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            held_for_fork: AtomicU32::new(0),
            value: UnsafeCell::new(value),
            waiter: core::marker::PhantomData,
        }
    }

    /// Takes the lock; waits while another thread holds it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T, W> {
        rank::check(T::RANK, W::is_forking);
        // Acquire: pairs with the Release in `unlock`. Relaxed: a failure gives no access.
        let taken = self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let owns_lock = taken || self.lock_slow();
        if owns_lock {
            rank::note_lock(T::RANK);
        }
        Guard { mutex: self, owns_lock, on_thread: core::marker::PhantomData }
    }

    /// Waits for the lock and takes it. False if this thread already holds it for a fork.
    #[cold]
    #[inline(never)]
    fn lock_slow(&self) -> bool {
        if self.is_held_for_fork() {
            return false;
        }
        self.acquire_slow();
        true
    }

    /// Takes the lock if it is free. Never waits, so the order of ranks does not matter.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T, W>> {
        // Acquire: pairs with the Release in `unlock`. Relaxed: a failure gives no access.
        self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| {
            rank::note_lock(T::RANK);
            Guard { mutex: self, owns_lock: true, on_thread: core::marker::PhantomData }
        })
    }

    /// The value, for models of a fork.
    ///
    /// # Safety
    /// The calling thread holds the lock for the fork and has no guard of it.
    #[cfg(loom)]
    pub unsafe fn value_while_held(&self) -> &T {
        // SAFETY: the caller holds the lock and has no guard.
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
            // Relaxed: only tells whether the exchange is worth its cost.
            if self.word.load(Ordering::Relaxed) == FREE
                // Acquire: pairs with the Release in `unlock`.
                && self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
        // This thread may sleep, and others with it. It takes the lock as contended, so that its release wakes them.
        // Acquire: pairs with the Release in `unlock`.
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            W::wait((&raw const self.word).cast(), CONTENDED);
        }
    }

    #[inline]
    fn unlock(&self) {
        rank::note_unlock(T::RANK);
        // Release: publishes the value. Pairs with every Acquire of `word`.
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            W::wake((&raw const self.word).cast());
        }
    }
}

impl<T: Ranked, W: Waiter> ForkLock for Mutex<T, W> {
    fn acquire_for_fork(&self) -> bool {
        rank::check(T::RANK, W::is_forking);
        // Acquire: pairs with the Release in `unlock`. Relaxed: a failure gives no access.
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slow();
        }
        rank::note_lock(T::RANK);
        // Relaxed: only this thread acts on it.
        self.held_for_fork.store(1, Ordering::Relaxed);
        // SAFETY: this thread has just taken the lock, so there is no guard.
        let value = unsafe { &mut *self.value.get() };
        value.transit().is_none_or(|transit| transit.is_only_of(W::this_thread()))
    }

    unsafe fn forget_others(&self) {
        // SAFETY: the caller holds the lock and has no guard.
        let value = unsafe { &mut *self.value.get() };
        if let Some(transit) = value.transit() {
            transit.forget_others(W::this_thread());
        }
    }

    /// In the child, the word may count sleepers of the parent: to wake them is harmless. A thread that another
    /// library's handler started in the child may sleep too, and needs it.
    unsafe fn release_after_fork(&self) {
        // Relaxed: only this thread acts on it; the Release in `unlock` orders it for the next forking thread.
        self.held_for_fork.store(0, Ordering::Relaxed);
        self.unlock();
    }

    fn is_held_for_fork(&self) -> bool {
        // Relaxed: only a forking thread stores 1, so this one sees its own store or none.
        W::is_forking() && self.held_for_fork.load(Ordering::Relaxed) != 0
    }
}

/// Access to the value of a [`Mutex`], on one thread; releases the lock when dropped.
pub struct Guard<'a, T: Ranked, W: Waiter> {
    mutex: &'a Mutex<T, W>,
    /// False if the thread holds the lock for a fork, which releases it later.
    owns_lock: bool,
    /// Keeps the guard on its thread, as the ranks and a fork expect.
    on_thread: core::marker::PhantomData<*mut T>,
}

impl<T: Ranked, W: Waiter> Deref for Guard<'_, T, W> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this thread holds the lock. It never takes the same lock twice, so it has no second guard.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: Ranked, W: Waiter> DerefMut for Guard<'_, T, W> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread holds the lock and has no second guard; `self` is borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: Ranked, W: Waiter> Drop for Guard<'_, T, W> {
    fn drop(&mut self) {
        if self.owns_lock {
            self.mutex.unlock();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    std::thread_local! {
        static FORKS: Cell<bool> = const { Cell::new(false) };
    }

    struct Turns(u32);

    impl Ranked for Turns {
        const RANK: Rank = Rank::Shard;
    }

    struct Patient;

    // SAFETY: a wait may return early; nothing allocates.
    unsafe impl Waiter for Patient {
        fn yield_now() {
            std::thread::yield_now();
        }
        fn wait(_: *const u32, _: u32) {
            std::thread::yield_now();
        }
        fn wake(_: *const u32) {}
        fn this_thread() -> usize {
            1
        }
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
        // A lock may be tried in any order.
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
