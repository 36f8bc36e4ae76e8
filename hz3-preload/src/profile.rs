//! Profile: when and how the sampled heap profile is written.
//!
//! ```text
//! heap profile: <live>: <bytes> [<all>: <bytes>] @ heap_v2/<interval>
//!   <live>: <bytes> [<all>: <bytes>] @ <return addresses, innermost first>
//! …
//! MAPPED_LIBRARIES:
//! <contents of /proc/self/maps>
//! ```
//!
//! Readers scale the samples' counts by the interval. Nothing allocates, except the loader before the profile begins.
//!
//! Outside rules: pprof's `legacy_profile.go` and gperftools' `pprof` (format); Itanium C++ ABI, exception handling,
//! level I (`_Unwind_Backtrace`, `_Unwind_GetIP`).

use crate::output::{self, File};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use hz3_core::Lane;
use hz3_core::observe::sampling;
use hz3_core::platform::abort;
use hz3_core::platform::atomic::{AtomicU32, Ordering};
use hz3_core::platform::linux::Linux;
use hz3_core::platform::own_stack::{self, Signals};
use hz3_core::record::profile::{Backtrace, Counts, GetIp, Unwinder};

const UNWINDER: &CStr = c"libgcc_s.so.1";

/// The process that began the profile; 0 without one.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Begins the profile if the environment asks for it. Called by the constructor, while there is one thread.
pub fn begin_if_wanted<L: Lane>() {
    let options = L::allocator().read_options();
    if options.profile().is_none() {
        return;
    }
    let Some(unwinder) = find_unwinder() else {
        abort::warning::<Linux>(&[b"HZ3_PROFILE: ", UNWINDER.to_bytes(), b" is not to be had; there is no profile"]);
        return;
    };
    // Relaxed: readers start after it. SAFETY: no preconditions.
    PROCESS.store(unsafe { libc::getpid() }.cast_unsigned(), Ordering::Relaxed);
    sampling::begin::<L>(unwinder, options.profile_interval_bytes());
}

/// libgcc's unwinder, loaded by C++ and Rust programs anyway. Its walk does not allocate if the loader finds the
/// frames.
fn find_unwinder() -> Option<Unwinder> {
    // SAFETY: the names are C strings, the library stays loaded, the types are the ABI's; only the walk uses `own`.
    unsafe {
        let library = libc::dlopen(UNWINDER.as_ptr(), libc::RTLD_LAZY);
        if library.is_null() {
            // Clears the error, which is not the program's.
            libc::dlerror();
            return None;
        }
        let backtrace = libc::dlsym(library, c"_Unwind_Backtrace".as_ptr());
        let get_ip = libc::dlsym(library, c"_Unwind_GetIP".as_ptr());
        if backtrace.is_null() || get_ip.is_null() {
            return None;
        }
        let mut own = CodeRange { address: find_own_code as *const () as usize, start: 0, end: 0 };
        libc::dl_iterate_phdr(Some(find_own_code), (&raw mut own).cast());
        Some(Unwinder {
            backtrace: core::mem::transmute::<*mut c_void, Backtrace>(backtrace),
            get_ip: core::mem::transmute::<*mut c_void, GetIp>(get_ip),
            own_start: own.start,
            own_end: own.end,
        })
    }
}

/// Address range of this library's code; `address` lies in it.
struct CodeRange {
    address: usize,
    start: usize,
    end: usize,
}

/// # Safety
/// `object` is the loader's, and `own` a [`CodeRange`] without another reference.
unsafe extern "C" fn find_own_code(object: *mut libc::dl_phdr_info, _bytes: usize, own: *mut c_void) -> c_int {
    // SAFETY: the caller passes the loader's description of an object, and its own `CodeRange`.
    let (object, own) = unsafe { (&*object, &mut *own.cast::<CodeRange>()) };
    for number in 0..usize::from(object.dlpi_phnum) {
        // SAFETY: the object has `dlpi_phnum` program headers.
        let header = unsafe { &*object.dlpi_phdr.add(number) };
        let start = (object.dlpi_addr + header.p_vaddr) as usize;
        let end = start + header.p_memsz as usize;
        if header.p_type == libc::PT_LOAD && (start..end).contains(&own.address) {
            (own.start, own.end) = (start, end);
            return 1;
        }
    }
    0
}

/// Writes the profile at exit. A forked child writes one only if its file name differs from its parent's.
pub fn write_at_exit<L: Lane>() {
    // Relaxed: written before this thread started. SAFETY: no preconditions.
    let (began_in, process) = (PROCESS.load(Ordering::Relaxed), unsafe { libc::getpid() }.cast_unsigned());
    let options = L::allocator().options();
    if began_in == 0 || !(began_in == process || options.profile().names_process()) {
        return;
    }
    // SAFETY: this thread's `errno`.
    let errno = unsafe { *libc::__errno_location() };
    if let Some(Err(error)) = own_stack::call(Signals::Pass, write_named::<L>) {
        output::cannot(options, b"HZ3_PROFILE: the file can't be written", error, options.profile());
    }
    // SAFETY: this thread's `errno`.
    unsafe { *libc::__errno_location() = errno };
}

/// Writes the profile to `path`, or where the environment says if null. 0, or -1 and `errno`: `EINVAL` without a
/// profile, else the system's error.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn dump<L: Lane>(path: *const c_char) -> c_int {
    let outcome = if !L::allocator().profile.is_on() {
        Some(Err(libc::EINVAL))
    } else if path.is_null() {
        own_stack::call(Signals::Pass, write_named::<L>)
    } else {
        // SAFETY: `path` is a C string, not null.
        own_stack::call(Signals::Pass, || File::create_at(unsafe { CStr::from_ptr(path) }).and_then(write_to::<L>))
    };
    match outcome {
        Some(Err(error)) => {
            // SAFETY: this thread's `errno`.
            unsafe { *libc::__errno_location() = error };
            -1
        }
        _ => 0,
    }
}

fn write_named<L: Lane>() -> Result<(), c_int> {
    write_to::<L>(File::create(L::allocator().options().profile())?)
}

fn write_to<L: Lane>(mut file: File) -> Result<(), c_int> {
    write_text::<L>(&mut file);
    file.append(c"/proc/self/maps");
    file.finish()
}

fn write_text<L: Lane>(file: &mut File) {
    let profile = &L::allocator().profile;
    // `finish` returns the first error.
    let _ = write!(file, "heap profile: ");
    write_counts(file, profile.totals());
    let _ = writeln!(file, " heap_v2/{}", profile.interval_bytes());
    profile.each(|counts, frames| {
        write_counts(file, counts);
        for frame in frames {
            let _ = write!(file, " {frame:#x}");
        }
        let _ = writeln!(file);
    });
    if profile.lost() != 0 {
        let _ = writeln!(file, "# {} samples were lost: no memory", profile.lost());
    }
    let _ = write!(file, "\nMAPPED_LIBRARIES:\n");
}

fn write_counts(file: &mut File, counts: Counts) {
    let Counts { live_blocks, live_bytes, all_blocks, all_bytes } = counts;
    let _ = write!(file, "{live_blocks:6}: {live_bytes:8} [{all_blocks:6}: {all_bytes:8}] @");
}
