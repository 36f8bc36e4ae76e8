//! The sequence lock between two processes: a child writes into a shared file without a pause, and its parent reads
//! it, through a mapping and by `pread` as `cargo xtask top` does. What is read without a look at the count shows that
//! the test would find a lock that does not work.

use hz3_core::platform::atomic::AtomicU64;
use hz3_core::platform::seqlock;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Words behind the count. As long as a writing takes microseconds, a reader meets it in the middle.
const WORDS: usize = 4096;
const BYTES: usize = (WORDS + 1) * 8;
const TIME_LIMIT: Duration = Duration::from_secs(60);
const GOOD_READINGS: usize = 2000;

/// The file, mapped.
struct Shared {
    file: File,
    words: &'static [AtomicU64],
}

impl Shared {
    fn new() -> Shared {
        let name = std::env::temp_dir().join(format!("hz3-sequence-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&name).expect("a file");
        std::fs::remove_file(&name).expect("our own");
        file.set_len(BYTES as u64).expect("a length");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping of the whole file, which stays.
        let words = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), BYTES, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(start, libc::MAP_FAILED);
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), WORDS + 1)
        };
        Shared { file, words }
    }

    fn count(&self) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0).expect("the count");
        u64::from_ne_bytes(bytes)
    }

    /// Reads by `pread`, as another program would.
    fn read_from_file(&self, values: &mut [u64]) -> bool {
        let before = self.count();
        fence(Ordering::Acquire);
        let mut bytes = [0; WORDS * 8];
        self.file.read_exact_at(&mut bytes, 8).expect("the words");
        fence(Ordering::Acquire);
        for (value, word) in values.iter_mut().zip(bytes.chunks_exact(8)) {
            *value = u64::from_ne_bytes(word.try_into().expect("a word"));
        }
        before % 2 == 0 && self.count() == before
    }
}

/// A child that writes until it is killed.
struct Writer(libc::pid_t);

impl Writer {
    fn start(shared: &Shared) -> Writer {
        let (count, words) = shared.words.split_first().expect("a count");
        let mut values = [0; WORDS];
        // SAFETY: the child calls nothing but what touches its own memory and the shared words.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            loop {
                for value in &mut values {
                    *value += 1;
                }
                seqlock::write(count, words, &values);
            }
        }
        Writer(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SAFETY: our own child, which is not reaped yet.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn what_another_process_reads_is_of_one_writing() {
    apart!();
    let shared = Shared::new();
    let (count, words) = shared.words.split_first().expect("a count");
    let writer = Writer::start(&shared);
    let mut values = [0; WORDS];
    let is_whole = |values: &[u64]| values.iter().all(|value| *value == values[0]);
    let (mut good, mut by_file, mut torn, mut tries) = (0, 0, 0, 0_u64);
    let begin = Instant::now();
    while good < GOOD_READINGS || by_file < GOOD_READINGS || torn == 0 {
        assert!(begin.elapsed() < TIME_LIMIT, "{good} and {by_file} of {tries} readings were good, {torn} torn");
        tries += 1;
        if seqlock::read(count, words, &mut values) {
            assert!(is_whole(&values), "torn after {tries} tries");
            good += 1;
        }
        if shared.read_from_file(&mut values) {
            assert!(is_whole(&values), "torn in the file after {tries} tries");
            by_file += 1;
        } else if !is_whole(&values) {
            // What the look at the count has refused.
            torn += 1;
        }
    }
    drop(writer);
}
