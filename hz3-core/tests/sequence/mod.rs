//! Sequence: a string of bytes as calls of every entry point by several threads, against a model of what is
//! live. The property tests, the replay of the corpus and the fuzz target all run it.
//!
//! ```text
//! 4 bytes a step   | thread, 4 bits : kind, 4 bits | a | b c: size, or which block |
//! ```
//!
//! One step at a time, each in the thread it names, so that a string always means the same.

use hz3_core::Lane;
use hz3_core::api::block;
use hz3_core::api::block::realloc;
use hz3_core::api::block::{malloc_aligned, malloc_zeroed, trim};
use hz3_core::api::size::usable_bytes;
use hz3_core::observe::books::check_runs;
use hz3_core::observe::stats::collect;
use std::collections::BTreeMap;
use std::ptr::with_exposed_provenance_mut;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// A step, as it stands in the string.
pub type Step = [u8; 4];

/// Threads, the caller's included.
const THREADS: usize = 4;
/// Steps between two looks at everything that is live.
const LOOK: usize = 128;
/// A block that the system maps on its own.
const DIRECT_BYTES: usize = 129 << 20;

/// A call of an entry point; blocks by their addresses.
#[derive(Clone, Copy)]
enum Call {
    Malloc(usize),
    Aligned(usize, usize),
    Zeroed(usize),
    Realloc(usize, usize),
    Free(usize),
    Usable(usize),
    Trim,
}

impl Call {
    /// Makes the call in the calling thread; the resulting address or number.
    fn make<L: Lane>(self) -> usize {
        match self {
            Call::Malloc(bytes) => block::malloc::<L>(bytes).expose_provenance(),
            Call::Aligned(bytes, align) => malloc_aligned::<L>(bytes, align).expose_provenance(),
            Call::Zeroed(bytes) => malloc_zeroed::<L>(bytes).expose_provenance(),
            // SAFETY: the model says that the block is live, and takes the result in its place.
            Call::Realloc(block, bytes) => unsafe {
                realloc::<L>(with_exposed_provenance_mut(block), bytes).expose_provenance()
            },
            Call::Free(block) => {
                // SAFETY: the model says that the block is live, and forgets it.
                unsafe { block::free::<L>(with_exposed_provenance_mut(block)) };
                0
            }
            Call::Usable(block) => usable_bytes::<L>(with_exposed_provenance_mut::<u8>(block)).expect("a live block"),
            Call::Trim => usize::from(trim::<L>()),
        }
    }
}

/// A thread that makes calls on demand.
struct Worker {
    calls: Sender<Call>,
    results: Receiver<usize>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start<L: Lane>() -> Self {
        let (calls, inbound) = channel::<Call>();
        let (outbound, results) = channel();
        let thread = std::thread::spawn(move || {
            inbound.iter().for_each(|call| outbound.send(call.make::<L>()).expect("the model listens"));
        });
        Worker { calls, results, thread }
    }

    fn make(&self, call: Call) -> usize {
        self.calls.send(call).expect("the thread listens");
        self.results.recv().expect("the thread answers")
    }

    /// Ends the thread, and waits until its destructors have run too.
    fn end(self) {
        drop(self.calls);
        self.thread.join().expect("no panic");
    }
}

/// A live block: bytes that may be used, all of them filled with a pattern.
#[derive(Clone, Copy)]
struct Block {
    usable: usize,
    fill: u8,
}

/// A pattern's period; not a divisor of any slot size, so that a shifted block does not look right.
const PERIOD: usize = if cfg!(miri) { 127 } else { 4093 };

fn pattern(fill: u8) -> [u8; PERIOD] {
    std::array::from_fn(|index| fill ^ (index as u8).wrapping_mul(7))
}

fn bytes_at<'a>(address: usize, bytes: usize) -> &'a mut [u8] {
    // SAFETY: a live block of at least that many bytes, which nobody else refers to.
    unsafe { std::slice::from_raw_parts_mut(with_exposed_provenance_mut(address), bytes) }
}

fn check(address: usize, bytes: usize, fill: u8) {
    let pattern = pattern(fill);
    let intact = bytes_at(address, bytes).chunks(PERIOD).all(|part| part == &pattern[..part.len()]);
    assert!(intact, "the block at {address:#x} lost its contents within {bytes} bytes");
}

/// What is live, and the threads.
struct Model {
    live: BTreeMap<usize, Block>,
    workers: [Option<Worker>; THREADS - 1],
    fill: u8,
}

impl Model {
    fn make<L: Lane>(&mut self, thread: usize, call: Call) -> usize {
        match thread.checked_sub(1) {
            None => call.make::<L>(),
            Some(worker) => self.workers[worker].get_or_insert_with(Worker::start::<L>).make(call),
        }
    }

    /// Takes a fresh block into the model: nobody else's, aligned, long enough; and fills it.
    fn enter<L: Lane>(&mut self, thread: usize, address: usize, bytes: usize, align: usize) {
        assert_ne!(address, 0, "no memory for {bytes} bytes");
        assert_eq!(address % align.max(16), 0, "{address:#x} is no multiple of {align}");
        let usable = self.make::<L>(thread, Call::Usable(address));
        assert!(usable >= bytes, "{usable} bytes usable of {bytes}");
        if let Some((&before, block)) = self.live.range(..=address).next_back() {
            assert!(before + block.usable <= address, "{address:#x} lies in {before:#x}");
        }
        if let Some((&after, _)) = self.live.range(address..).next() {
            assert!(address + usable <= after, "{address:#x} reaches into {after:#x}");
        }
        self.fill = self.fill.wrapping_add(1);
        let pattern = pattern(self.fill);
        for part in bytes_at(address, usable).chunks_mut(PERIOD) {
            part.copy_from_slice(&pattern[..part.len()]);
        }
        self.live.insert(address, Block { usable, fill: self.fill });
    }

