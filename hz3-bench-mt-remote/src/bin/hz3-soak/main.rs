//! `hz3-soak`: a storm of every kind of call on the `malloc` that serves this process, for a time.
//!
//! Threads mix all calls over all sizes, free each other's blocks, start short-lived threads and fork;
//! a timer signals the process all the while, and a second process stops and continues it. Two more
//! threads go through episodes meanwhile: forks beside streams, coroutines on small stacks, threads of
//! the smallest stack, plug-ins with an allocator of their own. A third process forks in a signal handler.
//! Every block carries a pattern that is looked at before each free. Exit status: 0; 1 for wrong content,
//! a failed call, a child's bad end, too much resident memory; 2 for bad arguments.

mod child;
mod coroutines;
mod counts;
mod episodes;
mod held;
mod hooks;
mod plug_ins;
mod raw;
mod signal_forks;
mod small_stacks;
mod storm;
mod streams;

use clap::Parser;
use counts::Counts;
use held::{CHECKS, Held, LIVE};
use hooks::OfThisThread;
use hz3_bench_mt_remote::allocator::Allocator;
use hz3_bench_mt_remote::memory::{self, Figure};
use plug_ins::PlugIns;
use signal_forks::SignalForks;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use storm::Storm;

/// Blocks that wait for a thread, at most.
const INBOX: usize = 128; // chosen
/// Time between two signals, in microseconds.
const SIGNAL_INTERVAL: i64 = 500; // chosen
/// Resident memory may be so many times the most that was live, beside the slack.
const RESIDENT_FACTOR: u64 = 2; // chosen
const SLACK_BYTES: u64 = 96 << 20; // chosen: stacks, caches, free memory that waits to go back
/// The same for what hooks keep for each thread.
const HOOKS_SLACK_BYTES: u64 = 128 << 20; // chosen: at most 48 MiB for a thread, seldom more than 6
/// Threads that go through episodes.
const EPISODE_THREADS: u64 = 2; // chosen
/// The most that may be resident when everything has been freed and trimmed.
const END_BYTES: u64 = 64 << 20; // chosen

static SIGNALS: AtomicU64 = AtomicU64::new(0);
/// Where the signal handler writes to.
static NOWHERE: AtomicI32 = AtomicI32::new(-1);

/// A storm on malloc.
#[derive(Parser, Debug)]
#[command(name = "hz3-soak")]
struct Arguments {
    /// How long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that last
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// A plug-in to open and close; several times
    #[arg(long, value_name = "FILE")]
    plug_in: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("hz3-soak: {}", line.strip_prefix("error: ").unwrap_or(line));
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("hz3-soak: seed {}: {line}", arguments.seed);
            ExitCode::FAILURE
        }
    }
}

/// Counts, and makes system calls that a handler may make and that no hook allocates in.
extern "C" fn count(_signal: i32) {
    // SAFETY: async-signal-safe calls.
    unsafe {
        let errno = *libc::__errno_location();
        libc::lseek(NOWHERE.load(Relaxed), 0, libc::SEEK_CUR);
        libc::getppid();
        *libc::__errno_location() = errno;
    }
    // Relaxed: a figure.
    SIGNALS.fetch_add(1, Relaxed);
}

/// Sets the handler; it runs on the alternate stack where there is one, as on a coroutine's it has no room.
fn handle_signals() -> Result<(), String> {
    // SAFETY: the path is a C string; the handler makes calls that a handler may make.
    let code = unsafe {
        NOWHERE.store(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC), Relaxed);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(i32) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut())
    };
    if code == 0 { Ok(()) } else { Err("no signal handler".to_owned()) }
}

/// Starts a process that stops and continues this one until it ends, and returns its number.
fn start_stopper() -> Result<i32, String> {
    // SAFETY: there is one thread only.
    let parent = unsafe { libc::getpid() };
    // SAFETY: likewise; the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err("no child to stop this process".to_owned());
    }
    if child == 0 {
        // SAFETY: system calls on numbers. It ends with its parent, which it can't outlive in a stopped state.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut term: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut term);
            libc::sigaddset(&raw mut term, libc::SIGTERM);
            while libc::getppid() == parent {
                libc::usleep(60_000);
                // No end between the two: it would leave the parent stopped.
                libc::sigprocmask(libc::SIG_BLOCK, &raw const term, std::ptr::null_mut());
                libc::kill(parent, libc::SIGSTOP);
                libc::usleep(4_000);
                libc::kill(parent, libc::SIGCONT);
                libc::sigprocmask(libc::SIG_UNBLOCK, &raw const term, std::ptr::null_mut());
            }
            libc::_exit(0);
        }
    }
    Ok(child)
}

