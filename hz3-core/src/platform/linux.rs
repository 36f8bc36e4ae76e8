//! The real operating system: Linux system calls through libc.
//!
//! Outside rules: mmap(2), mprotect(2), madvise(2), mremap(2), futex(2), getrlimit(2), proc(5), getauxval(3).

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::os::{Os, Waiter};
use crate::platform::units::PAGE_BYTES;
use core::ffi::{CStr, c_char};
use core::ptr::{NonNull, null_mut};

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const c_char;
}

/// Linux.
pub struct Linux;

/// Address of the forking thread's `errno`, which tells threads apart; 0 while nobody forks.
static FORKER: AtomicUsize = AtomicUsize::new(0);
/// Allocators that the forking thread has prepared.
static FORK_DEPTH: AtomicU32 = AtomicU32::new(0);

/// How guards have been made so far: bits of the three below. The system's way (Linux 6.13) leaves the list of mappings
/// alone; where there is none, a guard is a piece of a mapping with rights of its own.
static GUARDS: AtomicU32 = AtomicU32::new(0);
const BY_ADVICE: u32 = 1;
const BY_RIGHTS: u32 = 2;
/// The system knows no such advice.
const NO_ADVICE: u32 = 4;
/// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE` of linux/mman.h.
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;
/// `MADV_DONTNEED_LOCKED` of linux/mman.h.
const DONTNEED_LOCKED: i32 = 24;
/// What the program's pages can be used for.
const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn this_thread() -> usize {
    // SAFETY: takes and changes nothing.
    unsafe { libc::__errno_location() }.addr()
}

/// The 16 random bytes that the kernel gives a process; zeros where it gives none.
fn random_words() -> [u64; 2] {
    // SAFETY: takes a number.
    let bytes = keeping_errno(|| unsafe { libc::getauxval(libc::AT_RANDOM) }) as usize;
    if bytes == 0 {
        return [0; 2];
    }
    // SAFETY: getauxval(3): the address of 16 random bytes, which stay as long as the process.
    unsafe { core::ptr::with_exposed_provenance::<[u64; 2]>(bytes).read_unaligned() }
}

/// Runs `body` and puts `errno` back to what it was.
#[inline]
fn keeping_errno<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: errno is the calling thread's own, valid for its lifetime.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    let result = body();
    // SAFETY: as above.
    unsafe { *errno = saved };
    result
}

fn map_with(bytes: usize, protection: i32) -> Option<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at a place of the kernel's choice touches nothing that exists.
    let start = keeping_errno(|| unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) });
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

// SAFETY: futex waits return when the word changed and a wake follows; errno is kept; nothing allocates.
unsafe impl Waiter for Linux {
    fn yield_now() {
        // SAFETY: no arguments.
        keeping_errno(|| unsafe { libc::sched_yield() });
    }

    #[allow(clippy::not_unsafe_ptr_arg_deref, reason = "the kernel looks at it, and says where it faults")]
    fn wait(word: *const u32, expected: u32) {
        let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word outlives the call; a null time-out waits without limit.
        keeping_errno(|| unsafe {
            libc::syscall(libc::SYS_futex, word, flags, expected, null_mut::<libc::timespec>())
        });
    }

    #[allow(clippy::not_unsafe_ptr_arg_deref, reason = "an address, not read")]
    fn wake(word: *const u32) {
        let flags = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel uses the word's address only as a key.
        keeping_errno(|| unsafe { libc::syscall(libc::SYS_futex, word, flags, i32::MAX) });
    }

    fn is_forking() -> bool {
        // Relaxed: equal only to what this very thread stored.
        FORKER.load(Ordering::Relaxed) == this_thread()
    }
}

