//! The operating system inside Miri, which has few of Linux's calls: memory of the standard library, cleared where the
//! kernel would clear it.
//!
//! What is unmapped as a whole is freed, so that Miri sees a use of it; what is unmapped in parts stays. A reservation
//! can be used without being committed, a guard stops nobody, and time passes by being asked for. Nobody forks.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::{Os, Waiter};
use crate::platform::units::PAGE_BYTES;
use core::ptr::NonNull;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Stands in for Linux.
pub struct Linux;

/// Every reservation and mapping: its address and how it was allocated.
static MAPPINGS: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

fn mappings() -> MutexGuard<'static, BTreeMap<usize, Layout>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn allocate(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, align.max(PAGE_BYTES)).ok()?;
    // SAFETY: whole pages, at least one.
    let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
    mappings().insert(start.as_ptr().expose_provenance(), layout);
    Some(start)
}

// SAFETY: returns early, which is allowed.
unsafe impl Waiter for Linux {
    fn yield_now() {
        std::thread::yield_now();
    }
    fn wait(_: *const u32, _: u32) {
        std::thread::yield_now();
    }
    fn wake(_: *const u32) {}
    fn is_forking() -> bool {
        false
    }
}

// SAFETY: fresh memory of the standard library is nobody else's, and nothing here is called by its allocator.
unsafe impl Os for Linux {
    fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
        allocate(bytes, align)
    }

    unsafe fn commit(_: NonNull<u8>, _: usize) -> bool {
        true
    }

    fn map(bytes: usize) -> Option<NonNull<u8>> {
        allocate(bytes, PAGE_BYTES)
    }

    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        let mut mappings = mappings();
        let address = start.as_ptr().addr();
        if mappings.get(&address).is_some_and(|layout| layout.size() == bytes)
            && let Some(layout) = mappings.remove(&address)
        {
            let whole = core::ptr::with_exposed_provenance_mut(address);
            // SAFETY: allocated so, and the caller's promise that nothing uses it any more.
            unsafe { std::alloc::dealloc(whole, layout) };
        }
        true
    }

    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        let moved = allocate(new_bytes, PAGE_BYTES)?;
        // SAFETY: both are the caller's, and apart.
        unsafe { moved.copy_from_nonoverlapping(start, old_bytes.min(new_bytes)) };
        // SAFETY: the caller goes on with the copy.
        unsafe { Self::unmap(start, old_bytes) }.then_some(moved)
    }

    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's range is its own, and its contents are not needed.
        unsafe { start.write_bytes(0, bytes) };
        true
    }

    unsafe fn populate(_: NonNull<u8>, _: usize) {}

    unsafe fn prefer_huge(_: NonNull<u8>, _: usize, _: bool) {}

    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise, handed on.
        unsafe { Self::purge(start, bytes) }
    }

    unsafe fn unguard(_: NonNull<u8>, _: usize) -> bool {
        true
    }

    fn now_ms() -> u32 {
        static NOW: AtomicU32 = AtomicU32::new(0);
        // Relaxed: publishes nothing.
        NOW.fetch_add(1, Ordering::Relaxed)
    }

    fn random_seed() -> u64 {
        0x9e37_79b9_7f4a_7c15
    }

    fn random_key() -> u64 {
        0xd6e8_feb8_6659_fd93
    }

    /// Small, so that nothing is reserved in gigabytes.
    fn address_space_limit() -> usize {
        256 << 20
    }

    fn each_environment(_: impl FnMut(&[u8])) {}

    fn is_last_thread() -> bool {
        false
    }

    fn begin_fork() {}

    fn end_fork() {}

    fn write_error(text: &[u8]) {
        // Nobody could be told.
        let _ = std::io::stderr().write_all(text);
    }

    fn abort() -> ! {
        std::process::abort()
    }
}
