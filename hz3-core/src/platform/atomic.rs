//! Atomics: `core`'s, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};
#[cfg(loom)]
pub use explored::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::fence;

/// A full fence for a thread whose last memory access was a read-modify-write (on x86-64 already a full fence).
///
/// Of two threads that each change one word, pass this fence and read the other's word, at least one sees the
/// other's change. Release and acquire don't promise that; nothing else in hz3 needs it.
#[inline]
pub fn fence_after_exchange() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(all(not(loom), target_arch = "x86_64"))]
    compiler_fence(Ordering::SeqCst);
    #[cfg(all(not(loom), not(target_arch = "x86_64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// The light side of a fence whose heavy side makes all threads pass a full one (`Os::fence_all`): the compiler keeps the
/// order of what lies before and after. Of a thread that changes one word, passes this and reads another, and one that
/// changes that one, passes the heavy side and reads the former, at least one sees the other's change.
#[inline(always)]
pub fn light_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    compiler_fence(Ordering::SeqCst);
}

/// loom's atomics, with a *turn* before each access, so that loom tries every order.
///
/// loom 0.7 reorders an access only against the last one to the same word. A thread that loads a word and then
/// exchanges it conflicts with its own load, which hides other threads' accesses: most interleavings of a lock-free
/// stack went untested. A turn is a relaxed read-modify-write of an extra word in each atomic. It conflicts with all
/// other turns of that atomic and orders nothing, so loads may still be stale.
#[cfg(loom)]
mod explored {
    pub use loom::sync::atomic::Ordering;
    use loom::sync::atomic::{self, AtomicUsize as Turn};

    macro_rules! explored {
        ($name:ident $(<$parameter:ident>)?, $inner:ty, $value:ty) => {
            /// An atomic whose accesses loom tries in every order.
            pub struct $name $(<$parameter>)? {
                turn: Turn,
                inner: $inner,
            }

            #[allow(missing_docs, reason = "named as core's")]
            impl $(<$parameter>)? $name $(<$parameter>)? {
                pub fn new(value: $value) -> Self {
                    Self { turn: Turn::new(0), inner: <$inner>::new(value) }
                }

                fn turn(&self) -> &$inner {
                    // Relaxed: must order nothing.
                    self.turn.fetch_add(0, Ordering::Relaxed);
                    &self.inner
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.turn().load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.turn().store(value, order);
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.turn().swap(value, order)
                }

                #[allow(clippy::missing_errors_doc, reason = "as core's")]
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.turn().compare_exchange(current, new, success, failure)
                }

                #[allow(clippy::missing_errors_doc, reason = "as core's")]
                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    // Strong: a spurious failure would only lead to a retry.
                    self.turn().compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    macro_rules! explored_number {
        ($name:ident, $inner:ty, $value:ty) => {
            explored!($name, $inner, $value);

            #[allow(missing_docs, reason = "named as core's")]
            impl $name {
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_add(value, order)
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_sub(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_and(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_or(value, order)
                }

                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_max(value, order)
                }
            }
        };
    }

    explored_number!(AtomicU32, atomic::AtomicU32, u32);
    explored_number!(AtomicU64, atomic::AtomicU64, u64);
    explored_number!(AtomicUsize, atomic::AtomicUsize, usize);
    explored!(AtomicPtr<T>, atomic::AtomicPtr<T>, *mut T);
}
