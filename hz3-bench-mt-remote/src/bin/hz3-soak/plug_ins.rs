//! Plug-ins: shared libraries with an hz3 of their own (`hz3-core/tests/plug_in`) are opened, used by threads and closed
//! while the threads live on.
//!
//! A plug-in that was used stays loaded, so it is a copy that is used, and copies have an end: after that the old ones are
//! opened again. An unused one is unloaded each time.

use crate::child::{CHILD_SECONDS, forked};
use crate::counts::Counts;
use crate::hooks::OfThisThread;
use crate::storm::{allocate, below};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};

/// Copies that are made, at most.
const COPIES: usize = 12; // chosen: each keeps what its hz3 has of the system
/// Threads that use what is opened.
const THREADS: usize = 3; // chosen
/// What `plug_in_answer` answers.
const ANSWER: u32 = 42; // as in work.rs
/// Calls of a thread after the plug-ins are closed.
const CALLS: usize = 100; // chosen

/// Where they lie.
#[derive(Debug)]
pub struct PlugIns {
    paths: Vec<PathBuf>,
    made: AtomicUsize,
    /// The paths of copies that stay loaded; the files are gone.
    copies: Mutex<Vec<CString>>,
}

/// An opened one.
struct Opened {
    handle: *mut c_void,
    answer: unsafe extern "C" fn() -> u32,
    work: unsafe extern "C" fn(u32) -> u32,
}

// SAFETY: any thread may call its functions; the handle is a name.
unsafe impl Sync for Opened {}

fn error_of_the_loader(what: &str) -> String {
    // SAFETY: a C string of the loader's, or null.
    let text = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text).to_string_lossy().into_owned()) };
    format!("{what}: {}", text.unwrap_or_default())
}

impl Opened {
    fn open(path: &CStr) -> Result<Self, String> {
        // SAFETY: the plug-ins have no constructors; the functions have these types.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if handle.is_null() {
                return Err(error_of_the_loader("a plug-in can't be opened"));
            }
            let (answer, work) =
                (libc::dlsym(handle, c"plug_in_answer".as_ptr()), libc::dlsym(handle, c"plug_in_work".as_ptr()));
            if answer.is_null() || work.is_null() {
                return Err(error_of_the_loader("a plug-in lacks a function"));
            }
            let answer = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u32>(answer);
            let work = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> u32>(work);
            if answer() != ANSWER {
                return Err("a plug-in answers something else".to_owned());
            }
            Ok(Self { handle, answer, work })
        }
    }

    fn is_right(&self, seed: u32) -> bool {
        // SAFETY: the plug-in is open.
        unsafe { (self.answer)() == ANSWER && (self.work)(seed) == expected(seed) }
    }

    /// For when no thread is in it, nor will be.
    fn close(&self) -> Result<(), String> {
        // SAFETY: it is open, and closed once.
        if unsafe { libc::dlclose(self.handle) } == 0 { Ok(()) } else { Err(error_of_the_loader("no close")) }
    }
}

/// What `plug_in_work` answers: the digits of the numbers below 1000, each exclusive-or'd with the seed.
fn expected(seed: u32) -> u32 {
    (0..1000_u32).map(|number| (number ^ seed).checked_ilog10().unwrap_or(0) + 1).sum()
}

impl PlugIns {
    /// The plug-ins at these paths.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, made: AtomicUsize::new(0), copies: Mutex::default() }
    }

    /// Whether there are any.
    pub fn exist(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Opens and closes some, used or not.
    pub fn episode(&self, random: &mut Xoshiro256PlusPlus, counts: &Counts) -> Result<(), String> {
        if below(random, 2) == 0 {
            for path in &self.paths {
                let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
                Opened::open(&path)?.close()?;
                counts.unused_plug_ins.add(1);
            }
            return Ok(());
        }
        let mut opened = Vec::new();
        let mut file = None;
        // Relaxed: a number for each.
        let number = self.made.fetch_add(1, Relaxed);
        if number < COPIES {
            let copy = CopiedFile::make(&self.paths[number % self.paths.len()], number)?;
            let path = CString::new(copy.0.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
            opened.push(Opened::open(&path)?);
            file = Some((copy, path));
        }
        let old = self.copies.lock().expect("no thread panics").clone();
        for path in old.iter().filter(|_| below(random, 4) == 0) {
            opened.push(Opened::open(path)?);
        }
        let number = opened.len() as u64;
        use_and_live_on(random, &opened)?;
        counts.plug_ins.add(number);
        counts.forks.add(1);
        if let Some((_, path)) = file {
            self.copies.lock().expect("no thread panics").push(path);
        }
        Ok(())
    }
}

/// A copy of a file, which goes when this goes.
struct CopiedFile(PathBuf);

impl CopiedFile {
    fn make(from: &Path, number: usize) -> Result<Self, String> {
        let to = std::env::temp_dir().join(format!("hz3-soak-{}-{number}.so", std::process::id()));
        std::fs::copy(from, &to).map_err(|error| format!("{} can't be copied: {error}", from.display()))?;
        Ok(Self(to))
    }
}

impl Drop for CopiedFile {
    fn drop(&mut self) {
        // Nobody needs the file any more; one that stays does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn use_and_live_on(random: &mut Xoshiro256PlusPlus, opened: &[Opened]) -> Result<(), String> {
    let (used, closed) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let seeds: [u64; THREADS] = std::array::from_fn(|_| random.next_u64());
    std::thread::scope(|scope| {
        let threads = seeds.map(|seed| {
            let (used, closed) = (&used, &closed);
            scope.spawn(move || {
                let _hooks = OfThisThread::find();
                let is_right = opened.iter().all(|plug_in| plug_in.is_right(seed as u32));
                used.wait();
                closed.wait();
                if !is_right {
                    return Err("a plug-in's work is wrong".to_owned());
                }
                let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                for _ in 0..CALLS {
                    let held = allocate(&mut random)?;
                    held.check()?;
                    held.free();
                }
                Ok(())
            })
        });
        used.wait();
        let outcome = opened.iter().try_for_each(Opened::close).and_then(|()| {
            forked(CHILD_SECONDS, || {
                let held = allocate(random)?;
                held.check()?;
                held.free();
                Ok(())
            })
        });
        closed.wait();
        for thread in threads {
            thread.join().map_err(|_| "a plug-in's thread panicked".to_owned())??;
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_work_counts_digits() {
        assert_eq!(expected(0), 10 + 90 * 2 + 900 * 3);
        assert_eq!(expected(u32::MAX), 1000 * 10);
    }
}
