//! Tells a function outside the allocator that time passes, or that the process forked.

use crate::platform::atomic::{AtomicPtr, Ordering};
use core::ptr::null_mut;

/// A message to the observer, which is called without a lock of hz3, must not allocate, and keeps `errno`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A slow path or the background thread read the clock, in milliseconds ([`crate::platform::os::Os::now_ms`]).
    Tick(u32),
    /// This process is a forked child; the parent's threads are gone.
    Forked,
}

/// An observer, or none.
pub struct Observer {
    call: AtomicPtr<()>,
}

impl Observer {
    /// No observer.
    pub const fn none() -> Self {
        Self { call: AtomicPtr::new(null_mut()) }
    }

    /// Sets the observer.
    pub fn begin(&self, call: fn(Event)) {
        // Release: publishes what the observer needs. Pairs with the Acquire in `notify_slow`.
        self.call.store(call as *mut (), Ordering::Release);
    }

    /// Removes the observer; a call in progress may go on.
    pub fn end(&self) {
        // Relaxed: publishes nothing.
        self.call.store(null_mut(), Ordering::Relaxed);
    }

    /// Notifies the observer. Without one: a load and a branch.
    #[inline]
    pub fn notify(&self, event: Event) {
        // Relaxed: `notify_slow` loads again.
        if !self.call.load(Ordering::Relaxed).is_null() {
            self.notify_slow(event);
        }
    }

    #[cold]
    #[inline(never)]
    fn notify_slow(&self, event: Event) {
        // Acquire: pairs with the Release in `begin`.
        let call = self.call.load(Ordering::Acquire);
        if !call.is_null() {
            // SAFETY: not null: `begin` stored a function of this type.
            let call = unsafe { core::mem::transmute::<*mut (), fn(Event)>(call) };
            call(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::atomic::AtomicU32;

    static TOLD: AtomicU32 = AtomicU32::new(0);

    fn note(event: Event) {
        // Relaxed: one thread.
        TOLD.store(if let Event::Tick(now) = event { now } else { 1 }, Ordering::Relaxed);
    }

    #[test]
    fn whoever_begins_is_told_until_the_end() {
        let observer = Observer::none();
        let told = |event| {
            observer.notify(event);
            TOLD.swap(0, Ordering::Relaxed)
        };
        assert_eq!(told(Event::Tick(5)), 0);
        observer.begin(note);
        assert_eq!((told(Event::Tick(6)), told(Event::Forked)), (6, 1));
        observer.end();
        assert_eq!(told(Event::Tick(7)), 0);
    }
}