fn set_timer(microseconds: i64) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the value is a whole one, and the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

/// What a thread does; the first wrong content ends the process: nothing that follows it means anything.
fn expect(outcome: Result<(), String>) {
    if let Err(line) = outcome {
        eprintln!("hz3-soak: wrong: {line}");
        std::process::exit(1);
    }
}

fn resident() -> Result<u64, String> {
    memory::of_this_process(Figure::Resident).map_err(|error| error.to_string())
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let allocator = Allocator::serving_this_process();
    println!("[ALLOCATOR] name={} path={} version={}", allocator.name, allocator.path.display(), allocator.version);
    let start = Instant::now();
    let end = start + Duration::from_secs(arguments.seconds);
    let stopper = start_stopper()?;
    let signal_forks = SignalForks::start(arguments.seed, end)?;
    handle_signals()?;
    set_timer(SIGNAL_INTERVAL);
    let hooks = OfThisThread::find();
    let slack = SLACK_BYTES + if hooks::are_preloaded() { HOOKS_SLACK_BYTES } else { 0 };
    let counts = Counts::default();
    let plug_ins = PlugIns::new(arguments.plug_in.clone());
    let (mut peak_live, mut peak_resident) = (0, 0);
    let outcome = std::thread::scope(|scope| {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..arguments.threads).map(|_| sync_channel::<Held>(INBOX)).unzip();
        let mut threads: Vec<_> = (0..)
            .zip(inboxes)
            .map(|(number, inbox)| {
                let seed = arguments.seed.wrapping_mul(0x9E37_79B9).wrapping_add(number);
                let storm = Storm::new(seed, inbox, senders.clone(), &counts);
                scope.spawn(move || {
                    let _hooks = OfThisThread::find();
                    expect(storm.run(end));
                })
            })
            .collect();
        drop(senders);
        for number in 0..EPISODE_THREADS {
            let seed = arguments.seed.wrapping_mul(0x85EB_CA6B).wrapping_add(number);
            let (plug_ins, counts) = (&plug_ins, &counts);
            threads.push(scope.spawn(move || {
                let _hooks = OfThisThread::find();
                expect(episodes::run(seed, plug_ins, counts, end));
            }));
        }
        while !threads.iter().all(|thread| thread.is_finished()) {
            // Relaxed: a figure.
            peak_live = peak_live.max(LIVE.load(Relaxed).max(0) as u64);
            let now = resident()?;
            peak_resident = peak_resident.max(now);
            if now > RESIDENT_FACTOR * peak_live + slack {
                eprintln!("hz3-soak: wrong: {now} bytes resident, at most {peak_live} live");
                std::process::exit(1);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok::<(), String>(())
    });
    set_timer(0);
    // SAFETY: the stopper is this process's own child. This process runs when it calls, so is not stopped;
    // a stop that came between would be the stopper's, which then continues it before the signal counts.
    unsafe {
        libc::kill(stopper, libc::SIGTERM);
        libc::waitpid(stopper, std::ptr::null_mut(), 0);
    }
    outcome?;
    let signal_forks = signal_forks.finish()?;
    if !raw::give_back_shared() {
        return Err("wrong content in a block that waited for whoever comes".to_owned());
    }
    drop(hooks);
    // Relaxed, here and below: all threads have ended.
    let live = LIVE.load(Relaxed);
    // SAFETY: malloc_trim takes any number of bytes to keep.
    unsafe { libc::malloc_trim(0) };
    let end_resident = resident()?;
    println!(
        "[SOAK] seed={} seconds={:.1} {counts} checks={} signals={} signal_forks={signal_forks} hooked={} \
         peak_live_mb={} peak_resident_mb={} end_resident_mb={}",
        arguments.seed,
        start.elapsed().as_secs_f64(),
        CHECKS.load(Relaxed),
        SIGNALS.load(Relaxed),
        hooks::calls(),
        peak_live >> 20,
        peak_resident >> 20,
        end_resident >> 20,
    );
    if live != 0 {
        return Err(format!("{live} bytes are live at the end"));
    }
    if end_resident > END_BYTES {
        return Err(format!("{end_resident} bytes are resident although all blocks are freed"));
    }
    Ok(())
}
