//! A program without `std`: `alloc`'s collections over hz3, and `libc` for the rest.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::ffi::{c_char, c_int};
use hz3_core::{Fast, Hz3};

#[global_allocator]
static GLOBAL: Hz3<Fast> = Hz3::new();

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

/// The compiled `alloc` crate refers to it where sections that nobody uses are kept; nothing here unwinds.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() {}

/// Called by the C library's start code.
#[unsafe(no_mangle)]
pub extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let squares: BTreeMap<u32, String> = (0..1000).map(|number| (number, (number * number).to_string())).collect();
    let mut line = squares.get(&12).cloned().unwrap_or_default();
    line.push('\n');
    // SAFETY: writes the string's bytes.
    let written = unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
    c_int::from(written != line.len() as isize)
}
