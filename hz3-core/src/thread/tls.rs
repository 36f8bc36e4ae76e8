//! Thread pointer: a lane's only thread-local word, which points to the thread's heap.
//!
//! `thread_local!` in a shared library calls `__tls_get_addr` on every access. This initial-exec symbol costs two
//! instructions on x86-64, and eight bytes of the static TLS that glibc reserves for libraries loaded late. It starts
//! as the address of `NO_HEAP`: no access tests whether the thread has started.
//!
//! Outside rules: "ELF Handling For Thread-Local Storage" (Drepper), sections 4.3.6 and 4.4.6; the glibc
//! manual, "Replacing malloc" (asks for initial-exec).

/// Defines a lane's thread pointer under a symbol name, with a getter and a setter.
macro_rules! thread_pointer {
    ($lane:ident, $symbol:literal) => {
        #[cfg(not(miri))]
        core::arch::global_asm!(
            concat!(".pushsection .tdata.", $symbol, ",\"awT\",%progbits"),
            ".balign 8",
            concat!(".globl ", $symbol),
            concat!(".hidden ", $symbol),
            concat!(".type ", $symbol, ",%object"),
            concat!(".size ", $symbol, ",8"),
            concat!($symbol, ":"),
            ".quad {empty}",
            ".popsection",
            empty = sym crate::thread::heap::NO_HEAP,
        );

        impl $lane {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            #[inline(always)]
            fn thread_pointer() -> *mut $crate::thread::heap::Entries {
                let heap;
                // SAFETY: reads the initialised thread-local word defined above; changes no memory.
                unsafe {
                    core::arch::asm!(
                        concat!("mov {heap}, qword ptr [rip + ", $symbol, "@GOTTPOFF]"),
                        "mov {heap}, qword ptr fs:[{heap}]",
                        heap = out(reg) heap,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                heap
            }

            #[cfg(all(target_arch = "x86_64", not(miri)))]
            #[inline(always)]
            fn set_thread_pointer(heap: *mut $crate::thread::heap::Entries) {
                // SAFETY: writes the thread-local word defined above, which only this thread accesses.
                unsafe {
                    core::arch::asm!(
                        concat!("mov {offset}, qword ptr [rip + ", $symbol, "@GOTTPOFF]"),
                        "mov qword ptr fs:[{offset}], {heap}",
                        offset = out(reg) _,
                        heap = in(reg) heap,
                        options(nostack, preserves_flags),
                    );
                }
            }

            #[cfg(all(target_arch = "aarch64", not(miri)))]
            #[inline(always)]
            fn thread_pointer() -> *mut $crate::thread::heap::Entries {
                let heap;
                // SAFETY: reads the initialised thread-local word defined above; changes no memory.
                unsafe {
                    core::arch::asm!(
                        concat!("adrp {offset}, :gottprel:", $symbol),
                        concat!("ldr {offset}, [{offset}, :gottprel_lo12:", $symbol, "]"),
                        "mrs {heap}, tpidr_el0",
                        "ldr {heap}, [{heap}, {offset}]",
                        offset = out(reg) _,
                        heap = out(reg) heap,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                heap
            }

            #[cfg(all(target_arch = "aarch64", not(miri)))]
            #[inline(always)]
            fn set_thread_pointer(heap: *mut $crate::thread::heap::Entries) {
                // SAFETY: writes the thread-local word defined above, which only this thread accesses.
                unsafe {
                    core::arch::asm!(
                        concat!("adrp {offset}, :gottprel:", $symbol),
                        concat!("ldr {offset}, [{offset}, :gottprel_lo12:", $symbol, "]"),
                        "mrs {thread}, tpidr_el0",
                        "str {heap}, [{thread}, {offset}]",
                        offset = out(reg) _,
                        thread = out(reg) _,
                        heap = in(reg) heap,
                        options(nostack, preserves_flags),
                    );
                }
            }

            #[cfg(all(target_arch = "riscv64", not(miri)))]
            #[inline(always)]
            fn thread_pointer() -> *mut $crate::thread::heap::Entries {
                let heap;
                // SAFETY: reads the initialised thread-local word defined above; changes no memory.
                unsafe {
                    core::arch::asm!(
                        concat!("la.tls.ie {heap}, ", $symbol),
                        "add {heap}, {heap}, tp",
                        "ld {heap}, 0({heap})",
                        heap = out(reg) heap,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                heap
            }

            #[cfg(all(target_arch = "riscv64", not(miri)))]
            #[inline(always)]
            fn set_thread_pointer(heap: *mut $crate::thread::heap::Entries) {
                // SAFETY: writes the thread-local word defined above, which only this thread accesses.
                unsafe {
                    core::arch::asm!(
                        concat!("la.tls.ie {place}, ", $symbol),
                        "add {place}, {place}, tp",
                        "sd {heap}, 0({place})",
                        place = out(reg) _,
                        heap = in(reg) heap,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }

        /// Miri reads no assembly.
        #[cfg(miri)]
        impl $lane {
            fn with_thread_pointer<T>(body: impl FnOnce(&core::cell::Cell<*mut $crate::thread::heap::Entries>) -> T) -> T {
                std::thread_local! {
                    static HEAP: core::cell::Cell<*mut $crate::thread::heap::Entries> =
                        const { core::cell::Cell::new($crate::thread::heap::NO_HEAP.entries()) };
                }
                HEAP.with(body)
            }

            fn thread_pointer() -> *mut $crate::thread::heap::Entries {
                Self::with_thread_pointer(core::cell::Cell::get)
            }

            fn set_thread_pointer(heap: *mut $crate::thread::heap::Entries) {
                Self::with_thread_pointer(|word| word.set(heap));
            }
        }
    };
}

pub(crate) use thread_pointer;
