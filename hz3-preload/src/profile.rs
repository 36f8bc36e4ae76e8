//! Profile: the file that the sampling heap profiler writes, and when.
//!
//! ```text
//! heap profile: <live>: <bytes> [<all>: <bytes>] @ heap_v2/<interval>
//!   <live>: <bytes> [<all>: <bytes>] @ <return addresses, innermost first>
//! …
//! MAPPED_LIBRARIES:
//! <contents of /proc/self/maps>
//! ```
//!
//! The counts are those of the samples; readers scale them by the interval. Nothing here allocates, except that the
//! loader may when it is asked for the unwinder, before the profile begins.
//!
//! Outside rules: pprof's `legacy_profile.go` and gperftools' `pprof` for the format; the Itanium C++ ABI (exception
//! handling, level I) for `_Unwind_Backtrace` and `_Unwind_GetIP`.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use hz3_core::fault;
use hz3_core::lane::Lane;
use hz3_core::options::PROFILE_NAME_BYTES;
use hz3_core::os::Linux;
use hz3_core::profile::{Backtrace, Counts, GetIp, Unwinder};
use hz3_core::sampling;
use hz3_core::sync::{AtomicU32, AtomicUsize, Ordering};

const UNWINDER: &CStr = c"libgcc_s.so.1";

/// The file's name as the environment had it, copied before the program could change its environment.
struct Name {
    bytes: UnsafeCell<[u8; PROFILE_NAME_BYTES]>,
    /// 0 while there is no profile. Written after `bytes` and `process`.
    used: AtomicUsize,
    /// The process that the profile began in.
    process: AtomicU32,
}

// SAFETY: the bytes are written once, by the constructor, before `used` says that they may be read.
unsafe impl Sync for Name {}

static NAME: Name =
    Name { bytes: UnsafeCell::new([0; PROFILE_NAME_BYTES]), used: AtomicUsize::new(0), process: AtomicU32::new(0) };

impl Name {
    fn get(&self) -> &[u8] {
        // Acquire: pairs with the Release in `begin_if_wanted`.
        let used = self.used.load(Ordering::Acquire);
        // SAFETY: as above.
        unsafe { &*self.bytes.get() }.get(..used).unwrap_or(&[])
    }
}

/// A file's name for the system, `%p` replaced by the process id.
struct Path {
    bytes: [u8; libc::PATH_MAX as usize],
    used: usize,
}

impl Path {
    /// `None` where the name becomes too long.
    fn expand(name: &[u8]) -> Option<Path> {
        let mut path = Path { bytes: [0; libc::PATH_MAX as usize], used: 0 };
        let mut rest = name;
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first == b'%' && tail.first() == Some(&b'p') {
                rest = tail.get(1..).unwrap_or(&[]);
                // SAFETY: takes and changes nothing.
                write!(path, "{}", unsafe { libc::getpid() }).ok()?;
            } else {
                path.push(*first)?;
            }
        }
        // The last byte stays 0.
        (path.used < path.bytes.len()).then_some(path)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.used)? = byte;
        self.used += 1;
        Some(())
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.bytes().try_for_each(|byte| self.push(byte)).ok_or(core::fmt::Error)
    }
}

/// Begins the profile where the environment asks for one. Called by the library's constructor, in the process's one
/// thread.
pub fn begin_if_wanted<L: Lane>() {
    let options = L::allocator().options();
    options.read::<L::Os>();
    // SAFETY: the program has not run yet, and the name is copied.
    let Some(name) = (unsafe { options.profile_name() }) else { return };
    let Some(unwinder) = find_unwinder() else {
        fault::warning::<Linux>(&[b"HZ3_PROFILE: ", UNWINDER.to_bytes(), b" is not to be had; there is no profile"]);
        return;
    };
    // SAFETY: nobody reads the bytes yet; `get_mut` checks the length.
    if let Some(place) = unsafe { &mut *NAME.bytes.get() }.get_mut(..name.len()) {
        place.copy_from_slice(name);
    }
    // Relaxed: published by the next store. SAFETY: takes and changes nothing.
    NAME.process.store(unsafe { libc::getpid() }.cast_unsigned(), Ordering::Relaxed);
    // Release: publishes the name. Pairs with the Acquire in `get`.
    NAME.used.store(name.len(), Ordering::Release);
    sampling::begin::<L>(unwinder, options.profile_interval_bytes());
}

/// libgcc's unwinder, which every C++ and Rust program has loaded, and which glibc itself loads for `backtrace` and
/// `pthread_exit`. Its walk allocates nothing where the loader finds frames for it, as glibc's does.
fn find_unwinder() -> Option<Unwinder> {
    // SAFETY: the names are C strings; the library stays loaded, so that the functions live on.
    unsafe {
        let library = libc::dlopen(UNWINDER.as_ptr(), libc::RTLD_LAZY);
        if library.is_null() {
            // Its message is not the program's.
            libc::dlerror();
            return None;
        }
        let backtrace = libc::dlsym(library, c"_Unwind_Backtrace".as_ptr());
        let get_ip = libc::dlsym(library, c"_Unwind_GetIP".as_ptr());
        if backtrace.is_null() || get_ip.is_null() {
            return None;
        }
        let mut own = Own { address: look_for_own_code as *const () as usize, start: 0, end: 0 };
        libc::dl_iterate_phdr(Some(look_for_own_code), (&raw mut own).cast());
        Some(Unwinder {
            backtrace: core::mem::transmute::<*mut c_void, Backtrace>(backtrace),
            get_ip: core::mem::transmute::<*mut c_void, GetIp>(get_ip),
            own_start: own.start,
            own_end: own.end,
        })
    }
}

