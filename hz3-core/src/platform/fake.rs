//! Fake operating system for tests: Linux that refuses memory on demand.
//!
//! Requests fail from [`Fake::refuse_after`] to [`Fake::grant_all`], or one or some of them as [`Fake::refuse_one`] and
//! [`Fake::refuse_some`] say. Global: such tests must not run side by side.

use crate::platform::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::platform::linux::Linux;
use crate::platform::os::{NotMapped, Os, Waiter};
use core::ops::Range;
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// [`Linux`] with refusals.
pub struct Fake;

// Relaxed, all accesses: tests order their own calls, and nothing is published.
const NEVER: usize = usize::MAX;
static REMAINING: AtomicUsize = AtomicUsize::new(NEVER);
/// Requests from now to the one that is refused, that one too; 0: none.
static UNTIL_ONE: AtomicUsize = AtomicUsize::new(0);
/// One request in so many is refused; 0: none. And the state of the dice.
static ONE_IN: AtomicUsize = AtomicUsize::new(0);
static DICE: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
/// Addresses at which something is always mapped, up to, but not including, the second.
static TAKEN: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
static ON_CALL: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// Bytes of the machine's memory, and of the limit on it.
static MEMORY: [AtomicUsize; 2] = [const { AtomicUsize::new(usize::MAX) }; 2];
/// Bytes of the system's pages, if they are to be longer than they are.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
static ON_PURGE: AtomicPtr<()> = AtomicPtr::new(null_mut());

impl Fake {
    /// Refuses every request for memory after the next `requests`.
    pub fn refuse_after(requests: usize) {
        REMAINING.store(requests, Ordering::Relaxed);
    }

    /// Refuses one request for memory, after the next `requests`.
    pub fn refuse_one(requests: usize) {
        UNTIL_ONE.store(requests + 1, Ordering::Relaxed);
    }

    /// Refuses about one request for memory in `one_in`, by chance as of `seed`.
    pub fn refuse_some(one_in: usize, seed: usize) {
        DICE.store(seed, Ordering::Relaxed);
        ONE_IN.store(one_in, Ordering::Relaxed);
    }

    /// Grants every request from now on.
    pub fn grant_all() {
        REMAINING.store(NEVER, Ordering::Relaxed);
        UNTIL_ONE.store(0, Ordering::Relaxed);
        ONE_IN.store(0, Ordering::Relaxed);
    }

    /// Sets the machine's memory and the limit on it, in bytes.
    pub fn set_memory(machine: usize, limit: usize) {
        for (place, bytes) in MEMORY.iter().zip([machine, limit]) {
            place.store(bytes, Ordering::Relaxed);
        }
    }

    /// Makes the system's pages `bytes` long, at least as long as they are. Before the first block, as it decides how memory is
    /// divided, and without an allocator of [`Linux`] beside it.
    pub fn set_page_bytes(bytes: usize) {
        PAGE_BYTES.store(bytes, Ordering::Relaxed);
    }

    /// From now on something else is mapped wherever a request is for one of these addresses.
    pub fn take(addresses: Range<usize>) {
        TAKEN[0].store(addresses.start, Ordering::Relaxed);
        TAKEN[1].store(addresses.end, Ordering::Relaxed);
    }

    /// Requests refused so far.
    pub fn refused() -> usize {
        REFUSED.load(Ordering::Relaxed)
    }

    /// Calls `act` before each purge from now on, in place of another thread at that moment.
    pub fn call_at_purges(act: fn()) {
        ON_PURGE.store((act as *const ()).cast_mut(), Ordering::Relaxed);
    }

    /// Calls `act` before each call that is made through libc from now on, as a library in its place may.
    pub fn call_at_calls(act: fn()) {
        ON_CALL.store((act as *const ()).cast_mut(), Ordering::Relaxed);
    }

    /// splitmix64's step and mix.
    fn is_unlucky() -> bool {
        let one_in = ONE_IN.load(Ordering::Relaxed);
        if one_in == 0 {
            return false;
        }
        let mut dice = DICE.fetch_add(0x9e37_79b9_7f4a_7c15_u64 as usize, Ordering::Relaxed) as u64;
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((dice ^ (dice >> 31)) as usize) % one_in == 0
    }

    /// Panics unless the range is whole pages of the system: Linux refuses some others, and rounds the rest.
    fn expect_whole(start: NonNull<u8>, bytes: usize) {
        let page = Self::page_bytes().max(1);
        let address = start.as_ptr().addr();
        assert!(address % page == 0 && bytes % page == 0 && bytes > 0, "{bytes} bytes at {address:#x}");
    }

    /// What `map` maps, at the beginning of a page.
    fn at_a_page(map: fn(usize) -> Option<NonNull<u8>>, bytes: usize) -> Option<NonNull<u8>> {
        let page = Self::page_bytes().max(1);
        assert!(bytes % page == 0, "{bytes} bytes");
        if page <= Linux::page_bytes().max(1) {
            return map(bytes);
        }
        let all = map(bytes + page)?;
        let before = all.as_ptr().addr().next_multiple_of(page) - all.as_ptr().addr();
        // SAFETY: all parts lie in the fresh mapping; those at the ends are not used.
        unsafe {
            let start = all.add(before);
            let _ = before == 0 || Linux::unmap(all, before);
            let _ = before == page || Linux::unmap(start.add(bytes), page - before);
            Some(start)
        }
    }

