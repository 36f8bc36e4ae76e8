//! Keep loaded: the object that hz3's code lies in stays loaded once the C library or a thread has an address in it.
//!
//! ```text
//! plug-in with hz3 ── first allocation ──→ stays loaded; then the key, the fork handlers, the background thread
//!                  └─ dlclose before ────→ gone: nothing outside has an address in it
//! ```
//!
//! A program is never unloaded, nor is an object that was linked with `-z nodelete`, as the preload libraries are: the
//! object's own dynamic section says so. For these the loader is never called, which may be allocating itself.
//!
//! Outside rules: dladdr(3), dlopen(3) (`RTLD_NOLOAD`, `RTLD_NODELETE`), and elf.h for the dynamic section.

use crate::platform::atomic::{AtomicU32, Ordering};
use core::ffi::{c_char, c_int, c_void};

/// Not 0 once the object is known to stay. One for all lanes: they lie in one object.
static IS_KEPT: AtomicU32 = AtomicU32::new(0);

/// elf.h: `Elf64_Dyn`.
#[repr(C)]
struct Entry {
    tag: i64,
    value: u64,
}

const DT_NULL: i64 = 0;
/// Only programs have it.
const DT_DEBUG: i64 = 21;
const DT_FLAGS_1: i64 = 0x6fff_fffb;
const DF_1_NODELETE: u64 = 0x8;
const DF_1_PIE: u64 = 0x0800_0000;

/// What the linker and the loader know. Null: there is none.
#[repr(C)]
struct Linked {
    /// This object's dynamic section; none in a static program.
    dynamic: *const Entry,
    dladdr: Option<unsafe extern "C" fn(*const c_void, *mut libc::Dl_info) -> c_int>,
    dlopen: Option<unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void>,
    /// The mark of an object whose constructor calls [`keep`].
    constructor: *const u8,
}

// Weak, so that a static program needs no loader. `.weakref` leaves the binding of the object's other references alone,
// where `.weak` would make all of them weak.
#[cfg(not(miri))]
core::arch::global_asm!(
    ".pushsection .data.rel.ro.hz3_linked,\"aw\",%progbits",
    ".balign 8",
    ".weak _DYNAMIC",
    ".hidden _DYNAMIC",
    ".weak hz3_constructor_keeps_loaded",
    ".hidden hz3_constructor_keeps_loaded",
    ".weakref hz3_dladdr, dladdr",
    ".weakref hz3_dlopen, dlopen",
    ".globl hz3_linked",
    ".hidden hz3_linked",
    ".type hz3_linked,%object",
    ".size hz3_linked,32",
    "hz3_linked:",
    ".quad _DYNAMIC",
    ".quad hz3_dladdr",
    ".quad hz3_dlopen",
    ".quad hz3_constructor_keeps_loaded",
    ".popsection",
);

#[cfg(not(miri))]
unsafe extern "C" {
    #[link_name = "hz3_linked"]
    static LINKED: Linked;
}

#[cfg(miri)]
static LINKED: Linked =
    Linked { dynamic: core::ptr::null(), dladdr: None, dlopen: None, constructor: core::ptr::null() };

// SAFETY: read only, and so is all that it points to.
#[cfg(miri)]
unsafe impl Sync for Linked {}

/// [`keep`], unless a constructor of the object does. For the first use, which in an object that serves the process's
/// `malloc` may be the loader's own: it is in the middle of its work then. The caller holds no lock.
#[inline]
pub fn keep_before_use() {
    if linked().constructor.is_null() {
        keep();
    }
}

/// Keeps the object loaded from now on. A thread's pending dlerror(3) may be lost. The caller holds no lock: the loader
/// has its own, and may allocate. If it refuses, the object can be unloaded as before.
#[inline]
pub fn keep() {
    // Relaxed: publishes nothing. A thread that sees 0 calls the loader once more, which is harmless; it must not wait
    // for one that has called it. The store is Relaxed for the same reason.
    if IS_KEPT.load(Ordering::Relaxed) == 0 {
        if !is_never_unloaded(linked().dynamic) {
            ask_loader(linked());
        }
        IS_KEPT.store(1, Ordering::Relaxed);
    }
}

#[cfg_attr(miri, allow(unused_unsafe, reason = "Miri's is not from elsewhere"))]
fn linked() -> &'static Linked {
    // SAFETY: defined above with this layout, relocated before any code of the object runs, and never written after.
    unsafe { &LINKED }
}

/// Whether the dynamic section is that of a program, or of an object that is linked `-z nodelete`.
fn is_never_unloaded(mut entry: *const Entry) -> bool {
    if entry.is_null() {
        return true;
    }
    loop {
        // SAFETY: the section is mapped with its object, and `DT_NULL` ends it: `entry` has not passed that. The loader
        // writes the entries' values only, and none of `DT_FLAGS_1`.
        let (tag, value) = unsafe { ((*entry).tag, &raw const (*entry).value) };
        match tag {
            DT_NULL => return false,
            DT_DEBUG => return true,
            // SAFETY: as above.
            DT_FLAGS_1 if unsafe { *value } & (DF_1_NODELETE | DF_1_PIE) != 0 => return true,
            // SAFETY: not the last entry.
            _ => entry = unsafe { entry.add(1) },
        }
    }
}

#[cold]
#[inline(never)]
fn ask_loader(linked: &Linked) {
    let (Some(dladdr), Some(dlopen)) = (linked.dladdr, linked.dlopen) else { return };
    // SAFETY: no precondition; the address is this thread's as long as it lives.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: zeros are a valid `Dl_info`, and dladdr(3) writes nothing else. The name stays as long as its object,
    // whose code is running here. The object is loaded: no constructor runs. The handle is never given back. `errno` is
    // this thread's.
    unsafe {
        let before = *errno;
        let mut info = core::mem::zeroed::<libc::Dl_info>();
        if dladdr((keep as fn() as *const ()).cast(), &mut info) != 0 && !info.dli_fname.is_null() {
            dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
        *errno = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stays(flags: &[(i64, u64)]) -> bool {
        let mut section: [Entry; 4] = core::array::from_fn(|_| Entry { tag: DT_NULL, value: 0 });
        for (entry, &(tag, value)) in section.iter_mut().zip(flags) {
            *entry = Entry { tag, value };
        }
        is_never_unloaded(section.as_ptr())
    }

    #[test]
    fn what_is_never_unloaded_is_told_by_its_dynamic_section() {
        assert!(is_never_unloaded(core::ptr::null()), "a static program");
        assert!(stays(&[(1, 1), (DT_DEBUG, 0)]), "a program");
        assert!(stays(&[(1, 1), (DT_FLAGS_1, DF_1_PIE)]), "a static program that moves");
        assert!(stays(&[(1, 1), (DT_FLAGS_1, 1 | DF_1_NODELETE)]), "linked -z nodelete");
        assert!(!stays(&[(1, DF_1_NODELETE), (DT_FLAGS_1, 1), (30, 8)]), "a library");
        assert!(!stays(&[(1, 1), (DT_NULL, 0), (DT_DEBUG, 0)]), "a library, with what lies behind its section");
    }

    #[test]
    fn this_program_s_own_section_is_found() {
        assert!(cfg!(miri) || !linked().dynamic.is_null());
        assert!(is_never_unloaded(linked().dynamic));
        assert!(linked().constructor.is_null(), "a test has no C interface");
    }
}
