//! Os: what hz3 asks of the operating system, as a contract with a real and a fake implementation.
//!
//! Nothing above this module makes a system call. Every function here keeps `errno`, never allocates,
//! and may be called from any thread at any time, before libc's own start-up included.

use core::ptr::NonNull;

/// How a thread waits for a lock word; the operating system's part of a [lock](crate::platform::lock::Mutex).
///
/// # Safety
/// Implementations must not allocate, must not change `errno`, and `wait` must return whenever the
/// word no longer holds `expected` and someone calls `wake` after that. A word is given by its address: under loom what
/// lies there is larger.
pub unsafe trait Waiter {
    /// Gives the processor to another thread once.
    fn yield_now();
    /// Sleeps while `word` holds `expected`. May return early.
    fn wait(word: *const u32, expected: u32);
    /// Wakes every thread that sleeps on `word`.
    fn wake(word: *const u32);
    /// Whether the calling thread is forking. Other libraries' fork handlers may then allocate in it, and pass
    /// through the locks that it holds for the fork.
    fn is_forking() -> bool;
}

/// The operating system under an allocator.
///
/// # Safety
/// Implementations return only memory that nothing else uses, keep `errno`, and never allocate.
pub unsafe trait Os: Waiter + 'static {
    /// Reserves `bytes` of address space at a multiple of `align`, without access. `bytes` is a multiple
    /// of the page size, `align` a power of two of at least a page. `None` where the system refuses.
    fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>>;

    /// Makes `bytes` at `start` readable and writable; they read as zero. False where the system refuses.
    ///
    /// # Safety
    /// The range lies in one reservation, in whole pages, and was not committed before.
    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool;

    /// Maps `bytes` of zeroed, writable memory at a page boundary. `None` where the system refuses.
    fn map(bytes: usize) -> Option<NonNull<u8>>;

    /// Ends a mapping or a reservation, or the whole pages of one that the range covers. False where the system
    /// refuses, as it does where that would leave the process with too many mappings; then nothing has changed.
    ///
    /// # Safety
    /// Nothing uses the range any more.
    #[must_use]
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool;

    /// Resizes the mapping `start`, moving it where it must; contents are kept up to the smaller size.
    /// `None` leaves it as it was.
    ///
    /// # Safety
    /// `start` and `old_bytes` are a whole result of [`Os::map`] or of this, and `new_bytes` is in pages.
    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>>;

    /// Gives the pages' memory back; they stay usable and read as zero. False where the system refuses,
    /// and then their contents are kept.
    ///
    /// # Safety
    /// The range is committed, in whole pages, and its contents are no longer needed.
    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool;

    /// Asks for memory under the pages now, all at once, in place of a fault for each. Only a hint.
    ///
    /// # Safety
    /// The range is committed, in whole pages.
    unsafe fn populate(start: NonNull<u8>, bytes: usize);

    /// Asks for huge pages under the range from now on, or, where not `huge`, for none; pages that are
    /// present stay as they are. Only a hint.
    ///
    /// # Safety
    /// The range is reserved or mapped, in whole pages.
    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool);

    /// Makes every access to the pages a fault until [`Os::unguard`]; their memory goes back, as with [`Os::purge`].
    /// False where the system refuses; their contents may be gone then too.
    ///
    /// # Safety
    /// The range is committed or mapped, in whole pages, and its contents are no longer needed.
    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool;

    /// Makes pages usable again of which some are guarded; those that were read as zero, if nothing went by the guard.
    /// False where the system refuses: any of them may be guarded still.
    ///
    /// # Safety
    /// The range is committed or mapped, in whole pages.
    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool;

    /// Milliseconds since an arbitrary start, modulo 2^32; coarse (a few milliseconds).
    fn now_ms() -> u32;

    /// A number that differs from process to process and can't be guessed; the same at each call. 0 where the system
    /// gives none.
    fn random_seed() -> u64;

    /// As [`Os::random_seed`], another number, from which that one can't be told.
    fn random_key() -> u64;

    /// The process's limit on address space in bytes (`RLIMIT_AS`); `usize::MAX` where there is none.
    fn address_space_limit() -> usize;

    /// Calls `look` with each variable of the process's environment, as `NAME=value`; with none in a process
    /// that runs with another user's rights.
    fn each_environment(look: impl FnMut(&[u8]));

    /// Whether the calling thread is the only one of the process that has not ended. False where that can't
    /// be told. Opens no file, because a program may count on the number that its next one gets.
    fn is_last_thread() -> bool;

    /// From here on [`Waiter::is_forking`] holds for the calling thread. Calls nest.
    fn begin_fork();

    /// Ends what [`Os::begin_fork`] began, in the parent or in the child.
    fn end_fork();

    /// Writes `text` to standard error, as much of it as goes.
    fn write_error(text: &[u8]);

    /// Ends the process with `SIGABRT`.
    fn abort() -> !;
}