/// The part of the process that holds this library's code.
struct Own {
    /// An address in it.
    address: usize,
    start: usize,
    end: usize,
}

unsafe extern "C" fn look_for_own_code(object: *mut libc::dl_phdr_info, _bytes: usize, own: *mut c_void) -> c_int {
    // SAFETY: the loader's own description of a loaded object, and the argument of `dl_iterate_phdr`.
    let (object, own) = unsafe { (&*object, &mut *own.cast::<Own>()) };
    for number in 0..usize::from(object.dlpi_phnum) {
        // SAFETY: there are that many program headers.
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

/// Writes the profile at the process's end. A forked child writes one only if its name is not its parent's.
pub fn write_at_exit<L: Lane>() {
    let name = NAME.get();
    // Relaxed: published with the name. SAFETY: takes and changes nothing.
    let is_own = NAME.process.load(Ordering::Relaxed) == unsafe { libc::getpid() }.cast_unsigned();
    if name.is_empty() || !(is_own || name.contains(&b'%')) {
        return;
    }
    // SAFETY: errno is the calling thread's own.
    let errno = unsafe { *libc::__errno_location() };
    if write_named::<L>().is_err() {
        fault::warning::<Linux>(&[b"HZ3_PROFILE: can't write ", name]);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Writes the profile to `path`, or, where that is null, to the file that the environment names. 0, or -1 and
/// `errno`: `EINVAL` where there is no profile, else what the system says.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn dump<L: Lane>(path: *const c_char) -> c_int {
    let outcome = if !L::allocator().profile.is_on() {
        Err(libc::EINVAL)
    } else if path.is_null() {
        write_named::<L>()
    } else {
        // SAFETY: the caller's promise.
        write_to::<L>(unsafe { CStr::from_ptr(path) })
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            // SAFETY: errno is the calling thread's own.
            unsafe { *libc::__errno_location() = error };
            -1
        }
    }
}

fn write_named<L: Lane>() -> Result<(), c_int> {
    let path = Path::expand(NAME.get()).ok_or(libc::ENAMETOOLONG)?;
    write_to::<L>(CStr::from_bytes_until_nul(&path.bytes).map_err(|_| libc::ENAMETOOLONG)?)
}

fn write_to<L: Lane>(path: &CStr) -> Result<(), c_int> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let mut file = File::own(unsafe { libc::open(path.as_ptr(), flags, 0o666) })?;
    write_text::<L>(&mut file);
    file.copy(c"/proc/self/maps");
    file.flush();
    match file.error {
        0 => Ok(()),
        error => Err(error),
    }
}

fn write_text<L: Lane>(file: &mut File) {
    let profile = &L::allocator().profile;
    // The file keeps the error for its end.
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

/// A file that is being written, through a buffer. The first error stays, and nothing is written after it.
struct File {
    descriptor: c_int,
    error: c_int,
    used: usize,
    bytes: [u8; 4096],
}

impl File {
    fn own(descriptor: c_int) -> Result<File, c_int> {
        if descriptor < 0 { Err(last_error()) } else { Ok(File { descriptor, error: 0, used: 0, bytes: [0; 4096] }) }
    }

    fn flush(&mut self) {
        let mut rest = self.bytes.get(..self.used).unwrap_or(&[]);
        while !rest.is_empty() && self.error == 0 {
            // SAFETY: reads the slice.
            let written = unsafe { libc::write(self.descriptor, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
                Err(_) => match last_error() {
                    libc::EINTR => {}
                    error => self.error = error,
                },
            }
        }
        self.used = 0;
    }

    /// Appends the contents of another file.
    fn copy(&mut self, path: &CStr) {
        // SAFETY: the path is a C string.
        let source = match File::own(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }) {
            Ok(source) => source,
            Err(error) => {
                self.error = error;
                return;
            }
        };
        loop {
            self.flush();
            // SAFETY: writes into the buffer, which is empty, and no more than it holds.
            let read = unsafe { libc::read(source.descriptor, self.bytes.as_mut_ptr().cast(), self.bytes.len()) };
            match usize::try_from(read) {
                Ok(0) => return,
                Ok(read) => self.used = read,
                Err(_) if last_error() == libc::EINTR => {}
                Err(_) => {
                    self.error = last_error();
                    return;
                }
            }
        }
    }
}

impl Write for File {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this file's own.
        unsafe { libc::close(self.descriptor) };
    }
}

fn last_error() -> c_int {
    // SAFETY: errno is the calling thread's own.
    unsafe { *libc::__errno_location() }
}
