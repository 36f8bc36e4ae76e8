//! Ring: a bounded queue of blocks from one thread to its right neighbour.
//!
//! ```text
//!   words   | . | b | b | b | . | . | . | . |      a power of two of them, on pages of their own
//!                 ^head       ^tail                0 <= tail - head <= words, both only ever grow
//!
//!   sender's line    tail, closed     written by the sender, read by the receiver
//!   receiver's line  head             written by the receiver, read by a sender that sees a full ring
//! ```
//!
//! One [`Sender`] and one [`Receiver`] exist per ring, and neither can be cloned: that there is a single
//! producer and a single consumer is a matter of types. Each keeps its own index in a private field and
//! remembers the other's, so that an index line changes hands only when there is news.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::block::Block;
use crate::mapping::{Mapping, ZeroValid};

/// Received blocks after which the receiver reports the room it made, while it goes on draining: without
/// it, a sender would see a full ring for as long as the longest drain takes.
const REPORT_EVERY: u64 = 256; // chosen

/// Words of a pair of cache lines; rings smaller than that still do not share one.
const WORDS_PER_LINE_PAIR: usize = 128 / size_of::<AtomicU64>(); // derived: 16

/// A ring's shared indices, each on cache lines of its own.
#[derive(Debug)]
struct Ends {
    sender: CachePadded<SenderEnd>,
    /// Blocks received so far. Written by the receiver alone.
    head: CachePadded<AtomicU64>,
}

#[derive(Debug)]
struct SenderEnd {
    /// Blocks sent so far. Written by the sender alone.
    tail: AtomicU64,
    /// [`OPEN`], then [`CLOSED`] after the last block was sent; a futex.
    closed: AtomicU32,
}

const OPEN: u32 = 0;
const CLOSED: u32 = 1;

// SAFETY: integers, for which zero is valid: an empty, open ring.
unsafe impl ZeroValid for Ends {}

/// All rings of a run.
#[derive(Debug)]
pub struct Rings {
    ends: Mapping<Ends>,
    words: Mapping<AtomicU64>,
    slots: usize,
}

impl Rings {
    /// Maps `count` empty rings of `slots` words each; `slots` is a power of two.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn new(count: usize, slots: usize) -> std::io::Result<Self> {
        assert!(slots.is_power_of_two());
        let words = count.checked_mul(slots.next_multiple_of(WORDS_PER_LINE_PAIR));
        let words = words.ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { ends: Mapping::zeroed(count)?, words: Mapping::zeroed(words)?, slots })
    }

    /// The two handles of each ring, each pair handed out once.
    pub fn handles(&mut self) -> impl Iterator<Item = (Sender<'_>, Receiver<'_>)> {
        let stride = self.slots.next_multiple_of(WORDS_PER_LINE_PAIR);
        let slots = self.slots;
        self.ends.iter().zip(self.words.chunks(stride)).map(move |(ends, words)| {
            let words = &words[..slots];
            (Sender { ends, words, tail: 0, head_seen: 0 }, Receiver { ends, words, head: 0 })
        })
    }

    /// Bytes of address space that the rings take.
    pub fn mapped_bytes(&self) -> usize {
        self.ends.mapped_bytes() + self.words.mapped_bytes()
    }

    /// Bytes of the rings that are resident now.
    pub fn resident_bytes(&self) -> usize {
        self.ends.resident_bytes() + self.words.resident_bytes()
    }
}

/// The sending side of one ring.
#[derive(Debug)]
pub struct Sender<'a> {
    ends: &'a Ends,
    words: &'a [AtomicU64],
    tail: u64,
    head_seen: u64,
}

