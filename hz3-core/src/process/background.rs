//! Background: an optional thread that does upkeep while the program's threads are idle.
//!
//! Without it, an idle process keeps its free memory. The thread ends when it is the only one left, or the process
//! would not end. A forked child starts its own.
//!
//! Outside rules: pthread_create(3), pthread_sigmask(3), pthread_exit(3) (the process ends with its last thread).

use crate::allocator::Lane;
use crate::platform::options::NEVER;
use crate::platform::os::{Os, Waiter};
use crate::process::keep_loaded;
use crate::record::observer::Event;
use crate::upkeep::rest;
use crate::upkeep::round;
use core::ffi::c_void;
use core::ptr::null_mut;

/// Bytes of its stack. Chosen: several times the deepest path. Default size if thread-local storage does not fit.
const STACK_BYTES: usize = 256 << 10;
/// Bounds of the pause between two turns, in milliseconds.
const PAUSE_MS: core::ops::RangeInclusive<u32> = 20..=1000;

/// Starts the thread if the options ask for one and purges are on; a forked child does the same. The caller holds no
/// lock, and its process has no such thread.
pub fn start_if_wanted<L: Lane>() {
    let options = L::allocator().read_options();
    L::allocator().on_fork_child.begin(start_in_child::<L>);
    if options.background_thread() && options.purge_delay_ms() != NEVER {
        start::<L>();
    }
}

fn start_in_child<L: Lane>(_: Event) {
    start_if_wanted::<L>();
}

/// If the system refuses, misses go on doing upkeep.
#[cold]
fn start<L: Lane>() {
    keep_loaded::keep_before_use();
    // SAFETY: zeros are valid values of these C types, and each is initialised before a call reads it. `run` ignores
    // its argument and stays loaded, by `keep_loaded`. The thread is detached once, and its handle not used afterwards.
    unsafe {
        // The thread inherits the mask, so that it never runs the program's signal handlers.
        let (mut all, mut before) = (core::mem::zeroed::<libc::sigset_t>(), core::mem::zeroed::<libc::sigset_t>());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let mut attributes = core::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_attr_init(&mut attributes) == 0 {
            libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
            libc::pthread_attr_setstacksize(&mut attributes, STACK_BYTES);
            let mut thread = core::mem::zeroed::<libc::pthread_t>();
            let made = libc::pthread_create(&mut thread, &attributes, run::<L>, null_mut());
            libc::pthread_attr_destroy(&mut attributes);
            if made != 0 && libc::pthread_create(&mut thread, core::ptr::null(), run::<L>, null_mut()) == 0 {
                libc::pthread_detach(thread);
            }
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
    }
}

extern "C" fn run<L: Lane>(_: *mut c_void) -> *mut c_void {
    // SAFETY: the name ends with a zero byte and has at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"hz3-background".as_ptr()) };
    let allocator = L::allocator();
    while !L::Os::is_last_thread() {
        let pause_ms = round::tick_ms::<L>(allocator.options()).clamp(*PAUSE_MS.start(), *PAUSE_MS.end());
        let pause = libc::timespec { tv_sec: 0, tv_nsec: i64::from(pause_ms % 1000) * 1_000_000 };
        let pause = libc::timespec { tv_sec: i64::from(pause_ms / 1000), ..pause };
        // SAFETY: `pause` is valid to read; a null remainder is not written.
        unsafe { libc::nanosleep(&pause, null_mut()) };
        while rest::tick(&allocator.pages, &allocator.exchange, &allocator.heaps, &allocator.rests) {
            L::Os::nap();
        }
        round::tick(&allocator.pages, &allocator.exchange, &allocator.schedule, &allocator.observer);
    }
    null_mut()
}
