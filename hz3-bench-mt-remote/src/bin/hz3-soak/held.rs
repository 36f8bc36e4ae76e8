//! Held: one block of the allocator under test, with the pattern that must be in it.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Bytes of all blocks that this process holds.
pub static LIVE: AtomicI64 = AtomicI64::new(0);
/// Blocks whose content has been looked at.
pub static CHECKS: AtomicU64 = AtomicU64::new(0);

/// Bytes at either end that carry the pattern in full.
const EDGE_BYTES: usize = 64; // chosen: more than a cache line on both sides of a neighbour
/// Distance of the pattern's bytes in between: one or two in each page.
const STRIDE_BYTES: usize = 4093; // chosen: prime, below a page

/// The call that makes a block.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// `malloc`
    Malloc,
    /// `calloc`, whose zeros are looked at
    Calloc,
    /// `posix_memalign` with this alignment
    Aligned(usize),
}

/// A block; it is freed by [`Held::free`] alone.
#[derive(Debug)]
pub struct Held {
    address: NonNull<u8>,
    len: usize,
    stamp: u64,
}

// SAFETY: a block may be used and freed by any thread; `Held` owns it.
unsafe impl Send for Held {}

impl Held {
    /// Allocates and fills `len` bytes; what is wrong, in one line.
    pub fn allocate(call: Call, len: usize, stamp: u64) -> Result<Held, String> {
        let address = match call {
            // SAFETY: malloc takes any size.
            Call::Malloc => unsafe { libc::malloc(len) },
            // SAFETY: calloc takes any sizes.
            Call::Calloc => unsafe { libc::calloc(1, len) },
            Call::Aligned(alignment) => {
                let mut address = ptr::null_mut();
                // SAFETY: the alignment is a power of two of at least a pointer's size; the result has a place.
                let code = unsafe { libc::posix_memalign(&raw mut address, alignment, len) };
                if code != 0 {
                    return Err(format!("posix_memalign({alignment}, {len}) returns {code}"));
                }
                address
            }
        };
        let Some(address) = NonNull::new(address.cast::<u8>()) else {
            return Err(format!("{call:?} of {len} bytes returns null"));
        };
        let alignment = if let Call::Aligned(alignment) = call { alignment } else { 16.min(len.next_power_of_two()) };
        if address.addr().get() % alignment != 0 {
            return Err(format!("{call:?} of {len} bytes returns the unaligned {address:?}"));
        }
        let held = Held { address, len, stamp };
        if matches!(call, Call::Calloc) {
            for offset in offsets(len) {
                // SAFETY: the offset is below the block's size.
                let byte = unsafe { held.address.add(offset).read() };
                if byte != 0 {
                    return Err(format!("calloc of {len} bytes has {byte:#x} at {offset}"));
                }
            }
        }
        // Relaxed, here and below: figures.
        LIVE.fetch_add(len as i64, Relaxed);
        held.fill();
        Ok(held)
    }

    fn fill(&self) {
        for offset in offsets(self.len) {
            // SAFETY: the offset is below the block's size, and the block is this value's own.
            unsafe { self.address.add(offset).write(expected(self.stamp, offset)) };
        }
    }

    /// Looks at the pattern; what is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        CHECKS.fetch_add(1, Relaxed);
        self.check_at(offsets(self.len))
    }

    fn check_at(&self, offsets: impl Iterator<Item = usize>) -> Result<(), String> {
        for offset in offsets {
            // SAFETY: the offset is below the block's size, and the block is this value's own.
            let byte = unsafe { self.address.add(offset).read() };
            let expected = expected(self.stamp, offset);
            if byte != expected {
                let Held { address, len, .. } = self;
                return Err(format!(
                    "block {address:?} of {len} bytes has {byte:#x} in place of {expected:#x} at {offset}"
                ));
            }
        }
        Ok(())
    }

    /// `realloc` to `len` bytes, at least one; the content up to the smaller size must have come along.
    pub fn resize(self, len: usize) -> Result<Held, String> {
        // SAFETY: the block is this value's own and is not used again but by its successor.
        let address = unsafe { libc::realloc(self.address.as_ptr().cast::<c_void>(), len) };
        let Some(address) = NonNull::new(address.cast::<u8>()) else {
            return Err(format!("realloc to {len} bytes returns null"));
        };
        let kept = self.len.min(len);
        LIVE.fetch_add(len as i64 - self.len as i64, Relaxed);
        let held = Held { address, len, stamp: self.stamp };
        CHECKS.fetch_add(1, Relaxed);
        held.check_at(offsets(self.len).take_while(|offset| *offset < EDGE_BYTES.min(kept)))?;
        held.check_at((EDGE_BYTES..kept).step_by(STRIDE_BYTES))?;
        held.fill();
        Ok(held)
    }

    /// Gives the block back.
    pub fn free(self) {
        LIVE.fetch_sub(self.len as i64, Relaxed);
        // SAFETY: the block is this value's own, and the value ends here.
        unsafe { libc::free(self.address.as_ptr().cast::<c_void>()) };
    }
}

/// Where a block of `len` bytes carries its pattern: both edges, and a byte of each page between.
fn offsets(len: usize) -> impl Iterator<Item = usize> {
    let head = EDGE_BYTES.min(len);
    let tail = len.saturating_sub(EDGE_BYTES).max(head);
    (0..head).chain((head..tail).step_by(STRIDE_BYTES)).chain(tail..len)
}

/// The pattern's byte at `offset`.
fn expected(stamp: u64, offset: usize) -> u8 {
    ((stamp ^ offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_at_either_edge_and_in_the_middle_is_noticed() {
        for len in [1, 64, 65, 200, 100_000] {
            for offset in [0, len - 1, len.min(64 + STRIDE_BYTES) - 1] {
                let held = Held::allocate(Call::Malloc, len, 7).unwrap();
                assert!(held.check().is_ok());
                if offsets(len).any(|at| at == offset) {
                    // SAFETY: the offset is below the block's size.
                    unsafe { held.address.add(offset).write(!expected(7, offset)) };
                    assert!(held.check().is_err(), "{len} {offset}");
                }
                held.free();
            }
        }
    }

    #[test]
    fn content_comes_along_through_every_call() {
        for call in [Call::Malloc, Call::Calloc, Call::Aligned(8192)] {
            let mut held = Held::allocate(call, 0, 3).unwrap();
            for len in [1, 50, 20_000, 3_000_000, 500, 9] {
                held = held.resize(len).unwrap();
                held.check().unwrap();
            }
            held.free();
        }
    }
}
