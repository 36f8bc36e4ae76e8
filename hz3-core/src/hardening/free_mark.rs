//! A word in each free slot that exposes a second `free`.
//!
//! ```text
//! live block   | the program's … 16 bytes and more |
//! free slot    | as it was | 9 × address | as it was |      from `free` until the slot is handed out again
//! ```
//!
//! `free` writes the mark, or stops the process if it finds one. A slot that is handed out loses it, so a block never
//! written to has none. For one instruction, nine times the address is no address (too long), text (its top byte is 0),
//! small number or likely fraction. No pointer is read from a block, so a write after free can only hide a double free.

/// Offset in the slot. Derived: the least slot has 16 bytes, and programs write to the first word most.
const OFFSET: usize = 8;

const _: () = assert!(OFFSET + size_of::<usize>() == crate::platform::units::MIN_ALIGN);

/// The mark of the slot at `address`.
#[inline(always)]
const fn of(address: usize) -> usize {
    address.wrapping_mul(9)
}

/// Whether the slot has the mark.
///
/// # Safety
/// The 16 bytes at `slot` are readable.
#[inline(always)]
pub unsafe fn is_set(slot: *const u8) -> bool {
    // SAFETY: readable. Unaligned: `free` may be given any pointer.
    unsafe { slot.add(OFFSET).cast::<usize>().read_unaligned() == of(slot.addr()) }
}

/// Marks the slot.
///
/// # Safety
/// The 16 bytes at `slot` are writable and unused.
#[inline(always)]
pub unsafe fn set(slot: *mut u8) {
    // SAFETY: writable. Unaligned: `free` may be given any pointer.
    unsafe { slot.add(OFFSET).cast::<usize>().write_unaligned(of(slot.addr())) }
}

/// Marks the slot; false if it is marked already.
///
/// # Safety
/// The 16 bytes at `slot` are readable; if they have no mark, writable and unused.
#[inline(always)]
pub unsafe fn set_once(slot: *mut u8) -> bool {
    // SAFETY: readable; written to only without a mark.
    unsafe {
        if is_set(slot) {
            return false;
        }
        set(slot);
    }
    true
}

/// Zeroes a free slot of `bytes` bytes and marks it.
///
/// # Safety
/// `bytes` bytes at `slot`, at least 16, are writable and unused.
pub unsafe fn wipe(slot: *mut u8, bytes: usize) {
    // SAFETY: writable; at least 16 bytes.
    unsafe {
        slot.write_bytes(0, bytes);
        set(slot);
    }
}

/// Whether the slot of `bytes` bytes is unchanged since [`wipe`].
///
/// # Safety
/// `bytes` bytes at `slot`, a multiple of 16, are readable and unused.
pub unsafe fn is_wiped(slot: *const u8, bytes: usize) -> bool {
    // SAFETY: readable, and aligned for words.
    let words = unsafe { core::slice::from_raw_parts(slot.cast::<usize>(), bytes / size_of::<usize>()) };
    let [first, second, rest @ ..] = words else { return false };
    // No early exit: this vectorizes.
    rest.iter().fold(*first | (*second ^ of(slot.addr())), |found, word| found | *word) == 0
}

/// Clears the mark and returns the slot.
///
/// # Safety
/// The 16 bytes at `slot`, a multiple of 16, are writable and unused.
#[inline(always)]
pub unsafe fn clear(slot: *mut u8) -> *mut u8 {
    // SAFETY: writable and aligned.
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
        // Linux maps from under the stack downwards, or from a third of the address space upwards.
        for (bits, lowest) in [(47, 0x2aaa_aaaa_a000), (48, 0x5555_5555_5000), (39, 0x2a_aaaa_a000)] {
            for address in [lowest, (1 << bits) - 16] {
                assert!(of(address) >> bits != 0, "{address:x}");
                assert!(of(address) >> 56 == 0, "{address:x}");
            }
        }
    }
}
