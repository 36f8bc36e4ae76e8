//! Page: the shared statistics page, by which other processes watch this one (`HZ3_STATS_PAGE`).
//!
//! ```text
//! none ── constructor ──→ page ── exit ──→ marked as ended, file removed
//!  ↑                        └─ fork, in the child: unmapped
//!  └── next tick in a child whose page has a name of its own: page
//! ```
//!
//! Slow paths that check the clock take snapshots: at most four a second, and for a sixty-fourth of the time. They
//! count into private memory, under one lock at a time, and then copy, so that readers retry for microseconds only.
//! They allocate nothing, and run on a stack of their own. Calls about files bypass the C library, whose functions are
//! cancellation points: `malloc` must be none. What else is called may be another library's, and allocate or fork while a
//! page is made: it finds `busy` set.
//!
//! Outside rules: open(2), stat(2), kill(2), mmap(2), pthreads(7) (cancellation points), fork(2).

use crate::output::{self, Name, last_error};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_long};
use core::ptr::null_mut;
use hz3_core::Lane;
use hz3_core::observe::stats::{BinStats, collect_with_bins};
use hz3_core::observe::stats_page::{self, BYTES, ENDED, HEAD_WORDS, Head, SEQUENCE, SNAPSHOT_WORDS, STATE, Timing};
use hz3_core::pages::bins::BINS;
use hz3_core::platform::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use hz3_core::platform::clock;
use hz3_core::platform::kernel;
use hz3_core::platform::linux::vdso;
use hz3_core::platform::own_stack::{self, Signals};
use hz3_core::platform::seqlock;
use hz3_core::platform::units::{Bin, elapsed_ms};
use hz3_core::record::observer::Event;

/// Least milliseconds between two snapshots.
const PAUSE_MS: u32 = 250;
/// The pause is at least this many times as long as counting took.
const PAUSE_FACTOR: u64 = 64;
const WORDS: usize = HEAD_WORDS + SNAPSHOT_WORDS;

/// Private memory to prepare a snapshot.
struct Draft {
    bins: [BinStats; BINS],
    words: [u64; SNAPSHOT_WORDS],
    number: u64,
}

struct Page {
    /// The mapping, [`WORDS`] long; null without a page.
    words: AtomicPtr<AtomicU64>,
    /// Id of the process that the page belongs to.
    process: AtomicU32,
    /// Identity of the file, so that no other file of its name is removed.
    device: AtomicU64,
    inode: AtomicU64,
    /// Time of the last snapshot, and the pause after it, in milliseconds.
    last_ms: AtomicU32,
    pause_ms: AtomicU32,
    /// The thread that takes a snapshot, by the address of its `errno`, or 0. Not 0 forever after the page has ended.
    busy: AtomicUsize,
    /// Sync: the thread that has set `busy`.
    draft: UnsafeCell<Draft>,
}

// SAFETY: only the thread that has set `busy` reaches the draft; the rest is atomic.
unsafe impl Sync for Page {}

const NO_BIN: BinStats = BinStats { slot_bytes: 0, span_bytes: 0, slots: 0, out: 0, in_threads: 0, in_depots: 0 };

static PAGE: Page = Page {
    words: AtomicPtr::new(null_mut()),
    process: AtomicU32::new(0),
    device: AtomicU64::new(0),
    inode: AtomicU64::new(0),
    last_ms: AtomicU32::new(0),
    pause_ms: AtomicU32::new(0),
    busy: AtomicUsize::new(0),
    draft: UnsafeCell::new(Draft { bins: [NO_BIN; BINS], words: [0; SNAPSHOT_WORDS], number: 0 }),
};

/// Makes the page if the environment asks for it. Called by the constructor, while there is one thread.
pub fn begin_if_wanted<L: Lane>() {
    let options = L::allocator().read_options();
    if !options.stats_page().is_none() {
        keeping_errno(|| {
            // Relaxed: later threads start after it.
            PAGE.process.store(own_process(), Ordering::Relaxed);
            if own_stack::call(Signals::Wait, publish::<L>) == Some(true) {
                L::allocator().observer.begin(on_event::<L>);
            }
        });
    }
}

