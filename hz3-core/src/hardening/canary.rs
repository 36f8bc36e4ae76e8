//! Canary: what lies between the end of what was asked for and the end of a block's place, in the hardened lane.
//!
//! ```text
//! slot    | asked for … | fill, fill, … | trailer |      trailer: 8 bytes, keyed; holds the length of the fill
//! large   | asked for … | fill, fill, … | guard page      what was asked for stands in the descriptor
//! ```
//!
//! Each slot has a trailer, so that a request is served by a slot of at least eight bytes more: without it a block that
//! fills its slot would have no canary, and blocks of 2^k bytes often do. The trailer's first byte and the fill are
//! never 0, because a program that writes one byte too much most often writes the 0 at the end of a string.
//! The word depends on the address and on a key of the process, so that it can be neither guessed nor copied.

use crate::pages::policy::CANARY_BYTES;
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;

/// Bytes of a trailer. Derived: one word.
const TRAILER_BYTES: usize = CANARY_BYTES;
/// Where the length of the fill stands in the trailer. Derived: a small slot is shorter than 2^16 bytes.
const LENGTH_SHIFT: u32 = 48;
/// Most bytes of fill behind a large block. Chosen: a linear overflow meets the first of them.
const LARGE_FILL_BYTES: usize = PAGE_BYTES;

const _: () = assert!(TRAILER_BYTES == size_of::<u64>());
const _: () = assert!(crate::pages::bins::MAX_SMALL_BYTES < 1 << (64 - LENGTH_SHIFT));

/// The process's key; 0 before the first use.
static KEY: AtomicU64 = AtomicU64::new(0);

/// The key, drawn at the first call.
#[inline]
pub fn process_key<O: Os>() -> u64 {
    // Relaxed, here and below: every thread that draws it draws the same, and nothing else is published.
    match KEY.load(Ordering::Relaxed) {
        0 => draw::<O>(),
        key => key,
    }
}

#[cold]
fn draw<O: Os>() -> u64 {
    let key = O::random_key() | 1 << 63;
    KEY.store(key, Ordering::Relaxed);
    key
}

/// The trailer, less the length, of the slot at `address`.
#[inline(always)]
fn word(key: u64, address: usize) -> u64 {
    let mixed = (address as u64 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 31) | 1
}

/// What the length `fill` changes of a trailer: the upper bits, which tell it, and the lower ones but the last, so that no
/// other length goes with them.
#[inline(always)]
fn spread(fill: usize) -> u64 {
    let low = (fill as u64).wrapping_mul(0x51ed_270b_6a56) & ((1 << LENGTH_SHIFT) - 2);
    (fill as u64) << LENGTH_SHIFT | low
}

/// The upper `bytes` bytes, at most 8, of a word: those that lie last in memory.
#[inline(always)]
fn upper_bytes(bytes: usize) -> u64 {
    u64::MAX.checked_shl(64 - 8 * bytes as u32).unwrap_or(0)
}

/// The last byte of `word`, eight times.
#[inline(always)]
fn repeated(word: u64) -> u64 {
    (word & 0xff) * 0x0101_0101_0101_0101
}

/// Writes the canary behind the first `bytes` bytes of a slot of `slot_bytes`.
///
/// # Safety
/// The slot is writable and nobody else's, begins at a multiple of 16, and holds `bytes` and a trailer.
#[inline]
pub unsafe fn seal(key: u64, slot: *mut u8, slot_bytes: usize, bytes: usize) {
    let (word, fill) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES - bytes);
    // SAFETY: the caller's promise: the fill ends where the trailer begins, at a multiple of 8.
    unsafe {
        if fill <= 8 {
            // In place of a call: most blocks have no more. A slot has a word before its trailer.
            let before = slot.add(slot_bytes - TRAILER_BYTES - 8).cast::<u64>();
            before.write(before.read() & !upper_bytes(fill) | repeated(word) & upper_bytes(fill));
        } else {
            slot.add(bytes).write_bytes(word as u8, fill);
        }
        slot.add(slot_bytes - TRAILER_BYTES).cast::<u64>().write(word ^ spread(fill));
    }
}

/// The bytes that were asked for, of a slot that [`seal`] saw; `None` where the canary was written to.
///
/// # Safety
/// The slot is readable and begins at a multiple of 16.
#[inline]
pub unsafe fn requested_bytes(key: u64, slot: *const u8, slot_bytes: usize) -> Option<usize> {
    let (word, room) = (word(key, slot.addr()), slot_bytes - TRAILER_BYTES);
    // SAFETY: the caller's promise.
    let difference = unsafe { slot.add(room).cast::<u64>().read() } ^ word;
    let fill = (difference >> LENGTH_SHIFT) as usize;
    if difference != spread(fill) || fill > room {
        return None;
    }
    // SAFETY: as above; the fill is a part of the slot, and so is the word before the trailer.
    let is_whole = unsafe {
        if fill <= 8 {
            (slot.add(room - 8).cast::<u64>().read() ^ repeated(word)) & upper_bytes(fill) == 0
        } else {
            is_filled(slot.add(room - fill), fill, word as u8)
        }
    };
    is_whole.then_some(room - fill)
}

/// Writes the canary behind the first `bytes` bytes of a large block of `room` bytes.
///
/// # Safety
/// The block is writable and nobody else's.
pub unsafe fn seal_large(key: u64, block: *mut u8, room: usize, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { block.add(bytes).write_bytes(word(key, block.addr()) as u8, (room - bytes).min(LARGE_FILL_BYTES)) }
}

/// Whether nobody wrote to what [`seal_large`] wrote.
///
/// # Safety
/// The block is readable.
pub unsafe fn is_large_sealed(key: u64, block: *const u8, room: usize, bytes: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { is_filled(block.add(bytes), (room - bytes).min(LARGE_FILL_BYTES), word(key, block.addr()) as u8) }
}

/// # Safety
/// `bytes` bytes at `start` are readable.
#[inline]
unsafe fn is_filled(start: *const u8, bytes: usize, fill: u8) -> bool {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start, bytes) };
    // All bytes, without an early end: several at a time.
    bytes.iter().fold(0, |found, byte| found | (byte ^ fill)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Slot([u8; 96]);

    #[test]
    fn a_canary_tells_what_was_asked_for_and_a_write_to_any_of_its_bytes() {
        for asked_for in [0, 1, 47, 79, 80, 81, 87, 88] {
            for byte in asked_for..96 {
                let mut slot = Slot([0; 96]);
                let start = slot.0.as_mut_ptr();
                // SAFETY: 96 bytes of this function's own.
                unsafe {
                    seal(77, start, 96, asked_for);
                    assert_eq!(requested_bytes(77, start, 96), Some(asked_for));
                    assert!(*start.add(asked_for) != 0, "the first byte of a canary is not 0");
                    *start.add(byte) ^= 0x10;
                    assert_eq!(requested_bytes(77, start, 96), None, "{asked_for} bytes, byte {byte}");
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
