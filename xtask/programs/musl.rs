//! A program without `std` whose allocator is hz3: threads free each other's blocks, in a statically linked program.

#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use hz3_core::Hz3;

#[global_allocator]
static GLOBAL: Hz3 = Hz3::new();

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

static PLACES: [AtomicPtr<Vec<usize>>; 64] = [const { AtomicPtr::new(null_mut()) }; 64];

/// Puts a block into the place, and checks and drops what was there.
fn put(place: &AtomicPtr<Vec<usize>>, block: *mut Vec<usize>) {
    let old = place.swap(block, Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: from `Box::into_raw`, and this thread took it out.
        let old = unsafe { Box::from_raw(old) };
        assert!(old.iter().enumerate().all(|(index, &value)| index == value));
    }
}

fn trade(number: usize) {
    put(&PLACES[number % PLACES.len()], Box::into_raw(Box::new(Vec::from_iter(0..number % 5000))));
}

extern "C" fn work(seed: *mut c_void) -> *mut c_void {
    (0..20_000_usize).for_each(|turn| trade(turn.wrapping_mul(seed.addr() * 2 + 1) % 100_003));
    null_mut()
}

/// Called by the C library's start code.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    // SAFETY: the threads are joined before `main` returns, and `work` ignores all but its argument's number; the child
    // makes no call that a fork forbids.
    unsafe {
        let mut threads = [const { None }; 4];
        for (number, thread) in threads.iter_mut().enumerate() {
            let mut made = core::mem::zeroed();
            assert!(libc::pthread_create(&mut made, core::ptr::null(), work, core::ptr::without_provenance_mut(number + 1)) == 0);
            *thread = Some(made);
        }
        for _ in 0..20 {
            let child = libc::fork();
            if child == 0 {
                (0..500).for_each(trade);
                libc::_exit(7);
            }
            let mut status = 0;
            assert!(libc::waitpid(child, &mut status, 0) == child && libc::WEXITSTATUS(status) == 7);
        }
        for thread in threads.into_iter().flatten() {
            assert!(libc::pthread_join(thread, null_mut()) == 0);
        }
    }
    PLACES.iter().for_each(|place| put(place, null_mut()));
    let stats = GLOBAL.stats();
    c_int::from(GLOBAL.lane() != "scale" || stats.mapped_bytes() == 0)
}
