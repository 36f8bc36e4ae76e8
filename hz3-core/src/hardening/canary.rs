//! Canaries detect writes past a block's requested size, in the hardened lane.
//!
//! ```text
//! slot    | requested … | fill, fill, … | trailer |      trailer: 8 bytes, keyed; holds the length of the fill
//! large   | requested … | fill, fill, … | guard page      the requested size is in the descriptor
//! ```
//!
//! Every slot has a trailer, so a request needs a slot at least eight bytes larger: blocks of 2^k bytes often fill
//! their slot and would have no canary. Fill and first trailer byte are never 0, because the most frequent overflow
//! writes a string's final 0. The trailer depends on the address and on a key of the process, so it can't be guessed or
//! copied.

use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;

/// Bytes of a trailer. Derived: those of [`Policy::TRAILER_BYTES`](crate::pages::policy::Policy::TRAILER_BYTES).
const TRAILER_BYTES: usize = 8;
/// Position of the fill's length in the trailer. Derived: a small slot is shorter than 2^16 bytes.
const LENGTH_SHIFT: u32 = 48;
/// Most bytes of fill behind a large block. Chosen: a linear overflow hits the first.
const LARGE_FILL_BYTES: usize = PAGE_BYTES;

const _: () = assert!(crate::pages::bins::MAX_SMALL_BYTES < 1 << (64 - LENGTH_SHIFT));

/// The process's key; 0 before the first use.
static KEY: AtomicU64 = AtomicU64::new(0);

/// The process's key, never 0.
#[inline]
pub fn process_key<O: Os>() -> u64 {
    // Relaxed, here and in `draw_key`: all threads compute the same value, which publishes nothing.
    match KEY.load(Ordering::Relaxed) {
        0 => draw_key::<O>(),
        key => key,
    }
}

#[cold]
fn draw_key<O: Os>() -> u64 {
    let key = O::random_key() | 1 << 63;
    KEY.store(key, Ordering::Relaxed);
    key
}

/// The trailer of the slot at `address`, before the length is mixed in.
#[inline(always)]
fn word(key: u64, address: usize) -> u64 {
    let mixed = (address as u64 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 31) | 1
}

/// The bits of a trailer that the length `fill` flips: the upper ones, which tell the length, and lower ones (not the
/// last), so that no other length fits.
#[inline(always)]
fn spread(fill: usize) -> u64 {
    let low = (fill as u64).wrapping_mul(0x51ed_270b_6a56) & ((1 << LENGTH_SHIFT) - 2);
    (fill as u64) << LENGTH_SHIFT | low
}

/// A mask of a word's last `bytes` bytes in memory, at most 8.
#[inline(always)]
fn last_bytes(bytes: usize) -> u64 {
    u64::MAX.checked_shl(64 - 8 * bytes as u32).unwrap_or(0)
}

/// The lowest byte of `word`, eight times.
#[inline(always)]
fn repeated(word: u64) -> u64 {
    (word & 0xff) * 0x0101_0101_0101_0101
}

/// Writes the canary behind the first `bytes` bytes of a slot of `slot_bytes`.
///
/// # Safety
/// The slot is writable and the caller's alone, begins at a multiple of 16, and has room for `bytes` and a trailer.
#[inline]
pub unsafe fn seal(key: u64, slot: *mut u8, slot_bytes: usize, bytes: usize) {
    let (word, fill) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES - bytes);
    // SAFETY: the slot is the caller's. The fill ends at the trailer, whose place, like that of the word before it, is
    // a multiple of 8 in the slot.
    unsafe {
        if fill <= 8 {
            // Instead of a call: most blocks have no more fill. Even the least slot has a word before its trailer.
            let before = slot.add(slot_bytes - TRAILER_BYTES - 8).cast::<u64>();
            before.write(before.read() & !last_bytes(fill) | repeated(word) & last_bytes(fill));
        } else {
            slot.add(bytes).write_bytes(word as u8, fill);
        }
        slot.add(slot_bytes - TRAILER_BYTES).cast::<u64>().write(word ^ spread(fill));
    }
}