impl Sender<'_> {
    /// Sends a block, or gives it back if the ring is full.
    #[inline(always)]
    pub fn send(&mut self, block: Block) -> Result<(), Block> {
        if self.tail - self.head_seen == self.words.len() as u64 {
            self.look();
            if self.tail - self.head_seen == self.words.len() as u64 {
                return Err(block);
            }
        }
        // Relaxed: the store of `tail` below publishes the word.
        self.words[self.tail as usize & (self.words.len() - 1)].store(block.into_word(), Relaxed);
        self.tail += 1;
        // Release: publishes the word and what the sender wrote into the block. Pairs with the Acquire
        // in `Receiver::drain`.
        self.ends.sender.tail.store(self.tail, Release);
        Ok(())
    }

    /// Whether more than half of the ring is taken.
    #[inline(always)]
    pub fn is_more_than_half_full(&mut self) -> bool {
        let half = self.words.len() as u64 / 2;
        if self.tail - self.head_seen > half {
            self.look();
        }
        self.tail - self.head_seen > half
    }

    /// Ends the ring: nothing is sent after this.
    pub fn close(&mut self) {
        let closed = &self.ends.sender.closed;
        // Release: publishes the last `tail`. Pairs with the Acquire in `Receiver::is_closed`.
        closed.store(CLOSED, Release);
        let flags = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel uses the word's address only as a key.
        unsafe { libc::syscall(libc::SYS_futex, closed.as_ptr(), flags, 1) };
    }

    #[inline(always)]
    fn look(&mut self) {
        // Acquire: words below `head` have been read and may be overwritten. Pairs with the Release in
        // `Receiver::report`.
        self.head_seen = self.ends.head.load(Acquire);
    }
}

/// The receiving side of one ring.
#[derive(Debug)]
pub struct Receiver<'a> {
    ends: &'a Ends,
    words: &'a [AtomicU64],
    head: u64,
}

