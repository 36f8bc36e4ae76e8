//! Block: one allocation of the allocator under test, and its size, in one word.
//!
//! ```text
//!   63        48 47                                   0
//!   +-----------+--------------------------------------+
//!   | size code |               address                |      0 never occurs: it means "no block"
//!   +-----------+--------------------------------------+
//! ```
//!
//! Who frees a block must know its size to keep the live bytes right, also when another thread allocated
//! it; a word that carries both crosses a ring as one store. User addresses fit in 48 bits on the 64-bit
//! Linux systems that this runs on (x86-64 and AArch64 hand out larger ones only on request).
//!
//! `malloc` and `free` are the C library's symbols, bound by the dynamic linker, so that a preloaded
//! library serves them.

use std::arch::asm;
use std::num::NonZeroU64;

use crate::arguments::Touch;
use crate::mapping::ZeroValid;

const ADDRESS_BITS: u32 = 48; // chosen
const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - 1; // derived
const CODE_MAX: u64 = u64::MAX >> ADDRESS_BITS; // derived: 65535
const _: () = assert!(size_of::<usize>() == 8 && CODE_MAX == 65_535);

/// A live block: the one handle on it. Free it, or send it to a thread that does.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is never freed"]
#[repr(transparent)]
pub struct Block(NonZeroU64);

// SAFETY: zero bytes are `None` of a non-zero word, by the standard library's guarantee.
unsafe impl ZeroValid for Option<Block> {}

impl Block {
    /// Calls `malloc(size_bytes)`; `None` if that fails. `size_bytes` is at least 1 and at most the
    /// maximum that `unit` was made for.
    #[inline(always)]
    pub fn allocate(size_bytes: usize, unit: SizeUnit) -> Option<Fresh> {
        // SAFETY: `malloc` takes any size.
        let mut address = unsafe { libc::malloc(size_bytes) };
        // The compiler knows malloc and free and may drop a pair of them; behind this it knows neither
        // where the pointer came from nor what becomes of it.
        // SAFETY: no instruction is emitted.
        unsafe { asm!("/* {0} */", inout(reg) address, options(nostack, preserves_flags)) };
        // The test for failure comes before the size code, which would make the word of a null pointer
        // differ from zero.
        let word = NonZeroU64::new(address as u64)?;
        Some(Fresh { block: Self(word | unit.code(size_bytes) << ADDRESS_BITS), size_bytes })
    }

    /// Calls `free` and ends the block.
    #[inline(always)]
    pub fn free(self) {
        // SAFETY: a block holds what `malloc` gave, and only one handle on it exists, consumed here.
        unsafe { libc::free(self.address().cast()) };
    }

    /// The block's share of the live bytes, in units of the [`SizeUnit`] it was allocated with.
    #[inline(always)]
    pub fn units(&self) -> i64 {
        (self.0.get() >> ADDRESS_BITS) as i64
    }

    /// The word that crosses a ring; the handle passes to whoever turns it back.
    #[inline(always)]
    pub fn into_word(self) -> u64 {
        self.0.get()
    }

    /// The block of a word.
    ///
    /// # Safety
    /// `word` came from [`Block::into_word`] and is turned back only once.
    #[inline(always)]
    pub unsafe fn from_word(word: u64) -> Self {
        // SAFETY: words of blocks are not zero.
        Self(unsafe { NonZeroU64::new_unchecked(word) })
    }

    #[inline(always)]
    fn address(&self) -> *mut u8 {
        (self.0.get() & ADDRESS_MASK) as *mut u8
    }
}

/// A block that `malloc` has just returned, and its exact size: it can be written.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is never freed"]
pub struct Fresh {
    block: Block,
    size_bytes: usize,
}

