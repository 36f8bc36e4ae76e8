//! Hooks: installs an allocator's thread-exit key and fork handlers once per process.
//!
//! ```text
//! UNHOOKED ── first thread ──→ HOOKING ── key made ──→ HOOKED + key
//!                                 └────── refused ───→ KEYLESS
//! ```
//!
//! The key is published before the fork handlers are registered, which may allocate: that must not wait for the key.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::Waiter;
use core::marker::PhantomData;

const UNHOOKED: u32 = 0;
const HOOKING: u32 = 1;
const KEYLESS: u32 = 2;
const HOOKED: u32 = 3;

/// The state of the hooks: one word, so that later threads pay one load.
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

    /// The thread-exit key; `None` if the system had none left. The first call runs `make_key` and then `register`,
    /// which may call this again. Other threads wait for the key.
    #[inline]
    pub fn key(&self, make_key: impl FnOnce() -> Option<u32>, register: impl FnOnce()) -> Option<u32> {
        // Acquire: pairs with the Release in `install`.
        let state = self.state.load(Ordering::Acquire);
        let state = if state < KEYLESS { self.install(state, make_key, register) } else { state };
        state.checked_sub(HOOKED)
    }

    #[cold]
    fn install(&self, mut state: u32, make_key: impl FnOnce() -> Option<u32>, register: impl FnOnce()) -> u32 {
        // Acquire on failure: pairs with the Release below. Relaxed on success: nothing was published before.
        if state == UNHOOKED {
            match self.state.compare_exchange(UNHOOKED, HOOKING, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => {
                    let state = make_key().map_or(KEYLESS, |key| HOOKED + key);
                    // Release: publishes the key. Pairs with every Acquire in this file.
                    self.state.store(state, Ordering::Release);
                    register();
                    return state;
                }
                Err(now) => state = now,
            }
        }
        while state == HOOKING {
            W::nap();
            // Acquire: pairs with the Release above.
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
