//! Advice: what the kernel's advice on memory does here. Its first use is a trial, before it is trusted.
//!
//! ```text
//! to empty pages   unknown ── write a byte, advise, read it ──→ trusted: the byte is gone, or ignored: it is still there
//! to guard them    unknown ── advise, have the kernel read ──→ trusted: it can't, or ignored: it can
//! ```
//!
//! An emulator (qemu-user) or a sandbox may answer 0 to advice that it does not carry out, and what was to be emptied
//! still holds what it held. Callers hold no lock, restore `errno`, and own the pages, whose contents nobody needs.
//!
//! Guards by mprotect(2) split mappings, of which a process may have `vm.max_map_count`. They take at most a quarter of
//! those: the rest is the program's.
//!
//! Sources: madvise(2), mprotect(2), futex(2), proc_sys_vm(5).

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::kernel;
use crate::platform::os::NotMapped;
use crate::platform::system_page;
use crate::platform::units::PAGE_BYTES;
use core::ffi::c_int;
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// What is known. Relaxed, all accesses: a thread that removes a guard got the pages after it was made, and sees its bit.
static KNOWN: AtomicU32 = AtomicU32::new(0);
/// `MADV_DONTNEED` empties pages; or it is ignored.
const DONTNEED: Tried = Tried { advice: libc::MADV_DONTNEED, trusted: 1, ignored: 2 };
/// `MADV_DONTNEED_LOCKED` empties locked pages; or it is ignored. Refused before Linux 5.18.
const DONTNEED_LOCKED: Tried = Tried { advice: 24, trusted: 4, ignored: 8 };
/// Some guards were made by `MADV_GUARD_INSTALL` (Linux 6.13), which leaves mappings whole.
const BY_MADVISE: u32 = 16;
/// Some were made by mprotect(2).
const BY_MPROTECT: u32 = 32;
/// The kernel does not know the guards' advice, or ignores it.
const NO_GUARD_ADVICE: u32 = 64;
/// mprotect(2) is forbidden, as by a filter.
const NO_MPROTECT: u32 = 128;

/// linux/mman.h.
const GUARD_INSTALL: c_int = 102;
const GUARD_REMOVE: c_int = 103;
/// linux/mman.h: advice that locked memory refuses, and mremap(2)'s way to leave the old place mapped.
pub const COLD: c_int = 20;
pub const DONT_UNMAP: c_int = 4;

/// Guards by mprotect(2) that there are, of a process.
static SPLITS: AtomicUsize = AtomicUsize::new(0);
/// The most of them; 0 until it is read.
static MOST_SPLITS: AtomicUsize = AtomicUsize::new(0);
/// Chosen: what other allocators, thread stacks and libraries need most of.
const SHARE: usize = 4;
/// A guard in the middle of a mapping makes three of one.
const MAPPINGS_PER_GUARD: usize = 2;
/// The kernel's default, which it counts so that a core file has room for them.
const DEFAULT_MAPPINGS: usize = 65530;

/// Advice that empties pages, and the bits of what is known of it.
#[derive(Clone, Copy)]
struct Tried {
    advice: c_int,
    trusted: u32,
    ignored: u32,
}

fn known() -> u32 {
    KNOWN.load(Ordering::Relaxed)
}

fn learn(bit: u32) {
    if known() & bit == 0 {
        KNOWN.fetch_or(bit, Ordering::Relaxed);
    }
}

/// The `errno` of a call that returned `result`.
fn outcome(result: c_int) -> Result<(), c_int> {
    if result == 0 {
        return Ok(());
    }
    // SAFETY: this thread's `errno`.
    Err(unsafe { *libc::__errno_location() })
}

/// Whether `error` tells of a rule, such as a filter's, and not of want or of these pages.
fn is_rule(error: c_int) -> bool {
    !matches!(error, libc::ENOMEM | libc::EAGAIN | libc::EINVAL | libc::EFAULT)
}

/// # Safety
/// As for madvise(2).
unsafe fn advise(start: NonNull<u8>, bytes: usize, advice: c_int) -> Result<(), c_int> {
    // SAFETY: the caller vouches for the range.
    outcome(unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) })
}

/// # Safety
/// The caller owns the range.
unsafe fn protect(start: NonNull<u8>, bytes: usize, protection: c_int) -> Result<(), c_int> {
    // SAFETY: the caller vouches for the range.
    outcome(unsafe { libc::mprotect(start.as_ptr().cast(), bytes, protection) }).inspect_err(|&error| {
        if is_rule(error) {
            learn(NO_MPROTECT);
        }
    })
}

