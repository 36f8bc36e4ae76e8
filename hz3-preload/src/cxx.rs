//! C++: all forms of `operator new` and `operator delete`.
//!
//! The throwing forms look up the program's C++ runtime by name when memory has run out, so that C programs need none.
//! An exception must not cross a Rust frame, so a naked function with unwind tables calls the new-handler and throws.
//!
//! Outside rules: C++20 [new.delete.single], [new.delete.array], [alloc.errors]; Itanium C++ ABI 5.1 (names);
//! `std::__throw_bad_alloc` and `std::get_new_handler` as libstdc++ and libc++ name them.

use core::arch::naked_asm;
use core::ffi::{CStr, c_void};
use core::ptr::null_mut;
use hz3_core::Lane;
use hz3_core::api::block;
use hz3_core::platform::abort;
use hz3_core::platform::linux::Linux;

const GET_NEW_HANDLER: &CStr = c"_ZSt15get_new_handlerv";
const THROW_BAD_ALLOC: &CStr = c"_ZSt17__throw_bad_allocv";

/// `name` in the global scope, or in a C++ runtime loaded outside it; or null.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: all names are C strings; RTLD_NOLOAD loads nothing, and each handle is closed once.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !found.is_null() {
            return found;
        }
        for runtime in [c"libstdc++.so.6", c"libc++.so.1"] {
            let handle = libc::dlopen(runtime.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if !handle.is_null() {
                let found = libc::dlsym(handle, name.as_ptr());
                libc::dlclose(handle);
                if !found.is_null() {
                    return found;
                }
            }
        }
        null_mut()
    }
}

extern "C" fn new_handler() -> *mut c_void {
    let get = find(GET_NEW_HANDLER);
    if get.is_null() {
        return null_mut();
    }
    // SAFETY: the symbol is `std::get_new_handler()`, which takes nothing and returns a function pointer.
    unsafe { core::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(get)() }
}

/// Aborts a process without a C++ runtime.
extern "C" fn thrower() -> *mut c_void {
    let throw = find(THROW_BAD_ALLOC);
    if throw.is_null() {
        abort::impossible::<Linux>("operator new: out of memory, and no C++ runtime to throw std::bad_alloc");
    }
    throw
}

extern "C" fn allocate<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    block::malloc_aligned::<L>(bytes, align)
}

/// Allocates. On failure calls the new-handler and tries again; throws if there is no handler.
///
/// # Safety
/// `align` is a power of two. Exceptions pass through to the caller, which must be able to unwind.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub unsafe extern "C" fn new_or_throw<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    naked_asm!(
        ".cfi_startproc",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "2:",
        "mov rdi, [rsp + 16]",
        "mov rsi, [rsp + 8]",
        "call {allocate}",
        "test rax, rax",
        "jnz 4f",
        "call {new_handler}",
        "test rax, rax",
        "jz 3f",
        "call rax",
        "jmp 2b",
        "3:",
        "call {thrower}",
        "call rax",
        "ud2",
        "4:",
        "add rsp, 24",
        ".cfi_adjust_cfa_offset -24",
        "ret",
        ".cfi_endproc",
        allocate = sym allocate::<L>,
        new_handler = sym new_handler,
        thrower = sym thrower,
    )
}

/// Allocates. On failure calls the new-handler and tries again; throws if there is no handler.
///
/// # Safety
/// `align` is a power of two. Exceptions pass through to the caller, which must be able to unwind.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub unsafe extern "C" fn new_or_throw<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset 29, -32",
        ".cfi_offset 30, -24",
        "mov x29, sp",
        "stp x0, x1, [sp, #16]",
        "2:",
        "ldp x0, x1, [sp, #16]",
        "bl {allocate}",
        "cbnz x0, 4f",
        "bl {new_handler}",
        "cbz x0, 3f",
        "blr x0",
        "b 2b",
        "3:",
        "bl {thrower}",
        "blr x0",
        "brk #1",
        "4:",
        "ldp x29, x30, [sp], #32",
        ".cfi_restore 29",
        ".cfi_restore 30",
        ".cfi_def_cfa_offset 0",
        "ret",
        ".cfi_endproc",
        allocate = sym allocate::<L>,
        new_handler = sym new_handler,
        thrower = sym thrower,
    )
}