/// At exit: takes the last snapshot and removes the file. `_exit`, `quick_exit`, exec and signals leave it behind.
pub fn end_at_exit<L: Lane>() {
    // Relaxed, both: `words` is only tested for null; `process` was written before this thread started.
    if PAGE.words.load(Ordering::Relaxed).is_null() || PAGE.process.load(Ordering::Relaxed) != own_process() {
        return;
    }
    L::allocator().observer.end();
    keeping_errno(|| own_stack::call(Signals::Wait, end::<L>));
}

fn end<L: Lane>() {
    // Stays set: later ticks do nothing, and a busy thread's snapshot is last.
    if set_busy() && publish::<L>() {
        // SAFETY: the mapping has the word, and only a forked child unmaps its page. Relaxed: this thread has set
        // `busy`.
        let state = unsafe { &*PAGE.words.load(Ordering::Relaxed).add(STATE) };
        // Release: publishes the last snapshot. Pairs with the reader's Acquire load.
        state.store(ENDED, Ordering::Release);
    }
    if let Ok(name) = Name::of(L::allocator().options().stats_page())
        && let Ok(name) = name.as_c_str()
        && is_own_file(name)
    {
        unlink(name);
    }
}

/// Makes the calling thread the busy one; false if there is one already.
fn set_busy() -> bool {
    // Acquire: pairs with the Release in `on_tick`; the draft is complete. Relaxed on failure: nothing is read.
    PAGE.busy.compare_exchange(0, this_thread(), Ordering::Acquire, Ordering::Relaxed).is_ok()
}

fn this_thread() -> usize {
    // SAFETY: no precondition.
    unsafe { libc::__errno_location() }.addr()
}

fn on_event<L: Lane>(event: Event) {
    match event {
        Event::Tick(now_ms) => on_tick::<L>(now_ms),
        Event::Forked => keeping_errno(on_fork::<L>),
    }
}

fn on_tick<L: Lane>(now_ms: u32) {
    // Relaxed, both: any recent value does; `busy` admits one thread.
    let last_ms = PAGE.last_ms.load(Ordering::Relaxed);
    if elapsed_ms(last_ms, now_ms) < PAGE.pause_ms.load(Ordering::Relaxed)
        // A child of vfork or a bare clone has run no fork handler and shares memory or the page. Relaxed: written
        // before this thread started.
        || PAGE.process.load(Ordering::Relaxed) != own_process()
        || !set_busy()
    {
        return;
    }
    if keeping_errno(|| own_stack::call(Signals::Wait, publish::<L>)) != Some(true) {
        L::allocator().observer.end();
    }
    // Release: publishes the draft. Pairs with the Acquire in `set_busy`.
    PAGE.busy.store(0, Ordering::Release);
}

/// Drops the parent's page. The child makes its own at its next tick: most children exec first, and a page would stay.
fn on_fork<L: Lane>() {
    // Relaxed, all: the child has one thread, and others start after it.
    let words = PAGE.words.swap(null_mut(), Ordering::Relaxed);
    if !words.is_null() {
        unmap(words);
    }
    if !L::allocator().options().stats_page().names_process() {
        L::allocator().observer.end();
        return;
    }
    PAGE.process.store(own_process(), Ordering::Relaxed);
    PAGE.pause_ms.store(0, Ordering::Relaxed);
    // The parent's busy thread is not in the child, unless it forked in the middle of its snapshot: then it goes on.
    if PAGE.busy.load(Ordering::Relaxed) != this_thread() {
        PAGE.busy.store(0, Ordering::Relaxed);
    }
}