// SAFETY: fresh private mappings are nobody else's; every call below goes through `keeping_errno`.
unsafe impl Os for Linux {
    fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
        // The kernel's own places are whole pages; more than a page's alignment is cut from a larger piece.
        let wanted = if align > PAGE_BYTES { bytes.checked_add(align)? } else { bytes };
        let raw = map_with(wanted, libc::PROT_NONE)?;
        let start = raw.as_ptr().addr();
        let aligned = start.next_multiple_of(align);
        // SAFETY: both trimmed ends lie in the mapping just made, outside the part that is returned.
        unsafe {
            // A refusal leaves address space without access behind, and no memory: nobody has touched it.
            if aligned > start {
                let _ = Self::unmap(raw, aligned - start);
            }
            let end = raw.add(aligned - start + bytes);
            let tail = wanted - (aligned - start) - bytes;
            if tail > 0 {
                let _ = Self::unmap(end, tail);
            }
            Some(raw.add(aligned - start))
        }
    }

    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's range is its own.
        keeping_errno(|| unsafe { libc::mprotect(start.as_ptr().cast(), bytes, ACCESS) == 0 })
    }

    fn map(bytes: usize) -> Option<NonNull<u8>> {
        map_with(bytes, ACCESS)
    }

    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's range is no longer used.
        keeping_errno(|| unsafe { libc::munmap(start.as_ptr().cast(), bytes) == 0 })
    }

    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller gives a whole mapping of its own.
        let moved = keeping_errno(|| unsafe {
            libc::mremap(start.as_ptr().cast(), old_bytes, new_bytes, libc::MREMAP_MAYMOVE)
        });
        if moved == libc::MAP_FAILED { None } else { NonNull::new(moved.cast()) }
    }

    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller no longer needs the contents. Fails on locked memory, among others.
        keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0 })
    }

    unsafe fn populate(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's range is its own; contents stay. Kernels before 5.14 refuse.
        keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) });
    }

    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the caller's range is its own; contents stay. Kernels without huge pages refuse.
        keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) });
    }

    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        // Relaxed, here and below: who removes a guard got the pages from who made it, and sees what that one saw.
        let known = GUARDS.load(Ordering::Relaxed);
        keeping_errno(|| {
            if known & NO_ADVICE == 0 {
                // SAFETY: the caller's range is its own, and its contents are not needed.
                if unsafe { libc::madvise(start.as_ptr().cast(), bytes, GUARD_INSTALL) } == 0 {
                    if known & BY_ADVICE == 0 {
                        GUARDS.fetch_or(BY_ADVICE, Ordering::Relaxed);
                    }
                    return true;
                }
                // SAFETY: errno is the calling thread's own.
                if unsafe { *libc::__errno_location() } != libc::EINVAL {
                    // Perhaps some pages are guarded: for lack of memory it stops midway. To undo it takes none.
                    // SAFETY: as above.
                    unsafe { libc::madvise(start.as_ptr().cast(), bytes, GUARD_REMOVE) };
                    return false;
                }
                // Locked memory is refused in the same way, perhaps later.
                if known & BY_ADVICE == 0 {
                    GUARDS.fetch_or(NO_ADVICE, Ordering::Relaxed);
                }
            }
            // SAFETY: as above.
            unsafe {
                let advise = |advice| libc::madvise(start.as_ptr().cast(), bytes, advice) == 0;
                let protect = |rights| libc::mprotect(start.as_ptr().cast(), bytes, rights) == 0;
                // The first is refused for locked memory, the second before Linux 5.18.
                if !advise(libc::MADV_DONTNEED) && !advise(DONTNEED_LOCKED) {
                    return false;
                }
                // Empty pages of which some can't be reached and can't be opened again count as guarded.
                let is_done = protect(libc::PROT_NONE) || !protect(ACCESS);
                if is_done {
                    GUARDS.fetch_or(BY_RIGHTS, Ordering::Relaxed);
                }
                is_done
            }
        })
    }

    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
        // Relaxed: as above.
        let known = GUARDS.load(Ordering::Relaxed);
        // SAFETY: the caller's range is its own.
        keeping_errno(|| unsafe {
            (known & BY_ADVICE == 0 || libc::madvise(start.as_ptr().cast(), bytes, GUARD_REMOVE) == 0)
                && (known & BY_RIGHTS == 0 || libc::mprotect(start.as_ptr().cast(), bytes, ACCESS) == 0)
        })
    }

    fn now_ms() -> u32 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec; the vDSO serves it without a system call.
        keeping_errno(|| unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) });
        (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
    }

    fn random_seed() -> u64 {
        let [first, second] = random_words();
        // Folded: the C library guards its stacks and pointers with the same bytes, which nobody shall learn from here.
        (first ^ second.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn random_key() -> u64 {
        let [first, second] = random_words();
        // Another fold than the seed's: each is half of what there is.
        first.wrapping_add(second.rotate_left(17)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    fn address_space_limit() -> usize {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: writes one rlimit.
        keeping_errno(|| unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) });
        if limit.rlim_cur == libc::RLIM_INFINITY { usize::MAX } else { limit.rlim_cur as usize }
    }

    fn each_environment(mut look: impl FnMut(&[u8])) {
        // SAFETY: takes a number, returns one.
        if keeping_errno(|| unsafe { libc::getauxval(libc::AT_SECURE) }) != 0 {
            return;
        }
        // SAFETY: libc sets it before the first allocation; until then it is null. Another thread that
        // changed the environment at this very moment would be at odds with getenv(3) as well.
        unsafe {
            let mut variable = environ;
            while !variable.is_null() && !(*variable).is_null() {
                look(CStr::from_ptr(*variable).to_bytes());
                variable = variable.add(1);
            }
        }
    }

    fn is_last_thread() -> bool {
        let mut first = [0; 1];
        // A first thread that has ended stays in the list of threads, but is no longer known to run a program.
        // SAFETY: the name is a C string, and at most the given number of bytes is written.
        let first_lives = keeping_errno(|| unsafe {
            libc::readlink(c"/proc/self/exe".as_ptr(), first.as_mut_ptr(), first.len()) >= 0
                || *libc::__errno_location() != libc::ENOENT
        });
        if first_lives {
            return false;
        }
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut list = unsafe { core::mem::zeroed::<libc::stat>() };
        // SAFETY: the name is a C string, and one structure is written.
        let is_known = keeping_errno(|| unsafe { libc::stat(c"/proc/self/task".as_ptr(), &mut list) == 0 });
        // A folder has two links and one for each folder in it: here the first thread's and this one's.
        is_known && list.st_nlink == 4
    }

    fn begin_fork() {
        // Relaxed, here and below: the caller holds every lock, so no other thread is in these two.
        FORKER.store(this_thread(), Ordering::Relaxed);
        FORK_DEPTH.fetch_add(1, Ordering::Relaxed);
    }

    fn end_fork() {
        if FORK_DEPTH.fetch_sub(1, Ordering::Relaxed) == 1 {
            FORKER.store(0, Ordering::Relaxed);
        }
    }

    fn write_error(text: &[u8]) {
        // Past the C library's function, which is a cancellation point; `malloc` is none. A short or failed write has
        // nowhere to be reported.
        // SAFETY: reads the slice.
        keeping_errno(|| unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_ptr(), text.len()) });
    }

    fn abort() -> ! {
        // SAFETY: ends the process.
        unsafe { libc::abort() }
    }
}
