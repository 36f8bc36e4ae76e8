//! Hooks: the process-wide callbacks of an allocator, which one thread installs while others wait, and the key
//! by which each thread's end is learnt.
//!
//! ```text
//! UNHOOKED ── first thread ──→ HOOKING ── key made ──→ HOOKED + key
//!                                 └────── refused ───→ KEYLESS
//! ```
//!
//! The state is one word, so that a thread that comes later pays one load. The key is there before fork
//! handlers are asked for, because to register those may allocate, which must not wait for the word.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::Waiter;
use core::marker::PhantomData;

const UNHOOKED: u32 = 0;
const HOOKING: u32 = 1;
const KEYLESS: u32 = 2;
const HOOKED: u32 = 3;

/// The state of the hooks.
pub struct Hooks<W: Waiter> {
    state: AtomicU32,
    waiter: PhantomData<fn() -> W>,
}

impl<W: Waiter> Hooks<W> {
    /// Not installed.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(UNHOOKED), waiter: PhantomData }
    }

    /// Not installed.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(UNHOOKED), waiter: PhantomData }
    }

    /// The key of the thread-exit hook; `None` where the system had none left. The first call makes it by
    /// `make_key` and then calls `register`, in which the calling thread may come here again; calls of other
    /// threads wait for the key.
    #[inline]
    pub fn key(&self, make_key: impl FnOnce() -> Option<u32>, register: impl FnOnce()) -> Option<u32> {
        // Acquire: pairs with the Release in `install`, for the key.
        let state = self.state.load(Ordering::Acquire);
        let state = if state < KEYLESS { self.install(state, make_key, register) } else { state };
        state.checked_sub(HOOKED)
    }

    #[cold]
    fn install(&self, mut state: u32, make_key: impl FnOnce() -> Option<u32>, register: impl FnOnce()) -> u32 {
        // Acquire, where it fails: as in `key`. Relaxed, where it succeeds: nothing was written before.
        if state == UNHOOKED {
            match self.state.compare_exchange(UNHOOKED, HOOKING, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => {
                    let state = make_key().map_or(KEYLESS, |key| HOOKED + key);
                    // Release: publishes the key. Pairs with every Acquire here.
                    self.state.store(state, Ordering::Release);
                    register();
                    return state;
                }
                Err(now) => state = now,
            }
        }
        while state == HOOKING {
            W::yield_now();
            // Acquire: as in `key`.
            state = self.state.load(Ordering::Acquire);
        }
        state
    }
}

impl<W: Waiter> Default for Hooks<W> {
    fn default() -> Self {
        Self::new()
    }
}