impl Receiver<'_> {
    /// Hands every block that was in the ring at the time of the call to `take`, oldest first, and
    /// returns how many there were. What arrives meanwhile waits for the next call, so that a call ends
    /// however fast the sender is.
    #[inline(always)]
    pub fn drain(&mut self, mut take: impl FnMut(Block)) -> u64 {
        // Acquire: makes the words below `tail` and their blocks' contents visible. Pairs with the
        // Release in `Sender::send`.
        let tail = self.ends.sender.tail.load(Acquire);
        let start = self.head;
        if start == tail {
            return 0;
        }
        while self.head != tail {
            // Relaxed: published by `tail`, see above.
            let word = self.words[self.head as usize & (self.words.len() - 1)].load(Relaxed);
            self.head += 1;
            if self.head.is_multiple_of(REPORT_EVERY) {
                self.report();
            }
            // SAFETY: the sender made the word from a block; `head` passes it once and never returns.
            take(unsafe { Block::from_word(word) });
        }
        self.report();
        tail - start
    }

    /// Whether the sender has sent its last block. A drain after a `true` finds everything.
    pub fn is_closed(&self) -> bool {
        // Acquire: the sender's last `tail` is visible after a `true`. Pairs with `Sender::close`.
        self.ends.sender.closed.load(Acquire) == CLOSED
    }

    /// Sleeps until the sender has closed the ring, but no longer than `most`.
    pub fn sleep_until_closed(&self, most: Duration) {
        let time = libc::timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
        let flags = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word outlives the call, and the kernel reads one timespec.
        unsafe { libc::syscall(libc::SYS_futex, self.ends.sender.closed.as_ptr(), flags, OPEN, &raw const time) };
    }

    #[inline(always)]
    fn report(&self) {
        // Release: the words below `head` have been read. Pairs with the Acquire in `Sender::look`.
        self.ends.head.store(self.head, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Touch;
    use crate::block::SizeUnit;

    fn block(size_bytes: usize) -> Block {
        Block::allocate(size_bytes, SizeUnit::for_max(65_535)).unwrap().touched(Touch::None)
    }

    fn sizes_of(receiver: &mut Receiver) -> Vec<i64> {
        let mut sizes = Vec::new();
        let count = receiver.drain(|block| {
            sizes.push(block.units());
            block.free();
        });
        assert_eq!(count as usize, sizes.len());
        sizes
    }

    #[test]
    fn blocks_arrive_in_order_and_once_over_many_laps() {
        let mut rings = Rings::new(1, 4).unwrap();
        let (mut sender, mut receiver) = rings.handles().next().unwrap();
        for lap in 0..1000 {
            for size in 1..=3 {
                sender.send(block(lap * 3 + size)).unwrap();
            }
            let first = (lap * 3) as i64;
            assert_eq!(sizes_of(&mut receiver), [first + 1, first + 2, first + 3]);
            assert_eq!(sizes_of(&mut receiver), [0; 0]);
        }
    }

    #[test]
    fn a_full_ring_gives_the_block_back_until_it_is_drained() {
        let mut rings = Rings::new(1, 2).unwrap();
        let (mut sender, mut receiver) = rings.handles().next().unwrap();
        assert_eq!(sender.send(block(1)), Ok(()));
        assert!(!sender.is_more_than_half_full());
        assert_eq!(sender.send(block(2)), Ok(()));
        assert!(sender.is_more_than_half_full());
        let refused = sender.send(block(3)).unwrap_err();
        assert_eq!(refused.units(), 3);
        assert_eq!(sizes_of(&mut receiver), [1, 2]);
        assert!(!sender.is_more_than_half_full());
        assert_eq!(sender.send(refused), Ok(()));
        assert_eq!(sizes_of(&mut receiver), [3]);
    }

    #[test]
    fn rings_side_by_side_do_not_mix() {
        let mut rings = Rings::new(3, 1).unwrap();
        let mut handles: Vec<_> = rings.handles().collect();
        for (index, (sender, _)) in handles.iter_mut().enumerate() {
            sender.send(block(index + 1)).unwrap();
        }
        for (index, (_, receiver)) in handles.iter_mut().enumerate() {
            assert_eq!(sizes_of(receiver), [index as i64 + 1]);
        }
    }

    #[test]
    fn a_long_drain_makes_room_before_it_ends() {
        let mut rings = Rings::new(1, 512).unwrap();
        let (mut sender, mut receiver) = rings.handles().next().unwrap();
        while sender.send(block(8)).map_err(Block::free).is_ok() {}
        let mut taken = 0;
        receiver.drain(|block| {
            block.free();
            taken += 1;
            assert_eq!(sender.is_more_than_half_full(), taken < REPORT_EVERY);
        });
        assert_eq!(taken, 512);
    }

    #[test]
    fn two_threads_lose_nothing_and_see_the_end() {
        const BLOCKS: usize = 200_000;
        let mut rings = Rings::new(1, 64).unwrap();
        let (mut sender, mut receiver) = rings.handles().next().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..BLOCKS {
                    let mut next = block(number % 1000 + 1);
                    while let Err(refused) = sender.send(next) {
                        next = refused;
                        std::thread::yield_now();
                    }
                }
                sender.close();
            });
            let mut expected = 0;
            loop {
                let closed = receiver.is_closed();
                receiver.drain(|block| {
                    assert_eq!(block.units() as usize, expected % 1000 + 1);
                    expected += 1;
                    block.free();
                });
                if closed {
                    break;
                }
                std::thread::yield_now();
            }
            assert_eq!(expected, BLOCKS);
        });
    }

    #[test]
    fn rings_that_do_not_fit_the_address_space_are_an_error() {
        assert!(Rings::new(1 << 20, 1 << 27).is_err());
        assert!(Rings::new(usize::MAX, 1 << 27).is_err());
    }

    #[test]
    fn indices_of_one_ring_and_of_neighbours_lie_on_different_lines() {
        let rings = Rings::new(2, 16).unwrap();
        let line = |address: usize| address / 64;
        let sender = line(std::ptr::from_ref(&*rings.ends[0].sender).addr());
        let head = line(std::ptr::from_ref(&*rings.ends[0].head).addr());
        let next = line(std::ptr::from_ref(&*rings.ends[1].sender).addr());
        assert!(sender != head && head != next && sender != next);
    }
}
