//! Writes after free, from outside: whatever a program leaves in memory that it has freed, and in the rest of the pages
//! that its blocks lay in, the allocator reads none of it. It goes on, serves no address twice, and its books add up.

use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::observe::books::check_accounts;
use hz3_core::pages::bins::{BINS, info};
use hz3_core::platform::units::{Bin, PAGE_BYTES};
use hz3_core::{Fast, Lane, Scale};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::ptr::with_exposed_provenance_mut;

/// Larger than any slot; the last one takes several segments. None is a mapping of its own, which `free` would unmap.
const LARGE_BYTES: [usize; 5] = [40_000, 100_000, 700_000, 1 << 20, 9 << 20];
const ROUNDS: u64 = 6;

/// A live block, or one that was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    address: usize,
    bytes: usize,
}

impl Block {
    /// Fills `bytes` bytes from `from` with a word, but for pages that were unmapped.
    fn write(from: usize, bytes: usize, word: usize) {
        let (mut at, end) = (from, from + bytes / size_of::<usize>() * size_of::<usize>());
        while at < end {
            let page = at / PAGE_BYTES * PAGE_BYTES;
            let stop = end.min(page + PAGE_BYTES);
            let mut unused = 0_u8;
            // SAFETY: a byte for one page.
            if unsafe { libc::mincore(with_exposed_provenance_mut(page), PAGE_BYTES, &raw mut unused) } == 0 {
                for address in (at..stop).step_by(size_of::<usize>()) {
                    // SAFETY: the page is mapped. The allocator gave it to this test, and leaves it readable and writable.
                    // Volatile, because what is written after free matters here.
                    unsafe { with_exposed_provenance_mut::<usize>(address).write_volatile(word) };
                }
            }
            at = stop;
        }
    }

    /// Fills the block.
    fn fill(self, word: usize) {
        Self::write(self.address, self.bytes, word);
    }

    /// Fills every page that the block has a byte in.
    fn fill_pages(self, word: usize) {
        let start = self.address / PAGE_BYTES * PAGE_BYTES;
        Self::write(start, (self.address + self.bytes).next_multiple_of(PAGE_BYTES) - start, word);
    }

    fn holds(self, word: usize) -> bool {
        let first = with_exposed_provenance_mut::<usize>(self.address);
        // SAFETY: a live block.
        (0..self.bytes / size_of::<usize>()).all(|index| unsafe { first.add(index).read_volatile() } == word)
    }
}

/// Two spans of every bin and some runs of pages, in no order.
fn take_all<L: Lane>(rng: &mut Xoshiro256PlusPlus) -> Vec<Block> {
    let mut sizes = Vec::new();
    for bin in (0..BINS).map(|bin| info(Bin(bin as u8))).filter(|bin| bin.slot_bytes > 0) {
        let bytes = bin.slot_bytes as usize;
        sizes.extend(std::iter::repeat_n(bytes, 2 * bin.span_pages() * PAGE_BYTES / bytes + 3));
    }
    sizes.extend(LARGE_BYTES.iter().flat_map(|&bytes| std::iter::repeat_n(bytes, 4)));
    sizes.shuffle(rng);
    let blocks = sizes.into_iter().map(|bytes| Block { address: block::malloc::<L>(bytes).expose_provenance(), bytes });
    let mut blocks: Vec<Block> = blocks.collect();
    blocks.sort_unstable();
    assert_ne!(blocks[0].address, 0, "out of memory");
    for pair in blocks.windows(2) {
        assert!(pair[0].address + pair[0].bytes <= pair[1].address, "two blocks at {:#x}", pair[1].address);
    }
    blocks
}

/// Frees the blocks, and writes into each at once.
fn free_and_write<L: Lane>(blocks: &[Block], word: usize) {
    for block in blocks {
        // SAFETY: live, and given up here.
        unsafe { block::free::<L>(with_exposed_provenance_mut(block.address)) };
        block.fill(word);
    }
}

fn nothing_written_after_free_is_read<L: Lane>() {
    for round in 0..ROUNDS {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(round);
        let mut blocks = take_all::<L>(&mut rng);
        for &block in &blocks {
            block.fill(block.address);
        }
        assert!(blocks.iter().all(|block| block.holds(block.address)), "a block lost its contents");
        // Small numbers, nothing, all bits, what looks like a block of the program's, any number.
        let words = [1, 0, usize::MAX, blocks[blocks.len() / 2].address, rng.random::<u64>() as usize];
        let word = words[round as usize % words.len()];
        blocks.shuffle(&mut rng);
        let (own, sent) = blocks.split_at(blocks.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| free_and_write::<L>(sent, word));
            free_and_write::<L>(own, word);
            // Its very end, destructors included, which a scope does not wait for.
            other.join().expect("no panic");
        });
        // Wherever the slots are now: in magazines, depots, stashes and spans. Only this thread is left.
        blocks.iter().for_each(|block| block.fill_pages(word));
        assert_eq!(check_accounts::<L>(), Ok(()), "{}, round {round}", L::NAME);
        if round % 2 == 1 {
            trim::<L>();
            blocks.iter().for_each(|block| block.fill_pages(word));
            assert_eq!(check_accounts::<L>(), Ok(()), "{}, round {round}, trimmed", L::NAME);
        }
    }
}

#[test]
fn the_fast_lane_reads_nothing_that_was_written_after_free() {
    apart!();
    nothing_written_after_free_is_read::<Fast>();
}

#[test]
fn the_scale_lane_reads_nothing_that_was_written_after_free() {
    apart!();
    nothing_written_after_free_is_read::<Scale>();
}
