//! C: the functions of `stdlib.h` and `malloc.h`. They add `errno` and argument checks to the lane's functions.
//!
//! Outside rules: malloc(3), posix_memalign(3), malloc_usable_size(3), mallopt(3), mallinfo(3), malloc_trim(3),
//! malloc_info(3) for glibc's promises; C23 7.24.3 for `free_sized`, `free_aligned_sized`, `aligned_alloc`;
//! POSIX.1-2024 for `posix_memalign` and `reallocarray`.

use core::ptr::null_mut;
use hz3_core::Lane;
use hz3_core::api::limits::{self, Limit};
use hz3_core::api::{block, size};
use hz3_core::platform::abort;
use hz3_core::platform::linux::Linux;
use hz3_core::platform::system_page;
use hz3_core::platform::units::align_up;

/// Sets `errno` to `ENOMEM` and returns null.
#[cold]
#[inline(never)]
pub fn out_of_memory() -> *mut u8 {
    set_errno(libc::ENOMEM);
    null_mut()
}

/// Sets `errno`.
pub fn set_errno(value: i32) {
    // SAFETY: this thread's `errno`.
    unsafe { *libc::__errno_location() = value };
}

/// Called by the panic handler.
pub fn panicked() -> ! {
    abort::impossible::<Linux>("internal error")
}

/// The slow path of `malloc`, with `errno`.
#[cold]
#[inline(never)]
pub fn malloc_slow<L: Lane>(bytes: usize) -> *mut u8 {
    let block = block::malloc_miss::<L>(bytes);
    if block.is_null() { out_of_memory() } else { block }
}

/// `malloc`: null and `ENOMEM` on failure; 0 bytes make a block.
#[inline(always)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    block::malloc_or::<L>(bytes, malloc_slow::<L>)
}

/// `calloc`: `malloc`, zeroed; fails if the product overflows.
#[inline(always)]
pub fn calloc<L: Lane>(count: usize, bytes: usize) -> *mut u8 {
    let block = match count.checked_mul(bytes) {
        Some(bytes) => block::malloc_zeroed::<L>(bytes),
        None => null_mut(),
    };
    if block.is_null() { out_of_memory() } else { block }
}

/// `realloc`: as in glibc, 0 bytes free a block and give null. Null and `ENOMEM` on failure.
///
/// # Safety
/// `block` is null or a live block; unless it fails, the caller no longer uses `block`.
#[inline(always)]
pub unsafe fn realloc<L: Lane>(block: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller passes null or a live block.
    unsafe {
        if bytes == 0 && !block.is_null() {
            block::free::<L>(block);
            return null_mut();
        }
        let new = block::realloc::<L>(block, bytes);
        if new.is_null() { out_of_memory() } else { new }
    }
}

/// `memalign`. An alignment is rounded up to a power of two, as in glibc; null and `EINVAL` if that overflows.
#[inline]
pub fn memalign<L: Lane>(align: usize, bytes: usize) -> *mut u8 {
    let Some(align) = align.checked_next_power_of_two() else {
        set_errno(libc::EINVAL);
        return null_mut();
    };
    let block = block::malloc_aligned::<L>(bytes, align);
    if block.is_null() { out_of_memory() } else { block }
}

/// Whether `aligned_alloc` takes the alignment, a power of two; else sets `errno` to `EINVAL`.
#[inline]
pub fn is_alignment(align: usize) -> bool {
    if !align.is_power_of_two() {
        set_errno(libc::EINVAL);
    }
    align.is_power_of_two()
}

