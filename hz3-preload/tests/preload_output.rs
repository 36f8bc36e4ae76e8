//! Output: how a file that the library writes meets refusals. The one test here that is linked with the interface's
//! code and not run under the library.

use core::fmt::Write;
use hz3_preload::output::File;
use std::sync::atomic::{AtomicUsize, Ordering};

/// No descriptor of the system's. To write to it takes nothing and is no error, as some drivers have it.
const TAKES_NOTHING: i32 = 1_000_000;
/// More writes than a file needs that gives up.
const PATIENCE: usize = 100;

static WRITES: AtomicUsize = AtomicUsize::new(0);

/// The C library's, but for that descriptor.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(descriptor: i32, bytes: *const libc::c_void, count: usize) -> isize {
    // Relaxed: a count, which one thread reads after its own calls.
    if descriptor == TAKES_NOTHING && WRITES.fetch_add(1, Ordering::Relaxed) < PATIENCE {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) as isize }
}

#[test]
fn a_write_that_takes_nothing_is_an_error_and_not_tried_for_ever() {
    let mut file = File::borrowed(TAKES_NOTHING);
    file.write_str("a row\n").expect("a buffer takes it");
    assert_eq!(file.finish(), Err(libc::EIO));
    // Relaxed: this thread's own writes.
    assert_eq!(WRITES.load(Ordering::Relaxed), 1);
}

#[test]
fn the_first_error_stays_whatever_is_copied_afterwards() {
    // A descriptor that is not open: the buffer's second filling meets it.
    let mut file = File::borrowed(-1);
    file.write_str(&"-".repeat(10_000)).expect("errors are told at the end");
    file.append(c"/nonexistent/file");
    assert_eq!(file.finish(), Err(libc::EBADF));
}

#[test]
fn a_file_that_cannot_be_written_is_not_filled_from_one_without_an_end() {
    let mut file = File::borrowed(-1);
    file.write_str("a row\n").expect("a buffer takes it");
    file.append(c"/dev/zero");
    assert_eq!(file.finish(), Err(libc::EBADF));
}

#[test]
fn what_cannot_be_read_is_an_error_of_the_copy() {
    let mut file = File::borrowed(-1);
    file.append(c"/nonexistent/file");
    assert_eq!(file.finish(), Err(libc::ENOENT));
}
