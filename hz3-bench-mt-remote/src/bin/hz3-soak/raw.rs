//! Raw blocks, for who has little stack: nothing here formats, and no frame is large.
//!
//! ```text
//! | size | stamp | …                                  | stamp's low byte |
//! ```

use crate::held::{CHECKS, LIVE};
use std::ptr::{self, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Relaxed};

/// Bytes of the two words and the last byte, at least.
const SMALLEST: usize = 24; // chosen
/// Blocks that wait for whoever comes.
const PLACES: usize = 64; // chosen

static SHARED: [AtomicPtr<u8>; PLACES] = [const { AtomicPtr::new(null_mut()) }; PLACES];

/// A next random number.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 27)
}

/// Mostly small; up to 200 KiB.
#[inline(never)]
pub fn size(state: &mut u64) -> usize {
    let limit = match next(state) % 100 {
        0..70 => 600,
        70..95 => 33 << 10,
        _ => 200 << 10,
    };
    SMALLEST + (next(state) % limit) as usize
}

/// Writes the block's marks; null stays null.
///
/// # Safety
/// `block` is null, or one of at least `size` bytes that the caller owns.
pub unsafe fn mark(block: *mut u8, size: usize, stamp: u64) -> *mut u8 {
    if !block.is_null() {
        // SAFETY: inside the block, which is at least `SMALLEST` bytes; blocks are aligned for both words.
        unsafe {
            block.cast::<usize>().write(size);
            block.cast::<u64>().add(1).write(stamp);
            block.add(size - 1).write(stamp as u8);
        }
        // Relaxed, here and below: figures.
        LIVE.fetch_add(size as i64, Relaxed);
    }
    block
}

/// Whether the marks are there.
///
/// # Safety
/// `block` is one that `mark` has marked, and the caller owns it.
unsafe fn is_whole(block: *mut u8) -> bool {
    CHECKS.fetch_add(1, Relaxed);
    // SAFETY: the first words are the block's; the last byte is read only at a size that a block can have.
    unsafe {
        let size = block.cast::<usize>().read();
        let stamp = block.cast::<u64>().add(1).read();
        (SMALLEST..1 << 20).contains(&size) && block.add(size - 1).read() == stamp as u8
    }
}

/// malloc or calloc of a random size. Null: the call failed, or calloc gave no zeros.
#[inline(never)]
pub fn take(state: &mut u64) -> *mut u8 {
    let size = size(state);
    let stamp = next(state);
    // SAFETY: any size may be asked for; what is read and written lies inside the block.
    unsafe {
        if !stamp.is_multiple_of(3) {
            return mark(libc::malloc(size).cast(), size, stamp);
        }
        let block: *mut u8 = libc::calloc(1, size).cast();
        if !block.is_null() && (block.read() | block.add(size / 2).read() | block.add(size - 1).read()) != 0 {
            return null_mut();
        }
        mark(block, size, stamp)
    }
}

/// realloc to a random size. Null: the call failed, or the content was wrong before or after.
///
/// # Safety
/// `block` is one that `mark` has marked, and the caller owns it; it is gone.
#[inline(never)]
pub unsafe fn resize(block: *mut u8, state: &mut u64) -> *mut u8 {
    // SAFETY: the caller owns the block, which has its two words before and after.
    unsafe {
        if !is_whole(block) {
            return null_mut();
        }
        let (old, stamp) = (block.cast::<usize>().read(), block.cast::<u64>().add(1).read());
        let size = size(state);
        let block: *mut u8 = libc::realloc(block.cast(), size).cast();
        LIVE.fetch_sub(old as i64, Relaxed);
        if block.is_null() || block.cast::<usize>().read() != old || block.cast::<u64>().add(1).read() != stamp {
            return null_mut();
        }
        mark(block, size, stamp)
    }
}

/// Frees a block; whether its content was right. Null is fine.
///
/// # Safety
/// `block` is null or one that `mark` has marked, and the caller owns it; it is gone.
#[inline(never)]
pub unsafe fn give_back(block: *mut u8) -> bool {
    if block.is_null() {
        return true;
    }
    // SAFETY: the caller owns the block.
    unsafe {
        if !is_whole(block) {
            return false;
        }
        LIVE.fetch_sub(block.cast::<usize>().read() as i64, Relaxed);
        libc::free(block.cast());
    }
    true
}

/// Leaves a block for whoever comes, and frees one that another has left; whether that one's content was right.
///
/// # Safety
/// As for [`give_back`].
#[inline(never)]
pub unsafe fn swap(block: *mut u8, state: &mut u64) -> bool {
    let place = next(state) as usize % PLACES;
    // SAFETY: who swaps a block in gives it away with its content, who swaps one out owns it: AcqRel does both.
    unsafe { give_back(SHARED[place].swap(block, AcqRel)) }
}

/// Frees all blocks that were left; whether their contents were right.
pub fn give_back_shared() -> bool {
    // SAFETY: as in `swap`.
    SHARED.iter().all(|place| unsafe { give_back(place.swap(ptr::null_mut(), AcqRel)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_last_byte_is_noticed() {
        let mut state = 1;
        for _ in 0..100 {
            let block = take(&mut state);
            // SAFETY: the block is the test's own, and has its size in it.
            unsafe {
                let block = resize(block, &mut state);
                let last = block.add(block.cast::<usize>().read() - 1);
                last.write(!last.read());
                assert!(!is_whole(block));
                last.write(!last.read());
                assert!(swap(block, &mut state));
            }
        }
        assert!(give_back_shared());
    }
}