const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// # Safety
/// The caller owns the range, writable and in whole pages, and needs no contents.
unsafe fn empty_by(tried: Tried, start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller owns the range and needs no contents; advice of this kind leaves pages accessible.
    unsafe {
        let act = || advise(start, bytes, tried.advice).is_ok();
        let known = known();
        if known & tried.trusted != 0 {
            return act();
        }
        if known & tried.ignored != 0 {
            return false;
        }
        // Volatile, both: the kernel changes the byte in between.
        start.write_volatile(1);
        if !act() {
            return false;
        }
        let is_empty = start.read_volatile() == 0;
        learn(if is_empty { tried.trusted } else { tried.ignored });
        is_empty
    }
}

/// Empties the pages, which then read as zero. False if the system refuses, as for locked memory, or only pretends.
///
/// # Safety
/// The caller owns the range, writable and in whole pages, and needs no contents.
pub unsafe fn give_back(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's own promise.
    unsafe { empty_by(DONTNEED, start, bytes) }
}

/// As [`Os::guard`](crate::platform::os::Os::guard).
///
/// # Safety
/// The caller owns the range, writable and in whole pages, and needs no contents.
pub unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller owns the range and needs no contents.
    unsafe {
        if known() & NO_GUARD_ADVICE == 0 {
            // Libraries that must hear of pages that go away (UCX) know this advice, and not the guards'. Those empty
            // pages by themselves.
            let _ = advise(start, bytes, libc::MADV_DONTNEED);
            if let Some(is_guarded) = guard_by_advice(start, bytes) {
                return is_guarded;
            }
        }
        // The former is refused for locked memory.
        if !give_back(start, bytes) && !empty_by(DONTNEED_LOCKED, start, bytes) {
            return false;
        }
        // A freed block's last page is guarded, and counted, already.
        let is_counted = known() & BY_MPROTECT != 0 && is_readable(start.add(bytes - PAGE_BYTES)) == Some(false);
        if !is_counted && !claim_split() {
            return false;
        }
        // Some pages may have lost access and can't be opened again: then all count as guarded.
        let is_done = match protect(start, bytes, libc::PROT_NONE) {
            Ok(()) => true,
            Err(error) => !is_rule(error) && protect(start, bytes, READ_WRITE).is_err(),
        };
        if is_done {
            learn(BY_MPROTECT);
        } else if !is_counted {
            give_split_up();
        }
        is_done
    }
}

/// `None` where it takes mprotect(2): the advice is unknown or ignored, or the memory locked.
///
/// # Safety
/// As for [`guard`].
unsafe fn guard_by_advice(start: NonNull<u8>, bytes: usize) -> Option<bool> {
    // SAFETY: the caller owns the range and needs no contents.
    unsafe {
        let is_trusted = known() & BY_MADVISE != 0;
        match advise(start, bytes, GUARD_INSTALL) {
            Ok(()) if is_trusted => Some(true),
            Ok(()) if is_readable(start) == Some(false) => {
                learn(BY_MADVISE);
                Some(true)
            }
            Ok(()) => {
                learn(NO_GUARD_ADVICE);
                let _ = advise(start, bytes, GUARD_REMOVE);
                None
            }
            // Unknown advice; if it has worked before, the memory is locked. Or it is forbidden.
            Err(error) if error == libc::EINVAL || is_rule(error) => {
                if !is_trusted {
                    learn(NO_GUARD_ADVICE);
                }
                None
            }
            Err(_) => {
                // Without memory it stops midway. Removal needs none.
                let _ = advise(start, bytes, GUARD_REMOVE);
                Some(false)
            }
        }
    }
}

/// As [`Os::unguard`](crate::platform::os::Os::unguard).
///
/// # Safety
/// The caller owns the range, which [`guard`] has guarded whole.
pub unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
    let known = known();
    // SAFETY: the caller owns the range, whose pages hold nothing.
    unsafe {
        if known & BY_MADVISE != 0 {
            match advise(start, bytes, GUARD_REMOVE) {
                Ok(()) if known & BY_MPROTECT == 0 || is_open(start, bytes) => return true,
                Ok(()) => {}
                Err(error) => return is_rule(error) && renew(start, bytes, READ_WRITE),
            }
        }
        if known & BY_MPROTECT == 0 {
            return true;
        }
        let is_open = match protect(start, bytes, READ_WRITE) {
            Ok(()) => true,
            Err(error) => is_rule(error) && renew(start, bytes, READ_WRITE),
        };
        if is_open {
            give_split_up();
        }
        is_open
    }
}

