//! Canaries detect writes past a block's requested size, in the hardened lane.
//!
//! ```text
//! slot    | requested … | fill, fill, … | trailer |      trailer: 8 bytes, keyed; holds the length of the fill
//! large   | requested … | fill, fill, … | guard page      the requested size is in the descriptor
//! ```
//!
//! For the trailer, a request needs a slot eight bytes larger: blocks that fill their slot, as those of 2^k bytes often
//! do, would have no canary. Fill and first trailer byte are never 0: most overflows write a string's final 0. The word
//! depends on the address and on a key of the process, so it can't be guessed or copied.

use crate::pages::policy::CANARY_BYTES;
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;

/// Derived: one word.
const TRAILER_BYTES: usize = CANARY_BYTES;
/// Place of the fill's length. Derived: small slots are shorter than 2^16 bytes.
const LENGTH_SHIFT: u32 = 48;
/// Most fill behind a large block. Chosen: a linear overflow hits its start.
const LARGE_FILL_BYTES: usize = PAGE_BYTES;

const _: () = assert!(TRAILER_BYTES == size_of::<u64>());
const _: () = assert!(crate::pages::bins::MAX_SMALL_BYTES < 1 << (64 - LENGTH_SHIFT));

/// 0 before the first use.
static KEY: AtomicU64 = AtomicU64::new(0);

/// The process's key, never 0.
#[inline]
pub fn process_key<O: Os>() -> u64 {
    // Relaxed, here and in `draw_key`: every thread stores the same, and publishes nothing.
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

/// The trailer of the slot at `address`, without a length.
#[inline(always)]
fn word(key: u64, address: usize) -> u64 {
    let mixed = (address as u64 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 31) | 1
}

/// The bits that a fill's length flips in a trailer: upper ones to tell it, lower ones (but the last) to check it.
#[inline(always)]
fn spread(fill: usize) -> u64 {
    let low = (fill as u64).wrapping_mul(0x51ed_270b_6a56) & ((1 << LENGTH_SHIFT) - 2);
    (fill as u64) << LENGTH_SHIFT | low
}

/// A mask of the last `bytes` bytes, at most 8, of a word in memory.
#[inline(always)]
fn last_bytes(bytes: usize) -> u64 {
    u64::MAX.checked_shl(64 - 8 * bytes as u32).unwrap_or(0)
}

/// The first byte of `word` in memory, eight times.
#[inline(always)]
fn repeated(word: u64) -> u64 {
    (word & 0xff) * 0x0101_0101_0101_0101
}

/// Writes the canary behind the first `bytes` bytes of a slot.
///
/// # Safety
/// The slot is writable and the caller's, begins at a multiple of 16, and has room for `bytes` and a trailer.
#[inline]
pub unsafe fn seal(key: u64, slot: *mut u8, slot_bytes: usize, bytes: usize) {
    let (word, fill) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES - bytes);
    // SAFETY: the slot is the caller's. Fill and trailer are in it, both words at multiples of 8.
    unsafe {
        if fill <= 8 {
            // Avoids a call for most blocks. Every slot has a word before its trailer.
            let before = slot.add(slot_bytes - TRAILER_BYTES - 8).cast::<u64>();
            before.write(before.read() & !last_bytes(fill) | repeated(word) & last_bytes(fill));
        } else {
            slot.add(bytes).write_bytes(word as u8, fill);
        }
        slot.add(slot_bytes - TRAILER_BYTES).cast::<u64>().write(word ^ spread(fill));
    }
}

/// The requested size of a slot that [`seal`] wrote to; `None` if its canary has changed.
///
/// # Safety
/// The slot has `slot_bytes` readable bytes and begins at a multiple of 16.
#[inline]
pub unsafe fn requested_bytes(key: u64, slot: *const u8, slot_bytes: usize) -> Option<usize> {
    let (word, room) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES);
    // SAFETY: readable, and the trailer is at a multiple of 8.
    let difference = unsafe { slot.add(room).cast::<u64>().read() } ^ word;
    let fill = (difference >> LENGTH_SHIFT) as usize;
    if difference != spread(fill) || fill > room {
        return None;
    }
    // SAFETY: readable: the fill was checked to be in the slot, and the word is at a multiple of 8.
    let is_whole = unsafe {
        if fill <= 8 {
            (slot.add(room - 8).cast::<u64>().read() ^ repeated(word)) & last_bytes(fill) == 0
        } else {
            is_filled(slot.add(room - fill), fill, word as u8)
        }
    };
    is_whole.then_some(room - fill)
}

/// Writes the canary behind the first `bytes` bytes of a large block.
///
/// # Safety
/// The block has `room` writable bytes, at least `bytes`, and is the caller's alone.
pub unsafe fn seal_large(key: u64, block: *mut u8, room: usize, bytes: usize) {
    // SAFETY: the range ends within `room`, writable.
    unsafe { block.add(bytes).write_bytes(word(key, block.addr()) as u8, (room - bytes).min(LARGE_FILL_BYTES)) }
}

/// Whether the canary of [`seal_large`] is unchanged.
///
/// # Safety
/// The block has `room` readable bytes, at least `bytes`.
pub unsafe fn is_large_sealed(key: u64, block: *const u8, room: usize, bytes: usize) -> bool {
    // SAFETY: the range ends within `room`, readable.
    unsafe { is_filled(block.add(bytes), (room - bytes).min(LARGE_FILL_BYTES), word(key, block.addr()) as u8) }
}

/// # Safety
/// `bytes` bytes at `start` are readable.
#[inline]
unsafe fn is_filled(start: *const u8, bytes: usize, fill: u8) -> bool {
    // SAFETY: the range is readable.
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
