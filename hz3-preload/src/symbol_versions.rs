//! Symbol versions: the C library's functions by their oldest versions, so that a library that was linked on a new system
//! also loads on an old one.
//!
//! ```text
//! pthread_create(…)  →  our hidden pthread_create  →  pthread_create@GLIBC_2.2.5, or a refusal where there is none
//! ```
//!
//! glibc 2.32 to 2.34 gave these functions new versions when they moved into `libc.so.6`, and kept the old ones with the
//! same code. Before, they were in `libpthread.so.0` and `libdl.so.2`. A program without the former has one thread, and
//! one without the latter opens no library; there these weak references stay empty. What such a program loads late is not
//! found: its threads' heaps are then not reused.
//!
//! Each function is a jump, so that the C library sees its caller's return address. The library for static programs has
//! none of them.
//!
//! Outside rules: the `.symver` directive of the assembler; glibc's `Versions` files and its NEWS of 2.32 and 2.34.

/// The result of a function that there is not: `ENOSYS`.
#[doc(hidden)]
pub const REFUSED: i32 = 38;
/// As [`REFUSED`], where 0 or null says so.
#[doc(hidden)]
pub const NOTHING: i32 = 0;

/// Defines the functions, hidden, in the invoking library.
#[doc(hidden)]
#[macro_export]
macro_rules! oldest_versions {
    () => {
        #[cfg(not(feature = "linked"))]
        mod symbol_versions {
            #[cfg(target_arch = "x86_64")]
            $crate::oldest_versions!(all of "GLIBC_2.2.5" but dlmopen of "GLIBC_2.3.4");
            #[cfg(target_arch = "aarch64")]
            $crate::oldest_versions!(all of "GLIBC_2.17" but dlmopen of "GLIBC_2.17");
            #[cfg(target_arch = "riscv64")]
            $crate::oldest_versions!(all of "GLIBC_2.27" but dlmopen of "GLIBC_2.27");
        }
    };
    (all of $version:literal but dlmopen of $of_dlmopen:literal) => {
        $crate::oldest_versions!(
            dlsym $version NOTHING, dlerror $version NOTHING, dlclose $version NOTHING, dladdr $version NOTHING,
            dlmopen $of_dlmopen NOTHING, pthread_key_create $version REFUSED, pthread_key_delete $version REFUSED,
            pthread_setspecific $version REFUSED, pthread_create $version REFUSED, pthread_detach $version REFUSED,
            pthread_attr_setstacksize $version REFUSED, pthread_sigmask $version REFUSED,
        );
    };
    ($($name:ident $version:literal $missing:ident,)*) => {$(
        ::core::arch::global_asm!(
            concat!(".pushsection .text.hz3_", stringify!($name), ",\"ax\",%progbits"),
            ".p2align 4",
            concat!(".weak hz3_oldest_", stringify!($name)),
            concat!(".symver hz3_oldest_", stringify!($name), ", ", stringify!($name), "@", $version),
            concat!(".globl ", stringify!($name)),
            concat!(".hidden ", stringify!($name)),
            concat!(".type ", stringify!($name), ",%function"),
            concat!(stringify!($name), ":"),
            $crate::jump_if_there!(stringify!($name)),
            concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
            ".popsection",
            missing = const $crate::symbol_versions::$missing,
        );
    )*};
}

/// Instructions: a jump to the function, if there is one, else its result.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
#[macro_export]
macro_rules! jump_if_there {
    ($name:expr) => {
        concat!(
            "mov r11, qword ptr [rip + hz3_oldest_",
            $name,
            "@GOTPCREL]\n",
            "test r11, r11\n",
            "jz 2f\n",
            "jmp r11\n",
            "2: mov eax, {missing}\n",
            "ret",
        )
    };
}

/// Instructions: a jump to the function, if there is one, else its result.
#[cfg(target_arch = "aarch64")]
#[doc(hidden)]
#[macro_export]
macro_rules! jump_if_there {
    ($name:expr) => {
        concat!(
            "adrp x16, :got:hz3_oldest_",
            $name,
            "\n",
            "ldr x16, [x16, :got_lo12:hz3_oldest_",
            $name,
            "]\n",
            "cbz x16, 2f\n",
            "br x16\n",
            "2: mov x0, {missing}\n",
            "ret",
        )
    };
}

/// Instructions: a jump to the function, if there is one, else its result.
#[cfg(target_arch = "riscv64")]
#[doc(hidden)]
#[macro_export]
macro_rules! jump_if_there {
    ($name:expr) => {
        concat!(
            "3: auipc t1, %got_pcrel_hi(hz3_oldest_",
            $name,
            ")\n",
            "ld t1, %pcrel_lo(3b)(t1)\n",
            "beqz t1, 2f\n",
            "jr t1\n",
            "2: li a0, {missing}\n",
            "ret",
        )
    };
}