impl Fresh {
    /// Writes the bytes that `touch` names; the block is then in use.
    #[inline(always)]
    pub fn touched(self, touch: Touch) -> Block {
        let first = self.block.address();
        match touch {
            Touch::None => {}
            // SAFETY: `malloc` gave `size_bytes`, at least 1, so both bytes are inside. The writes are
            // volatile because they are the point: nobody reads them.
            Touch::Ends => unsafe {
                first.write_volatile(1);
                first.add(self.size_bytes - 1).write_volatile(1);
            },
            // SAFETY: the whole block is inside, as above. The empty instruction makes the writes count
            // as read.
            Touch::All => unsafe {
                first.write_bytes(1, self.size_bytes);
                asm!("/* {0} */", in(reg) first, options(nostack, preserves_flags));
            },
        }
        self.block
    }
}

/// Size unit: the granule in which a run counts live bytes, so that its largest size fits the 16-bit code.
///
/// One byte up to a largest size of 65,535 bytes: live bytes are exact there. Above, sizes round up to a
/// power of two of at most 128 KiB, one part in 32,768 of the largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeUnit {
    shift: u32,
}

impl SizeUnit {
    /// The smallest unit whose code can hold `max_bytes`.
    pub fn for_max(max_bytes: u32) -> Self {
        let fits = |shift: &u32| Self { shift: *shift }.code(max_bytes as usize) <= CODE_MAX;
        Self { shift: (0..=17).find(fits).expect("32 bits minus a shift of 17 leave 15") }
    }

    /// `units` in bytes.
    pub fn bytes(self, units: i64) -> i64 {
        units << self.shift
    }

    #[inline(always)]
    fn code(self, size_bytes: usize) -> u64 {
        (size_bytes as u64 + ((1 << self.shift) - 1)) >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_up_to_65535_are_counted_to_the_byte() {
        let unit = SizeUnit::for_max(65_535);
        assert_eq!(unit, SizeUnit { shift: 0 });
        for size in [1, 16, 2048, 65_535] {
            assert_eq!(unit.bytes(unit.code(size) as i64), size as i64);
        }
    }

    #[test]
    fn larger_sizes_round_up_by_less_than_one_unit() {
        for max in [65_536, 1 << 20, 25 << 20, u32::MAX] {
            let unit = SizeUnit::for_max(max);
            for size in [1, max / 3, max - 1, max] {
                let code = unit.code(size as usize);
                assert!(code <= CODE_MAX, "{size} of {max} has the code {code}");
                let excess = unit.bytes(code as i64) - i64::from(size);
                assert!((0..unit.bytes(1)).contains(&excess), "{size} of {max} is off by {excess}");
            }
            assert!(unit.bytes(1) <= i64::from(max) / 32_767 + 1);
        }
    }

    #[test]
    fn a_block_keeps_its_size_and_address_through_a_word() {
        let block = Block::allocate(777, SizeUnit::for_max(2048)).unwrap().touched(Touch::None);
        let address = block.address();
        let word = block.into_word();
        // SAFETY: the word is a block's, turned back once.
        let block = unsafe { Block::from_word(word) };
        assert_eq!((block.units(), block.address()), (777, address));
        block.free();
    }

    /// The bytes of a block of 64 that held sevens before it was touched.
    fn bytes_after(touch: Touch) -> [u8; 64] {
        let fresh = Block::allocate(64, SizeUnit::for_max(64)).unwrap();
        // SAFETY: the block has 64 bytes.
        unsafe { fresh.block.address().write_bytes(7, 64) };
        let block = fresh.touched(touch);
        // SAFETY: the block has 64 bytes, all written.
        let bytes = unsafe { block.address().cast::<[u8; 64]>().read() };
        block.free();
        bytes
    }

    #[test]
    fn touching_writes_the_named_bytes_and_no_others() {
        assert_eq!(bytes_after(Touch::None), [7; 64]);
        assert_eq!(bytes_after(Touch::All), [1; 64]);
        let ends = bytes_after(Touch::Ends);
        assert_eq!((ends[0], ends[63]), (1, 1));
        assert_eq!(ends[1..63], [7; 62]);
    }

    #[test]
    fn a_refused_allocation_is_no_block() {
        // Above PTRDIFF_MAX malloc always fails.
        assert_eq!(Block::allocate(usize::MAX, SizeUnit::for_max(1)), None);
    }
}
