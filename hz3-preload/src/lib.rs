//! The C and C++ allocation interface over a lane of `hz3-core`, as a macro that a cdylib invokes once.
//!
//! [`export_lane!`] defines every exported function; the cdylibs under this folder add nothing. What the
//! functions promise, and where the promise comes from, stands in [`c`] and [`cxx`].

#![no_std]

pub mod c;
pub mod cxx;
pub mod output;
pub mod page;
pub mod profile;
pub mod report;
pub mod statistics;

#[doc(hidden)]
pub use hz3_core;
#[doc(hidden)]
pub use libc;

// The `libc` crate names the C library only when nothing in the same build asks for its `std` feature; `cargo build
// --workspace` builds everything at once, and there the benchmark and xtask do.
#[link(name = "c")]
unsafe extern "C" {}

// The unwind tables of `core` name the standard library's personality routine. An optimised build drops them; a plain
// `cargo build` of the workspace keeps them. Nothing unwinds here: a panic stops the process. Weak: should the standard
// library be linked too, its own is taken.
#[cfg(debug_assertions)]
core::arch::global_asm!(
    ".weak rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality: .long 0"
);

/// Exports the C and C++ interface of a lane from this cdylib, and defines its panic handler.
#[macro_export]
macro_rules! export_lane {
    ($lane:ty, $version:literal) => {
        $crate::export_c!($lane, $version);
        $crate::export_cxx!($lane);

        /// Run by the loader once libc is ready, before the program's own constructors.
        #[used]
        #[unsafe(link_section = ".init_array")]
        static CONSTRUCTOR: extern "C" fn() = {
            extern "C" fn constructor() {
                $crate::report::banner::<$lane>();
                $crate::profile::begin_if_wanted::<$lane>();
                $crate::page::begin_if_wanted::<$lane>();
                $crate::hz3_core::process::background::start_if_wanted::<$lane>();
            }
            constructor
        };

        /// Run by the loader when the process ends by `exit` or by a return from `main`, after the program's own
        /// destructors.
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

        /// Nothing in the library panics; should it, the process can't be trusted any more.
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            $crate::c::panicked()
        }
    };
}