/// `posix_memalign`, with blocks of `memalign`: returns the error and leaves `*out` alone then. `errno` is `ENOMEM` too
/// where memory ran out, as in glibc and musl (glibc's `tst-malloc-thread-fail` reads it), and is otherwise left alone.
///
/// # Safety
/// `out` is writable.
#[inline]
pub unsafe fn posix_memalign(
    out: *mut *mut u8,
    align: usize,
    bytes: usize,
    memalign: impl FnOnce(usize, usize) -> *mut u8,
) -> i32 {
    if !align.is_power_of_two() || align < size_of::<*mut u8>() {
        return libc::EINVAL;
    }
    let block = memalign(align, bytes);
    if block.is_null() {
        set_errno(libc::ENOMEM);
        return libc::ENOMEM;
    }
    // SAFETY: `out` is writable.
    unsafe { *out = block };
    0
}

/// Bytes of the system's pages, asked for first if need be.
pub fn page_bytes<L: Lane>() -> usize {
    L::allocator().read_options();
    system_page::bytes()
}

/// The bytes that `pvalloc` allocates: whole pages of the system, at least one. `None` if there are none so large.
#[inline]
pub fn whole_pages(bytes: usize, page_bytes: usize) -> Option<usize> {
    align_up(bytes.max(1), page_bytes)
}

/// `malloc_usable_size`: 0 for null; aborts the process if no block begins there.
#[inline]
pub fn malloc_usable_size<L: Lane>(block: *const u8) -> usize {
    match size::usable_bytes::<L>(block) {
        Some(bytes) => bytes,
        None => abort::misuse::<L::Os>("malloc_usable_size()", "invalid pointer", block.addr()),
    }
}

/// `malloc_trim`: 1 if memory was returned to the system.
#[inline]
pub fn malloc_trim<L: Lane>(_pad: usize) -> i32 {
    i32::from(block::trim::<L>())
}

/// `mallopt`: accepts and ignores glibc's parameters; 0 for an unknown one.
#[inline]
pub const fn mallopt(parameter: i32, _value: i32) -> i32 {
    // malloc.h: M_MXFAST is 1, M_ARENA_MAX -8.
    (parameter >= -8 && parameter <= 1 && parameter != 0) as i32
}

/// `hz3_set_limit`: 0, or -1 and `EINVAL`.
pub fn set_limit<L: Lane>(which: i32, bytes: usize) -> i32 {
    let limit = match which {
        // hz3.h: hz3_limit_soft, hz3_limit_hard.
        0 => Limit::Soft,
        1 => Limit::Hard,
        _ => {
            set_errno(libc::EINVAL);
            return -1;
        }
    };
    limits::set::<L>(limit, bytes);
    0
}

