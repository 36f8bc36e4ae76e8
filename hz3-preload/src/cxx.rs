//! C++: all forms of `operator new` and `operator delete`.
//!
//! A program may replace some of them alone. The others then call the replaced ones, as the runtime's own do:
//!
//! ```text
//! delete[](p, n) → delete[](p)  → delete(p)         new[](n, nothrow) → new[](n) → new(n)
//! delete(p, n)   → delete(p)                        new(n, nothrow)   → new(n)
//! ```
//!
//! and so do the aligned forms among themselves. Each enters the next by its name ([`enter!`](crate::enter)). A nothrow
//! form of ours does not throw first; if what it is made of was replaced, it is the runtime's own, which catches.
//!
//! The throwing forms look up the program's C++ runtime by name when memory has run out, so that C programs need none.
//! An exception must not cross a Rust frame, so a naked function with unwind tables calls the new-handler and throws.
//!
//! Outside rules: C++20 [new.delete.single], [new.delete.array], [alloc.errors]; Itanium C++ ABI 5.1 (names);
//! `std::__throw_bad_alloc` and `std::get_new_handler` as libstdc++ and libc++ name them.

use crate::entry;
use core::arch::naked_asm;
#[cfg(target_env = "musl")]
use core::ffi::c_int;
use core::ffi::{CStr, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use hz3_core::Lane;
use hz3_core::api::block;
use hz3_core::platform::abort;
use hz3_core::platform::linux::Linux;

const GET_NEW_HANDLER: &CStr = c"_ZSt15get_new_handlerv";
const THROW_BAD_ALLOC: &CStr = c"_ZSt17__throw_bad_allocv";

/// `name` in the global scope, or in a C++ runtime loaded outside it; or null.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() { find_in_runtimes(name) } else { found }
}

/// `name` in a C++ runtime that the process has loaded, in whatever scope; or null.
#[cfg(not(target_env = "musl"))]
fn find_in_runtimes(name: &CStr) -> *mut c_void {
    let mut found = [c"libstdc++.so.6", c"libc++.so.1"].into_iter().map(|runtime| find_in(runtime, name));
    found.find(|found| !found.is_null()).unwrap_or(null_mut())
}

/// As above. Packages for Python bring a runtime under a name of their own (`libstdc++-5d72f927.so.6.0.33`), and for musl
/// all do. Its loader holds no lock while it shows what is loaded.
#[cfg(target_env = "musl")]
fn find_in_runtimes(name: &CStr) -> *mut c_void {
    struct Sought<'a> {
        name: &'a CStr,
        found: *mut c_void,
    }
    unsafe extern "C" fn look(object: *mut libc::dl_phdr_info, _bytes: usize, sought: *mut c_void) -> c_int {
        // SAFETY: the loader passes a description on, and our argument, which nobody else has.
        let (path, sought) = unsafe { ((*object).dlpi_name, &mut *sought.cast::<Sought>()) };
        if path.is_null() {
            return 0;
        }
        // SAFETY: a C string, for as long as the object is loaded: for ever.
        let path = unsafe { CStr::from_ptr(path) };
        let file = path.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if file.starts_with(b"libstdc++") || file.starts_with(b"libc++") {
            sought.found = find_in(path, sought.name);
        }
        (!sought.found.is_null()).into()
    }
    let mut sought = Sought { name, found: null_mut() };
    // SAFETY: the function takes such an argument.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut sought).cast()) };
    sought.found
}

