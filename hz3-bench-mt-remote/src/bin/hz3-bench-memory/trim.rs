//! Trim: `malloc_trim(0)`, where the allocator under test has it.

use hz3_bench_mt_remote::allocator;
use std::ffi::{c_int, c_void};

/// Asks the allocator under test to give all free memory back; `false` where it has no `malloc_trim`. That
/// of the C library below it would be called in vain.
///
/// Outside rule: malloc_trim(3).
pub fn everything() -> bool {
    let Some(address) = allocator::own_function(c"malloc_trim") else { return false };
    // SAFETY: the address is that of the allocator's `malloc_trim`, whose type the manual page gives.
    let malloc_trim = unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn(usize) -> c_int>(address) };
    // SAFETY: it takes any number of bytes to keep.
    unsafe { malloc_trim(0) };
    true
}