/// Defines the exported C functions of a lane.
#[doc(hidden)]
#[macro_export]
macro_rules! export_c {
    ($lane:ty, $version:literal) => {
        use core::ffi::{CStr, c_char, c_int, c_void};
        use $crate::c as interface;

        $crate::place_sections!(malloc free calloc realloc memalign posix_memalign valloc pvalloc);

        /// Version and lane of the library, a static string.
        #[unsafe(no_mangle)]
        pub extern "C" fn hz3_version() -> *const c_char {
            const VERSION: &CStr = $version;
            VERSION.as_ptr()
        }

        /// Writes the heap profile to `path`, or to the file of `HZ3_PROFILE` if null. 0, or -1 and `errno`: `EINVAL`
        /// without a profile, else the system's error.
        ///
        /// # Safety
        /// `path` is null or a C string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_profile_dump(path: *const c_char) -> c_int {
            // SAFETY: `path` is null or a C string.
            unsafe { $crate::profile::dump::<$lane>(path) }
        }

        /// Fills at most the first `size` bytes of a `struct hz3_stats`; returns the size that the library knows.
        ///
        /// # Safety
        /// `size` bytes at `out` are writable.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn hz3_stats(out: *mut c_void, size: usize) -> usize {
            // SAFETY: `size` bytes at `out` are writable.
            unsafe { $crate::report::fill::<$lane>(out.cast(), size) }
        }

        /// malloc_trim(3) without padding.
        #[unsafe(no_mangle)]
        pub extern "C" fn hz3_trim() -> c_int {
            interface::malloc_trim::<$lane>(0)
        }

        /// Sets the soft (0) or the hard (1) limit on memory in bytes; 0: none. 0, or -1 and `EINVAL`.
        #[unsafe(no_mangle)]
        pub extern "C" fn hz3_set_limit(which: c_int, bytes: usize) -> c_int {
            interface::set_limit::<$lane>(which, bytes)
        }

        /// Writes the table of malloc_stats(3) to a descriptor: 0, or -1 and `errno`.
        #[unsafe(no_mangle)]
        pub extern "C" fn hz3_dump(descriptor: c_int) -> c_int {
            $crate::report::dump::<$lane>(descriptor)
        }

        /// malloc(3).
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_malloc")]
        pub extern "C" fn malloc(bytes: usize) -> *mut c_void {
            interface::malloc::<$lane>(bytes).cast()
        }

        /// free(3).
        ///
        /// # Safety
        /// `block` is null or a live block that is no longer used.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_free")]
        pub unsafe extern "C" fn free(block: *mut c_void) {
            // SAFETY: the caller gives up `block`, which may be null.
            unsafe { $crate::hz3_core::api::block::free::<$lane>(block.cast()) }
        }

        /// calloc(3).
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_calloc")]
        pub extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
            interface::calloc::<$lane>(count, bytes).cast()
        }

        /// realloc(3).
        ///
        /// # Safety
        /// `block` is null or a live block; unless it fails, the caller no longer uses `block`.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_realloc")]
        pub unsafe extern "C" fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
            // SAFETY: the caller passes null or a live block.
            unsafe { interface::realloc::<$lane>(block.cast(), bytes).cast() }
        }

        /// memalign(3).
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_memalign")]
        pub extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
            interface::memalign::<$lane>(align, bytes).cast()
        }

        /// posix_memalign(3).
        ///
        /// # Safety
        /// `out` is writable.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_posix_memalign")]
        pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
            // SAFETY: `out` is writable.
            unsafe {
                if $crate::is_own!(free) {
                    interface::posix_memalign(out.cast(), align, bytes, interface::memalign::<$lane>)
                } else {
                    interface::posix_memalign(out.cast(), align, bytes, |align, bytes| entry_of_memalign()(align, bytes).cast())
                }
            }
        }

        type Free = unsafe extern "C" fn(*mut c_void);
        type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
        type Memalign = extern "C" fn(usize, usize) -> *mut c_void;

        /// The `memalign` whose blocks `free` takes: whoever defines `free` owns the heap. A program that defines
        /// `memalign` alone may make it of `aligned_alloc`.
        #[inline(always)]
        fn entry_of_memalign() -> Memalign {
            let memalign = if $crate::is_own!(free) { $crate::own!(memalign) } else { $crate::resolved!(memalign) };
            // SAFETY: a function of that name is memalign(3).
            unsafe { ::core::mem::transmute::<*const (), Memalign>(memalign) }
        }

        /// aligned_alloc(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
            if interface::is_alignment(align) { entry_of_memalign()(align, bytes) } else { ::core::ptr::null_mut() }
        }

        /// valloc(3).
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_valloc")]
        pub extern "C" fn valloc(bytes: usize) -> *mut c_void {
            entry_of_memalign()(interface::page_bytes::<$lane>(), bytes)
        }

        /// pvalloc(3).
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "hz3_pvalloc")]
        pub extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
            let page_bytes = interface::page_bytes::<$lane>();
            match interface::whole_pages(bytes, page_bytes) {
                Some(bytes) => entry_of_memalign()(page_bytes, bytes),
                None => interface::out_of_memory().cast(),
            }
        }

        /// reallocarray(3).
        ///
        /// # Safety
        /// As for [`realloc`].
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
            match count.checked_mul(bytes) {
                // SAFETY: a function of that name is realloc(3); the caller passes what it takes.
                Some(bytes) => unsafe {
                    ::core::mem::transmute::<*const (), Realloc>($crate::resolved!(realloc))(block, bytes)
                },
                None => interface::out_of_memory().cast(),
            }
        }

        /// C23 `free_sized`.
        ///
        /// # Safety
        /// As for [`free`]; `bytes` is the requested size.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn free_sized(block: *mut c_void, bytes: usize) {
            // SAFETY: as the caller promises.
            unsafe { free_checked(block, bytes, 1) }
        }

        /// C23 `free_aligned_sized`.
        ///
        /// # Safety
        /// As for [`free`]; `align` and `bytes` are as requested.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".text.free_aligned_sized")]
        pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, align: usize, bytes: usize) {
            // SAFETY: as the caller promises.
            unsafe { free_checked(block, bytes, align) }
        }

        /// `free`, after the hardened lane's checks of what is its own.
        #[inline(always)]
        unsafe fn free_checked(block: *mut c_void, bytes: usize, align: usize) {
            if $crate::entry::checks_sizes::<$lane>() && $crate::is_own!(free) {
                $crate::hz3_core::api::block::check_layout::<$lane>(block.cast(), bytes, align);
            }
            // SAFETY: a function of that name is free(3); the caller gives up `block`, which may be null.
            unsafe { ::core::mem::transmute::<*const (), Free>($crate::resolved!(free))(block) }
        }

        $crate::enter! {
            /// free(3) by its name in old libraries.
            ///
            /// # Safety
            /// As for [`free`].
            cfree => free;
        }

        // musl makes its own calls by these names, some with a lock held that its fork takes after the fork handlers.
        #[cfg(target_env = "gnu")]
        $crate::further_names! {
            /// malloc(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`malloc`], and takes what it takes.
            __libc_malloc => malloc;
            /// free(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`free`], and takes what it takes.
            __libc_free => free;
            /// calloc(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`calloc`], and takes what it takes.
            __libc_calloc => calloc;
            /// realloc(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`realloc`], and takes what it takes.
            __libc_realloc => realloc;
            /// memalign(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`memalign`], and takes what it takes.
            __libc_memalign => memalign;
            /// valloc(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`valloc`], and takes what it takes.
            __libc_valloc => valloc;
            /// pvalloc(3), by glibc's private name.
            ///
            /// # Safety
            /// As for [`pvalloc`], and takes what it takes.
            __libc_pvalloc => pvalloc;
            /// posix_memalign(3), by a private name of C libraries.
            ///
            /// # Safety
            /// As for [`posix_memalign`], and takes what it takes.
            __posix_memalign => posix_memalign;
        }

        /// malloc_usable_size(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn malloc_usable_size(block: *const c_void) -> usize {
            interface::malloc_usable_size::<$lane>(block.cast())
        }

        /// malloc_trim(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn malloc_trim(pad: usize) -> c_int {
            interface::malloc_trim::<$lane>(pad)
        }

        /// mallopt(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn mallopt(parameter: c_int, value: c_int) -> c_int {
            interface::mallopt(parameter, value)
        }

        /// mallinfo(3): counts wrap at 2^31.
        #[unsafe(no_mangle)]
        pub extern "C" fn mallinfo() -> $crate::report::Mallinfo {
            $crate::report::mallinfo::<$lane>()
        }

        /// mallinfo2(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn mallinfo2() -> $crate::report::Mallinfo2 {
            $crate::report::mallinfo2::<$lane>()
        }

        /// malloc_stats(3): to standard error.
        #[unsafe(no_mangle)]
        pub extern "C" fn malloc_stats() {
            $crate::report::malloc_stats::<$lane>();
        }

        /// malloc_info(3): XML; -1 and `EINVAL` unless `options` is 0.
        ///
        /// # Safety
        /// `stream` is an open stream.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut $crate::libc::FILE) -> c_int {
            // SAFETY: `stream` is an open stream.
            unsafe { $crate::report::malloc_info::<$lane>(options, stream) }
        }
    };
}
