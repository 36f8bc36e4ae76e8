//! A fake operating system for tests: Linux's memory, with refusals on demand.
//!
//! [`Fake::refuse_after`] lets a number of requests through and refuses every later one until
//! [`Fake::relent`]. The counters are the process's, so tests that use them must not run side by side.

use crate::platform::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::platform::linux::Linux;
use crate::platform::os::{Os, Waiter};
use core::ptr::{NonNull, null_mut};

/// The fake.
pub struct Fake;

const NEVER: usize = usize::MAX;
/// Requests that still pass.
static ALLOWANCE: AtomicUsize = AtomicUsize::new(NEVER);
/// Requests refused so far.
static REFUSED: AtomicUsize = AtomicUsize::new(0);
/// What is called before each purge; null for nothing.
static ON_PURGE: AtomicPtr<()> = AtomicPtr::new(null_mut());

impl Fake {
    /// Refuses every request for memory after the next `requests`.
    pub fn refuse_after(requests: usize) {
        // Relaxed: a test's own counter, ordered by nothing and publishing nothing.
        ALLOWANCE.store(requests, Ordering::Relaxed);
    }

    /// Grants every request again.
    pub fn relent() {
        // Relaxed: as above.
        ALLOWANCE.store(NEVER, Ordering::Relaxed);
    }

    /// Requests refused so far.
    pub fn refused() -> usize {
        // Relaxed: as above.
        REFUSED.load(Ordering::Relaxed)
    }

    /// Calls `act` before each purge from here on, as another thread might act at that moment.
    pub fn call_at_purges(act: fn()) {
        // Relaxed: as above.
        ON_PURGE.store((act as *const ()).cast_mut(), Ordering::Relaxed);
    }

    fn granted() -> bool {
        // Relaxed: as above.
        let spent = ALLOWANCE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            NEVER => None,
            0 => None,
            left => Some(left - 1),
        });
        let granted = spent != Err(0);
        if !granted {
            // Relaxed: as above.
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }
}

// SAFETY: hands over to Linux.
unsafe impl Waiter for Fake {
    fn yield_now() {
        Linux::yield_now();
    }
    fn wait(word: *const u32, expected: u32) {
        Linux::wait(word, expected);
    }
    fn wake(word: *const u32) {
        Linux::wake(word);
    }
    fn is_forking() -> bool {
        Linux::is_forking()
    }
}

// SAFETY: hands over to Linux or refuses, which the contract allows everywhere.
unsafe impl Os for Fake {
    fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if Self::granted() { Linux::reserve(bytes, align) } else { None }
    }
    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise, handed on.
        Self::granted() && unsafe { Linux::commit(start, bytes) }
    }
    fn map(bytes: usize) -> Option<NonNull<u8>> {
        if Self::granted() { Linux::map(bytes) } else { None }
    }
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise, handed on.
        Self::granted() && unsafe { Linux::unmap(start, bytes) }
    }
    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise, handed on.
        if Self::granted() { unsafe { Linux::remap(start, old_bytes, new_bytes) } } else { None }
    }
    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        // Relaxed: as above.
        if let Some(look) = NonNull::new(ON_PURGE.load(Ordering::Relaxed)) {
            // SAFETY: only `call_at_purges` writes it, and that a function of this type.
            unsafe { core::mem::transmute::<NonNull<()>, fn()>(look)() };
        }
        // SAFETY: the caller's promise, handed on.
        Self::granted() && unsafe { Linux::purge(start, bytes) }
    }
    unsafe fn populate(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise, handed on.
        unsafe { Linux::populate(start, bytes) }
    }
    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
        // SAFETY: the caller's promise, handed on.
        unsafe { Linux::prefer_huge(start, bytes, huge) }
    }
    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise, handed on.
        Self::granted() && unsafe { Linux::guard(start, bytes) }
    }
    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise, handed on.
        Self::granted() && unsafe { Linux::unguard(start, bytes) }
    }
    fn random_key() -> u64 {
        Linux::random_key()
    }
    fn each_environment(_: impl FnMut(&[u8])) {}
    fn now_ms() -> u32 {
        Linux::now_ms()
    }
    fn random_seed() -> u64 {
        Linux::random_seed()
    }
    fn address_space_limit() -> usize {
        Linux::address_space_limit()
    }
    fn is_last_thread() -> bool {
        Linux::is_last_thread()
    }
    fn begin_fork() {
        Linux::begin_fork();
    }
    fn end_fork() {
        Linux::end_fork();
    }
    fn write_error(text: &[u8]) {
        Linux::write_error(text);
    }
    fn abort() -> ! {
        Linux::abort()
    }
}
