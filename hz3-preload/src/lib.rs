//! The C and C++ allocation interface of a lane of `hz3-core`, as a macro that each cdylib invokes once.
//!
//! [`export_lane!`] defines every exported function. [`c`] and [`cxx`] say what they promise, and by which standard.

#![no_std]

pub mod c;
pub mod cxx;
pub mod entry;
#[cfg(target_env = "gnu")]
pub mod loader;
pub mod output;
pub mod page;
pub mod profile;
pub mod region;
pub mod report;
pub mod statistics;
#[cfg(target_env = "gnu")]
pub mod symbol_versions;

#[doc(hidden)]
pub use hz3_core;
#[doc(hidden)]
pub use libc;

// Without it `libc` links no C library in a build of the whole workspace, which enables its `std` feature.
#[link(name = "c")]
unsafe extern "C" {}

// Unoptimised builds keep `core`'s unwind tables, which name this routine. Nothing unwinds: a panic aborts. Weak, so
// that a linked standard library's own wins.
#[cfg(debug_assertions)]
core::arch::global_asm!(
    ".weak rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality: .long 0"
);

/// Lets the first thread allocate before the loader has given thread-local words their first values, as resolvers of
/// `IFUNC` symbols do: one of the library's own runs when the library is relocated, which is before its users are.
///
/// Outside rules: the x86-64 psABI (`R_X86_64_IRELATIVE`); glibc's `rtld.c`, by which the thread pointer is set before.
#[macro_export]
macro_rules! early_thread {
    ($lane:ty) => {
        ::core::arch::global_asm!(
            ".pushsection .text.hz3_early_thread,\"ax\",%progbits",
            ".globl hz3_early_thread",
            ".hidden hz3_early_thread",
            ".type hz3_early_thread,%gnu_indirect_function",
            "hz3_early_thread: jmp {resolve}",
            ".size hz3_early_thread, . - hz3_early_thread",
            ".popsection",
            resolve = sym resolve_early_thread,
        );

        unsafe extern "C" {
            fn hz3_early_thread();
        }

        /// Makes the loader call [`resolve_early_thread`]; nobody calls what that returns.
        #[used]
        static EARLY_THREAD: unsafe extern "C" fn() = hz3_early_thread;

        extern "C" fn resolve_early_thread() -> *const () {
            $crate::hz3_core::process::lifecycle::prepare_thread::<$lane>();
            resolve_early_thread as extern "C" fn() -> *const () as *const ()
        }
    };
}

/// Exports the C and C++ interface of a lane from this cdylib and defines its panic handler.
#[macro_export]
macro_rules! export_lane {
    ($lane:ty, $version:literal) => {
        $crate::export_c!($lane, $version);
        $crate::export_regions!($lane);
        $crate::export_cxx!($lane);
        // musl has neither `RTLD_DEEPBIND` nor symbol versions.
        #[cfg(target_env = "gnu")]
        $crate::export_loader!($lane);
        #[cfg(target_env = "gnu")]
        $crate::oldest_versions!();

        // Tells hz3-core that the constructor keeps the object loaded, and so the first `malloc`, which may be the
        // loader's, need not call the loader.
        ::core::arch::global_asm!(
            ".pushsection .rodata.hz3_constructor_keeps_loaded,\"a\",%progbits",
            ".weak hz3_constructor_keeps_loaded",
            ".hidden hz3_constructor_keeps_loaded",
            ".type hz3_constructor_keeps_loaded,%object",
            ".size hz3_constructor_keeps_loaded,1",
            "hz3_constructor_keeps_loaded: .byte 1",
            ".popsection",
        );

        #[cfg(all(target_arch = "x86_64", target_env = "gnu", not(feature = "linked")))]
        $crate::early_thread!($lane);

        /// The loader runs it once libc is ready, before the program's own constructors.
        #[used]
        #[unsafe(link_section = ".init_array")]
        static CONSTRUCTOR: extern "C" fn() = {
            extern "C" fn constructor() {
                // Does something only where the static library is part of somebody's shared one.
                $crate::hz3_core::process::keep_loaded::keep();
                operators::prepare();
                #[cfg(target_env = "gnu")]
                loader::prepare();
                // musl locks its list of fork handlers while they run: hz3's must be in it before one of them allocates.
                #[cfg(target_env = "musl")]
                $crate::hz3_core::process::lifecycle::start::<$lane>();
                $crate::report::banner::<$lane>();
                $crate::profile::begin_if_wanted::<$lane>();
                $crate::page::begin_if_wanted::<$lane>();
                $crate::hz3_core::process::background::start_if_wanted::<$lane>();
            }
            constructor
        };

        /// The loader runs it at `exit` or return from `main`, after the program's own destructors.
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static DESTRUCTOR: extern "C" fn() = {
            extern "C" fn destructor() {
                $crate::statistics::at_exit::<$lane>();
                $crate::profile::write_at_exit::<$lane>();
                $crate::page::end_at_exit::<$lane>();
            }
            destructor
        };

        /// Nothing in the library panics; if it does, the process can't be trusted any more.
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            $crate::c::panicked()
        }
    };
}