    fn pick(&self, which: usize) -> Option<(usize, Block)> {
        let index = which.checked_rem(self.live.len())?;
        self.live.iter().nth(index).map(|(&address, &block)| (address, block))
    }

    fn free<L: Lane>(&mut self, thread: usize, which: usize) {
        let Some((address, block)) = self.pick(which) else { return };
        check(address, block.usable, block.fill);
        self.live.remove(&address);
        self.make::<L>(thread, Call::Free(address));
    }

    fn reallocate<L: Lane>(&mut self, thread: usize, which: usize, bytes: usize) {
        let Some((address, block)) = self.pick(which) else {
            // Of nothing, it is an allocation.
            let fresh = self.make::<L>(thread, Call::Realloc(0, bytes));
            return self.enter::<L>(thread, fresh, bytes, 1);
        };
        check(address, block.usable, block.fill);
        assert_eq!(self.make::<L>(thread, Call::Realloc(address, isize::MAX as usize + 1)), 0);
        let moved = self.make::<L>(thread, Call::Realloc(address, bytes));
        self.live.remove(&address);
        assert_ne!(moved, 0, "no memory for {bytes} bytes");
        check(moved, block.usable.min(bytes), block.fill);
        self.enter::<L>(thread, moved, bytes, 1);
    }

    fn step<L: Lane>(&mut self, [first, a, b, c]: Step) {
        let thread = usize::from(first >> 4) % THREADS;
        let operand = u16::from_le_bytes([b, c]);
        let (bytes, which) = (size(operand), usize::from(operand));
        match first & 15 {
            0..=4 => {
                let block = self.make::<L>(thread, Call::Malloc(bytes));
                self.enter::<L>(thread, block, bytes, 1);
            }
            5 => {
                let align = 1 << (a % 17);
                let block = self.make::<L>(thread, Call::Aligned(bytes, align));
                self.enter::<L>(thread, block, bytes, align);
            }
            6 => {
                let block = self.make::<L>(thread, Call::Zeroed(bytes));
                assert_ne!(block, 0, "no memory for {bytes} bytes");
                let zeroed = bytes_at(block, bytes).chunks(PERIOD).all(|part| part == &[0; PERIOD][..part.len()]);
                assert!(zeroed, "{block:#x} is not zeroed");
                self.enter::<L>(thread, block, bytes, 1);
            }
            7 | 8 => self.reallocate::<L>(thread, usize::from(a), bytes),
            9..=12 => self.free::<L>(thread, which),
            13 => {
                if let Some((address, block)) = self.pick(which) {
                    assert_eq!(self.make::<L>(thread, Call::Usable(address)), block.usable);
                }
            }
            14 if a < 32 => {
                self.make::<L>(thread, Call::Trim);
            }
            15 if a < 128 && thread > 0 => {
                if let Some(worker) = self.workers[thread - 1].take() {
                    worker.end();
                }
            }
            // The rarer steps leave room for bursts, which fill and empty magazines.
            _ => (0..usize::from(a % 32)).for_each(|turn| {
                if first & 15 == 15 {
                    return self.free::<L>(thread, which + turn * 3);
                }
                let block = self.make::<L>(thread, Call::Malloc(bytes % 600));
                self.enter::<L>(thread, block, bytes % 600, 1);
            }),
        }
    }

    fn look<L: Lane>(&self) {
        assert_eq!(check_runs(&L::allocator().pages.runs), Ok(()));
        self.live.iter().for_each(|(&address, block)| check(address, block.usable, block.fill));
    }
}

/// A size for an operand: half of them small, some around every bin, a few large, one direct.
fn size(operand: u16) -> usize {
    let low = usize::from(operand & 0x3fff);
    match operand >> 14 {
        _ if operand == u16::MAX => DIRECT_BYTES,
        0 | 1 => low % 1100,
        2 => low * 3,
        _ => low * 24,
    }
}

/// Runs the string, frees what is left, and closes the books: nothing is out, and every page is free.
pub fn run<L: Lane>(string: &[u8]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut model = Model { live: BTreeMap::new(), workers: [const { None }; THREADS - 1], fill: 0 };
    for (index, step) in string.chunks_exact(size_of::<Step>()).enumerate() {
        model.step::<L>(step.try_into().expect("a step's length"));
        if index % LOOK == LOOK - 1 {
            model.look::<L>();
        }
    }
    model.look::<L>();
    // The threads end first, as often as not with their blocks still live.
    model.workers.iter_mut().filter_map(Option::take).for_each(Worker::end);
    while !model.live.is_empty() {
        model.free::<L>(0, 0);
    }
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!(check_runs(&L::allocator().pages.runs), Ok(()));
    assert_eq!((stats.small_out_bytes, stats.small_span_bytes), (0, 0), "{stats:?}");
    assert_eq!((stats.large_bytes, stats.direct_blocks), (0, 0), "{stats:?}");
    assert_eq!((stats.dirty_bytes, stats.clean_bytes), (0, stats.committed_bytes), "{stats:?}");
}
