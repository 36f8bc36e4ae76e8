//! Page: the shared statistics page, through which another process watches this one (`HZ3_STATS_PAGE`).
//!
//! ```text
//! none ── constructor ──→ page ── exit ──→ marked as ended, file removed
//!  ↑                        └─ fork, in the child: unmapped
//!  └── next tick in a child whose page has a name of its own: page
//! ```
//!
//! A thread that looks at the clock on a slow path counts and writes, at most four times a second and for at most a
//! sixty-fourth of the time; others that come meanwhile pass by. It counts into memory of the library's own, under one
//! lock of the allocator's at a time, and then copies, so that readers find the page in writing for microseconds.
//! It allocates nothing and opens no file then, but for the first time in a forked child. The calls to the system that
//! make the file go past the C library's functions, which are cancellation points: `malloc` is none.
//!
//! Outside rules: open(2), mmap(2), pthreads(7) (cancellation points), fork(2).

use crate::output::{Name, last_error};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_long};
use core::ptr::null_mut;
use hz3_core::Lane;
use hz3_core::observe::stats::{BinStats, collect_with_bins};
use hz3_core::observe::stats_page::{self, BYTES, ENDED, HEAD_WORDS, Head, SEQUENCE, SNAPSHOT_WORDS, STATE, Taking};
use hz3_core::pages::bins::BINS;
use hz3_core::platform::abort;
use hz3_core::platform::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use hz3_core::platform::linux::Linux;
use hz3_core::platform::seqlock;
use hz3_core::platform::units::{Bin, elapsed_ms};
use hz3_core::record::observer::Event;

/// Milliseconds between two snapshots, at least.
const PAUSE_MS: u32 = 250;
/// Counting takes at most this part of the time: the pause is that many times as long as it took.
const SHARE: u64 = 64;
const WORDS: usize = HEAD_WORDS + SNAPSHOT_WORDS;

/// Where snapshots are made.
struct Draft {
    bins: [BinStats; BINS],
    words: [u64; SNAPSHOT_WORDS],
    number: u64,
}

/// The process's page.
struct Page {
    /// The mapping, [`WORDS`] long; null while there is none.
    words: AtomicPtr<AtomicU64>,
    /// The process that it is of.
    process: AtomicU32,
    /// Which file it is, so that another one of its name is not removed.
    device: AtomicU64,
    inode: AtomicU64,
    /// When the last snapshot was taken, and how long the pause after it is, in milliseconds.
    last_ms: AtomicU32,
    pause_ms: AtomicU32,
    /// 1 while a thread takes a snapshot, and for ever once the page has ended.
    busy: AtomicU32,
    /// Sync: the thread that has set `busy`.
    draft: UnsafeCell<Draft>,
}

// SAFETY: the draft is reached only by the thread that has set `busy`; the rest is atomic.
unsafe impl Sync for Page {}

const NO_BIN: BinStats = BinStats { slot_bytes: 0, span_bytes: 0, slots: 0, out: 0, in_threads: 0, in_depots: 0 };

static PAGE: Page = Page {
    words: AtomicPtr::new(null_mut()),
    process: AtomicU32::new(0),
    device: AtomicU64::new(0),
    inode: AtomicU64::new(0),
    last_ms: AtomicU32::new(0),
    pause_ms: AtomicU32::new(0),
    busy: AtomicU32::new(0),
    draft: UnsafeCell::new(Draft { bins: [NO_BIN; BINS], words: [0; SNAPSHOT_WORDS], number: 0 }),
};

/// Makes the page where the environment asks for one. Called by the library's constructor, in the process's one thread.
pub fn begin_if_wanted<L: Lane>() {
    let options = L::allocator().read_options();
    if !options.stats_page().is_none() {
        keeping_errno(|| {
            // Relaxed: the process's one thread.
            PAGE.process.store(own_process(), Ordering::Relaxed);
            if publish::<L>() {
                L::allocator().observer.begin(on_event::<L>);
            }
        });
    }
}

