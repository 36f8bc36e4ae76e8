//! Interpreted: the operating system inside Miri, with the standard library's memory.
//!
//! Memory is zeroed whenever the kernel would zero it. A mapping unmapped as a whole is freed, so that Miri reports later
//! uses; parts stay. Reservations are usable without a commit, guards don't fault, each look at the clock moves it, and
//! there is no fork.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::{NotMapped, Os, Waiter};
use crate::platform::units::PAGE_BYTES;
use core::ptr::NonNull;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the place of Linux.
pub struct Linux;

/// Every reservation and mapping, by address.
static MAPPINGS: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

fn mappings() -> MutexGuard<'static, BTreeMap<usize, Layout>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn allocate(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, align.max(PAGE_BYTES)).ok()?;
    // SAFETY: the size is not 0: at least a page.
    let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
    mappings().insert(start.as_ptr().expose_provenance(), layout);
    Some(start)
}

// SAFETY: a wait may return early; nothing allocates.
unsafe impl Waiter for Linux {
    fn yield_now() {
        std::thread::yield_now();
    }
    fn wait(_: *const u32, _: u32) {
        std::thread::yield_now();
    }
    fn wake(_: *const u32) {}
    fn this_thread() -> usize {
        1
    }
    fn is_forking() -> bool {
        false
    }
}

// SAFETY: nothing else uses memory that was just allocated; the standard library's allocator never calls this.
unsafe impl Os for Linux {
    fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        allocate(bytes, PAGE_BYTES)
    }

    unsafe fn commit(_: NonNull<u8>, _: usize) -> bool {
        true
    }

    const MAPS_AT: bool = false;

    fn map_at(_: usize, _: usize, _: bool) -> Result<NonNull<u8>, NotMapped> {
        Err(NotMapped::Refused)
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
            // SAFETY: allocated with this layout, and by contract nothing uses it any more.
            unsafe { std::alloc::dealloc(whole, layout) };
        }
        true
    }

    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        let moved = allocate(new_bytes, PAGE_BYTES)?;
        // SAFETY: the caller owns the old mapping, this call the new one; both hold that many bytes and don't overlap.
        unsafe { moved.copy_from_nonoverlapping(start, old_bytes.min(new_bytes)) };
        // SAFETY: by contract the caller no longer uses the old address.
        unsafe { Self::unmap(start, old_bytes) }.then_some(moved)
    }

    unsafe fn move_out(start: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
        let moved = allocate(bytes, PAGE_BYTES)?;
        // SAFETY: the caller owns the range, this call the new mapping; both hold that many bytes and don't overlap.
        unsafe { moved.copy_from_nonoverlapping(start, bytes) };
        // SAFETY: the caller owns the range, whose contents have moved.
        unsafe { start.write_bytes(0, bytes) };
        Some(moved)
    }

    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller owns the range and needs no contents.
        unsafe { start.write_bytes(0, bytes) };
        true
    }

    unsafe fn populate(_: NonNull<u8>, _: usize) {}

    unsafe fn prefer_huge(_: NonNull<u8>, _: usize, _: bool) {}

    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the contract of `purge` is the same.
        unsafe { Self::purge(start, bytes) }
    }

    unsafe fn unguard(_: NonNull<u8>, _: usize) -> bool {
        true
    }

    fn now_ms() -> u32 {
        static NOW: AtomicU32 = AtomicU32::new(0);
        // Relaxed: a count.
        NOW.fetch_add(1, Ordering::Relaxed)
    }

    fn random_seed() -> u64 {
        0x9e37_79b9_7f4a_7c15
    }

    fn random_key() -> u64 {
        0xd6e8_feb8_6659_fd93
    }

    /// Small, to avoid reservations of gigabytes.
    fn address_space_limit() -> usize {
        256 << 20
    }

    fn for_each_variable(_: impl FnMut(&[u8])) {}

    fn is_last_thread() -> bool {
        false
    }

    fn begin_fork() {}

    fn end_fork() {}

    fn write_error(text: &[u8]) {
        // Errors have nowhere to go.
        let _ = std::io::stderr().write_all(text);
    }

    fn abort() -> ! {
        std::process::abort()
    }
}
