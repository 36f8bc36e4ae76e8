//! Clock: the kernel's clocks, read past the C library.
//!
//! ```text
//! unknown ── first reading ──→ the vDSO's function, or none: a system call
//! ```
//!
//! A library in the place of clock_gettime(3) may allocate, and shows programs another time (libfaketime does both, and
//! gives up if its first reading leads to a second one). Purges go by the kernel's time.
//!
//! Outside rules: vdso(7) (names, that the image is an ELF object), elf(5), clock_gettime(2).

use crate::platform::atomic::{AtomicUsize, Ordering};
use crate::platform::kernel;
use core::ffi::{CStr, c_int};
use core::ptr::with_exposed_provenance;

#[cfg(any(target_arch = "x86_64", target_arch = "riscv64"))]
const NAME: &CStr = c"__vdso_clock_gettime";
#[cfg(target_arch = "aarch64")]
const NAME: &CStr = c"__kernel_clock_gettime";

type Read = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

/// The address of the vDSO's function, or one of the two below.
static READ: AtomicUsize = AtomicUsize::new(UNKNOWN);
const UNKNOWN: usize = 0;
const NONE: usize = 1;

/// The time of `clock`. Its first call asks `find_image` for the address of the vDSO, 0 if there is none.
pub fn now(clock: libc::clockid_t, find_image: fn() -> usize) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Relaxed: every thread finds the same, and the image was there before the process.
    let address = match READ.load(Ordering::Relaxed) {
        UNKNOWN => find(find_image()),
        known => known,
    };
    // SAFETY: `find` found a function of this type, which writes `time`, or there is none.
    let is_read = address != NONE
        && unsafe { core::mem::transmute::<*const (), Read>(with_exposed_provenance(address))(clock, &mut time) == 0 };
    if !is_read {
        // SAFETY: writes `time`. An unknown clock leaves it as it is.
        let _ = unsafe { kernel::call(libc::SYS_clock_gettime, [clock as usize, (&raw mut time).expose_provenance()]) };
    }
    time
}

#[cold]
fn find(image: usize) -> usize {
    // SAFETY: 0, or the address of the vDSO.
    let found = if image == 0 { None } else { unsafe { find_in(image) } };
    let address = found.unwrap_or(NONE);
    READ.store(address, Ordering::Relaxed);
    address
}

/// elf.h.
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;

/// The function's address in the ELF object at `image`.
///
/// # Safety
/// `image` is the address of a mapped ELF object for this architecture, whose addresses begin at 0, and whose names
/// follow its symbols, as every linker places them.
unsafe fn find_in(image: usize) -> Option<usize> {
    let at = |offset: u64| image.wrapping_add(offset as usize);
    // SAFETY: the caller passes such an object; `DT_NULL` ends the dynamic section, and a zero each name.
    unsafe {
        let header = &*with_exposed_provenance::<libc::Elf64_Ehdr>(image);
        let mut segments = (0..usize::from(header.e_phnum))
            .map(|number| &*with_exposed_provenance::<libc::Elf64_Phdr>(at(header.e_phoff)).add(number));
        let mut entry = with_exposed_provenance::<[u64; 2]>(at(segments.find(|one| one.p_type == PT_DYNAMIC)?.p_vaddr));
        let (mut names, mut symbols) = (0, 0);
        loop {
            let [tag, value] = *entry;
            match tag {
                DT_NULL => break,
                DT_STRTAB => names = at(value),
                DT_SYMTAB => symbols = at(value),
                _ => {}
            }
            entry = entry.add(1);
        }
        if symbols == 0 || names == 0 {
            return None;
        }
        let count = names.saturating_sub(symbols) / size_of::<libc::Elf64_Sym>();
        let first = with_exposed_provenance::<libc::Elf64_Sym>(symbols);
        let found = (0..count).map(|number| &*first.add(number)).find(|symbol| {
            let name = with_exposed_provenance(names.wrapping_add(symbol.st_name as usize));
            symbol.st_value != 0 && CStr::from_ptr(name) == NAME
        })?;
        Some(at(found.st_value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> usize {
        // SAFETY: no precondition.
        unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) as usize }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no vDSO")]
    fn the_vdso_has_the_function_and_it_agrees_with_the_system_call() {
        let seconds = |clock| {
            // One after another, by whatever way.
            let found = now(clock, image);
            READ.store(NONE, Ordering::Relaxed);
            let called = now(clock, image);
            READ.store(UNKNOWN, Ordering::Relaxed);
            (found.tv_sec as f64 + found.tv_nsec as f64 / 1e9, called.tv_sec as f64 + called.tv_nsec as f64 / 1e9)
        };
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_COARSE, libc::CLOCK_BOOTTIME] {
            let (found, called) = seconds(clock);
            assert!(found > 0.0 && (called - found).abs() < 10.0, "{found} {called}");
        }
        assert!(image() == 0 || find(image()) > NONE, "no {NAME:?}");
    }
}
