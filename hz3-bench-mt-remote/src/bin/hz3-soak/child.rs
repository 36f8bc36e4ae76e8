//! Child: a forked process with a time limit, which must end well.

use std::io;

/// A child that takes longer hangs, and is killed.
pub const CHILD_SECONDS: u32 = 40; // chosen
/// The same for a child's child: it shall end before the child is killed that waits for it.
pub const GRANDCHILD_SECONDS: u32 = 20; // chosen

/// Gives this process, a child, its time limit.
pub fn set_time_limit(seconds: u32) {
    // SAFETY: SIGALRM's default ends the process, which is the point.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(seconds);
    }
}

/// Forks, lets the child do `work` within `seconds` and waits for it; what is wrong, in one line.
pub fn forked(seconds: u32, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    // SAFETY: the child calls what must work there: the allocator, streams, threads and fork; and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        set_time_limit(seconds);
        let outcome = work();
        if let Err(line) = &outcome {
            eprintln!("hz3-soak: wrong in a child: {line}");
        }
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(i32::from(outcome.is_err())) }
    }
    if child < 0 {
        return Err(format!("no child: {}", io::Error::last_os_error()));
    }
    expect_good_end(child)
}

/// Waits for a child of this process.
pub fn expect_good_end(child: i32) -> Result<(), String> {
    let mut status = 0;
    // SAFETY: the status has a place.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(format!("a child can't be waited for: {error}"));
        }
    }
    if status != 0 {
        return Err(format!("a forked child ended with status {status:#x} (wrong content, a crash, or 0xe: hung)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_fails_or_hangs_is_noticed() {
        assert_eq!(forked(5, || Ok(())), Ok(()));
        assert!(forked(5, || Err("on purpose".to_owned())).unwrap_err().contains("0x100"));
        let hangs = || loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        };
        assert!(forked(1, hangs).unwrap_err().contains("0xe"));
    }
}
