//! Mapping: an array of zeroed values in pages of its own, straight from the kernel.
//!
//! The benchmark's shared structures live here and not in the allocator under test, for two reasons: they
//! must not occupy or shape its memory, and their place in the cache (page-aligned, nothing beside them)
//! must be the same under every allocator. An unlucky layout moves results by a factor of two.
//!
//! Pages are committed by touch, and never as huge pages: what the harness holds stays what it uses.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64};

use crossbeam_utils::CachePadded;

/// Types whose all-zero bytes are a valid value.
///
/// # Safety
/// A value made of zero bytes must be valid, and dropping it must do nothing.
pub unsafe trait ZeroValid {}

// SAFETY: an atomic integer is its integer, and zero is one.
unsafe impl ZeroValid for AtomicU64 {}
// SAFETY: as above.
unsafe impl ZeroValid for AtomicI64 {}
// SAFETY: padding bytes may have any value; the inner value is valid by its own contract.
unsafe impl<T: ZeroValid> ZeroValid for CachePadded<T> {}

/// Owns `len` values of `T` in anonymous private pages; unmapped on drop.
#[derive(Debug)]
pub struct Mapping<T: ZeroValid> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: a mapping owns its values as a boxed slice does, and memory maps belong to the process.
unsafe impl<T: ZeroValid + Send> Send for Mapping<T> {}
// SAFETY: shared access gives `&[T]` and nothing more.
unsafe impl<T: ZeroValid + Sync> Sync for Mapping<T> {}

impl<T: ZeroValid> Mapping<T> {
    /// Maps `len` zeroed values, `len` at least 1, page-aligned. No page is resident before it is touched.
    ///
    /// # Errors
    /// The kernel's, when it refuses the mapping; `OutOfMemory` when the size in bytes overflows.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        assert!(len > 0, "an empty mapping has no address");
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory in use.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A kernel built without huge pages refuses the advice, which then is not needed.
        // SAFETY: the range is the mapping just made; the advice changes no contents.
        unsafe { libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE) };
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, len })
    }

    /// Bytes of address space that the values take.
    pub fn mapped_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Bytes of this mapping that are resident now, in whole pages; 0 if the kernel does not tell.
    pub fn resident_bytes(&self) -> usize {
        /// Pages asked about at once; the answers lie on the stack.
        const BATCH: usize = 1024;
        // SAFETY: `sysconf` only reads.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let pages = self.mapped_bytes().div_ceil(page_bytes);
        let mut resident = 0;
        for start in (0..pages).step_by(BATCH) {
            let count = BATCH.min(pages - start);
            let mut answers = [0_u8; BATCH];
            // SAFETY: the pages asked about belong to this mapping, and `answers` has room for `count`.
            let result = unsafe {
                libc::mincore(
                    self.first.as_ptr().cast::<u8>().add(start * page_bytes).cast(),
                    count * page_bytes,
                    answers.as_mut_ptr().cast(),
                )
            };
            if result != 0 {
                return 0;
            }
            resident += answers[..count].iter().filter(|answer| **answer & 1 == 1).count();
        }
        resident * page_bytes
    }
}

impl<T: ZeroValid> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` mapped `len` values, valid by `ZeroValid`; they live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: ZeroValid> DerefMut for Mapping<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: ZeroValid> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.mapped_bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn values_start_as_zeros_on_a_page_boundary() {
        let mapping = Mapping::<AtomicU64>::zeroed(3).unwrap();
        assert_eq!(mapping.as_ptr().addr() % 4096, 0);
        assert_eq!(mapping.len(), 3);
        assert!(mapping.iter().all(|value| value.load(Relaxed) == 0));
    }

    #[test]
    fn only_touched_pages_are_resident() {
        // Three batches of the residency query, the last one partial.
        let mapping = Mapping::<AtomicU64>::zeroed((2 * 1024 + 5) * 4096 / 8).unwrap();
        assert_eq!(mapping.mapped_bytes(), (2 * 1024 + 5) * 4096);
        assert_eq!(mapping.resident_bytes(), 0);
        mapping[0].store(1, Relaxed);
        mapping[mapping.len() - 1].store(1, Relaxed);
        assert_eq!(mapping.resident_bytes(), 2 * 4096);
    }

    #[test]
    fn a_size_that_overflows_is_an_error() {
        assert!(Mapping::<AtomicU64>::zeroed(usize::MAX).is_err());
        assert!(Mapping::<AtomicU64>::zeroed(usize::MAX / 16).is_err());
    }
}