/// On failure, if there is a new-handler, the C++ runtime's own nothrow form, `next`, calls our throwing form and turns
/// an exception into null.
///
/// # Safety
/// `align` is a power of two. `next` is a form's mangled name, taking size, alignment if above 16, and a reference.
#[cold]
#[inline(never)]
pub unsafe fn new_or_null<L: Lane>(bytes: usize, align: usize, next: &CStr) -> *mut u8 {
    let block = block::malloc_aligned::<L>(bytes, align);
    if !block.is_null() || new_handler().is_null() {
        return block;
    }
    // SAFETY: a C string; the symbol has the parameters that the caller promises, and the reference is valid.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, next.as_ptr());
        if next.is_null() {
            null_mut()
        } else if align > 16 {
            core::mem::transmute::<*mut c_void, extern "C" fn(usize, usize, *const u8) -> *mut u8>(next)(
                bytes, align, &0,
            )
        } else {
            core::mem::transmute::<*mut c_void, extern "C" fn(usize, *const u8) -> *mut u8>(next)(bytes, &0)
        }
    }
}

/// Defines the exported C++ operators of a lane.
#[doc(hidden)]
#[macro_export]
macro_rules! export_cxx {
    ($lane:ty) => {
        #[allow(missing_docs, non_snake_case, clippy::missing_safety_doc, reason = "C++20 [new.delete] names and describes them")]
        mod operators {
            use core::ffi::c_void;
            use $crate::cxx::{new_or_null, new_or_throw};
            use $crate::hz3_core::api::block;

            $crate::export_cxx!(@new $lane, _Znwm _Znam);
            $crate::export_cxx!(@new_nothrow $lane, _ZnwmRKSt9nothrow_t c"_ZnwmRKSt9nothrow_t", _ZnamRKSt9nothrow_t c"_ZnamRKSt9nothrow_t");
            $crate::export_cxx!(@new_aligned $lane, _ZnwmSt11align_val_t _ZnamSt11align_val_t);
            $crate::export_cxx!(@new_aligned_nothrow $lane,
                _ZnwmSt11align_val_tRKSt9nothrow_t c"_ZnwmSt11align_val_tRKSt9nothrow_t",
                _ZnamSt11align_val_tRKSt9nothrow_t c"_ZnamSt11align_val_tRKSt9nothrow_t");
            $crate::export_cxx!(@delete $lane,
                _ZdlPv _ZdaPv _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t
                _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t);
            $crate::export_cxx!(@delete_sized $lane, _ZdlPvm _ZdaPvm);
            $crate::export_cxx!(@delete_sized_aligned $lane, _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t);
        }
    };
    (@new $lane:ty, $($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(bytes: usize) -> *mut c_void {
            // SAFETY: 16 is a power of two. A tail call: an exception passes straight to the C++ caller.
            block::malloc_or::<$lane>(bytes, |bytes| unsafe { new_or_throw::<$lane>(bytes, 16) }).cast()
        }
    )*};
    (@new_nothrow $lane:ty, $($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(bytes: usize, _: *const c_void) -> *mut c_void {
            // SAFETY: 16 is a power of two; the name is this form's, without an alignment.
            block::malloc_or::<$lane>(bytes, |bytes| unsafe { new_or_null::<$lane>(bytes, 16, $text) }).cast()
        }
    )*};
    (@new_aligned $lane:ty, $($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(bytes: usize, align: usize) -> *mut c_void {
            let block = block::malloc_aligned::<$lane>(bytes, align);
            if !block.is_null() {
                return block.cast();
            }
            // SAFETY: C++ passes a power of two. It is a tail call, so an exception passes straight to the C++ caller.
            unsafe { new_or_throw::<$lane>(bytes, align).cast() }
        }
    )*};
    (@new_aligned_nothrow $lane:ty, $($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(bytes: usize, align: usize, _: *const c_void) -> *mut c_void {
            // SAFETY: C++ passes a power of two above 16; the name is this form's.
            unsafe { new_or_null::<$lane>(bytes, align, $text).cast() }
        }
    )*};
    (@delete $lane:ty, $($name:ident)*) => {$(
        // An alignment or a tag after the pointer comes in further registers, which stay unread.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void) {
            // SAFETY: C++ gives up the block, which may be null.
            unsafe { block::free::<$lane>(block.cast()) }
        }
    )*};
    (@delete_sized $lane:ty, $($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void, bytes: usize) {
            // SAFETY: C++ gives up the block, which may be null.
            unsafe { block::free_with_layout::<$lane>(block.cast(), bytes, 1) }
        }
    )*};
    (@delete_sized_aligned $lane:ty, $($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void, bytes: usize, align: usize) {
            // SAFETY: C++ gives up the block, which may be null.
            unsafe { block::free_with_layout::<$lane>(block.cast(), bytes, align) }
        }
    )*};
}
