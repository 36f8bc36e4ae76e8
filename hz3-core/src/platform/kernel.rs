//! Kernel: system calls past the C library, for moments at which nothing else may run.
//!
//! Any function of libc, syscall(2) included, can be another preloaded library's, and allocate. A thread that waits for
//! a lock may hold others, though. These calls are nobody else's, no cancellation points, and leave `errno` alone.
//!
//! Outside rules: syscall(2), for the registers and the results.

use core::arch::asm;
use core::ffi::{CStr, c_int, c_long};

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
compile_error!("hz3 needs Linux on x86-64, AArch64 or RISC-V, 64-bit and little-endian");

/// The largest `errno`. Outside rule: linux/err.h.
const MAX_ERROR: usize = 4095;

/// Makes the system call `number` with up to six arguments; the others are 0.
///
/// # Errors
/// The system's `errno`.
///
/// # Safety
/// The kernel may do with the arguments what the call says.
pub unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, c_int> {
    const { assert!(N <= 6) }
    let [mut first, mut second, mut third, mut fourth, mut fifth, mut sixth] = [0; 6];
    for (place, argument) in
        [&mut first, &mut second, &mut third, &mut fourth, &mut fifth, &mut sixth].into_iter().zip(arguments)
    {
        *place = argument;
    }
    let result: usize;
    // SAFETY: the caller vouches for the call. The kernel keeps all registers but those named, and the stack.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            in("x4") fifth,
            in("x5") sixth,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") first => result,
            in("a1") second,
            in("a2") third,
            in("a3") fourth,
            in("a4") fifth,
            in("a5") sixth,
            options(nostack),
        );
    }
    let error = result.wrapping_neg();
    if (1..=MAX_ERROR).contains(&error) { Err(error as c_int) } else { Ok(result) }
}

/// The beginning of the file at `path`, as much as fits into `text`. `None` if it can't be read.
pub fn read_file<'a>(path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let open = [libc::AT_FDCWD as usize, path.as_ptr().expose_provenance(), flags as usize];
    // SAFETY: `path` is a C string; at most `text.len()` bytes are written; the descriptor is this function's.
    unsafe {
        let file = call(libc::SYS_openat, open).ok()?;
        let read = call(libc::SYS_read, [file, text.as_mut_ptr().expose_provenance(), text.len()]);
        let _ = call(libc::SYS_close, [file]);
        text.get(..read.ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn results_and_errors_are_told_apart_and_errno_stays() {
        // SAFETY: this thread's `errno`; the calls write to no memory but `text`.
        unsafe {
            *libc::__errno_location() = 77;
            assert_eq!(call(libc::SYS_getpid, []), Ok(std::process::id() as usize));
            assert_eq!(call(libc::SYS_close, [usize::MAX]), Err(libc::EBADF));
            let mut text = *b"..";
            let from = std::fs::File::open("/dev/zero").expect("there is one");
            let file = std::os::fd::AsRawFd::as_raw_fd(&from) as usize;
            // All six: the last one, an offset, is of no use to this file.
            assert_eq!(call(libc::SYS_pread64, [file, text.as_mut_ptr().expose_provenance(), 1, 0, 0, 0]), Ok(1));
            assert_eq!(text, *b"\0.");
            assert_eq!(*libc::__errno_location(), 77);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn a_file_is_read_as_far_as_there_is_room() {
        let mut text = [0; 4];
        assert_eq!(read_file(c"/proc/self/status", &mut text), Some(&b"Name"[..]));
        assert_eq!(read_file(c"/nonexistent", &mut text), None);
    }
}
