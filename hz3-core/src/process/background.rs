//! Background: a thread that gives memory back while the program's threads are idle.
//!
//! ```text
//! HZ3_BACKGROUND_THREAD=auto   from a slow path of malloc, once two threads have had heaps and memory is worth it
//!                      =1      from the start
//! nap → turn → nap → turn … → rest, without a timer, until a slow path posts work
//! ```
//!
//! A process with one thread stays so. The thread ends with the first one, or when that alone is left; one that the options
//! ask for ends when it is the last, or the process would not end. A forked child starts its own.
//!
//! A start may be in the middle of any library's work, so it must not be where the C library holds the lock of its stacks,
//! which pthread_create(3) takes: there it only frees, and only what it allocated for threads. So a free starts it only
//! after many more frees than allocations.
//!
//! Outside rules: pthread_create(3), pthread_sigmask(3), pthread_exit(3) (the process ends with its last thread); glibc's
//! nptl/nptl-stack.c.

use crate::allocator::{Lane, set_aside};
use crate::platform::options::{Background, NEVER};
use crate::platform::os::{Os, Waiter};
use crate::platform::own_stack::{self, Signals};
use crate::platform::units::elapsed_ms;
use crate::process::keep_loaded;
use crate::record::observer::Event;
use crate::thread::heap::{heap_at, is_static};
use crate::upkeep::rest;
use crate::upkeep::round;
use core::ffi::c_void;
use core::ptr::null_mut;

/// Bytes of its stack. Chosen: several times the deepest path. Default size if thread-local storage does not fit.
const STACK_BYTES: usize = 256 << 10;
/// Bounds of the pause between two turns, in milliseconds.
const PAUSE_MS: core::ops::RangeInclusive<u32> = 20..=1000;
/// The pause if work is left. Chosen: a third of one processor at most.
const BEHIND_MS: u32 = 2;
/// Ticks without a post, beyond the delay, after which all that was due is done.
const QUIET_TICKS: u32 = 3;
/// Milliseconds between two looks whether the program still has threads, while it keeps the helper busy.
const LOOK_MS: u32 = 1000;
/// Bytes of arenas and kept mappings from which a thread may be worth its cost.
const LEAST_BYTES: usize = 32 << 20;

/// Starts the thread if the options ask for one from the start and purges are on; a forked child does the same. The
/// caller holds no lock.
pub fn start_if_wanted<L: Lane>() {
    let allocator = L::allocator();
    let options = allocator.read_options();
    allocator.on_fork_child.begin(start_in_child::<L>);
    if options.background_thread() == Background::Always
        && options.purge_delay_ms() != NEVER
        && allocator.pages.helper.claim_always()
    {
        start::<L>();
    }
}

fn start_in_child<L: Lane>(_: Event) {
    start_if_wanted::<L>();
}

/// Starts the thread that is wanted, if there is enough memory. The caller holds no lock; no magazine of its thread is in
/// use.
#[cold]
#[inline(never)]
pub fn start_if_worthwhile<L: Lane>() {
    let (allocator, entries) = (L::allocator(), L::heap());
    let options = allocator.options();
    if options.background_thread() != Background::Auto || options.purge_delay_ms() == NEVER {
        return allocator.pages.helper.turn_off();
    }
    let bytes = allocator.pages.runs.arenas.reserved_and_committed().1 + allocator.pages.direct.kept_bytes();
    if bytes >= LEAST_BYTES && !is_static(entries) && !L::Os::is_forking() && allocator.pages.helper.claim::<L::Os>() {
        // SAFETY: this thread's pointer to a heap, which stays in use.
        unsafe {
            set_aside::<L, _>(&*heap_at::<L::Stash, L::Quarantine>(entries), || {
                // Signals pass until they are blocked: of the C library's own, some must reach the new thread.
                own_stack::call(Signals::Pass, start::<L>);
            });
        }
    }
}

/// The helper's start was claimed. If the system refuses, misses go on doing upkeep.
#[cold]
fn start<L: Lane>() {
    keep_loaded::keep_before_use();
    // SAFETY: zeros are valid values of these C types, and each is initialised before a call reads it. `run` ignores
    // its argument and stays loaded, by `keep_loaded`. The thread is detached once, and its handle not used afterwards.
    // `errno` is this thread's.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        // The thread inherits the mask, so that it never runs the program's signal handlers.
        let (mut all, mut before) = (core::mem::zeroed::<libc::sigset_t>(), core::mem::zeroed::<libc::sigset_t>());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let mut attributes = core::mem::zeroed::<libc::pthread_attr_t>();
        let mut is_made = false;
        if libc::pthread_attr_init(&mut attributes) == 0 {
            libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
            libc::pthread_attr_setstacksize(&mut attributes, STACK_BYTES);
            let mut thread = core::mem::zeroed::<libc::pthread_t>();
            is_made = libc::pthread_create(&mut thread, &attributes, run::<L>, null_mut()) == 0;
            libc::pthread_attr_destroy(&mut attributes);
            if !is_made && libc::pthread_create(&mut thread, core::ptr::null(), run::<L>, null_mut()) == 0 {
                is_made = true;
                libc::pthread_detach(thread);
            }
        }
        if !is_made {
            L::allocator().pages.helper.turn_off();
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        *errno = saved;
    }
}

extern "C" fn run<L: Lane>(_: *mut c_void) -> *mut c_void {
    let allocator = L::allocator();
    let helper = &allocator.pages.helper;
    let is_asked_for = allocator.options().background_thread() == Background::Always;
    // One that starts late bears the program's name: a sandbox may kill for this call by then.
    if is_asked_for {
        // SAFETY: the name ends with a zero byte and has at most 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"hz3-background".as_ptr()) };
    }
    helper.begin();
    let (mut is_behind, mut last_post, mut last_look) = (false, L::Os::now_ms(), L::Os::now_ms());
    loop {
        let tick_ms = round::tick_ms::<L>(allocator.options()).clamp(*PAUSE_MS.start(), *PAUSE_MS.end());
        L::Os::sleep_ms(if is_behind { BEHIND_MS } else { tick_ms });
        if helper.is_ending() && !is_asked_for {
            helper.turn_off();
            return null_mut();
        }
        // Where the first thread does not tell its end, each time.
        let may_be_last = helper.is_ending() || !helper.knows_first();
        if may_be_last && L::Os::is_last_thread() {
            return null_mut();
        }
        let now = L::Os::now_ms();
        if helper.take_post() {
            last_post = now;
        }
        while rest::tick(&allocator.pages, &allocator.exchange, &allocator.heaps, &allocator.rests) {
            L::Os::nap();
        }
        is_behind =
            round::tick_in_background(&allocator.pages, &allocator.exchange, &allocator.schedule, &allocator.observer);
        // What is old goes back in a further delay.
        let quiet_ms = allocator.pages.delay_ms(now).saturating_mul(2).saturating_add(QUIET_TICKS * tick_ms);
        let is_quiet = !is_behind && elapsed_ms(last_post, now) >= quiet_ms;
        if !is_asked_for && (is_quiet || elapsed_ms(last_look, now) >= LOOK_MS) {
            last_look = now;
            // What is left is within the bound of a process with one thread.
            if (is_quiet || allocator.pages.aging().0 < LEAST_BYTES) && helper.end_if_alone::<L::Os>() {
                return null_mut();
            }
        }
        if is_quiet && !may_be_last {
            helper.rest::<L::Os>();
            last_post = L::Os::now_ms();
        }
    }
}
