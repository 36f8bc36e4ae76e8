//! Hooks: installs an allocator's thread-exit key and fork handlers once per process.
//!
//! ```text
//! UNHOOKED ── first thread with a key ──→ HOOKED + key
//!    └─────── first thread refused ─────→ KEYLESS
//! ```
//!
//! No thread waits for another: what makes a key may be another library's function, and wait for a lock whose holder
//! comes here. Threads that are first together all make a key, and all but one delete theirs. The key is published before
//! the fork handlers are registered, which may allocate.

use crate::platform::atomic::{AtomicU32, Ordering};

const UNHOOKED: u32 = 0;
const KEYLESS: u32 = 1;
const HOOKED: u32 = 2;

/// The state of the hooks: one word, so that later threads pay one load.
pub struct Hooks {
    state: AtomicU32,
}

impl Hooks {
    /// Not installed.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(UNHOOKED) }
    }

    /// Not installed.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(UNHOOKED) }
    }

    /// The thread-exit key; `None` if the system had none left. The first calls run `make_key`, all but one of them
    /// `delete_key` for what they made, and that one then `register`. Each may call this again.
    #[inline]
    pub fn key(
        &self,
        make_key: impl FnOnce() -> Option<u32>,
        delete_key: impl FnOnce(u32),
        register: impl FnOnce(),
    ) -> Option<u32> {
        // Acquire: pairs with the Release in `install`.
        let state = self.state.load(Ordering::Acquire);
        let state = if state == UNHOOKED { self.install(make_key, delete_key, register) } else { state };
        state.checked_sub(HOOKED)
    }

    #[cold]
    fn install(
        &self,
        make_key: impl FnOnce() -> Option<u32>,
        delete_key: impl FnOnce(u32),
        register: impl FnOnce(),
    ) -> u32 {
        let made = make_key();
        let state = made.map_or(KEYLESS, |key| HOOKED + key);
        // Release: publishes the key. Pairs with every Acquire in this file.
        match self.state.compare_exchange(UNHOOKED, state, Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                register();
                state
            }
            Err(now) => {
                made.map(delete_key);
                now
            }
        }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self::new()
    }
}
