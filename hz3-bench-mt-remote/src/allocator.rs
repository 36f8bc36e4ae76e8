//! Allocator: which library's `malloc` serves this process, found out from the process itself.
//!
//! What was asked for (an `LD_PRELOAD` line) and what happened can differ: a library that fails to load is
//! skipped with no more than a warning. The dynamic linker knows the object that it bound `malloc` to,
//! and functions that the well-known allocators export tell name and version. Such a function counts
//! only if it lies in that same object.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

/// The allocator that serves this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// Its name in lower case, without spaces.
    pub name: String,
    /// The file that holds `malloc`.
    pub path: PathBuf,
    /// Its version without spaces, `unknown` if it does not tell.
    pub version: String,
}

/// An object file in memory.
struct Object {
    base: *const c_void,
    path: PathBuf,
}

/// A function that identifies its allocator, and how to ask it.
struct Marker {
    name: &'static str,
    symbol: &'static CStr,
    /// # Safety
    /// The address is that of the function named by `symbol`.
    version: unsafe fn(address: *const c_void) -> Option<String>,
}

/// Functions looked for, in this order.
const MARKERS: [Marker; 5] = [
    Marker { name: "hz3", symbol: c"hz3_version", version: text_version },
    Marker { name: "mimalloc", symbol: c"mi_version", version: mimalloc_version },
    Marker { name: "tcmalloc", symbol: c"tc_version", version: gperftools_version },
    Marker { name: "jemalloc", symbol: c"mallctl", version: jemalloc_version },
    Marker { name: "glibc", symbol: c"gnu_get_libc_version", version: text_version },
];

/// Allocators that are recognised by their file's name when they export no marker, longest match first
/// where one name contains another.
const FILE_NAMES: [&str; 8] = ["hz3", "snmalloc", "rpmalloc", "mimalloc", "jemalloc", "tcmalloc", "scudo", "hoard"];

impl Allocator {
    /// Asks the dynamic linker.
    pub fn serving_this_process() -> Self {
        let object = address_of(c"malloc").and_then(object_of);
        let Some(object) = object else {
            // A statically linked program has no dynamic symbols; its malloc is in its own file.
            let path = std::env::current_exe().unwrap_or_default();
            return Self { name: "unknown".into(), path, version: "unknown".into() };
        };
        for marker in &MARKERS {
            let Some(address) = address_of(marker.symbol) else {
                continue;
            };
            if object_of(address).is_some_and(|found| found.base == object.base) {
                // SAFETY: the linker gave the address for the marker's own symbol.
                let version = unsafe { (marker.version)(address) };
                return Self { name: marker.name.into(), path: object.path, version: one_word(version) };
            }
        }
        Self { name: name_of_file(&object.path), path: object.path, version: one_word(None) }
    }
}

/// The address of `symbol` in the object that `malloc` comes from. An object further down, such as the C
/// library below a preloaded allocator, does not count: what its function does is not this allocator's work.
pub fn own_function(symbol: &CStr) -> Option<*const c_void> {
    let object = object_of(address_of(c"malloc")?)?;
    address_of(symbol).filter(|address| object_of(*address).is_some_and(|found| found.base == object.base))
}

/// The address that a call of `symbol` from this program reaches.
fn address_of(symbol: &CStr) -> Option<*const c_void> {
    // SAFETY: looks a name up; runs no code of ours.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    (!address.is_null()).then_some(address.cast_const())
}

/// The object that `address` lies in.
fn object_of(address: *const c_void) -> Option<Object> {
    let mut info = libc::Dl_info { dli_fname: null(), dli_fbase: null_mut(), dli_sname: null(), dli_saddr: null_mut() };
    // SAFETY: fills in the one structure it is given; any address may be asked about.
    let found = unsafe { libc::dladdr(address, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the linker's file names are C strings that live as long as the object is loaded.
    let path = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(Object { base: info.dli_fbase.cast_const(), path: OsStr::from_bytes(path.to_bytes()).into() })
}

/// `const char *f(void)`.
unsafe fn text_version(address: *const c_void) -> Option<String> {
    // SAFETY: by the caller's word, the address is a function of this type.
    let function = unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> *const c_char>(address) };
    // SAFETY: it takes nothing and returns a static C string or null.
    unsafe { text(function()) }
}

/// `int mi_version(void)`, from the header of mimalloc.
unsafe fn mimalloc_version(address: *const c_void) -> Option<String> {
    // SAFETY: by the caller's word, the address is a function of this type.
    let function = unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> c_int>(address) };
    // SAFETY: it takes nothing and returns a number.
    Some(mimalloc_number(unsafe { function() }))
}