/// At exit: the last snapshot, and the file goes. Not reached by `_exit`, `quick_exit`, exec or a signal, which leave
/// it behind.
pub fn end_at_exit<L: Lane>() {
    // Relaxed, both: as in `on_tick`.
    if PAGE.words.load(Ordering::Relaxed).is_null() || PAGE.process.load(Ordering::Relaxed) != own_process() {
        return;
    }
    L::allocator().observer.end();
    keeping_errno(|| {
        // Acquire: as in `on_tick`. Not set back: another thread that still comes does nothing. One that is at work
        // leaves the last snapshot to be its own.
        if PAGE.busy.swap(1, Ordering::Acquire) == 0 && publish::<L>() {
            // SAFETY: the mapping has the word, and is never unmapped in the process that made it.
            let state = unsafe { &*PAGE.words.load(Ordering::Relaxed).add(STATE) };
            // Release: the last snapshot comes before it, for a reader that loads it with Acquire.
            state.store(ENDED, Ordering::Release);
        }
        if let Ok(name) = Name::of(L::allocator().options().stats_page())
            && let Ok(name) = name.as_c_str()
            && is_own_file(name)
        {
            // SAFETY: a C string.
            unsafe { libc::unlink(name.as_ptr()) };
        }
    });
}

fn on_event<L: Lane>(event: Event) {
    match event {
        Event::Tick(now_ms) => on_tick::<L>(now_ms),
        Event::Forked => keeping_errno(on_fork::<L>),
    }
}

fn on_tick<L: Lane>(now_ms: u32) {
    // Relaxed, both: any recent value does; one thread gets through below.
    let last_ms = PAGE.last_ms.load(Ordering::Relaxed);
    if elapsed_ms(last_ms, now_ms) < PAGE.pause_ms.load(Ordering::Relaxed)
        // A child of vfork or of a bare clone, which has run no fork handler: it shares the memory, or the page, or
        // both with its parent, and touches nothing. Relaxed: written by the thread that made this process.
        || PAGE.process.load(Ordering::Relaxed) != own_process()
        // Acquire: the draft as the last thread left it. Pairs with the Release below.
        || PAGE.busy.swap(1, Ordering::Acquire) != 0
    {
        return;
    }
    if !keeping_errno(publish::<L>) {
        L::allocator().observer.end();
    }
    // Release: as above.
    PAGE.busy.store(0, Ordering::Release);
}

/// In a forked child: the page is the parent's. The child makes its own at its next tick, and not here: most children
/// are about to become another program, which would leave the file behind.
fn on_fork<L: Lane>() {
    // Relaxed, all: the process's one thread, or the one that other threads come from.
    let words = PAGE.words.swap(null_mut(), Ordering::Relaxed);
    if !words.is_null() {
        // SAFETY: the child's own mapping, which no other thread knows any more.
        unsafe { libc::munmap(words.cast(), BYTES) };
    }
    if !L::allocator().options().stats_page().names_process() {
        L::allocator().observer.end();
        return;
    }
    PAGE.process.store(own_process(), Ordering::Relaxed);
    PAGE.pause_ms.store(0, Ordering::Relaxed);
    // The parent's thread that was taking a snapshot, if one was, is not in the child.
    PAGE.busy.store(0, Ordering::Relaxed);
}

