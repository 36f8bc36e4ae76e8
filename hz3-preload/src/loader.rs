//! Loader: `dlopen` without `RTLD_DEEPBIND`.
//!
//! The flag has a library look for its names in itself and in what it needs first, and so find the C library's `malloc`
//! in place of hz3's. Blocks that cross then reach the wrong heap. Our `dlopen` clears the flag and jumps to the next
//! `dlopen`, which sees the caller's return address: `$ORIGIN`, `RUNPATH` and namespaces stay the caller's. `dlmopen`
//! has a way of its own to the loader and is left alone.
//!
//! Outside rules: dlopen(3), and `RTLD_DEEPBIND` of glibc's `dlfcn.h`.

use crate::entry;
use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use hz3_core::Lane;
use hz3_core::platform::libc_inside;

/// The next `dlopen`; null until it is looked for.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// The flags that pass.
static PASSES: AtomicI32 = AtomicI32::new(!libc::RTLD_DEEPBIND);

/// The next `dlopen`, which is looked for once, by the constructor or an earlier caller. Takes no lock of hz3's; the
/// loader takes its own, as in `dlopen`. Threads that arrive together find and store the same.
///
/// An earlier library's `dlsym` answers what is next for that library, which may be ours. `dlmopen` then stands in.
pub extern "C" fn next_dlopen<L: Lane>() -> *mut c_void {
    // SAFETY: a C string. The caller that the loader sees is this object.
    let mut next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
    if next.is_null() || entry::lies_here(next) {
        next = (through_dlmopen::<L> as unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void as *const c_void)
            .cast_mut();
    }
    if L::allocator().read_options().keeps_deepbind() {
        // Relaxed: published by the store below.
        PASSES.store(!0, Ordering::Relaxed);
    }
    // Release: publishes PASSES. Pairs with the acquiring load in `dlopen`.
    NEXT.store(next, Ordering::Release);
    next
}

/// Tells hz3-core of a variable that glibc has since 2.32.
pub fn find_single_threaded() {
    // SAFETY: a C string. What has this name is the C library's, or stands in its place, and stays loaded.
    unsafe {
        let flag = libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr());
        if flag.is_null() {
            // Clears the error, which is not the program's.
            libc::dlerror();
        }
        libc_inside::set_single_threaded(flag);
    }
}

#[doc(hidden)]
pub use hz3_core::weak_address;
#[doc(hidden)]
pub use libc_inside::set_single_threaded;

/// `dlmopen(LM_ID_BASE, path, flags)`, by a jump. Generic, so that the library for static programs has none.
#[allow(clippy::extra_unused_type_parameters, reason = "as said")]
#[unsafe(naked)]
unsafe extern "C" fn through_dlmopen<L: Lane>(path: *const c_char, flags: c_int) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("mov edx, esi", "mov rsi, rdi", "xor edi, edi", "jmp qword ptr [rip + dlmopen@GOTPCREL]");
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        "mov w2, w1",
        "mov x1, x0",
        "mov x0, xzr",
        "adrp x16, :got:dlmopen",
        "ldr x16, [x16, :got_lo12:dlmopen]",
        "br x16",
    );
    #[cfg(target_arch = "riscv64")]
    naked_asm!(
        "mv a2, a1",
        "mv a1, a0",
        "li a0, 0",
        "2: auipc t1, %got_pcrel_hi(dlmopen)",
        "ld t1, %pcrel_lo(2b)(t1)",
        "jr t1",
    );
}

/// `dlopen`: clears the flags that do not pass, and jumps.
///
/// # Safety
/// As dlopen(3).
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen<L: Lane>(path: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        ".cfi_startproc",
        // Acquire, as every load of the processor: pairs with the Release in `next_dlopen`.
        "mov rax, qword ptr [rip + {next}]",
        "test rax, rax",
        "jz 3f",
        "2:",
        "and esi, dword ptr [rip + {passes}]",
        "jmp rax",
        "3:",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {look}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp 2b",
        ".cfi_endproc",
        next = sym NEXT,
        passes = sym PASSES,
        look = sym next_dlopen::<L>,
    )
}