/// mimalloc packs its version into decimal digits: 212 is 2.1.2, in later releases 30104 is 3.1.4.
fn mimalloc_number(number: c_int) -> String {
    let digits = if number >= 10_000 { 100 } else { 10 };
    format!("{}.{}.{}", number / (digits * digits), number / digits % digits, number % digits)
}

/// `const char *tc_version(int *major, int *minor, const char **patch)`, from the header of gperftools.
unsafe fn gperftools_version(address: *const c_void) -> Option<String> {
    type Function = unsafe extern "C" fn(*mut c_int, *mut c_int, *mut *const c_char) -> *const c_char;
    // SAFETY: by the caller's word, the address is a function of this type.
    let function = unsafe { std::mem::transmute::<*const c_void, Function>(address) };
    let (mut major, mut minor, mut patch) = (0, 0, null());
    // SAFETY: it writes the three values and returns a static C string such as "gperftools 2.10".
    unsafe { text(function(&mut major, &mut minor, &mut patch)) }
}

/// `int mallctl(const char *name, void *old, size_t *old_len, void *new, size_t new_len)`, from the manual
/// of jemalloc.
unsafe fn jemalloc_version(address: *const c_void) -> Option<String> {
    type Function = unsafe extern "C" fn(*const c_char, *mut c_void, *mut usize, *mut c_void, usize) -> c_int;
    // SAFETY: by the caller's word, the address is a function of this type.
    let function = unsafe { std::mem::transmute::<*const c_void, Function>(address) };
    let mut version: *const c_char = null();
    let mut len = size_of_val(&version);
    // SAFETY: reading "version" writes one pointer to a static C string.
    let error = unsafe { function(c"version".as_ptr(), (&raw mut version).cast(), &mut len, null_mut(), 0) };
    if error != 0 {
        return None;
    }
    // SAFETY: as above, now that the call has succeeded.
    unsafe { text(version) }
}

/// # Safety
/// `pointer` is null or a C string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: by the caller's word.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// A version without spaces, from its first digit on: `gperftools 2.10` is 2.10, `x 1.0 debug` is 1.0-debug.
fn one_word(version: Option<String>) -> String {
    let words = version.as_deref().unwrap_or_default().split_whitespace();
    let words: Vec<_> = words.skip_while(|word| !word.starts_with(|first: char| first.is_ascii_digit())).collect();
    if words.is_empty() { "unknown".to_owned() } else { words.join("-") }
}

/// The allocator's name by its file: a known name in it, else the file's name without `lib` and `.so…`.
fn name_of_file(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some(known) = FILE_NAMES.into_iter().find(|known| file.contains(known)) {
        return known.to_owned();
    }
    let stem = file.split(".so").next().unwrap_or_default();
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    if stem.is_empty() { "unknown".to_owned() } else { stem.replace(char::is_whitespace, "_") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malloc_of_a_plain_process_is_the_c_library_s() {
        let allocator = Allocator::serving_this_process();
        assert_eq!(allocator.name, "glibc");
        assert!(allocator.path.to_string_lossy().contains("libc.so"), "{allocator:?}");
        assert!(allocator.version.starts_with("2."), "{allocator:?}");
    }

    #[test]
    fn the_linker_s_answer_is_the_malloc_that_the_benchmark_calls() {
        assert_eq!(address_of(c"malloc"), Some(libc::malloc as *const c_void));
    }

    #[test]
    fn only_functions_of_malloc_s_own_object_count() {
        assert_eq!(own_function(c"malloc_trim"), address_of(c"malloc_trim"));
        assert!(address_of(c"main").is_none() || own_function(c"main").is_none());
        assert_eq!(own_function(c"hz3_no_such_function"), None);
    }

    #[test]
    fn mimalloc_numbers_of_both_forms_are_read() {
        assert_eq!(mimalloc_number(209), "2.0.9");
        assert_eq!(mimalloc_number(30104), "3.1.4");
    }

    #[test]
    fn versions_are_one_word() {
        assert_eq!(one_word(Some("gperftools 2.10".into())), "2.10");
        assert_eq!(one_word(Some("5.3.0-0-g54eaed1d8b56".into())), "5.3.0-0-g54eaed1d8b56");
        assert_eq!(one_word(Some("hz3 0.1.0 scale".into())), "0.1.0-scale");
        assert_eq!(one_word(Some("none".into())), "unknown");
        assert_eq!(one_word(None), "unknown");
    }

    #[test]
    fn a_library_without_a_marker_is_named_after_its_file() {
        for (path, name) in [
            ("/x/libsnmallocshim-checks.so", "snmalloc"),
            ("/x/libtcmalloc_minimal.so.4", "tcmalloc"),
            ("/x/libother-2.so.1", "other-2"),
            ("/x/my alloc.so", "my_alloc"),
            ("", "unknown"),
        ] {
            assert_eq!(name_of_file(Path::new(path)), name);
        }
    }
}
