//! Signal forks: a process with one thread whose signal handler forks wherever it finds the allocator.
//!
//! Both processes go on from there: the child makes some more calls and ends, the parent waits for it in the handler.
//! That is for processes that never had a second thread: in others, and in their children, such a fork may wait for what
//! the interrupted thread holds, on glibc's malloc too. Hence a process of its own, forked before the storm has threads.

use crate::child::{self, CHILD_SECONDS, GRANDCHILD_SECONDS};
use crate::held::Held;
use crate::storm::{allocate, below};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Time of the processor between two signals, in microseconds.
const INTERVAL: i64 = 4000; // chosen: some hundred forks per process leave the storm most of the time
/// Blocks that live.
const SLOTS: usize = 64; // chosen
/// Steps of a child after its fork.
const CHILD_STEPS: usize = 50; // chosen

static IS_CHILD_OF_THE_HANDLER: AtomicBool = AtomicBool::new(false);

/// The process.
#[derive(Debug)]
pub struct SignalForks {
    process: i32,
    /// In memory that both processes share.
    count: &'static AtomicU64,
}

/// The count, for the handler; null in all other processes.
static COUNT: std::sync::atomic::AtomicPtr<AtomicU64> = std::sync::atomic::AtomicPtr::new(null_mut());

extern "C" fn fork_here(_signal: i32) {
    // SAFETY: fork, waitpid, alarm, signal and abort, all async-signal-safe in a process with one thread; the count is
    // shared memory. No message: it might allocate.
    unsafe {
        let errno = *libc::__errno_location();
        let child = libc::fork();
        if child == 0 {
            child::set_time_limit(GRANDCHILD_SECONDS);
            // Relaxed: the thread that is interrupted reads it.
            IS_CHILD_OF_THE_HANDLER.store(true, Relaxed);
            *libc::__errno_location() = errno;
            return;
        }
        let mut status = -1;
        if child < 0 || libc::waitpid(child, &raw mut status, 0) != child || status != 0 {
            libc::abort();
        }
        if let Some(count) = COUNT.load(Relaxed).as_ref() {
            count.fetch_add(1, Relaxed);
        }
        *libc::__errno_location() = errno;
    }
}

impl SignalForks {
    /// Starts the process, which forks until `end`. The calling process has one thread.
    pub fn start(seed: u64, end: Instant) -> Result<Self, String> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let page = unsafe { libc::mmap(null_mut(), size_of::<AtomicU64>(), protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err("no shared memory for a count".to_owned());
        }
        // SAFETY: a mapping of zeros, which stays.
        let count = unsafe { &*page.cast::<AtomicU64>() };
        // SAFETY: the calling process has one thread, so the child may do what it likes.
        let process = unsafe { libc::fork() };
        if process < 0 {
            return Err("no process that forks in a signal handler".to_owned());
        }
        if process == 0 {
            COUNT.store(page.cast(), Relaxed);
            // SAFETY: a system call on numbers: the process ends with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let seconds = end.saturating_duration_since(Instant::now()).as_secs() as u32;
            child::set_time_limit(seconds + CHILD_SECONDS);
            let outcome = fork_until(seed, end);
            if let Err(line) = &outcome {
                eprintln!("hz3-soak: wrong in the process whose handler forks: {line}");
            }
            // SAFETY: ends the process without the parent's handlers.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        Ok(Self { process, count })
    }

    /// Waits for the process's end, which must be a good one; how many forks it made.
    pub fn finish(self) -> Result<u64, String> {
        child::expect_good_end(self.process)
            .map_err(|error| format!("the process whose signal handler forks: {error}"))?;
        // Relaxed: the process has ended.
        Ok(self.count.load(Relaxed))
    }
}

fn set_timer(microseconds: i64) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the value is a whole one, and the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, null_mut()) };
}

fn fork_until(seed: u64, end: Instant) -> Result<(), String> {
    // SAFETY: the handler does what a handler may.
    unsafe { libc::signal(libc::SIGPROF, fork_here as extern "C" fn(i32) as libc::sighandler_t) };
    set_timer(INTERVAL);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut slots: [Option<Held>; SLOTS] = [const { None }; SLOTS];
    let mut steps_of_the_child = 0;
    while Instant::now() < end {
        for _ in 0..64 {
            let slot = &mut slots[below(&mut random, SLOTS)];
            if let Some(held) = slot.take() {
                held.check()?;
                held.free();
            }
            *slot = Some(allocate(&mut random)?);
            // Relaxed: this thread stored it, in a handler.
            if IS_CHILD_OF_THE_HANDLER.load(Relaxed) {
                steps_of_the_child += 1;
                if steps_of_the_child == CHILD_STEPS {
                    // SAFETY: ends the child without the parent's handlers.
                    unsafe { libc::_exit(0) }
                }
            }
        }
    }
    set_timer(0);
    for held in slots.into_iter().flatten() {
        held.check()?;
        held.free();
    }
    Ok(())
}