/// Takes a snapshot, into a new page where there is none; false where none can be made, which is reported. The
/// calling thread has set `busy`, or is the only one.
fn publish<L: Lane>() -> bool {
    // SAFETY: the calling thread is the only one here.
    let draft = unsafe { &mut *PAGE.draft.get() };
    // Relaxed, here and below: only the thread that has set `busy` writes these.
    let mut words = PAGE.words.load(Ordering::Relaxed);
    if words.is_null() {
        words = match create::<L>() {
            Ok(words) => words,
            Err(error) => {
                if L::allocator().options().shows_errors() {
                    abort::warning::<Linux>(&[b"HZ3_STATS_PAGE: the page can't be made", reason(error)]);
                }
                return false;
            }
        };
        draft.number = 0;
        PAGE.words.store(words, Ordering::Relaxed);
    }
    let begin_us = now_us(libc::CLOCK_MONOTONIC);
    let stats = collect_with_bins::<L>(&mut draft.bins);
    draft.number += 1;
    let took_us = now_us(libc::CLOCK_MONOTONIC).wrapping_sub(begin_us);
    let pause_ms = u64::from(PAUSE_MS).max(took_us * SHARE / 1000).min(u64::from(u32::MAX));
    let taken_ms = now_us(libc::CLOCK_BOOTTIME) / 1000;
    let taking = Taking { number: draft.number, taken_ms, took_us, pause_ms };
    let heat = |bin| L::allocator().exchange.heat.counts(Bin(bin as u8));
    stats_page::write(&mut draft.words, taking, &stats, &draft.bins, heat);
    // SAFETY: the mapping has that many words, and lives as long as `words` leads to it.
    let words = unsafe { core::slice::from_raw_parts(words, WORDS) };
    if let (Some(count), Some(snapshot)) = (words.get(SEQUENCE), words.get(HEAD_WORDS..)) {
        seqlock::write(count, snapshot, &draft.words);
    }
    PAGE.pause_ms.store(pause_ms as u32, Ordering::Relaxed);
    PAGE.last_ms.store(<L::Os as hz3_core::platform::os::Os>::now_ms(), Ordering::Relaxed);
    true
}

/// Makes the file, with its head, and maps it. The error is an `errno`.
fn create<L: Lane>() -> Result<*mut AtomicU64, c_int> {
    let name = Name::of(L::allocator().options().stats_page())?;
    let name = name.as_c_str()?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // A write beyond the limit would bring a signal. SAFETY: writes one structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0 && limit.rlim_cur < BYTES as u64 {
        return Err(libc::EFBIG);
    }
    let made = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let file = match open(name, made) {
        Err(libc::EEXIST) if is_left_over(name) => {
            // SAFETY: a C string.
            unsafe { libc::unlink(name.as_ptr()) };
            open(name, made)
        }
        outcome => outcome,
    }?;
    let words = fill_and_map::<L>(file);
    close(file);
    if words.is_err() {
        // SAFETY: a C string; the file was made just now.
        unsafe { libc::unlink(name.as_ptr()) };
    }
    words
}

/// Gives the fresh file its head and memory for all of it, now: a page that the file system has no room for would
/// bring a signal when it is written to.
fn fill_and_map<L: Lane>(file: c_int) -> Result<*mut AtomicU64, c_int> {
    static ZEROS: [u64; BYTES / size_of::<u64>()] = [0; BYTES / size_of::<u64>()];
    let created_ms = now_us(libc::CLOCK_BOOTTIME) / 1000;
    // Relaxed: this process's.
    let head = Head::new(u64::from(PAGE.process.load(Ordering::Relaxed)), L::NAME, created_ms).words();
    write_at_start(file, &ZEROS)?;
    write_at_start(file, &head)?;
    let status = status_of(file)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping, at a place of the kernel's choice.
    let words = unsafe { libc::mmap(null_mut(), BYTES, access, libc::MAP_SHARED, file, 0) };
    if words == libc::MAP_FAILED {
        return Err(last_error());
    }
    // Relaxed: as in `publish`.
    PAGE.device.store(status.st_dev, Ordering::Relaxed);
    PAGE.inode.store(status.st_ino, Ordering::Relaxed);
    Ok(words.cast())
}