/// `dlopen`: clears the flags that do not pass, and jumps.
///
/// # Safety
/// As dlopen(3).
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen<L: Lane>(path: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        ".cfi_startproc",
        "adrp x16, {next}",
        "add x16, x16, :lo12:{next}",
        // Acquire: pairs with the Release in `next_dlopen`.
        "ldar x16, [x16]",
        "cbz x16, 3f",
        "2:",
        "adrp x9, {passes}",
        "ldr w9, [x9, :lo12:{passes}]",
        "and w1, w1, w9",
        "br x16",
        "3:",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset 29, -32",
        ".cfi_offset 30, -24",
        "mov x29, sp",
        "stp x0, x1, [sp, #16]",
        "bl {look}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        ".cfi_restore 29",
        ".cfi_restore 30",
        ".cfi_def_cfa_offset 0",
        "b 2b",
        ".cfi_endproc",
        next = sym NEXT,
        passes = sym PASSES,
        look = sym next_dlopen::<L>,
    )
}

/// `dlopen`: clears the flags that do not pass, and jumps.
///
/// # Safety
/// As dlopen(3).
#[cfg(target_arch = "riscv64")]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen<L: Lane>(path: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        ".cfi_startproc",
        "lla t1, {next}",
        "ld t1, 0(t1)",
        // Acquire: pairs with the Release in `next_dlopen`.
        "fence r, rw",
        "beqz t1, 3f",
        "2:",
        "lla t2, {passes}",
        "lw t2, 0(t2)",
        "and a1, a1, t2",
        "jr t1",
        "3:",
        "addi sp, sp, -32",
        ".cfi_def_cfa_offset 32",
        "sd ra, 24(sp)",
        ".cfi_offset 1, -8",
        "sd a0, 0(sp)",
        "sd a1, 8(sp)",
        "call {look}",
        "mv t1, a0",
        "ld a0, 0(sp)",
        "ld a1, 8(sp)",
        "ld ra, 24(sp)",
        ".cfi_restore 1",
        "addi sp, sp, 32",
        ".cfi_def_cfa_offset 0",
        "j 2b",
        ".cfi_endproc",
        next = sym NEXT,
        passes = sym PASSES,
        look = sym next_dlopen::<L>,
    )
}

/// Defines the lane's `dlopen`. Not in the library for static programs, where there is no next one.
#[doc(hidden)]
#[macro_export]
macro_rules! export_loader {
    ($lane:ty) => {
        mod loader {
            use core::ffi::{c_char, c_int, c_void};

            /// dlopen(3), without `RTLD_DEEPBIND`.
            ///
            /// # Safety
            /// As dlopen(3).
            #[cfg(not(feature = "linked"))]
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub unsafe extern "C" fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void {
                #[cfg(target_arch = "x86_64")]
                core::arch::naked_asm!("jmp {dlopen}", dlopen = sym $crate::loader::dlopen::<$lane>);
                #[cfg(target_arch = "aarch64")]
                core::arch::naked_asm!("b {dlopen}", dlopen = sym $crate::loader::dlopen::<$lane>);
                #[cfg(target_arch = "riscv64")]
                core::arch::naked_asm!("tail {dlopen}", dlopen = sym $crate::loader::dlopen::<$lane>);
            }

            /// Looks for the next `dlopen` before the program's threads need it, and for what no name is bound to.
            pub fn prepare() {
                #[cfg(not(feature = "linked"))]
                {
                    $crate::loader::next_dlopen::<$lane>();
                    $crate::loader::find_single_threaded();
                }
                #[cfg(feature = "linked")]
                // SAFETY: what has this name is the C library's, or null.
                unsafe {
                    $crate::loader::set_single_threaded($crate::loader::weak_address!("__libc_single_threaded"));
                }
            }
        }
    };
}
