//! Background: an optional thread of the allocator's own, which gives free memory back while the program's
//! threads rest. Without it, slow paths do that in passing, and a process that does nothing keeps what it has.
//!
//! The thread looks at the clock eight times per purge delay, touches nothing of other threads' heaps, and
//! ends with the process. A process ends with its last thread, and this one must not be that: it ends by
//! itself when it finds that it is alone. A forked child gets its own.
//!
//! Outside rules: pthread_create(3), pthread_sigmask(3); pthread_exit(3) (the end of the last thread is the
//! process's, by `exit(0)`).

use crate::allocator::Lane;
use crate::platform::options::NEVER;
use crate::platform::os::Os;
use crate::record::observer::Event;
use crate::upkeep::round;
use core::ffi::c_void;
use core::ptr::null_mut;

/// Stack of the thread in bytes. Chosen: several times the deepest path, little enough to go unnoticed; where
/// the program's thread-local storage leaves no room in it, the default size is taken.
const STACK_BYTES: usize = 256 << 10;
/// Milliseconds between two looks at the clock.
const PAUSE_MS: core::ops::RangeInclusive<u32> = 20..=1000;

/// Starts the thread if the environment asks for one and free memory is to be given back at all. The caller
/// holds no lock of the allocator's, and its process has no such thread.
pub fn start_if_wanted<L: Lane>() {
    let options = L::allocator().read_options();
    L::allocator().in_child.begin(start_in_child::<L>);
    if options.background_thread() && options.purge_delay_ms() != NEVER {
        start::<L>();
    }
}

fn start_in_child<L: Lane>(_: Event) {
    start_if_wanted::<L>();
}

/// A refusal leaves the process without the thread, and its memory to the slow paths.
#[cold]
fn start<L: Lane>() {
    // SAFETY: every object is initialised before it is used, and the thread's function takes nothing and lives
    // as long as the library, which is never unloaded. Signals are blocked around the creation, so that the new
    // thread never runs the program's handlers.
    unsafe {
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
    // SAFETY: names the calling thread; the text ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"hz3-background".as_ptr()) };
    let allocator = L::allocator();
    while !L::Os::is_last_thread() {
        let pause_ms = round::tick_ms::<L>(allocator.options()).clamp(*PAUSE_MS.start(), *PAUSE_MS.end());
        let pause = libc::timespec { tv_sec: 0, tv_nsec: i64::from(pause_ms % 1000) * 1_000_000 };
        let pause = libc::timespec { tv_sec: i64::from(pause_ms / 1000), ..pause };
        // SAFETY: reads the time; a null remainder is not written.
        unsafe { libc::nanosleep(&pause, null_mut()) };
        round::tick(&allocator.pages, &allocator.exchange, &allocator.schedule, &allocator.observer);
    }
    null_mut()
}