/// Puts fresh pages in the place of others, for want of a way to open those.
///
/// # Safety
/// The caller owns the range, in whole pages, which hold nothing.
pub unsafe fn renew(start: NonNull<u8>, bytes: usize, protection: c_int) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the caller owns the range, and nothing is lost with it.
    unsafe { libc::mmap(start.as_ptr().cast(), bytes, protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Makes reserved pages usable. False if the system refuses.
///
/// # Safety
/// The caller owns the range, in whole pages of one reservation.
pub unsafe fn open(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller owns the range; contents stay. The last page lies in it.
    unsafe {
        match protect(start, bytes, READ_WRITE) {
            Ok(()) => true,
            // It may be open already, by an earlier commit.
            Err(error) => is_rule(error) && is_writable(start.add(bytes - PAGE_BYTES)) == Some(true),
        }
    }
}

/// As [`Os::map_at`](crate::platform::os::Os::map_at). Not accounted for: fork(2) refuses to copy an accounted mapping that
/// exceeds memory and swap.
pub fn map_at(start: usize, bytes: usize, follows: bool) -> Result<NonNull<u8>, NotMapped> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let wanted = with_exposed_provenance_mut::<u8>(start);
    // SAFETY: replaces nothing. Before Linux 4.17 the address is a hint.
    let (mapped, error) =
        unsafe { (libc::mmap(wanted.cast(), bytes, READ_WRITE, flags, -1, 0), *libc::__errno_location()) };
    if mapped == libc::MAP_FAILED {
        return match error {
            libc::EEXIST => Err(NotMapped::Taken),
            _ if follows => stretch(start, bytes).ok_or(NotMapped::Refused),
            _ => Err(NotMapped::Refused),
        };
    }
    if mapped.addr() != start {
        // SAFETY: the new mapping, which nothing uses. A refusal costs address space.
        unsafe { libc::munmap(mapped, bytes) };
        return Err(NotMapped::Taken);
    }
    NonNull::new(mapped.cast()).ok_or(NotMapped::Refused)
}

/// Makes the mapping that ends at `start`, the caller's, longer by `bytes`: allowed also to a process that has all mappings
/// that it may have. `None` if refused, or if the last page was made inaccessible, as a guard is.
fn stretch(start: usize, bytes: usize) -> Option<NonNull<u8>> {
    let last_bytes = system_page::bytes();
    let last = with_exposed_provenance_mut::<libc::c_void>(start - last_bytes);
    // SAFETY: the last page is the caller's; it stays where it is, and replaces nothing behind it.
    let mapped = unsafe { libc::mremap(last, last_bytes, last_bytes + bytes, 0) };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    let added = NonNull::new(with_exposed_provenance_mut::<u8>(start))?;
    if is_writable(added) == Some(true) {
        return Some(added);
    }
    // SAFETY: what was added, which nothing uses. A refusal costs address space.
    unsafe { libc::munmap(added.as_ptr().cast(), bytes) };
    None
}

/// Whether the page at `start` can be read; `None` if the kernel does not say.
fn is_readable(start: NonNull<u8>) -> Option<bool> {
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel reads the word and checks its address; it waits no time.
    unsafe { can_reach([start.as_ptr().expose_provenance(), WAIT, 0, (&raw const no_time).expose_provenance()]) }
}

/// Whether the first and the last page can be read: one of them may have been guarded in another way, before.
///
/// # Safety
/// The range lies in one mapping or reservation, in whole pages.
unsafe fn is_open(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the last page is one of the range.
    let last = unsafe { start.add(bytes - PAGE_BYTES) };
    is_readable(start) == Some(true) && is_readable(last) == Some(true)
}

/// Whether the page at `start` can be written; `None` if the kernel does not say.
fn is_writable(start: NonNull<u8>) -> Option<bool> {
    let page = start.as_ptr().expose_provenance();
    // SAFETY: the kernel checks the address and adds 0 to the word, in one step; nobody is woken.
    unsafe { can_reach([(&raw const KNOWN).expose_provenance(), WAKE_OP, 0, 0, page, ADD_NOTHING]) }
}

const WAIT: usize = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
const WAKE_OP: usize = (libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG) as usize;
/// linux/futex.h: `FUTEX_OP_ADD` in the top four bits, with operand 0 and a comparison that decides nothing.
const ADD_NOTHING: usize = 1 << 28;

/// Whether a futex(2) call reaches the word that it is given; `None` if the kernel does not say.
///
/// # Safety
/// As for futex(2) with these arguments.
unsafe fn can_reach<const N: usize>(arguments: [usize; N]) -> Option<bool> {
    // SAFETY: the caller vouches for the arguments.
    match unsafe { kernel::call(libc::SYS_futex, arguments) } {
        Ok(_) | Err(libc::EAGAIN | libc::ETIMEDOUT | libc::EINTR) => Some(true),
        Err(libc::EFAULT) => Some(false),
        Err(_) => None,
    }
}

/// Counts one more guard by mprotect(2). False if there are as many as may be.
fn claim_split() -> bool {
    let most = most_splits();
    // Relaxed: a count.
    SPLITS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}

fn give_split_up() {
    // Relaxed: a count.
    let _ = SPLITS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
}

fn most_splits() -> usize {
    // Relaxed, both: every thread reads the same.
    match MOST_SPLITS.load(Ordering::Relaxed) {
        0 => {
            let mut text = [0; 20];
            let digits = kernel::read_file(c"/proc/sys/vm/max_map_count", &mut text).unwrap_or(&[]);
            let most = (mappings_in(digits).unwrap_or(DEFAULT_MAPPINGS) / SHARE / MAPPINGS_PER_GUARD).max(1);
            MOST_SPLITS.store(most, Ordering::Relaxed);
            most
        }
        most => most,
    }
}

fn mappings_in(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<usize>, byte| {
        Some(number.unwrap_or(0).saturating_mul(10).saturating_add(usize::from(byte - b'0')))
    })
}

