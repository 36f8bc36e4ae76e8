//! Linux: the operating system of real processes, by system calls through libc; those that are made with a lock held
//! go to the kernel directly.
//!
//! Sources: mmap(2), mprotect(2), madvise(2), mremap(2), futex(2), membarrier(2), getrlimit(2), proc(5), getauxval(3).

use crate::platform::advice;
use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::cgroup;
use crate::platform::clock;
use crate::platform::kernel;
use crate::platform::libc_inside;
use crate::platform::os::{NotMapped, Os, Waiter};
use crate::platform::rank;
use crate::platform::system_page;
use core::ffi::{CStr, c_char};
use core::ops::Range;
use core::ptr::{NonNull, null_mut};

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Linux.
pub struct Linux;

/// Address of the forking thread's `errno`, as the thread's identity; 0 outside a fork.
static FORKER: AtomicUsize = AtomicUsize::new(0);
/// Calls of [`Os::begin_fork`] without their [`Os::end_fork`]: one per allocator.
static FORK_DEPTH: AtomicU32 = AtomicU32::new(0);

/// Whether [`Os::move_out`] works here: 0 unknown.
static MOVES_OUT: AtomicU32 = AtomicU32::new(0);
/// [`YES`] once mappings are to be named.
static NAMES: AtomicU32 = AtomicU32::new(0);
const YES: u32 = 1;
const NO: u32 = 2;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Most bytes that [`Os::map_at`] takes without a question. Chosen: an arena's largest step; what exceeds it is one block.
const UNASKED_BYTES: usize = 256 << 20;
/// Bytes from which a question that the system does not answer counts as a refusal. Chosen: more than machines lack.
const DOUBTFUL_BYTES: usize = 1 << 30;

/// Whether membarrier(2) is unknown or forbidden.
static NO_FENCE: AtomicU32 = AtomicU32::new(0);
/// linux/membarrier.h: `PRIVATE_EXPEDITED`, and what a process calls before it (Linux 4.14).
const FENCE: usize = 8;
const REGISTER: usize = 16;

fn membarrier(command: usize) -> Result<usize, i32> {
    // SAFETY: changes no memory.
    unsafe { kernel::call(libc::SYS_membarrier, [command]) }
}

/// The address of the image of the kernel's functions; 0 if there is none.
pub fn vdso() -> usize {
    // SAFETY: no precondition.
    calling_out(|| unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }) as usize
}

/// The address of the 16 random bytes that the kernel gives a process; 0 if it gives none.
fn random_bytes() -> usize {
    // SAFETY: no precondition.
    calling_out(|| unsafe { libc::getauxval(libc::AT_RANDOM) }) as usize
}

/// Those bytes; zeros if there are none.
fn random_words() -> [u64; 2] {
    let bytes = random_bytes();
    if bytes == 0 {
        return [0; 2];
    }
    // SAFETY: getauxval(3): the address of 16 bytes that stay as long as the process.
    unsafe { core::ptr::with_exposed_provenance::<[u64; 2]>(bytes).read_unaligned() }
}

/// Runs `body`, which calls out and perhaps into a library in libc's place, then restores `errno`. Such a library may
/// allocate, so the calling thread holds no lock, unless for its fork.
#[inline]
fn calling_out<T>(body: impl FnOnce() -> T) -> T {
    debug_assert!(rank::is_none_held() || Linux::is_forking(), "a call to the outside with a lock held");
    // SAFETY: no precondition.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` lives as long as this thread, and is this thread's alone.
    let saved = unsafe { *errno };
    let result = body();
    // SAFETY: the same address, still on this thread.
    unsafe { *errno = saved };
    result
}

fn map_with(bytes: usize, protection: i32, more_flags: i32) -> Option<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more_flags;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let start = calling_out(|| unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) });
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// Moves the pages to a new mapping, and leaves the range mapped. The system's `errno` if refused: unchanged.
///
/// # Safety
/// The caller owns the range, in whole pages.
unsafe fn move_pages(start: NonNull<u8>, bytes: usize) -> Result<NonNull<u8>, i32> {
    let (flags, anywhere) = (libc::MREMAP_MAYMOVE | advice::DONT_UNMAP, null_mut::<libc::c_void>());
    // SAFETY: the caller owns the range; `errno` is this thread's.
    calling_out(|| unsafe {
        let moved = libc::mremap(start.as_ptr().cast(), bytes, bytes, flags, anywhere);
        if moved == libc::MAP_FAILED { None } else { NonNull::new(moved.cast()) }.ok_or(*libc::__errno_location())
    })
}

