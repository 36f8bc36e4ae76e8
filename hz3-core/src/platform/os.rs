//! Os: the contract between hz3 and the operating system, kept by Linux and by a fake for tests.
//!
//! Every function keeps `errno`, never allocates of its own accord, and may be called by any thread at any time, even
//! before libc has started. Those of [`Waiter`] and [`Os::write_error`] run nobody else's code. For the others, the
//! caller holds no lock and leaves nothing half done that another allocation of this thread would meet: libraries that
//! put themselves in the place of libc's functions allocate there.

use core::ffi::CStr;
use core::ops::Range;
use core::ptr::NonNull;

/// How a thread waits for a [lock](crate::platform::lock::Mutex).
///
/// # Safety
/// Implementations never allocate and keep `errno`. `wait` returns once the word differs from `expected` and a `wake`
/// follows. A word is given by its address only: under loom the object there is larger.
pub unsafe trait Waiter {
    /// Yields the processor once.
    fn yield_now();
    /// Sleeps for about a tenth of a millisecond; may return early. Unlike [`Waiter::yield_now`] it lets threads of a lower
    /// priority run.
    fn nap() {
        Self::yield_now();
    }
    /// Sleeps while `word` is `expected`; may return early.
    fn wait(word: *const u32, expected: u32);
    /// Wakes every thread that sleeps on `word`.
    fn wake(word: *const u32);
    /// The calling thread's identity, the same in a child that it forks: an address of its own.
    fn this_thread() -> usize;
    /// Whether the calling thread is forking: it then passes through the locks that it holds for the fork.
    fn is_forking() -> bool;
}

/// Why [`Os::map_at`] has not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMapped {
    /// Something is mapped there.
    Taken,
    /// The system refuses.
    Refused,
}