/// `name` in `runtime` if that is loaded; or null.
fn find_in(runtime: &CStr, name: &CStr) -> *mut c_void {
    // SAFETY: both are C strings; RTLD_NOLOAD loads nothing, and the handle is closed once.
    unsafe {
        let handle = libc::dlopen(runtime.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return null_mut();
        }
        let found = libc::dlsym(handle, name.as_ptr());
        libc::dlclose(handle);
        found
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

/// Allocates. On failure calls the new-handler and tries again; throws if there is no handler.
///
/// # Safety
/// `align` is a power of two. Exceptions pass through to the caller, which must be able to unwind.
#[cfg(target_arch = "riscv64")]
#[unsafe(naked)]
pub unsafe extern "C" fn new_or_throw<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    naked_asm!(
        ".cfi_startproc",
        "addi sp, sp, -32",
        ".cfi_def_cfa_offset 32",
        "sd ra, 24(sp)",
        ".cfi_offset 1, -8",
        "sd a0, 0(sp)",
        "sd a1, 8(sp)",
        "2:",
        "ld a0, 0(sp)",
        "ld a1, 8(sp)",
        "call {allocate}",
        "bnez a0, 4f",
        "call {new_handler}",
        "beqz a0, 3f",
        "jalr a0",
        "j 2b",
        "3:",
        "call {thrower}",
        "jalr a0",
        "unimp",
        "4:",
        "ld ra, 24(sp)",
        ".cfi_restore 1",
        "addi sp, sp, 32",
        ".cfi_def_cfa_offset 0",
        "ret",
        ".cfi_endproc",
        allocate = sym allocate::<L>,
        new_handler = sym new_handler,
        thrower = sym thrower,
    )
}

/// A nothrow form, and the next one of its name behind ours: the C++ runtime's own, which calls the throwing form by its
/// name and turns an exception into null.
pub struct Nothrow {
    name: &'static CStr,
    next: AtomicPtr<c_void>,
}

/// `new(bytes, nothrow)`.
pub static NEW: Nothrow = Nothrow::of(c"_ZnwmRKSt9nothrow_t");
/// `new[](bytes, nothrow)`.
pub static NEW_ARRAY: Nothrow = Nothrow::of(c"_ZnamRKSt9nothrow_t");
/// `new(bytes, align, nothrow)`.
pub static NEW_ALIGNED: Nothrow = Nothrow::of(c"_ZnwmSt11align_val_tRKSt9nothrow_t");
/// `new[](bytes, align, nothrow)`.
pub static NEW_ARRAY_ALIGNED: Nothrow = Nothrow::of(c"_ZnamSt11align_val_tRKSt9nothrow_t");

impl Nothrow {
    const fn of(name: &'static CStr) -> Nothrow {
        Nothrow { name, next: AtomicPtr::new(null_mut()) }
    }

    /// Null: there is none. Asks the loader, until it has found one.
    pub fn next(&self) -> *mut c_void {
        // Relaxed: publishes nothing; threads that arrive together find and store the same address.
        let mut next = self.next.load(Ordering::Relaxed);
        if next.is_null() {
            // SAFETY: a C string. The caller that the loader sees is this object.
            next = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            // An earlier library's `dlsym` answers what is next for that library, which may be ours.
            if next.is_null() || entry::lies_here(next) {
                next = find_in_runtimes(self.name);
            }
            // Relaxed: as above.
            self.next.store(next, Ordering::Relaxed);
        }
        next
    }
}

/// Asks the loader for the next ones of all forms.
#[cold]
pub fn find_all() {
    for form in [&NEW, &NEW_ARRAY, &NEW_ALIGNED, &NEW_ARRAY_ALIGNED] {
        form.next();
    }
}

/// Where a nothrow form goes on whose throwing form, at `throwing`, was replaced. Without a runtime in the process that
/// is the throwing form itself, which lets an exception through.
#[cold]
pub extern "C" fn next_or(form: &Nothrow, throwing: *mut c_void) -> *mut c_void {
    let next = form.next();
    if next.is_null() { throwing } else { next }
}

/// `new(bytes, nothrow)`. On failure, if there is a new-handler, goes on in the runtime's own form.
pub extern "C" fn new_nothrow<L: Lane>(bytes: usize, _tag: *const c_void) -> *mut u8 {
    block::malloc_or::<L>(bytes, new_or_null::<L>)
}

#[cold]
#[inline(never)]
fn new_or_null<L: Lane>(bytes: usize) -> *mut u8 {
    let block = block::malloc_miss::<L>(bytes);
    if !block.is_null() || new_handler().is_null() {
        return block;
    }
    let next = NEW.next();
    if next.is_null() {
        return null_mut();
    }
    // SAFETY: the symbol is that form, and takes a size and a reference, which is valid.
    unsafe { core::mem::transmute::<*mut c_void, extern "C" fn(usize, *const u8) -> *mut u8>(next)(bytes, &0) }
}

/// `new(bytes, align, nothrow)`, for every power of two. On failure, if there is a new-handler, goes on in the runtime's
/// own form.
pub extern "C" fn new_aligned_nothrow<L: Lane>(bytes: usize, align: usize, _tag: *const c_void) -> *mut u8 {
    let block = block::malloc_aligned::<L>(bytes, align);
    if !block.is_null() || new_handler().is_null() {
        return block;
    }
    let next = NEW_ALIGNED.next();
    if next.is_null() {
        return null_mut();
    }
    // SAFETY: the symbol is that form, and takes a size, an alignment and a reference, which is valid.
    unsafe {
        core::mem::transmute::<*mut c_void, extern "C" fn(usize, usize, *const u8) -> *mut u8>(next)(bytes, align, &0)
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
            use $crate::cxx::{new_aligned_nothrow, new_nothrow, new_or_throw};
            use $crate::hz3_core::api::block;

            $crate::place_sections!(_Znwm _ZnwmSt11align_val_t _ZdlPv _ZdlPvSt11align_val_t);

            // What the other forms are made of.

            #[unsafe(no_mangle)]
            #[unsafe(link_section = "hz3__Znwm")]
            pub extern "C" fn _Znwm(bytes: usize) -> *mut c_void {
                // SAFETY: 16 is a power of two. A tail call: an exception passes straight to the C++ caller.
                block::malloc_or::<$lane>(bytes, |bytes| unsafe { new_or_throw::<$lane>(bytes, 16) }).cast()
            }

            #[unsafe(no_mangle)]
            #[unsafe(link_section = "hz3__ZnwmSt11align_val_t")]
            pub unsafe extern "C" fn _ZnwmSt11align_val_t(bytes: usize, align: usize) -> *mut c_void {
                let block = block::malloc_aligned::<$lane>(bytes, align);
                if !block.is_null() {
                    return block.cast();
                }
                // SAFETY: C++ passes a power of two. A tail call: an exception passes straight to the C++ caller.
                unsafe { new_or_throw::<$lane>(bytes, align).cast() }
            }

            #[unsafe(no_mangle)]
            #[unsafe(link_section = "hz3__ZdlPv")]
            pub unsafe extern "C" fn _ZdlPv(block: *mut c_void) {
                // SAFETY: C++ gives up the block, which may be null.
                unsafe { block::free::<$lane>(block.cast()) }
            }

            #[unsafe(no_mangle)]
            #[unsafe(link_section = "hz3__ZdlPvSt11align_val_t")]
            pub unsafe extern "C" fn _ZdlPvSt11align_val_t(block: *mut c_void, _align: usize) {
                // SAFETY: C++ gives up the block, which may be null.
                unsafe { block::free::<$lane>(block.cast()) }
            }

            // What is made of them.

            $crate::enter! {
                _Znam => _Znwm;
                _ZnamSt11align_val_t => _ZnwmSt11align_val_t;
                _ZdaPv => _ZdlPv;
                _ZdlPvRKSt9nothrow_t => _ZdlPv;
                _ZdaPvRKSt9nothrow_t => _ZdaPv;
                _ZdaPvSt11align_val_t => _ZdlPvSt11align_val_t;
                _ZdlPvSt11align_val_tRKSt9nothrow_t => _ZdlPvSt11align_val_t;
                _ZdaPvSt11align_val_tRKSt9nothrow_t => _ZdaPvSt11align_val_t;
            }

            type Delete = unsafe extern "C" fn(*mut c_void);
            type DeleteAligned = unsafe extern "C" fn(*mut c_void, usize);

            // The hardened lane checks the sizes of its own blocks first.

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn _ZdlPvm(block: *mut c_void, bytes: usize) {
                if $crate::entry::checks_sizes::<$lane>() && $crate::is_own!(_ZdlPv) {
                    block::check_layout::<$lane>(block.cast(), bytes, 1);
                }
                // SAFETY: a function of that name is this form; C++ gives up the block.
                unsafe { core::mem::transmute::<*const (), Delete>($crate::resolved!(_ZdlPv))(block) }
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn _ZdaPvm(block: *mut c_void, bytes: usize) {
                if $crate::entry::checks_sizes::<$lane>() && $crate::is_own_jump!(_ZdaPv) && $crate::is_own!(_ZdlPv) {
                    block::check_layout::<$lane>(block.cast(), bytes, 1);
                }
                // SAFETY: a function of that name is this form; C++ gives up the block.
                unsafe { core::mem::transmute::<*const (), Delete>($crate::resolved!(_ZdaPv))(block) }
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn _ZdlPvmSt11align_val_t(block: *mut c_void, bytes: usize, align: usize) {
                if $crate::entry::checks_sizes::<$lane>() && $crate::is_own!(_ZdlPvSt11align_val_t) {
                    block::check_layout::<$lane>(block.cast(), bytes, align);
                }
                let delete = $crate::resolved!(_ZdlPvSt11align_val_t);
                // SAFETY: a function of that name is this form; C++ gives up the block.
                unsafe { core::mem::transmute::<*const (), DeleteAligned>(delete)(block, align) }
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn _ZdaPvmSt11align_val_t(block: *mut c_void, bytes: usize, align: usize) {
                if $crate::entry::checks_sizes::<$lane>()
                    && $crate::is_own_jump!(_ZdaPvSt11align_val_t)
                    && $crate::is_own!(_ZdlPvSt11align_val_t)
                {
                    block::check_layout::<$lane>(block.cast(), bytes, align);
                }
                let delete = $crate::resolved!(_ZdaPvSt11align_val_t);
                // SAFETY: a function of that name is this form; C++ gives up the block.
                unsafe { core::mem::transmute::<*const (), DeleteAligned>(delete)(block, align) }
            }

            $crate::nothrow! {
                _ZnwmRKSt9nothrow_t: new_nothrow::<$lane>, $crate::cxx::NEW,
                    made of _Znwm at "__start_hz3__Znwm";
                _ZnamRKSt9nothrow_t: new_nothrow::<$lane>, $crate::cxx::NEW_ARRAY,
                    made of _Znam at "hz3_own__Znam", _Znwm at "__start_hz3__Znwm";
                _ZnwmSt11align_val_tRKSt9nothrow_t: new_aligned_nothrow::<$lane>, $crate::cxx::NEW_ALIGNED,
                    made of _ZnwmSt11align_val_t at "__start_hz3__ZnwmSt11align_val_t";
                _ZnamSt11align_val_tRKSt9nothrow_t: new_aligned_nothrow::<$lane>, $crate::cxx::NEW_ARRAY_ALIGNED,
                    made of _ZnamSt11align_val_t at "hz3_own__ZnamSt11align_val_t",
                        _ZnwmSt11align_val_t at "__start_hz3__ZnwmSt11align_val_t";
            }

            /// Asks the loader now for what replaced operators will need, not in the middle of the program's work.
            pub fn prepare() {
                let is_replaced = !$crate::is_own!(_Znwm)
                    || !$crate::is_own_jump!(_Znam)
                    || !$crate::is_own!(_ZnwmSt11align_val_t)
                    || !$crate::is_own_jump!(_ZnamSt11align_val_t);
                if is_replaced {
                    $crate::cxx::find_all();
                }
            }
        }
    };
}

/// Defines exported nothrow forms: ours (`$own`) while all that it is made of is ours, else what [`next_or`] answers.
#[doc(hidden)]
#[macro_export]
macro_rules! nothrow {
    ($($name:ident: $own:path, $form:path, made of $throwing:ident at $label:literal $(, $further:ident at $further_label:literal)*;)*) => {$(
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(
                ".cfi_startproc",
                concat!("lea rax, [rip + ", $label, "]"),
                concat!("cmp rax, qword ptr [rip + ", stringify!($throwing), "@GOTPCREL]"),
                "jne 2f",
                $(
                    concat!("lea rax, [rip + ", $further_label, "]"),
                    concat!("cmp rax, qword ptr [rip + ", stringify!($further), "@GOTPCREL]"),
                    "jne 2f",
                )*
                "jmp {own}",
                "2:",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "lea rdi, [rip + {form}]",
                concat!("mov rsi, qword ptr [rip + ", stringify!($throwing), "@GOTPCREL]"),
                "call {next_or}",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                own = sym $own,
                form = sym $form,
                next_or = sym $crate::cxx::next_or,
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(
                ".cfi_startproc",
                concat!("adrp x9, ", $label),
                concat!("add x9, x9, :lo12:", $label),
                concat!("adrp x10, :got:", stringify!($throwing)),
                concat!("ldr x10, [x10, :got_lo12:", stringify!($throwing), "]"),
                "cmp x9, x10",
                "b.ne 2f",
                $(
                    concat!("adrp x9, ", $further_label),
                    concat!("add x9, x9, :lo12:", $further_label),
                    concat!("adrp x11, :got:", stringify!($further)),
                    concat!("ldr x11, [x11, :got_lo12:", stringify!($further), "]"),
                    "cmp x9, x11",
                    "b.ne 2f",
                )*
                "b {own}",
                "2:",
                "stp x29, x30, [sp, #-48]!",
                ".cfi_def_cfa_offset 48",
                ".cfi_offset 29, -48",
                ".cfi_offset 30, -40",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "str x2, [sp, #32]",
                "adrp x0, {form}",
                "add x0, x0, :lo12:{form}",
                "mov x1, x10",
                "bl {next_or}",
                "mov x16, x0",
                "ldp x0, x1, [sp, #16]",
                "ldr x2, [sp, #32]",
                "ldp x29, x30, [sp], #48",
                ".cfi_restore 29",
                ".cfi_restore 30",
                ".cfi_def_cfa_offset 0",
                "br x16",
                ".cfi_endproc",
                own = sym $own,
                form = sym $form,
                next_or = sym $crate::cxx::next_or,
            );
            #[cfg(target_arch = "riscv64")]
            core::arch::naked_asm!(
                ".cfi_startproc",
                concat!("lla t1, ", $label),
                concat!("4: auipc t2, %got_pcrel_hi(", stringify!($throwing), ")"),
                "ld t2, %pcrel_lo(4b)(t2)",
                "bne t1, t2, 2f",
                $(
                    concat!("lla t1, ", $further_label),
                    concat!("5: auipc t3, %got_pcrel_hi(", stringify!($further), ")"),
                    "ld t3, %pcrel_lo(5b)(t3)",
                    "bne t1, t3, 2f",
                )*
                "tail {own}",
                "2:",
                "addi sp, sp, -32",
                ".cfi_def_cfa_offset 32",
                "sd ra, 24(sp)",
                ".cfi_offset 1, -8",
                "sd a0, 0(sp)",
                "sd a1, 8(sp)",
                "sd a2, 16(sp)",
                "lla a0, {form}",
                "mv a1, t2",
                "call {next_or}",
                "mv t1, a0",
                "ld a0, 0(sp)",
                "ld a1, 8(sp)",
                "ld a2, 16(sp)",
                "ld ra, 24(sp)",
                ".cfi_restore 1",
                "addi sp, sp, 32",
                ".cfi_def_cfa_offset 0",
                "jr t1",
                ".cfi_endproc",
                own = sym $own,
                form = sym $form,
                next_or = sym $crate::cxx::next_or,
            );
        }
    )*};
}
