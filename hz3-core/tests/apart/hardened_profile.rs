//! The hardened lane under the profiler: a sampled block stands for a slot, and reads as zero where `calloc` asked for it,
//! whatever lay in the run of pages that it got.

use hz3_core::Hardened;
use hz3_core::api::block;
use hz3_core::api::block::malloc_zeroed;
use hz3_core::api::block::realloc;
use hz3_core::observe::sampling;
use hz3_core::record::profile::Unwinder;
use std::ffi::{c_int, c_void};

/// A stack without a frame.
unsafe extern "C" fn no_frames(_: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int, _: *mut c_void) -> c_int {
    5
}

unsafe extern "C" fn no_address(_: *mut c_void) -> usize {
    0
}

#[test]
fn a_sampled_block_of_zeros_is_one() {
    apart!();
    // Free runs that hold what was written to them: the ends of blocks that shrank.
    let shrunk = [(); 50].map(|()| {
        let block = block::malloc::<Hardened>(400_000);
        assert!(!block.is_null());
        // SAFETY: a live block of that many bytes, which is given up for what it becomes.
        unsafe {
            block.write_bytes(0xa5, 400_000);
            realloc::<Hardened>(block, 100_000)
        }
    });
    sampling::begin::<Hardened>(Unwinder { backtrace: no_frames, get_ip: no_address, own_start: 0, own_end: 0 }, 1);
    for bytes in (1..32_000).step_by(331) {
        let block = malloc_zeroed::<Hardened>(bytes);
        assert!(!block.is_null());
        // SAFETY: a live block of that many bytes, and not used again.
        unsafe {
            assert!((0..bytes).all(|index| *block.add(index) == 0), "{bytes} bytes");
            block::free::<Hardened>(block);
        }
    }
    for block in shrunk {
        // SAFETY: live, and not used again.
        unsafe { block::free::<Hardened>(block) };
    }
}
