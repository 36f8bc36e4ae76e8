//! Sync: the atomics and the lock that the rest is built on, and their switch to the model checker.
//!
//! Under `--cfg loom` the atomics are loom's, so that what is built on this module can be explored
//! exhaustively; everything else sees `core`'s.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};
#[cfg(loom)]
mod explored;
#[cfg(loom)]
pub use explored::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::fence;

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// A full fence, for a thread whose last step in memory was a read-modify-write: of two threads that each
/// change one word, pass this, and look at the other's word, one sees the other's change. The one place in
/// which release and acquire do not do; on x86-64 the read-modify-write is such a fence already.
#[inline]
pub fn fence_after_exchange() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(all(not(loom), target_arch = "x86_64"))]
    compiler_fence(Ordering::SeqCst);
    #[cfg(all(not(loom), not(target_arch = "x86_64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// How a thread waits for a lock word; the operating system's part of [`Mutex`].
///
/// # Safety
/// Implementations must not allocate, must not change `errno`, and `wait` must return whenever the
/// word no longer holds `expected` and someone calls `wake` after that.
pub unsafe trait Waiter {
    /// Gives the processor to another thread once.
    fn yield_now();
    /// Sleeps while `word` holds `expected`. May return early.
    fn wait(word: &AtomicU32, expected: u32);
    /// Wakes every thread that sleeps on `word`.
    fn wake(word: &AtomicU32);
    /// Whether the calling thread is forking. Other libraries' fork handlers may then allocate in it, and pass
    /// through the locks that it holds for the fork.
    fn is_forking() -> bool;
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
pub struct Mutex<T, W: Waiter> {
    word: AtomicU32,
    /// Whether it is held for a fork, by the thread that forks: 1 or 0. Nobody else's holding is to be passed through.
    by_fork: AtomicU32,
    value: UnsafeCell<T>,
    waiter: core::marker::PhantomData<fn() -> W>,
}

// SAFETY: the value is reached only through a guard, and one guard exists at a time.
unsafe impl<T: Send, W: Waiter> Sync for Mutex<T, W> {}
// SAFETY: moving the lock moves the value.
unsafe impl<T: Send, W: Waiter> Send for Mutex<T, W> {}

impl<T, W: Waiter> Mutex<T, W> {
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
        Guard { mutex: self, held: taken || self.lock_slow() }
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

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T, W>> {
        // Acquire: sees what the last holder wrote. Pairs with the Release in `release`.
        self.word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Guard { mutex: self, held: true })
    }

    /// Takes the lock without a guard, for fork, where it is released in two processes.
    #[inline]
    pub fn acquire(&self) {
        // Acquire: as in `try_lock`.
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slow();
        }
        // Relaxed: read by this thread alone, until the release.
        self.by_fork.store(1, Ordering::Relaxed);
    }

    /// As [`Mutex::acquire`], at a moment when the value `is_fit`: what another thread has under way without the lock
    /// would be under way in the child for ever.
    pub fn acquire_when(&self, is_fit: impl Fn(&T) -> bool) {
        loop {
            self.acquire();
            // SAFETY: the lock is held, and there is no guard of it.
            if is_fit(unsafe { &*self.value.get() }) {
                return;
            }
            self.let_go();
            W::yield_now();
        }
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
            W::wait(&self.word, CONTENDED);
        }
    }

    /// Releases the lock that `acquire` took.
    ///
    /// # Safety
    /// The caller holds the lock and no guard of it.
    #[inline]
    pub unsafe fn release(&self) {
        self.let_go();
    }

    /// Undoes `acquire`.
    fn let_go(&self) {
        // Relaxed: as in `acquire`.
        self.by_fork.store(0, Ordering::Relaxed);
        self.unlock();
    }

    #[inline]
    fn unlock(&self) {
        // Release: publishes the value. Pairs with every Acquire above.
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            W::wake(&self.word);
        }
    }

    /// Makes the lock free in a forked child. What the word says of sleepers may be the parent's, whose
    /// threads are gone; but a thread that another library's handler started in the child may sleep too.
    ///
    /// # Safety
    /// The calling thread held the lock at the fork and holds no guard of it.
    pub unsafe fn reset_after_fork(&self) {
        // SAFETY: the caller's promise: the lock is held, on behalf of this thread.
        unsafe { self.release() }
    }
}

/// The right to touch what a [`Mutex`] protects.
pub struct Guard<'a, T, W: Waiter> {
    mutex: &'a Mutex<T, W>,
    /// Whether the lock is this guard's to release, and not the forking thread's as a whole.
    held: bool,
}

impl<T, W: Waiter> Deref for Guard<'_, T, W> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one, so nobody else refers to the value.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T, W: Waiter> DerefMut for Guard<'_, T, W> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T, W: Waiter> Drop for Guard<'_, T, W> {
    fn drop(&mut self) {
        if self.held {
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

    /// Waits by yielding.
    struct Patient;

    // SAFETY: returns early, which is allowed.
    unsafe impl Waiter for Patient {
        fn yield_now() {
            std::thread::yield_now();
        }
        fn wait(_: &AtomicU32, _: u32) {
            std::thread::yield_now();
        }
        fn wake(_: &AtomicU32) {}
        fn is_forking() -> bool {
            FORKS.get()
        }
    }

    #[test]
    fn a_forking_thread_passes_through_what_it_holds_and_waits_for_what_others_hold() {
        static LOCK: Mutex<u32, Patient> = Mutex::new(0);
        FORKS.set(true);
        for by_fork in [false, true] {
            let (held, is_held) = channel();
            let other = std::thread::spawn(move || {
                let mut value = LOCK.lock();
                held.send(()).expect("somebody waits");
                // Time for the other one to go wrong in; where it does not, this is only slow.
                std::thread::sleep(Duration::from_millis(20));
                *value += 1;
            });
            is_held.recv().expect("a message");
            let expected = 1 + u32::from(by_fork);
            if by_fork {
                LOCK.acquire_when(|value| *value == 2);
                assert_eq!(*LOCK.lock(), expected);
                assert_eq!(*LOCK.lock(), expected);
                // SAFETY: acquired above; the guards are gone.
                unsafe { LOCK.release() };
            } else {
                assert_eq!(*LOCK.lock(), expected);
            }
            other.join().expect("no panic");
        }
        assert!(LOCK.try_lock().is_some());
    }
}
