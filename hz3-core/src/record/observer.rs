//! Observer: somebody outside of the allocator who is told now and then, on slow paths, that time has passed; the
//! preload library's shared statistics page.

use crate::platform::atomic::{AtomicPtr, Ordering};
use core::ptr::null_mut;

/// What a observer is told. It is called without a lock of the allocator's, must not allocate, and keeps `errno`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A slow path or the background thread looked at the clock, in milliseconds, as [`crate::platform::os::Os::now_ms`] has it.
    Tick(u32),
    /// The process is a forked child, whose other threads are gone.
    Forked,
}

/// Who is told; nobody at first.
pub struct Observer {
    call: AtomicPtr<()>,
}

impl Observer {
    /// Nobody.
    pub const fn nobody() -> Self {
        Self { call: AtomicPtr::new(null_mut()) }
    }

    /// From here on `call` is told.
    pub fn begin(&self, call: fn(Event)) {
        // Release: what the caller has made ready. Pairs with the Acquire in `tell_now`.
        self.call.store(call as *mut (), Ordering::Release);
    }

    /// From here on nobody is told; a call that has begun may go on.
    pub fn end(&self) {
        // Relaxed: publishes nothing.
        self.call.store(null_mut(), Ordering::Relaxed);
    }

    /// Tells of `event`. While there is nobody: one load and a branch.
    #[inline]
    pub fn tell(&self, event: Event) {
        // Relaxed: `tell_now` looks again.
        if !self.call.load(Ordering::Relaxed).is_null() {
            self.tell_now(event);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_now(&self, event: Event) {
        // Acquire: pairs with the Release in `begin`.
        let call = self.call.load(Ordering::Acquire);
        if !call.is_null() {
            // SAFETY: the word is a function that `begin` was given, of this type.
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
        let observer = Observer::nobody();
        let told = |event| {
            observer.tell(event);
            TOLD.swap(0, Ordering::Relaxed)
        };
        assert_eq!(told(Event::Tick(5)), 0);
        observer.begin(note);
        assert_eq!((told(Event::Tick(6)), told(Event::Forked)), (6, 1));
        observer.end();
        assert_eq!(told(Event::Tick(7)), 0);
    }
}