    /// Moves the contents of `start` to a mapping of `bytes`, at the beginning of a page.
    ///
    /// # Safety
    /// The caller owns `old_bytes` at `start`.
    unsafe fn copied(start: NonNull<u8>, old_bytes: usize, bytes: usize) -> Option<NonNull<u8>> {
        let moved = Self::at_a_page(Linux::map, bytes)?;
        // SAFETY: the caller's range, and a fresh mapping.
        unsafe { moved.copy_from_nonoverlapping(start, old_bytes.min(bytes)) };
        Some(moved)
    }

    fn has_longer_pages() -> bool {
        Self::page_bytes() > Linux::page_bytes().max(1)
    }

    fn note_call() {
        if let Some(act) = NonNull::new(ON_CALL.load(Ordering::Relaxed)) {
            // SAFETY: not null, so `call_at_calls` stored it, from a `fn()`.
            unsafe { core::mem::transmute::<NonNull<()>, fn()>(act)() };
        }
    }

    fn granted() -> bool {
        Self::note_call();
        let spent = REMAINING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            NEVER => None,
            0 => None,
            left => Some(left - 1),
        });
        let one = UNTIL_ONE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let granted = spent != Err(0) && one != Ok(1) && !Self::is_unlucky();
        if !granted {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }
}

// SAFETY: `Linux` keeps the contract.
unsafe impl Waiter for Fake {
    fn yield_now() {
        Linux::yield_now();
    }
    fn nap() {
        Linux::nap();
    }
    fn wait(word: *const u32, expected: u32) {
        Linux::wait(word, expected);
    }
    fn wake(word: *const u32) {
        Linux::wake(word);
    }
    fn this_thread() -> usize {
        Linux::this_thread()
    }
    fn is_forking() -> bool {
        Linux::is_forking()
    }
}

// SAFETY: `Linux` keeps the contract, which allows refusals.
unsafe impl Os for Fake {
    fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        if Self::granted() { Self::at_a_page(Linux::reserve, bytes) } else { None }
    }
    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
        Self::expect_whole(start, bytes);
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        Self::granted() && unsafe { Linux::commit(start, bytes) }
    }
    const OUT_OF_THE_WAY: Option<Range<usize>> = Linux::OUT_OF_THE_WAY;
    fn map_at(start: usize, bytes: usize, follows: bool) -> Result<NonNull<u8>, NotMapped> {
        if !Self::granted() {
            return Err(NotMapped::Refused);
        }
        Self::expect_whole(NonNull::new(with_exposed_provenance_mut(start)).expect("an address"), bytes);
        let [first, end] = TAKEN.each_ref().map(|address| address.load(Ordering::Relaxed));
        if (first..end).contains(&start) { Err(NotMapped::Taken) } else { Linux::map_at(start, bytes, follows) }
    }
    fn map(bytes: usize) -> Option<NonNull<u8>> {
        if Self::granted() { Self::at_a_page(Linux::map, bytes) } else { None }
    }
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        Self::expect_whole(start, bytes);
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        Self::granted() && unsafe { Linux::unmap(start, bytes) }
    }
    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        Self::expect_whole(start, old_bytes);
        Self::expect_whole(start, new_bytes);
        if !Self::granted() {
            return None;
        }
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        unsafe {
            if !Self::has_longer_pages() {
                return Linux::remap(start, old_bytes, new_bytes);
            }
            let moved = Self::copied(start, old_bytes, new_bytes)?;
            let _ = Linux::unmap(start, old_bytes);
            Some(moved)
        }
    }
    unsafe fn move_out(start: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
        Self::expect_whole(start, bytes);
        if !Self::granted() {
            return None;
        }
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        unsafe {
            if !Self::has_longer_pages() {
                return Linux::move_out(start, bytes);
            }
            let moved = Self::copied(start, bytes, bytes)?;
            let _ = Linux::purge(start, bytes);
            Some(moved)
        }
    }
    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        Self::expect_whole(start, bytes);
        if let Some(act) = NonNull::new(ON_PURGE.load(Ordering::Relaxed)) {
            // SAFETY: not null, so `call_at_purges` stored it, from a `fn()`.
            unsafe { core::mem::transmute::<NonNull<()>, fn()>(act)() };
        }
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        Self::granted() && unsafe { Linux::purge(start, bytes) }
    }
    unsafe fn populate(start: NonNull<u8>, bytes: usize) {
        Self::expect_whole(start, bytes);
        Self::note_call();
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        unsafe { Linux::populate(start, bytes) }
    }
    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
        Self::expect_whole(start, bytes);
        Self::note_call();
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        unsafe { Linux::prefer_huge(start, bytes, huge) }
    }
    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        Self::expect_whole(start, bytes);
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        Self::granted() && unsafe { Linux::guard(start, bytes) }
    }
    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
        Self::expect_whole(start, bytes);
        // SAFETY: the caller keeps this contract, which is `Linux`'s.
        Self::granted() && unsafe { Linux::unguard(start, bytes) }
    }
    fn random_key() -> u64 {
        Self::note_call();
        Linux::random_key()
    }
    fn for_each_variable(_: impl FnMut(&[u8])) {}
    fn now_ms() -> u32 {
        Self::note_call();
        Linux::now_ms()
    }
    fn random_seed() -> u64 {
        Self::note_call();
        Linux::random_seed()
    }
    fn address_space_limit() -> usize {
        Self::note_call();
        Linux::address_space_limit()
    }
    fn memory_limit() -> usize {
        Self::note_call();
        MEMORY[1].load(Ordering::Relaxed)
    }
    fn memory_bytes() -> usize {
        MEMORY[0].load(Ordering::Relaxed)
    }
    fn page_bytes() -> usize {
        PAGE_BYTES.load(Ordering::Relaxed).max(Linux::page_bytes())
    }
    fn fence_all() -> bool {
        Linux::fence_all()
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
