//! Entry: the exported functions as the loader has resolved their names, and how one goes on in another.
//!
//! ```text
//! nobody else defines `free`                     → resolved `free` is our own
//! the program or an earlier library defines it   → resolved `free` is theirs
//! ```
//!
//! A function that the C library or the C++ runtime make of another one, such as `cfree` of `free`, enters that one by
//! its name. So it fits whoever stands in that one's place: a program that replaces some functions alone, a library
//! that was preloaded earlier, or valgrind, which replaces code at the addresses of the names that it knows.
//!
//! An entry whose own address is asked for lies in a section of its own, `hz3_` and its name; the linker gives the
//! section's start a name. The sections also keep the compiler from giving one address to functions of the same code.
//!
//! Outside rules: the ELF specification (symbol resolution, the global offset table), for each processor; ld(1) for
//! `__start_`.

use core::ffi::c_void;
use hz3_core::Lane;

/// Whether the lane checks the size that a free names.
pub const fn checks_sizes<L: Lane>() -> bool {
    L::HARDENED
}

core::arch::global_asm!(".hidden __ehdr_start", ".hidden _end");

/// Whether an address lies in the object that this code is part of.
pub fn lies_here(address: *const c_void) -> bool {
    let (start, end) = (crate::address_of_label!("__ehdr_start"), crate::address_of_label!("_end"));
    (start.addr()..end.addr()).contains(&address.addr())
}

/// The address of an exported function as the loader has resolved its name, anybody's.
#[doc(hidden)]
#[macro_export]
macro_rules! resolved {
    ($name:ident) => {{
        let address: *const ();
        // SAFETY: reads a word that the loader has written before any code of this object runs, and nobody writes after.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            core::arch::asm!(
                concat!("mov {}, qword ptr [rip + ", stringify!($name), "@GOTPCREL]"),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!(
                concat!("adrp {0}, :got:", stringify!($name)),
                concat!("ldr {0}, [{0}, :got_lo12:", stringify!($name), "]"),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
            #[cfg(target_arch = "riscv64")]
            core::arch::asm!(
                concat!("2: auipc {0}, %got_pcrel_hi(", stringify!($name), ")"),
                "ld {0}, %pcrel_lo(2b)({0})",
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        address
    }};
}

/// The address of this library's own `$label`.
#[doc(hidden)]
#[macro_export]
macro_rules! address_of_label {
    ($label:expr) => {{
        let address: *const ();
        // SAFETY: computes the address of a label of this object; reads nothing.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            core::arch::asm!(
                concat!("lea {}, [rip + ", $label, "]"),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!(
                concat!("adrp {0}, ", $label),
                concat!("add {0}, {0}, :lo12:", $label),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
            #[cfg(target_arch = "riscv64")]
            core::arch::asm!(
                concat!("lla {0}, ", $label),
                out(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        address
    }};
}

/// The address of an exported function of this library that lies in a section of its own.
#[doc(hidden)]
#[macro_export]
macro_rules! own {
    ($name:ident) => {
        $crate::address_of_label!(concat!("__start_hz3_", stringify!($name)))
    };
}

/// Places exported functions' own sections: each begins a cache line, and its start's name is no dynamic symbol.
#[doc(hidden)]
#[macro_export]
macro_rules! place_sections {
    ($($name:ident)*) => {
        ::core::arch::global_asm!($(
            concat!(".hidden __start_hz3_", stringify!($name)),
            concat!(".pushsection hz3_", stringify!($name), ",\"ax\",@progbits"),
            ".p2align 6",
            ".popsection",
        )*);
    };
}

/// Whether callers of an exported function, in a section of its own, get this library's.
#[doc(hidden)]
#[macro_export]
macro_rules! is_own {
    ($name:ident) => {
        core::ptr::eq($crate::resolved!($name), $crate::own!($name))
    };
}

/// [`is_own`] of an exported function that [`enter!`](crate::enter) has defined.
#[doc(hidden)]
#[macro_export]
macro_rules! is_own_jump {
    ($name:ident) => {
        core::ptr::eq($crate::resolved!($name), $crate::address_of_label!(concat!("hz3_own_", stringify!($name))))
    };
}

/// Defines exported functions that are a jump to another one, by its name. Their own addresses have the names
/// `hz3_own_…`.
#[doc(hidden)]
#[macro_export]
macro_rules! enter {
    ($($(#[$attribute:meta])* $name:ident => $target:ident;)*) => {$(
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(
                concat!(".hidden hz3_own_", stringify!($name)),
                concat!(".globl hz3_own_", stringify!($name)),
                concat!("hz3_own_", stringify!($name), ":"),
                concat!("jmp qword ptr [rip + ", stringify!($target), "@GOTPCREL]"),
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(
                concat!(".hidden hz3_own_", stringify!($name)),
                concat!(".globl hz3_own_", stringify!($name)),
                concat!("hz3_own_", stringify!($name), ":"),
                concat!("adrp x16, :got:", stringify!($target)),
                concat!("ldr x16, [x16, :got_lo12:", stringify!($target), "]"),
                "br x16",
            );
            #[cfg(target_arch = "riscv64")]
            core::arch::naked_asm!(
                concat!(".hidden hz3_own_", stringify!($name)),
                concat!(".globl hz3_own_", stringify!($name)),
                concat!("hz3_own_", stringify!($name), ":"),
                concat!("auipc t1, %got_pcrel_hi(", stringify!($target), ")"),
                concat!("ld t1, %pcrel_lo(hz3_own_", stringify!($name), ")(t1)"),
                "jr t1",
            );
        }
    )*};
}

/// Defines exported functions that are further names of one of this library's own, in a section of its own. Whoever
/// calls them wants the C library's heap, whatever stands in the place of its usual names.
#[doc(hidden)]
#[macro_export]
macro_rules! further_names {
    ($($(#[$attribute:meta])* $name:ident => $target:ident;)*) => {$(
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(concat!("jmp __start_hz3_", stringify!($target)));
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(concat!("b __start_hz3_", stringify!($target)));
            #[cfg(target_arch = "riscv64")]
            core::arch::naked_asm!(concat!("tail __start_hz3_", stringify!($target)));
        }
    )*};
}
