//! Mark: the word in a free slot that tells a second `free` of it.
//!
//! ```text
//! live block   | the program's … 16 bytes and more |
//! free slot    | as it was | 9 × address | as it was |      from `free` until the slot is handed out again
//! ```
//!
//! `free` stops the process where the mark is there already, and writes it where not; whatever hands a slot
//! out clears it, so a block that the program never wrote to does not carry it. The factor makes it a number
//! that is no address of a process (it is longer), no text (the highest byte is 0), no small number and no likely
//! fraction, for one instruction. It is compared with what it must be and used for nothing else: no pointer is
//! ever read from a block, so a write after free can hide a double free and do no more.

/// Where the mark lies in a slot. Derived: the least slot is 16 bytes; the first word is the one that programs
/// write to most, after free too.
const OFFSET: usize = 8;

const _: () = assert!(OFFSET + size_of::<usize>() == crate::platform::units::MIN_ALIGN);

/// The mark of the slot at `address`.
#[inline(always)]
const fn of(address: usize) -> usize {
    address.wrapping_mul(9)
}

/// Whether the slot is marked as free.
///
/// # Safety
/// The 16 bytes at `slot` are readable.
#[inline(always)]
pub unsafe fn is_set(slot: *const u8) -> bool {
    // SAFETY: the caller's promise. Unaligned, because the pointer may be anything that was given to `free`.
    unsafe { slot.add(OFFSET).cast::<usize>().read_unaligned() == of(slot.addr()) }
}

/// Marks the slot as free.
///
/// # Safety
/// The 16 bytes at `slot` are writable, and nobody uses them.
#[inline(always)]
pub unsafe fn set(slot: *mut u8) {
    // SAFETY: the caller's promise; unaligned as above.
    unsafe { slot.add(OFFSET).cast::<usize>().write_unaligned(of(slot.addr())) }
}

/// Marks the slot as free; false where it is so already.
///
/// # Safety
/// As for [`set`].
#[inline(always)]
pub unsafe fn set_once(slot: *mut u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if is_set(slot) {
            return false;
        }
        set(slot);
    }
    true
}

/// Makes the free slot of `bytes` bytes read as zero but for its mark, which it sets.
///
/// # Safety
/// The slot is writable, and nobody uses it.
pub unsafe fn wipe(slot: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        slot.write_bytes(0, bytes);
        set(slot);
    }
}

/// Whether the slot of `bytes` bytes is as [`wipe`] left it.
///
/// # Safety
/// The slot is readable and begins at a multiple of 16, and nobody uses it.
pub unsafe fn is_wiped(slot: *const u8, bytes: usize) -> bool {
    // SAFETY: the caller's promise.
    let words = unsafe { core::slice::from_raw_parts(slot.cast::<usize>(), bytes / size_of::<usize>()) };
    let [first, second, rest @ ..] = words else { return false };
    // All words, without an early end: several at a time.
    rest.iter().fold(*first | (*second ^ of(slot.addr())), |found, word| found | *word) == 0
}

/// Clears the slot's mark and returns the slot.
///
/// # Safety
/// As for [`set`].
#[inline(always)]
pub unsafe fn clear(slot: *mut u8) -> *mut u8 {
    // SAFETY: the caller's promise; a slot begins at a multiple of 16.
    unsafe { slot.add(OFFSET).cast::<usize>().write(0) };
    slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_marked_until_it_is_cleared() {
        #[repr(align(16))]
        struct Slot([u8; 16]);
        let mut slot = Slot([0xa5; 16]);
        let start = slot.0.as_mut_ptr();
        // SAFETY: 16 bytes of this function's own.
        unsafe {
            assert!(!is_set(start));
            set(start);
            assert!(is_set(start));
            assert!(!is_set(clear(start)));
        }
        assert_eq!(slot.0[..8], [0xa5; 8], "the first word is left alone");
    }

    #[test]
    fn a_wiped_slot_tells_a_write_to_any_of_its_bytes() {
        #[repr(align(16))]
        struct Slot([u8; 48]);
        let mut slot = Slot([0xa5; 48]);
        let start = slot.0.as_mut_ptr();
        for byte in 0..48 {
            // SAFETY: 48 bytes of this function's own.
            unsafe {
                assert!(!is_wiped(start, 48));
                wipe(start, 48);
                assert!(is_wiped(start, 48) && is_set(start));
                *start.add(byte) ^= 1;
            }
        }
    }

    #[test]
    fn a_mark_is_no_address_and_no_text() {
        // Where Linux maps: from under the stack downwards, or upwards from a third of the address space; with
        // 47 bits (x86-64), and 39 or 48 (AArch64).
        for (bits, lowest) in [(47, 0x2aaa_aaaa_a000), (48, 0x5555_5555_5000), (39, 0x2a_aaaa_a000)] {
            for address in [lowest, (1 << bits) - 16] {
                assert!(of(address) >> bits != 0, "{address:x}");
                assert!(of(address) >> 56 == 0, "{address:x}");
            }
        }
    }
}