/// Whether memory can be moved out of its place: the kernel can since Linux 5.7. An emulator may pass the call on to it
/// and yet take the old place for free: it then refuses to let the kernel write there.
fn moves_out() -> bool {
    // Relaxed, here and below: threads that ask together store the same answer.
    match MOVES_OUT.load(Ordering::Relaxed) {
        0 => {}
        known => return known == YES,
    }
    let Some(page) = Linux::map(system_page::bytes()) else { return false };
    // SAFETY: two mappings of this call's alone. The old place counts as mapped only if the kernel writes there.
    let works = unsafe {
        page.write(1);
        let moved = move_pages(page, system_page::bytes());
        let is_open = moved.is_err() || calling_out(|| libc::getrlimit(libc::RLIMIT_AS, page.as_ptr().cast()) == 0);
        // A refusal costs a page.
        let _ = is_open && Linux::unmap(page, system_page::bytes());
        match moved {
            Err(libc::EINVAL) => false,
            // Without memory, for example: asks again next time.
            Err(_) => return false,
            Ok(moved) => {
                let works = is_open && moved.read() == 1;
                let _ = Linux::unmap(moved, system_page::bytes());
                works
            }
        }
    };
    MOVES_OUT.store(if works { YES } else { NO }, Ordering::Relaxed);
    works
}

/// A wait that nobody ends: a filter that lets threads wait for each other lets them sleep.
fn sleep(time: libc::timespec) {
    let word = 0_u32;
    let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let arguments = [(&raw const word).expose_provenance(), flags as usize, 0, (&raw const time).expose_provenance()];
    // SAFETY: reads `word` and `time`.
    let _ = unsafe { kernel::call(libc::SYS_futex, arguments) };
}

/// Whether the kernel would let the process have so much at once. By default (`vm.overcommit_memory` 0) it refuses what
/// exceeds memory and swap together. A process at a limit of its own, on mappings or address space, can't ask.
fn is_plausible(bytes: usize) -> bool {
    let unmap = |probe| {
        // SAFETY: a new mapping, which nothing uses. A refusal costs address space, but no memory.
        let _ = unsafe { Linux::unmap(probe, bytes) };
    };
    if let Some(probe) = Linux::map(bytes) {
        unmap(probe);
        return true;
    }
    bytes < DOUBTFUL_BYTES && map_with(bytes, libc::PROT_NONE, libc::MAP_NORESERVE).map(unmap).is_none()
}

// SAFETY: futex(2) ends a wait after a change and a wake; `kernel` keeps `errno`; nothing allocates.
unsafe impl Waiter for Linux {
    fn yield_now() {
        // SAFETY: no precondition.
        let _ = unsafe { kernel::call(libc::SYS_sched_yield, []) };
    }

    fn nap() {
        sleep(libc::timespec { tv_sec: 0, tv_nsec: 100_000 });
    }

    fn wait(word: *const u32, expected: u32) {
        let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel checks the address (`EFAULT`); a null time-out means no limit.
        let _ =
            unsafe { kernel::call(libc::SYS_futex, [word.expose_provenance(), flags as usize, expected as usize, 0]) };
    }

    fn wake(word: *const u32) {
        let flags = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel uses the address only as a key.
        let _ = unsafe { kernel::call(libc::SYS_futex, [word.expose_provenance(), flags as usize, i32::MAX as usize]) };
    }

    fn this_thread() -> usize {
        // SAFETY: no precondition.
        unsafe { libc::__errno_location() }.addr()
    }

    fn is_forking() -> bool {
        // Relaxed: equal only if this thread stored it.
        FORKER.load(Ordering::Relaxed) == Self::this_thread()
    }
}