/// Makes each call once that may come late in a process's life, without effect: who watches a program's first second to
/// learn what it may call then sees all of them.
pub fn ask() {
    let nowhere = null_mut::<u8>().addr();
    // Nobody waits for it.
    let wake = [(&raw const KNOWN).expose_provenance(), (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize, 0];
    // SAFETY: no pages, no threads and no mapping: nothing changes.
    unsafe {
        for advice in [libc::MADV_DONTNEED, DONTNEED_LOCKED.advice, COLD] {
            let _ = kernel::call(libc::SYS_madvise, [nowhere, 0, advice as usize]);
        }
        let _ = kernel::call(libc::SYS_futex, wake);
        for flags in [libc::MREMAP_MAYMOVE, libc::MREMAP_MAYMOVE | DONT_UNMAP] {
            let _ = kernel::call(libc::SYS_mremap, [nowhere, 0, 0, flags as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_its_first_digits() {
        assert_eq!(mappings_in(b"65530\n"), Some(65530));
        assert_eq!((mappings_in(b""), mappings_in(b"\n1")), (None, None));
        assert_eq!(mappings_in(b"99999999999999999999"), Some(usize::MAX));
        assert!(most_splits() > 0);
    }

    #[test]
    fn the_kernel_says_whether_a_page_can_be_read() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping of two pages.
        let page = unsafe { libc::mmap(null_mut(), 2 * PAGE_BYTES, READ_WRITE, flags, -1, 0) };
        let page =
            NonNull::new(page.cast::<u8>()).filter(|page| page.as_ptr().cast() != libc::MAP_FAILED).expect("pages");
        assert_eq!(is_readable(page), Some(true));
        // SAFETY: this test's pages, of which nothing is needed; the mapping is given up last.
        unsafe {
            page.write_bytes(7, 2 * PAGE_BYTES);
            assert!(give_back(page, 2 * PAGE_BYTES));
            assert_eq!(page.read(), 0);
            assert!(guard(page.add(PAGE_BYTES), PAGE_BYTES));
            assert_eq!((is_readable(page), is_readable(page.add(PAGE_BYTES))), (Some(true), Some(false)));
            assert!(unguard(page.add(PAGE_BYTES), PAGE_BYTES));
            assert_eq!(page.add(PAGE_BYTES).read(), 0);
            assert_eq!(libc::munmap(page.as_ptr().cast(), 2 * PAGE_BYTES), 0);
        }
    }
}