/// Takes a snapshot; makes a missing page. False, after a warning, if that fails. The calling thread has set `busy` or
/// is the only one.
fn publish<L: Lane>() -> bool {
    // SAFETY: the calling thread has set `busy` or is the only one, so nothing else refers to the draft.
    let draft = unsafe { &mut *PAGE.draft.get() };
    // Relaxed, here and below: only the thread that has set `busy` writes these.
    let mut words = PAGE.words.load(Ordering::Relaxed);
    if words.is_null() {
        let process = own_process();
        words = match create::<L>() {
            Ok(words) => words,
            Err(error) => {
                let options = L::allocator().options();
                output::cannot(options, b"HZ3_STATS_PAGE: the page can't be made", error, options.stats_page());
                return false;
            }
        };
        if own_process() != process {
            // A call in there forked. This is the child, and the page is the parent's.
            unmap(words);
            on_fork::<L>();
            return true;
        }
        draft.number = 0;
        PAGE.words.store(words, Ordering::Relaxed);
    }
    // From here on nothing is called outside, where it might fork: the child would have no page.
    let begin_us = now_us(libc::CLOCK_MONOTONIC);
    let stats = collect_with_bins::<L>(&mut draft.bins);
    draft.number += 1;
    let took_us = now_us(libc::CLOCK_MONOTONIC).wrapping_sub(begin_us);
    let pause_ms = u64::from(PAUSE_MS).max(took_us * PAUSE_FACTOR / 1000).min(u64::from(u32::MAX));
    let taken_ms = now_us(libc::CLOCK_BOOTTIME) / 1000;
    let timing = Timing { number: draft.number, taken_ms, took_us, pause_ms };
    let heat = |bin| L::allocator().exchange.heat.counts(Bin(bin as u8));
    stats_page::write(&mut draft.words, timing, &stats, &draft.bins, heat);
    // SAFETY: the mapping has `WORDS` words, and stays while this thread is busy.
    let words = unsafe { core::slice::from_raw_parts(words, WORDS) };
    if let (Some(count), Some(snapshot)) = (words.get(SEQUENCE), words.get(HEAD_WORDS..)) {
        seqlock::write(count, snapshot, &draft.words);
    }
    PAGE.pause_ms.store(pause_ms as u32, Ordering::Relaxed);
    PAGE.last_ms.store(<L::Os as hz3_core::platform::os::Os>::now_ms(), Ordering::Relaxed);
    true
}

fn create<L: Lane>() -> Result<*mut AtomicU64, c_int> {
    let name = Name::of(L::allocator().options().stats_page())?;
    let name = name.as_c_str()?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // A write beyond the limit raises a signal. SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0 && limit.rlim_cur < BYTES as u64 {
        return Err(libc::EFBIG);
    }
    let made = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let file = match open(name, made) {
        Err(libc::EEXIST) if is_left_over(name) => {
            unlink(name);
            open(name, made)
        }
        outcome => outcome,
    }?;
    let words = fill_and_map::<L>(file);
    close(file);
    if words.is_err() {
        unlink(name);
    }
    words
}

/// Fills the whole file first: touching a page that the file system has no room for raises a signal.
fn fill_and_map<L: Lane>(file: usize) -> Result<*mut AtomicU64, c_int> {
    static ZEROS: [u64; BYTES / size_of::<u64>()] = [0; BYTES / size_of::<u64>()];
    let created_ms = now_us(libc::CLOCK_BOOTTIME) / 1000;
    // Relaxed: written before this thread started.
    let head = Head::new(u64::from(PAGE.process.load(Ordering::Relaxed)), L::NAME, created_ms).words();
    write_at_start(file, &ZEROS)?;
    write_at_start(file, &head)?;
    let status = status_of(file)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping, at an address of the kernel's choice.
    let words = unsafe { libc::mmap(null_mut(), BYTES, access, libc::MAP_SHARED, file as c_int, 0) };
    if words == libc::MAP_FAILED {
        return Err(last_error());
    }
    // Relaxed: only the thread that has set `busy` writes these.
    PAGE.device.store(status.st_dev, Ordering::Relaxed);
    PAGE.inode.store(status.st_ino, Ordering::Relaxed);
    Ok(words.cast())
}

