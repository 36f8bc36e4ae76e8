//! Region: `hz3_region_*`, blocks that go all at once, within a limit.
//!
//! A `struct hz3_region *` is the address of the region's record, which stays where it is.

use crate::c::{is_alignment, out_of_memory, set_errno};
use core::ptr::{NonNull, null_mut};
use hz3_core::Lane;
use hz3_core::api::region;
use hz3_core::platform::abort;
use hz3_core::platform::units::{MIN_ALIGN, PAGE_BYTES};

/// Fields of a `struct hz3_region_stats`.
const FIELDS: usize = 7;

/// The region at `address`; `None`, with `EINVAL`, for null.
///
/// # Safety
/// `address` is null or was returned by [`new`].
#[inline(always)]
unsafe fn at<L: Lane>(address: *mut u8) -> Option<u32> {
    match NonNull::new(address) {
        // SAFETY: a region's address.
        Some(address) => Some(unsafe { region::at::<L>(address) }),
        None => {
            set_errno(libc::EINVAL);
            None
        }
    }
}

fn or_out_of_memory(block: *mut u8) -> *mut u8 {
    if block.is_null() { out_of_memory() } else { block }
}

/// A region of at most `limit_bytes`, 0 for no limit. Null and `EINVAL` for less than a page, null and `ENOMEM` if memory runs
/// out.
pub fn new<L: Lane>(limit_bytes: usize) -> *mut u8 {
    if (1..PAGE_BYTES).contains(&limit_bytes) {
        set_errno(libc::EINVAL);
        return null_mut();
    }
    match region::begin::<L>(limit_bytes) {
        Some(number) => region::address_of::<L>(number).as_ptr(),
        None => out_of_memory(),
    }
}

/// Ends a region and frees all its blocks; null does nothing.
///
/// # Safety
/// `address` is null or a region; neither it nor its blocks are used any more.
pub unsafe fn destroy<L: Lane>(address: *mut u8) {
    if let Some(address) = NonNull::new(address) {
        // SAFETY: the caller gives up the region.
        unsafe { region::end::<L>(region::at::<L>(address)) }
    }
}

/// A block of the region, aligned to `align`: null and `EINVAL` unless that is a power of two, null and `ENOMEM` beyond the
/// limit or if memory runs out.
///
/// # Safety
/// `address` is null or a region.
pub unsafe fn aligned_alloc<L: Lane>(address: *mut u8, align: usize, bytes: usize) -> *mut u8 {
    if !is_alignment(align) {
        return null_mut();
    }
    // SAFETY: null or a region.
    match unsafe { at::<L>(address) } {
        Some(number) => or_out_of_memory(region::allocate::<L>(number, bytes, align)),
        None => null_mut(),
    }
}

/// [`aligned_alloc`] to 16 bytes.
///
/// # Safety
/// `address` is null or a region.
pub unsafe fn malloc<L: Lane>(address: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: null or a region.
    match unsafe { at::<L>(address) } {
        Some(number) => or_out_of_memory(region::allocate::<L>(number, bytes, MIN_ALIGN)),
        None => null_mut(),
    }
}

/// [`malloc`] of a product, zeroed; fails if the product overflows.
///
/// # Safety
/// `address` is null or a region.
pub unsafe fn calloc<L: Lane>(address: *mut u8, count: usize, bytes: usize) -> *mut u8 {
    // SAFETY: null or a region.
    match (unsafe { at::<L>(address) }, count.checked_mul(bytes)) {
        (Some(number), Some(bytes)) => or_out_of_memory(region::allocate_zeroed::<L>(number, bytes, MIN_ALIGN)),
        (Some(_), None) => out_of_memory(),
        (None, _) => null_mut(),
    }
}

/// Resizes a block of the region, as realloc(3) does.
///
/// # Safety
/// `address` is null or a region; `block` is null or a live block; unless it fails, the caller no longer uses `block`.
pub unsafe fn realloc<L: Lane>(address: *mut u8, block: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: null or a region; null or a live block.
    unsafe {
        let Some(number) = at::<L>(address) else { return null_mut() };
        if bytes == 0 && !block.is_null() {
            region::free::<L>(number, block);
            return null_mut();
        }
        or_out_of_memory(region::realloc::<L>(number, block, bytes, MIN_ALIGN))
    }
}

