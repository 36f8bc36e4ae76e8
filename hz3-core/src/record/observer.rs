//! Tells one function outside the allocator that time passes or the process forked: the shared statistics page.

use crate::platform::atomic::{AtomicPtr, Ordering};
use core::ptr::null_mut;

/// The message to an observer, which is called without a lock of the allocator, must not allocate, and keeps `errno`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A slow path or the background thread read [`crate::platform::os::Os::now_ms`]: the time in milliseconds.
    Tick(u32),
    /// This process is a forked child; the parent's other threads are gone.
    Forked,
}

/// The observer, if any.
pub struct Observer {
    call: AtomicPtr<()>,
}

impl Observer {
    /// No observer.
    pub const fn none() -> Self {
        Self { call: AtomicPtr::new(null_mut()) }
    }

    /// Starts to notify `call`.
    pub fn begin(&self, call: fn(Event)) {
        // Release: publishes the caller's preparations. Pairs with the Acquire in `notify_slow`.
        self.call.store(call as *mut (), Ordering::Release);
    }

    /// Stops notifying; a call in progress may go on.
    pub fn end(&self) {
        // Relaxed: publishes nothing.
        self.call.store(null_mut(), Ordering::Relaxed);
    }

    /// Notifies the observer. Without one: a load and a branch.
    #[inline]
    pub fn notify(&self, event: Event) {
        // Relaxed: `notify_slow` loads it again.
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
            // SAFETY: not null, so `begin` stored a function of this type.
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