/// Whether the file is this user's page of a process that is gone, or has become this one by exec.
fn is_left_over(name: &CStr) -> bool {
    let Ok(file) = open(name, libc::O_RDONLY | libc::O_NONBLOCK) else { return false };
    let mut words = [0_u64; HEAD_WORDS];
    let destination = words.as_mut_ptr().expose_provenance();
    // SAFETY: no preconditions.
    let user = unsafe { kernel::call(libc::SYS_geteuid, []) };
    let is_users = status_of(file).is_ok_and(|status| {
        status.st_mode & libc::S_IFMT == libc::S_IFREG && user == Ok(status.st_uid as usize)
    })
        // SAFETY: `words` is writable and has that many bytes.
        && unsafe { kernel::call(libc::SYS_pread64, [file, destination, size_of_val(&words), 0]) }
            == Ok(size_of_val(&words));
    close(file);
    let process = words.get(stats_page::PROCESS).and_then(|&process| c_int::try_from(process).ok());
    let is_gone = |process: c_int| {
        process.cast_unsigned() == own_process()
            // SAFETY: signal 0 only tests for the process.
            || unsafe { kernel::call(libc::SYS_kill, [process as usize, 0]) } == Err(libc::ESRCH)
    };
    is_users
        && words.first() == Some(&stats_page::MAGIC)
        && process.is_some_and(|process| process > 0 && is_gone(process))
}

fn is_own_file(name: &CStr) -> bool {
    let status =
        stat(libc::SYS_newfstatat, |out| [AT_FDCWD, name.as_ptr().expose_provenance(), out, AT_SYMLINK_NOFOLLOW]);
    // Relaxed, both: written before `words`; a stale value only keeps the file.
    let own = (PAGE.device.load(Ordering::Relaxed), PAGE.inode.load(Ordering::Relaxed));
    status.is_ok_and(|status| (status.st_dev, status.st_ino) == own)
}

const AT_FDCWD: usize = libc::AT_FDCWD as usize;
const AT_SYMLINK_NOFOLLOW: usize = libc::AT_SYMLINK_NOFOLLOW as usize;

fn open(name: &CStr, flags: c_int) -> Result<usize, c_int> {
    let flags = (flags | libc::O_NOFOLLOW | libc::O_CLOEXEC) as usize;
    // SAFETY: `name` is a C string. 0o600: a fresh file is the user's alone.
    unsafe { kernel::call(libc::SYS_openat, [AT_FDCWD, name.as_ptr().expose_provenance(), flags, 0o600]) }
}

fn close(file: usize) {
    // SAFETY: the caller owns the descriptor and does not use it again.
    let _ = unsafe { kernel::call(libc::SYS_close, [file]) };
}

fn unlink(name: &CStr) {
    // SAFETY: `name` is a C string.
    let _ = unsafe { kernel::call(libc::SYS_unlinkat, [AT_FDCWD, name.as_ptr().expose_provenance(), 0]) };
}

fn status_of(file: usize) -> Result<libc::stat, c_int> {
    stat(libc::SYS_fstat, |out| [file, out, 0, 0])
}

/// `arguments` gets the address for the result. Outside rule: the kernel's `stat` is libc's on both architectures.
fn stat(number: c_long, arguments: impl FnOnce(usize) -> [usize; 4]) -> Result<libc::stat, c_int> {
    // SAFETY: all zeros are a valid `stat`, which is writable.
    unsafe {
        let mut status = core::mem::zeroed::<libc::stat>();
        kernel::call(number, arguments((&raw mut status).expose_provenance())).map(|_| status)
    }
}

fn write_at_start(file: usize, words: &[u64]) -> Result<(), c_int> {
    let (start, bytes) = (words.as_ptr().expose_provenance(), size_of_val(words));
    // SAFETY: `words` has that many bytes.
    match unsafe { kernel::call(libc::SYS_pwrite64, [file, start, bytes, 0]) } {
        Ok(written) if written == bytes => Ok(()),
        Ok(_) => Err(libc::ENOSPC),
        Err(error) => Err(error),
    }
}

/// The calling process gives up its mapping, of `BYTES` bytes, which nothing refers to any more.
fn unmap(words: *mut AtomicU64) {
    // SAFETY: the caller gives it up.
    unsafe { libc::munmap(words.cast(), BYTES) };
}

fn own_process() -> u32 {
    // SAFETY: no preconditions.
    unsafe { kernel::call(libc::SYS_getpid, []) }.map_or(0, |process| process as u32)
}

fn now_us(clock: libc::clockid_t) -> u64 {
    let now = clock::now(clock, vdso);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// `free` must keep `errno`.
fn keeping_errno<T>(body: impl FnOnce() -> T) -> T {
    let errno = last_error();
    let result = body();
    // SAFETY: this thread's `errno`.
    unsafe { *libc::__errno_location() = errno };
    result
}