/// The requested size of a slot that [`seal`] has written to; `None` if the canary has changed.
///
/// # Safety
/// The slot has `slot_bytes` readable bytes and begins at a multiple of 16.
#[inline]
pub unsafe fn requested_bytes(key: u64, slot: *const u8, slot_bytes: usize) -> Option<usize> {
    let (word, room) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES);
    // SAFETY: the slot is readable, and its last 8 bytes begin at a multiple of 8.
    let difference = unsafe { slot.add(room).cast::<u64>().read() } ^ word;
    let fill = (difference >> LENGTH_SHIFT) as usize;
    if difference != spread(fill) || fill > room {
        return None;
    }
    // SAFETY: the fill was checked to be in the readable slot; a word comes before the trailer, at a multiple of 8.
    let is_whole = unsafe {
        if fill <= 8 {
            (slot.add(room - 8).cast::<u64>().read() ^ repeated(word)) & last_bytes(fill) == 0
        } else {
            is_filled(slot.add(room - fill), fill, word as u8)
        }
    };
    is_whole.then_some(room - fill)
}

/// Writes the canary behind the first `bytes` bytes of a large block of `room` bytes.
///
/// # Safety
/// The block has `room` writable bytes, at least `bytes`, and is the caller's alone.
pub unsafe fn seal_large(key: u64, block: *mut u8, room: usize, bytes: usize) {
    // SAFETY: the bytes from `bytes` on, at most up to `room`, are writable.
    unsafe { block.add(bytes).write_bytes(word(key, block.addr()) as u8, (room - bytes).min(LARGE_FILL_BYTES)) }
}

/// Whether the canary of [`seal_large`] is unchanged.
///
/// # Safety
/// The block has `room` readable bytes, at least `bytes`.
pub unsafe fn is_large_sealed(key: u64, block: *const u8, room: usize, bytes: usize) -> bool {
    // SAFETY: the bytes from `bytes` on, at most up to `room`, are readable.
    unsafe { is_filled(block.add(bytes), (room - bytes).min(LARGE_FILL_BYTES), word(key, block.addr()) as u8) }
}

/// # Safety
/// `bytes` bytes at `start` are readable.
#[inline]
unsafe fn is_filled(start: *const u8, bytes: usize, fill: u8) -> bool {
    // SAFETY: the caller has `bytes` readable bytes at `start`.
    let bytes = unsafe { core::slice::from_raw_parts(start, bytes) };
    // No early exit: this vectorizes.
    bytes.iter().fold(0, |found, byte| found | (byte ^ fill)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Slot([u8; 96]);

    #[test]
    fn a_canary_tells_the_requested_size_and_a_write_to_any_of_its_bytes() {
        for requested in [0, 1, 47, 79, 80, 81, 87, 88] {
            for byte in requested..96 {
                let mut slot = Slot([0; 96]);
                let start = slot.0.as_mut_ptr();
                // SAFETY: 96 bytes of this function's own.
                unsafe {
                    seal(77, start, 96, requested);
                    assert_eq!(requested_bytes(77, start, 96), Some(requested));
                    assert!(*start.add(requested) != 0, "the first byte of a canary is not 0");
                    *start.add(byte) ^= 0x10;
                    assert_eq!(requested_bytes(77, start, 96), None, "{requested} bytes, byte {byte}");
                }
            }
        }
    }

    #[test]
    fn a_canary_is_another_at_each_address_and_with_each_key() {
        assert!(word(77, 0x7f00_0000_0000) != word(77, 0x7f00_0000_0010));
        assert!(word(77, 0x7f00_0000_0000) != word(78, 0x7f00_0000_0000));
    }

    #[test]
    fn a_large_block_s_canary_tells_a_write_right_behind_the_block() {
        let mut block = std::vec![0_u8; 3 * PAGE_BYTES];
        let start = block.as_mut_ptr();
        for bytes in [1, PAGE_BYTES, 3 * PAGE_BYTES - 1] {
            // SAFETY: the block is this function's own.
            unsafe {
                seal_large(77, start, 3 * PAGE_BYTES, bytes);
                assert!(is_large_sealed(77, start, 3 * PAGE_BYTES, bytes));
                *start.add(bytes) = 0;
                assert!(!is_large_sealed(77, start, 3 * PAGE_BYTES, bytes));
            }
        }
    }
}
