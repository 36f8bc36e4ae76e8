//! Streams: threads read the C library's streams, which allocate, another flushes all streams all the time, and a storm of
//! forks happens meanwhile.
//!
//! Children free the parent's blocks, read and flush streams too, start threads and fork again. Nobody writes to a stream:
//! a child's flush may meet one in the middle of a change, which glibc forgives for what is read only.

use crate::child::{CHILD_SECONDS, GRANDCHILD_SECONDS, forked};
use crate::counts::Counts;
use crate::held::Held;
use crate::hooks::OfThisThread;
use crate::raw;
use crate::storm::{allocate, below, live_in_a_thread};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Threads that read.
const READERS: usize = 3; // chosen
/// Lines of the text.
const LINES: usize = 40; // chosen
/// Blocks that the children free.
const BLOCKS: usize = 64; // chosen
/// Flushes in a row.
const FLUSHES: u64 = 256; // chosen: a thread that only flushed would take a processor
/// Bytes of `fgets`'s buffer.
const BUFFER: usize = 300; // chosen: less than most lines

/// What the streams read.
struct Text {
    bytes: Vec<u8>,
    /// A file with the same, which each stream opens anew by its descriptor's path, with an offset of its own.
    path: CString,
    _file: File,
}

impl Text {
    /// Lines of lower-case letters.
    fn new(random: &mut Xoshiro256PlusPlus) -> Result<Self, String> {
        let mut bytes = Vec::new();
        for _ in 0..LINES {
            let limit = if below(random, 8) == 0 { 100_000 } else { 3000 };
            let (len, first) = (below(random, limit), below(random, 26));
            bytes.extend((first..first + len).map(|letter| b'a' + (letter % 26) as u8));
            bytes.push(b'\n');
        }
        // SAFETY: the name is a C string.
        let descriptor = unsafe { libc::memfd_create(c"hz3-soak".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(format!("no file in memory: {}", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new.
        let mut file = unsafe { File::from_raw_fd(descriptor) };
        file.write_all(&bytes).map_err(|error| format!("the file in memory can't be written: {error}"))?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("has no zero");
        Ok(Self { bytes, path, _file: file })
    }

    /// Opens a stream, reads it to its end, compares, closes it.
    fn read(&self, random: &mut Xoshiro256PlusPlus) -> Result<(), String> {
        let kind = below(random, 16);
        // SAFETY: paths and modes are C strings; the text outlives the stream, which only reads it.
        let stream = unsafe {
            match kind {
                0 => libc::fopen(c"/proc/self/maps".as_ptr(), c"r".as_ptr()),
                1..8 => libc::fmemopen(self.bytes.as_ptr().cast_mut().cast(), self.bytes.len(), c"r".as_ptr()),
                _ => libc::fopen(self.path.as_ptr(), c"r".as_ptr()),
            }
        };
        if stream.is_null() {
            return Err(format!("a stream can't be opened: {}", io::Error::last_os_error()));
        }
        let mut comparison = Comparison { text: (kind != 0).then_some(&self.bytes[..]), right: 0 };
        if below(random, 3) == 0 {
            get_pieces(stream, &mut comparison);
        } else {
            get_lines(stream, &mut comparison);
        }
        // SAFETY: the stream is open.
        if unsafe { libc::fclose(stream) } != 0 {
            return Err(format!("a stream can't be closed: {}", io::Error::last_os_error()));
        }
        comparison.outcome()
    }
}

fn get_lines(stream: *mut libc::FILE, comparison: &mut Comparison) {
    let (mut line, mut capacity): (*mut c_char, usize) = (null_mut(), 0);
    loop {
        // SAFETY: the stream is open; line and capacity are getline's own.
        let len = unsafe { libc::getline(&raw mut line, &raw mut capacity, stream) };
        let Ok(len) = usize::try_from(len) else { break };
        // SAFETY: getline has put so many bytes there.
        comparison.meet(unsafe { std::slice::from_raw_parts(line.cast::<u8>(), len) });
    }
    // SAFETY: getline's block, or null.
    unsafe { libc::free(line.cast()) };
}

fn get_pieces(stream: *mut libc::FILE, comparison: &mut Comparison) {
    let mut buffer = [0_u8; BUFFER];
    // SAFETY: the stream is open, the buffer is as long as said.
    while !unsafe { libc::fgets(buffer.as_mut_ptr().cast(), BUFFER as i32, stream) }.is_null() {
        let len = buffer.iter().position(|byte| *byte == 0).unwrap_or(BUFFER);
        comparison.meet(&buffer[..len]);
    }
}

/// A stream's content so far against the text, if it reads the text.
struct Comparison<'a> {
    text: Option<&'a [u8]>,
    /// Bytes up to the first wrong piece.
    right: usize,
}

impl Comparison<'_> {
    fn meet(&mut self, piece: &[u8]) {
        if self.text.is_some_and(|text| text[self.right..].starts_with(piece)) {
            self.right += piece.len();
        }
    }

    fn outcome(&self) -> Result<(), String> {
        match self.text {
            Some(text) if self.right < text.len() => {
                Err(format!("a stream of {} bytes is right up to byte {}", text.len(), self.right))
            }
            _ => Ok(()),
        }
    }
}

/// A number of forks beside readers and flushes.
pub fn storm(random: &mut Xoshiro256PlusPlus, counts: &Counts) -> Result<(), String> {
    let text = Text::new(random)?;
    let stopping = AtomicBool::new(false);
    let seeds: [u64; READERS] = std::array::from_fn(|_| random.next_u64());
    let (text, stopping) = (&text, &stopping);
    std::thread::scope(|scope| {
        // Relaxed, here and below: nothing else is told by it.
        let mut threads: Vec<_> = seeds
            .into_iter()
            .map(|seed| {
                scope.spawn(move || {
                    let _hooks = OfThisThread::find();
                    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                    while !stopping.load(Relaxed) {
                        text.read(&mut random)?;
                        counts.stdio.add(1);
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        threads.push(scope.spawn(|| {
            let _hooks = OfThisThread::find();
            while !stopping.load(Relaxed) {
                for _ in 0..FLUSHES {
                    // SAFETY: null stands for all streams.
                    if unsafe { libc::fflush(null_mut()) } != 0 {
                        return Err(format!("streams can't be flushed: {}", io::Error::last_os_error()));
                    }
                }
                counts.flushes.add(FLUSHES);
                // The others get on with their reading.
                std::thread::yield_now();
            }
            Ok(())
        }));
        let outcome = fork_often(random, text, counts);
        stopping.store(true, Relaxed);
        for thread in threads {
            thread.join().map_err(|_| "a thread at a stream panicked".to_owned())??;
        }
        outcome
    })
}

fn fork_often(random: &mut Xoshiro256PlusPlus, text: &Text, counts: &Counts) -> Result<(), String> {
    let mut blocks = (0..BLOCKS).map(|_| allocate(random)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..5 + below(random, 10) {
        let (starts_a_thread, descends) = (below(random, 3) == 0, below(random, 3) == 0);
        forked(CHILD_SECONDS, || {
            live_as_a_child(random, &mut blocks, text)?;
            if starts_a_thread {
                live_in_a_thread(random)?;
            }
            if descends {
                forked(GRANDCHILD_SECONDS, || live_as_a_child(random, &mut blocks, text))?;
            }
            Ok(())
        })?;
        counts.forks.add(1);
        counts.child_threads.add(u64::from(starts_a_thread));
        counts.grandchildren.add(u64::from(descends));
        let index = below(random, BLOCKS);
        blocks.swap_remove(index).free();
        blocks.push(allocate(random)?);
    }
    for held in blocks {
        held.check()?;
        held.free();
    }
    Ok(())
}

/// Frees half of the parent's blocks, and others' that wait; allocates, reads and flushes.
fn live_as_a_child(random: &mut Xoshiro256PlusPlus, blocks: &mut Vec<Held>, text: &Text) -> Result<(), String> {
    for held in blocks.drain(blocks.len() / 2..) {
        held.check()?;
        held.free();
    }
    if !raw::give_back_shared() {
        return Err("wrong content in a block that waited for whoever comes".to_owned());
    }
    for _ in 0..BLOCKS {
        let held = allocate(random)?;
        held.check()?;
        held.free();
    }
    if below(random, 2) == 0 {
        text.read(random)?;
    }
    if below(random, 2) == 0 {
        // SAFETY: null stands for all streams. It may fail at one that was being opened at the fork.
        unsafe { libc::fflush(null_mut()) };
    }
    Ok(())
}
