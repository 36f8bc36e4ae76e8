//! Hooks: whether a library is preloaded that stands in the place of libc's calls to the kernel and allocates in each
//! (`hz3-preload/tests/c/plugin/hooks.c`), and how often it was called.

use std::ffi::{CStr, c_char, c_ulong, c_void};

/// The calls that are counted: those about memory.
const COUNTED: [&CStr; 4] = [c"mmap", c"munmap", c"mprotect", c"madvise"];

fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: looks a name up; runs no code of ours.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Whether there are any.
pub fn are_preloaded() -> bool {
    !symbol(c"hooked_calls").is_null()
}

/// Calls that they met.
pub fn calls() -> u64 {
    let calls = symbol(c"hooked_calls");
    if calls.is_null() {
        return 0;
    }
    // SAFETY: a function of hooks.c of this type.
    let calls = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_ulong>(calls) };
    // SAFETY: C strings.
    COUNTED.iter().map(|name| unsafe { calls(name.as_ptr()) }).sum()
}

/// What hooks keep for the calling thread goes when this goes. A thread of the program has it first of all.
#[derive(Debug)]
pub struct OfThisThread(Option<unsafe extern "C" fn()>);

impl OfThisThread {
    /// Looks the hooks up.
    pub fn find() -> Self {
        let release = symbol(c"hooks_release_all");
        // SAFETY: a function of hooks.c of this type, if not null.
        Self(
            (!release.is_null())
                .then(|| unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(release) }),
        )
    }
}

impl Drop for OfThisThread {
    fn drop(&mut self) {
        if let Some(release) = self.0 {
            // SAFETY: it may be called at a thread's end.
            unsafe { release() };
        }
    }
}