// SAFETY: the kernel maps where nothing is mapped; `calling_out` keeps `errno`; nothing allocates.
unsafe impl Os for Linux {
    fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        // Not accounted for: nothing is used yet.
        map_with(bytes, libc::PROT_NONE, libc::MAP_NORESERVE)
    }

    unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller owns the range; contents stay.
        calling_out(|| unsafe { advice::open(start, bytes) })
    }

    /// Below where programs lie, and so never in the way of their `brk`; within what the sanitizers of threads and of memory
    /// take for a program's. `mmap` comes here last, V8, Go, GHC, SBCL, the JVM and Wine don't.
    const OUT_OF_THE_WAY: Option<Range<usize>> =
        if cfg!(target_arch = "x86_64") { Some(0x5500_0000_0000..0x5555_0000_0000) } else { None };

    fn map_at(start: usize, bytes: usize, follows: bool) -> Result<NonNull<u8>, NotMapped> {
        // Not accounted for, so mmap(2) refuses no size.
        if bytes > UNASKED_BYTES && !is_plausible(bytes) {
            return Err(NotMapped::Refused);
        }
        calling_out(|| advice::map_at(start, bytes, follows))
    }

    fn map(bytes: usize) -> Option<NonNull<u8>> {
        // Accounted for, as glibc's are: a block that exceeds memory and swap is refused here, not killed for later.
        map_with(bytes, READ_WRITE, 0)
    }

    fn name_mappings() {
        // Relaxed, here and below: publishes nothing.
        NAMES.store(YES, Ordering::Relaxed);
    }

    unsafe fn name(start: NonNull<u8>, bytes: usize, name: &'static CStr) {
        if NAMES.load(Ordering::Relaxed) == YES {
            let (start, name) = (start.as_ptr().expose_provenance(), name.as_ptr());
            // SAFETY: the caller owns the range, of which contents and access stay. Refused before Linux 5.17.
            calling_out(|| unsafe { libc::prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, start, bytes, name) });
        }
    }

    unsafe fn leave_out_of_dumps(start: NonNull<u8>, bytes: usize) {
        // SAFETY: contents and access stay.
        calling_out(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTDUMP) });
    }

    unsafe fn dump_again(start: NonNull<u8>, bytes: usize) {
        // SAFETY: contents and access stay.
        calling_out(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DODUMP) });
    }

    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: nothing uses the range any more.
        calling_out(|| unsafe { libc::munmap(start.as_ptr().cast(), bytes) == 0 })
    }

    unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        // A mapping that was moved out of a window is not accounted for, so mremap(2) refuses no size.
        let more = new_bytes.saturating_sub(old_bytes);
        if more > UNASKED_BYTES && !is_plausible(more) {
            return None;
        }
        // SAFETY: the caller owns the whole mapping, and gives up its old address if it moves.
        let moved =
            calling_out(|| unsafe { libc::mremap(start.as_ptr().cast(), old_bytes, new_bytes, libc::MREMAP_MAYMOVE) });
        if moved == libc::MAP_FAILED { None } else { NonNull::new(moved.cast()) }
    }

    unsafe fn move_out(start: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
        // The kernel would unlock all that is mapped beside the range, were it locked. Then it refuses this advice.
        // SAFETY: the last page is the caller's; contents stay.
        let is_unlocked = calling_out(|| unsafe {
            let last_bytes = system_page::bytes();
            libc::madvise(start.add(bytes - last_bytes).as_ptr().cast(), last_bytes, advice::COLD) == 0
        });
        // SAFETY: the caller keeps the same contract.
        if is_unlocked && moves_out() { unsafe { move_pages(start, bytes) }.ok() } else { None }
    }

    unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller owns the range, which no guard touches, and needs no contents.
        calling_out(|| unsafe { advice::give_back(start, bytes) })
    }

    unsafe fn populate(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller owns the range; contents stay. Refused before Linux 5.14.
        calling_out(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) });
    }

    unsafe fn prefer_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the caller owns the range; contents stay. Refused by kernels without huge pages.
        calling_out(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) });
    }

    unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller owns the range, writable but for a guard at its end, and needs no contents.
        calling_out(|| unsafe { advice::guard(start, bytes) })
    }

    unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller owns the range, which it has guarded.
        calling_out(|| unsafe { advice::unguard(start, bytes) })
    }

    fn now_ms() -> u32 {
        let now = clock::now(libc::CLOCK_MONOTONIC_COARSE, vdso);
        (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
    }

    fn now_us() -> u64 {
        let now = clock::now(libc::CLOCK_MONOTONIC, vdso);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
    }

    fn sleep_ms(ms: u32) {
        sleep(libc::timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
    }

    fn random_seed() -> u64 {
        let [first, second] = random_words();
        // Mixed: the C library guards stacks and pointers with the same bytes, which a seed must not reveal.
        (first ^ second.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn random_key() -> u64 {
        let [first, second] = random_words();
        // Mixed in another way than the seed, so that neither reveals the other.
        first.wrapping_add(second.rotate_left(17)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    fn address_space_limit() -> usize {
        // Infinity is the largest number.
        let least = [libc::RLIMIT_AS, libc::RLIMIT_DATA].map(|resource| {
            let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: writes `limit`.
            calling_out(|| unsafe { libc::getrlimit(resource, &mut limit) });
            limit.rlim_cur as usize
        });
        least.into_iter().fold(usize::MAX, usize::min)
    }

    fn memory_limit() -> usize {
        cgroup::memory_limit()
    }

    fn memory_bytes() -> usize {
        // SAFETY: all zeros are a valid `sysinfo`.
        let mut machine = unsafe { core::mem::zeroed::<libc::sysinfo>() };
        // SAFETY: writes `machine`.
        let asked = unsafe { kernel::call(libc::SYS_sysinfo, [(&raw mut machine).expose_provenance()]) };
        let bytes = (machine.totalram as usize).checked_mul(machine.mem_unit as usize);
        asked.ok().and(bytes).filter(|&bytes| bytes > 0).unwrap_or(usize::MAX)
    }

    fn page_bytes() -> usize {
        // SAFETY: no precondition.
        calling_out(|| unsafe { libc::getauxval(libc::AT_PAGESZ) }) as usize
    }

    fn begin() {
        advice::ask();
        // Now, because the kernel takes milliseconds to register a process that has threads.
        let _ = membarrier(REGISTER).and_then(|_| membarrier(FENCE));
    }

    fn for_each_variable(mut visit: impl FnMut(&[u8])) {
        // SAFETY: no precondition.
        if calling_out(|| unsafe { libc::getauxval(libc::AT_SECURE) }) != 0 {
            return;
        }
        // SAFETY: null, or a null-terminated array of C strings. To change it meanwhile also breaks getenv(3).
        unsafe {
            let mut variable = if environ.is_null() { libc_inside::environment_before_libc() } else { environ };
            while !variable.is_null() && !(*variable).is_null() {
                visit(CStr::from_ptr(*variable).to_bytes());
                variable = variable.add(1);
            }
        }
    }

    fn fence_all() -> bool {
        // Relaxed, both: what is forbidden stays so.
        if NO_FENCE.load(Ordering::Relaxed) != 0 {
            return false;
        }
        // A process registers once. Its children need not.
        let is_done = match membarrier(FENCE) {
            Err(libc::EPERM) => membarrier(REGISTER).and_then(|_| membarrier(FENCE)),
            other => other,
        }
        .is_ok();
        if !is_done {
            NO_FENCE.store(1, Ordering::Relaxed);
        }
        is_done
    }

    fn is_last_thread() -> bool {
        let mut first = [0; 1];
        // A first thread that has ended is still listed, but its `exe` is gone.
        // SAFETY: the path is a C string; at most `first.len()` bytes are written; `errno` is this thread's.
        let first_thread_lives = calling_out(|| unsafe {
            libc::readlink(c"/proc/self/exe".as_ptr(), first.as_mut_ptr(), first.len()) >= 0
                || *libc::__errno_location() != libc::ENOENT
        });
        if first_thread_lives {
            return false;
        }
        // The first thread's place and this one's.
        Self::thread_count() == 2
    }

    fn thread_count() -> usize {
        // SAFETY: all zeros are a valid `stat`.
        let mut list = unsafe { core::mem::zeroed::<libc::stat>() };
        let path = c"/proc/self/task".as_ptr().expose_provenance();
        let arguments = [libc::AT_FDCWD as usize, path, (&raw mut list).expose_provenance(), 0];
        // SAFETY: the path is a C string; writes `list`, which is the kernel's on both architectures.
        let is_known = unsafe { kernel::call(libc::SYS_newfstatat, arguments) }.is_ok();
        // A directory has two links and one per subdirectory.
        if is_known { (list.st_nlink as usize).saturating_sub(2) } else { 0 }
    }

    fn process_id() -> u32 {
        // SAFETY: no precondition.
        unsafe { kernel::call(libc::SYS_getpid, []) }.unwrap_or(0) as u32
    }

    fn is_on_first_stack() -> bool {
        libc_inside::is_on_first_stack(random_bytes)
    }

    fn begin_fork() {
        // Relaxed, both: the caller holds every lock, so no other thread is here.
        FORKER.store(Self::this_thread(), Ordering::Relaxed);
        FORK_DEPTH.fetch_add(1, Ordering::Relaxed);
    }

    fn end_fork() {
        // Relaxed, both: the caller holds every lock, so no other thread is here.
        if FORK_DEPTH.fetch_sub(1, Ordering::Relaxed) == 1 {
            FORKER.store(0, Ordering::Relaxed);
        }
    }

    fn write_error(text: &[u8]) {
        let arguments = [libc::STDERR_FILENO as usize, text.as_ptr().expose_provenance(), text.len()];
        // SAFETY: reads `text`. Errors have nowhere to go.
        let _ = unsafe { kernel::call(libc::SYS_write, arguments) };
    }

    fn exit(status: u8) -> ! {
        // SAFETY: ends the process.
        let _ = unsafe { kernel::call(libc::SYS_exit_group, [usize::from(status)]) };
        Self::abort()
    }

    fn abort() -> ! {
        // SAFETY: no precondition.
        unsafe { libc::abort() }
    }
}