/// Whether the file is a page of the same user's whose process is gone, or has become this one by exec.
fn is_left_over(name: &CStr) -> bool {
    let Ok(file) = open(name, libc::O_RDONLY | libc::O_NONBLOCK) else { return false };
    let mut words = [0_u64; HEAD_WORDS];
    // SAFETY: takes nothing.
    let user = unsafe { libc::geteuid() };
    let is_users = status_of(file)
        .is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFREG && status.st_uid == user)
        // SAFETY: writes as many bytes as there are into the words.
        && unsafe { libc::syscall(libc::SYS_pread64, file, words.as_mut_ptr(), size_of_val(&words), 0 as c_long) }
            == size_of_val(&words) as c_long;
    close(file);
    let process = words.get(stats_page::PROCESS).and_then(|&process| c_int::try_from(process).ok());
    let is_gone = |process: c_int| {
        // SAFETY: signal 0 is none.
        process.cast_unsigned() == own_process()
            || (unsafe { libc::kill(process, 0) } != 0 && last_error() == libc::ESRCH)
    };
    is_users
        && words.first() == Some(&stats_page::MAGIC)
        && process.is_some_and(|process| process > 0 && is_gone(process))
}

/// Whether the file of that name is the page's.
fn is_own_file(name: &CStr) -> bool {
    // SAFETY: all-zero is a valid value of this plain C structure; the call writes one.
    let (found, status) = unsafe {
        let mut status = core::mem::zeroed::<libc::stat>();
        (libc::lstat(name.as_ptr(), &mut status), status)
    };
    // Relaxed, both: written by this process's first thread or before `words`.
    let own = (PAGE.device.load(Ordering::Relaxed), PAGE.inode.load(Ordering::Relaxed));
    found == 0 && (status.st_dev, status.st_ino) == own
}

fn open(name: &CStr, flags: c_int) -> Result<c_int, c_int> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a C string; nobody but the user has rights on a fresh file.
    let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags, 0o600) };
    if file < 0 { Err(last_error()) } else { Ok(file as c_int) }
}

fn close(file: c_int) {
    // SAFETY: the caller's descriptor, which it uses no more.
    unsafe { libc::syscall(libc::SYS_close, file) };
}

fn status_of(file: c_int) -> Result<libc::stat, c_int> {
    // SAFETY: as in `is_own_file`.
    unsafe {
        let mut status = core::mem::zeroed::<libc::stat>();
        if libc::fstat(file, &mut status) == 0 { Ok(status) } else { Err(last_error()) }
    }
}

fn write_at_start(file: c_int, words: &[u64]) -> Result<(), c_int> {
    let bytes = size_of_val(words);
    // SAFETY: reads the words.
    match unsafe { libc::syscall(libc::SYS_pwrite64, file, words.as_ptr(), bytes, 0 as c_long) } {
        written if written == bytes as c_long => Ok(()),
        ..0 => Err(last_error()),
        _ => Err(libc::ENOSPC),
    }
}

fn own_process() -> u32 {
    // SAFETY: takes and changes nothing.
    unsafe { libc::getpid() }.cast_unsigned()
}

fn now_us(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one structure.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// The part of a warning that says why, for what a user can do something about.
fn reason(error: c_int) -> &'static [u8] {
    match error {
        libc::EEXIST => b": the file exists and is no page of a process that has ended",
        libc::EACCES | libc::EPERM | libc::EROFS => b": no permission to write there",
        libc::ENOENT | libc::ENOTDIR => b": there is no such folder",
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => b": no space for it there",
        libc::ENAMETOOLONG => b": the name is too long",
        libc::EMFILE | libc::ENFILE => b": too many files are open",
        libc::ELOOP => b": a symbolic link is there",
        _ => b"",
    }
}

/// Runs `body` and puts `errno` back to what it was: `free` keeps it.
fn keeping_errno<T>(body: impl FnOnce() -> T) -> T {
    let errno = last_error();
    let result = body();
    // SAFETY: errno is the calling thread's own.
    unsafe { *libc::__errno_location() = errno };
    result
}