/// Frees a block of the region; a null block does nothing.
///
/// # Safety
/// `address` is a region; `block` is null or a live block that is no longer used.
pub unsafe fn free<L: Lane>(address: *mut u8, block: *mut u8) {
    // SAFETY: a region; the caller gives up the block.
    unsafe {
        if block.is_null() {
            return;
        }
        match at::<L>(address) {
            Some(number) => region::free::<L>(number, block),
            None => abort::misuse::<L::Os>("hz3_region_free()", "no region for", block.addr()),
        }
    }
}

/// Fills at most the first `size` bytes of a `struct hz3_region_stats`, of one region or, for null, of all; returns the size
/// that the library knows.
///
/// # Safety
/// `address` is null or a region; `size` bytes at `out` are writable.
pub unsafe fn stats<L: Lane>(address: *mut u8, out: *mut usize, size: usize) -> usize {
    // SAFETY: a region.
    let number = NonNull::new(address).map(|address| unsafe { region::at::<L>(address) });
    let stats = region::stats::<L>(number);
    let fields: [usize; FIELDS] = [
        stats.limit_bytes,
        stats.held_bytes,
        stats.peak_bytes,
        stats.live_bytes,
        stats.live_blocks,
        stats.refused,
        stats.regions,
    ];
    for (index, value) in fields.into_iter().enumerate().take(size / size_of::<usize>()) {
        // SAFETY: the field lies within the `size` writable bytes; unaligned writes are allowed.
        unsafe { out.add(index).write_unaligned(value) };
    }
    size_of_val(&fields)
}

/// Defines the exported functions for regions.
#[doc(hidden)]
#[macro_export]
macro_rules! export_regions {
    ($lane:ty) => {
        use $crate::region;

        /// A region of at most `limit` bytes, 0 for no limit. Null and `EINVAL` for less than a page, null and `ENOMEM` if
        /// memory runs out.
        #[unsafe(no_mangle)]
        pub extern "C" fn hz3_region_new(limit: usize) -> *mut c_void {
            region::new::<$lane>(limit).cast()
        }

        /// Ends a region and frees all its blocks; null does nothing.
        ///
        /// # Safety
        /// `region` is null or a region; neither it nor its blocks are used any more.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_destroy(region: *mut c_void) {
            // SAFETY: null, or a region that the caller gives up.
            unsafe { region::destroy::<$lane>(region.cast()) }
        }

        /// malloc(3) in a region: null and `ENOMEM` beyond its limit, too.
        ///
        /// # Safety
        /// `region` is null or a region.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_malloc(region: *mut c_void, bytes: usize) -> *mut c_void {
            // SAFETY: null or a region.
            unsafe { region::malloc::<$lane>(region.cast(), bytes).cast() }
        }

        /// calloc(3) in a region.
        ///
        /// # Safety
        /// `region` is null or a region.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_calloc(region: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
            // SAFETY: null or a region.
            unsafe { region::calloc::<$lane>(region.cast(), count, bytes).cast() }
        }

        /// aligned_alloc(3) in a region.
        ///
        /// # Safety
        /// `region` is null or a region.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_aligned_alloc(
            region: *mut c_void,
            align: usize,
            bytes: usize,
        ) -> *mut c_void {
            // SAFETY: null or a region.
            unsafe { region::aligned_alloc::<$lane>(region.cast(), align, bytes).cast() }
        }

        /// realloc(3) of a region's block.
        ///
        /// # Safety
        /// `region` is null or a region; `block` is null or a live block of it; unless it fails, the caller no longer uses
        /// `block`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_realloc(
            region: *mut c_void,
            block: *mut c_void,
            bytes: usize,
        ) -> *mut c_void {
            // SAFETY: null or a region; null or a live block.
            unsafe { region::realloc::<$lane>(region.cast(), block.cast(), bytes).cast() }
        }

        /// free(3) of a region's block.
        ///
        /// # Safety
        /// `region` is a region; `block` is null or a live block of it that is no longer used.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_free(region: *mut c_void, block: *mut c_void) {
            // SAFETY: a region; the caller gives up the block, which may be null.
            unsafe { region::free::<$lane>(region.cast(), block.cast()) }
        }

        /// Fills at most the first `size` bytes of a `struct hz3_region_stats`, of a region or, for null, of all; returns the
        /// size that the library knows.
        ///
        /// # Safety
        /// `region` is null or a region; `size` bytes at `out` are writable.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_region_stats(region: *const c_void, out: *mut c_void, size: usize) -> usize {
            // SAFETY: null or a region; `size` bytes at `out` are writable.
            unsafe { region::stats::<$lane>(region.cast_mut().cast(), out.cast(), size) }
        }
    };
}
