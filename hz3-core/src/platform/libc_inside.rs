//! Libc inside: what glibc exports of itself and its loader, and other C libraries lack, by weak references.
//!
//! Outside rules: glibc's sysdeps/nptl/fork.h and libio/genops.c (fork takes the list of streams after the fork handlers),
//! sys/single_threaded.h (since glibc 2.32), nptl/register-atfork.c (handlers registered without an object stay for ever),
//! csu/init-first.c (the C library learns its environment, then the program's name), the psABIs (a process's first stack).

use core::ffi::{c_char, c_int, c_void};
#[cfg(feature = "internals")]
use core::sync::atomic::{AtomicPtr, Ordering};

/// The address of a symbol by a weak reference, read off the global offset table, as an unsafe expression; null if the
/// process has none.
#[doc(hidden)]
#[macro_export]
macro_rules! weak_address {
    ($symbol:literal) => {{
        let address;
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!(
            concat!(".weak ", $symbol),
            concat!("mov {address}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
            address = out(reg) address,
            options(pure, nomem, nostack, preserves_flags),
        );
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!(
            concat!(".weak ", $symbol),
            concat!("adrp {address}, :got:", $symbol),
            concat!("ldr {address}, [{address}, :got_lo12:", $symbol, "]"),
            address = out(reg) address,
            options(pure, nomem, nostack, preserves_flags),
        );
        #[cfg(target_arch = "riscv64")]
        core::arch::asm!(
            concat!(".weak ", $symbol),
            concat!("2: auipc {address}, %got_pcrel_hi(", $symbol, ")"),
            "ld {address}, %pcrel_lo(2b)({address})",
            address = out(reg) address,
            options(pure, nomem, nostack, preserves_flags),
        );
        address
    }};
}

/// Defines a function that returns a symbol's address; null if the process has none.
macro_rules! weak {
    ($name:ident, $symbol:literal) => {
        #[cfg(not(miri))]
        fn $name() -> *const c_void {
            // SAFETY: reads the symbol's address.
            unsafe { $crate::weak_address!($symbol) }
        }

        /// Miri links no C library.
        #[cfg(miri)]
        fn $name() -> *const c_void {
            core::ptr::null()
        }
    };
}

weak!(io_list_lock, "_IO_list_lock");
weak!(io_list_unlock, "_IO_list_unlock");
weak!(io_list_reset, "_IO_list_resetlock");
weak!(register_atfork, "__register_atfork");
weak!(stack_end, "__libc_stack_end");
weak!(program_name, "program_invocation_name");

/// Whether the process has a single thread. `None`: the C library does not tell.
pub fn is_single_threaded() -> Option<bool> {
    let flag = single_threaded().cast::<u8>();
    // SAFETY: not null, so the C library's variable, a byte. Volatile: pthread_create(3) changes it.
    (!flag.is_null()).then(|| unsafe { flag.read_volatile() } != 0)
}

// A reference has the version that the linker found, and an older C library then loads no object with it.
#[cfg(not(feature = "internals"))]
weak!(single_threaded, "__libc_single_threaded");

/// The C library's variable, if the object that hz3 is part of has said where it is.
#[cfg(feature = "internals")]
static SINGLE_THREADED: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

#[cfg(feature = "internals")]
fn single_threaded() -> *const c_void {
    // Relaxed: the variable was there before.
    SINGLE_THREADED.load(Ordering::Relaxed)
}

/// Says where the C library's `__libc_single_threaded` is; null: it has none.
///
/// # Safety
/// It is that, and stays.
#[cfg(feature = "internals")]
pub unsafe fn set_single_threaded(flag: *mut c_void) {
    // Relaxed: the variable was there before.
    SINGLE_THREADED.store(flag, Ordering::Relaxed);
}

/// Bytes below the first stack's end in which it counts as itself. Chosen: other stacks lie further below.
const FIRST_STACK_BYTES: usize = 1 << 20;

/// Whether the caller runs near the end of the process's first stack, as at the start of its first thread. False if that
/// can't be told. `random`: the address of the kernel's random bytes, which lie just above that end.
pub fn is_on_first_stack(random: impl FnOnce() -> usize) -> bool {
    let stack_end = stack_end().cast::<*const u8>();
    // SAFETY: not null, so glibc's variable.
    let end = if stack_end.is_null() { random() } else { unsafe { stack_end.read() }.addr() };
    let here = 0_u8;
    end.wrapping_sub((&raw const here).addr()) < FIRST_STACK_BYTES
}

/// The environment that the kernel gave the process, an array that ends in null, where the C library has not begun: in
/// `.preinit_array`, in a library that comes before it, and while symbols are resolved. Else null.
pub fn environment_before_libc() -> *const *const c_char {
    let (stack_end, name) = (stack_end().cast::<*const usize>(), program_name().cast::<*const u8>());
    if stack_end.is_null() || name.is_null() {
        return core::ptr::null();
    }
    // SAFETY: glibc's variables of these names: the address of the first stack's end, which holds the arguments' count,
    // they and a null, then the environment, and the program's name, which is empty until the C library has begun.
    unsafe {
        let (arguments, name) = (stack_end.read(), name.read());
        if arguments.is_null() || name.is_null() || name.read() != 0 {
            return core::ptr::null();
        }
        let variables = arguments.add(1 + arguments.read());
        // The null after the arguments.
        if variables.read() == 0 { variables.add(1).cast() } else { core::ptr::null() }
    }
}

/// Calls the function at `address`, unless that is null.
///
/// # Safety
/// `address` is null or a C function without arguments and result, and may be called now.
unsafe fn call(address: *const c_void) {
    if !address.is_null() {
        // SAFETY: the caller says what it is.
        unsafe { core::mem::transmute::<*const c_void, unsafe extern "C" fn()>(address)() };
    }
}

/// Takes the lock of the C library's list of streams, which `fork` takes after the fork handlers: a thread that holds it
/// may allocate, so it comes before hz3's own locks. It is recursive.
pub fn lock_streams() {
    // SAFETY: glibc's function of that name, which any thread may call.
    unsafe { call(io_list_lock()) }
}

/// Undoes [`lock_streams`], in the parent.
///
/// # Safety
/// The calling thread took it.
pub unsafe fn unlock_streams() {
    // SAFETY: glibc's function of that name; the caller holds the lock.
    unsafe { call(io_list_unlock()) }
}

/// Makes the lock free, in a forked child.
///
/// # Safety
/// The calling thread is the only one of a child that was just forked.
pub unsafe fn reset_streams() {
    // SAFETY: glibc's function of that name, for this moment.
    unsafe { call(io_list_reset()) }
}

/// A fork handler.
pub type Handler = unsafe extern "C" fn();

/// Registers fork handlers for the rest of the process's life: those that pthread_atfork(3) registers go when the object's
/// destructors run, and later ones may still fork. A refusal leaves forks unprotected.
///
/// # Safety
/// The handlers stay loaded, and do what fork handlers may.
pub unsafe fn at_fork(before: Handler, in_parent: Handler, in_child: Handler) {
    type Register = unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> c_int;
    let register = register_atfork();
    // SAFETY: the caller vouches for the handlers; glibc's function has this type, and null stands for no object.
    unsafe {
        if register.is_null() {
            libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child));
        } else {
            core::mem::transmute::<*const c_void, Register>(register)(
                before,
                in_parent,
                in_child,
                core::ptr::null_mut(),
            );
        }
    }
}