/// The operating system under an allocator.
///
/// # Safety
/// Nothing else uses the memory that implementations return; they keep `errno` and never allocate.
pub unsafe trait Os: Waiter + 'static {
    /// Reserves `bytes`, whole pages, without access. `None` if the system refuses.
    fn reserve(bytes: usize) -> Option<NonNull<u8>>;

    /// Makes `bytes` at `start` usable: zero if fresh, unchanged if committed before. False if the system refuses.
    ///
    /// # Safety
    /// The caller owns the range, whole pages of one reservation.
    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool;

    /// Addresses far from those that the kernel and other libraries choose, for a first window; `None` if there are none, or
    /// the system does not map [at an address](Os::map_at).
    const OUT_OF_THE_WAY: Option<Range<usize>> = None;

    /// Whether [`Os::map_at`] may succeed.
    const MAPS_AT: bool = true;

    /// Maps `bytes` of zeroed, writable memory at `start`, both whole pages, if nothing is mapped there. `follows`: the page
    /// before `start` is the caller's, of an earlier such mapping; the two may become one.
    ///
    /// # Errors
    /// Why not.
    fn map_at(start: usize, bytes: usize, follows: bool) -> Result<NonNull<u8>, NotMapped>;

    /// Maps `bytes`, in whole pages, of zeroed, writable memory. `None` if the system refuses.
    fn map(bytes: usize) -> Option<NonNull<u8>>;

    /// Makes [`Os::name`] take effect from now on.
    fn name_mappings() {}

    /// Hint: what the pages are for, as the system's lists of mappings show it.
    ///
    /// # Safety
    /// The caller owns the range, reserved or mapped, in whole pages.
    unsafe fn name(start: NonNull<u8>, bytes: usize, name: &'static CStr) {
        let _ = (start, bytes, name);
    }

    /// Hint: core dumps leave the pages out from now on.
    ///
    /// # Safety
    /// The caller owns the range, mapped, in whole pages, and nothing uses it.
    unsafe fn leave_out_of_dumps(start: NonNull<u8>, bytes: usize) {
        let _ = (start, bytes);
    }

    /// Hint: the end of [`Os::leave_out_of_dumps`].
    ///
    /// # Safety
    /// The range was left out.
    unsafe fn dump_again(start: NonNull<u8>, bytes: usize) {
        let _ = (start, bytes);
    }

    /// Unmaps the range. False if the system refuses, as at its limit of mappings; then nothing has changed.
    ///
    /// # Safety
    /// The caller owns the range, whole pages of a mapping or reservation, and nothing uses it any more.
    #[must_use]
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool;

    /// Resizes the mapping at `start`; may move it. Contents stay up to the smaller size. `None` if refused: unchanged.
    ///
    /// # Safety
    /// The caller owns the whole mapping, and its old address no more if it moves. Sizes are whole pages and not 0.
    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>>;

    /// Moves the pages' memory to a new mapping of the same size, which the caller then owns. The range stays mapped and
    /// reads as zero. `None` if refused, as for locked memory: unchanged.
    ///
    /// # Safety
    /// The caller owns the range, committed, in whole pages and not 0.
    unsafe fn move_out(start: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>>;

    /// Gives the pages' memory back; they read as zero. False if the system refuses: pages may keep their contents.
    ///
    /// # Safety
    /// The caller owns the range, committed or mapped, in whole pages, and needs no contents.
    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool;

    /// Hint: memory for the pages now, all at once, instead of a fault for each. Contents stay.
    ///
    /// # Safety
    /// The caller owns the range, committed, in whole pages.
    unsafe fn populate(start: NonNull<u8>, bytes: usize);

    /// Hint: huge pages under the range from now on, or none if not `huge`. Present pages stay as they are.
    ///
    /// # Safety
    /// The caller owns the range, reserved or mapped, in whole pages.
    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool);

    /// Purges the pages and makes any access fault until [`Os::unguard`]. False if the system refuses, perhaps midway, or
    /// guards already take as many mappings as they may.
    ///
    /// # Safety
    /// The caller owns the range, committed or mapped, in whole pages, and needs no contents. Only its last page may be
    /// guarded already.
    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool;

    /// Removes the guard of a range. Its pages then read as zero, unless something wrote to them past the guard, as
    /// ptrace(2) can. False if the system refuses; some pages may then still be guarded.
    ///
    /// # Safety
    /// The caller owns the range, in whole pages, which [`Os::guard`] has guarded.
    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool;

    /// Milliseconds since an arbitrary start, modulo 2^32, a few milliseconds coarse.
    fn now_ms() -> u32;

    /// Microseconds since an arbitrary start.
    fn now_us() -> u64 {
        u64::from(Self::now_ms()) * 1000
    }

    /// Sleeps for about `ms` milliseconds; may return early.
    fn sleep_ms(ms: u32) {
        let _ = ms;
        Self::nap();
    }

    /// A number that differs between processes, can't be guessed, and stays the same; 0 if the system gives none.
    fn random_seed() -> u64;

    /// Like [`Os::random_seed`], but another number, which does not reveal that one.
    fn random_key() -> u64;

    /// Limit on what the process maps, in bytes (`RLIMIT_AS`, `RLIMIT_DATA`); `usize::MAX` if there is none.
    fn address_space_limit() -> usize;

    /// Most bytes of memory that the system lets the process and those in its group have together; `usize::MAX` if there is
    /// no limit, or none is known. Opens files.
    fn memory_limit() -> usize {
        usize::MAX
    }

    /// Bytes of the machine's memory; `usize::MAX` if unknown.
    fn memory_bytes() -> usize {
        usize::MAX
    }

    /// Bytes of the system's pages; 0 if unknown.
    fn page_bytes() -> usize {
        0
    }

    /// Called before an allocator's first request for memory, perhaps by several threads. Makes each call once that may come
    /// late, without effect: what a process may call is often learned from its beginning.
    fn begin() {}

    /// Calls `visit` with each `NAME=value` of the environment; with none in a process with another user's rights.
    fn for_each_variable(visit: impl FnMut(&[u8]));

    /// Makes every thread of the process pass a full fence between this call's beginning and its end: the heavy side of
    /// [`light_fence`](crate::platform::atomic::light_fence). False if the system can't.
    #[must_use]
    fn fence_all() -> bool {
        false
    }

    /// Whether all other threads have ended; false if unknown. Opens no file, which would take a descriptor number.
    fn is_last_thread() -> bool;

    /// Number of the process's threads; 0 if unknown. The first one counts though it has ended. Opens no file.
    fn thread_count() -> usize {
        0
    }

    /// The process's number; 0 if unknown.
    fn process_id() -> u32 {
        0
    }

    /// Whether the calling thread runs on the process's first stack, and so is its first thread; false if unknown.
    fn is_on_first_stack() -> bool {
        false
    }

    /// Makes [`Waiter::is_forking`] true for the calling thread, which holds every lock. Calls nest.
    fn begin_fork();

    /// Undoes [`Os::begin_fork`], in the parent or in the child.
    fn end_fork();

    /// Writes `text` to standard error; ignores errors.
    fn write_error(text: &[u8]);

    /// Ends the process with `status`; runs nothing at exit.
    fn exit(status: u8) -> ! {
        let _ = status;
        Self::abort()
    }

    /// Ends the process with `SIGABRT`.
    fn abort() -> !;
}
