//! Piece: one allocation of the allocator under test, which knows its own size.
//!
//! ```text
//!   | size_bytes (8) | … payload … | last byte |      at least 16 bytes
//! ```
//!
//! The size stands in the block itself, as a length stands in many a program's objects: whoever frees a
//! piece reads its first cache line, and a piece crosses from thread to thread as one word.

use crate::mapping::Mapping;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;

/// The smallest piece: its size and something to write.
pub const MIN_BYTES: usize = 16;

const PAGE_BYTES: usize = 4096;

/// A live block: the one handle on it.
#[derive(Debug)]
#[must_use = "a piece that is dropped is never freed"]
pub struct Piece(NonNull<u8>);

// SAFETY: a piece owns its block, and malloc's blocks belong to the process, not to a thread.
unsafe impl Send for Piece {}

impl Piece {
    /// Calls `malloc` and writes the block's first word and last byte; `None` if that fails. `bytes` is
    /// at least [`MIN_BYTES`].
    #[inline]
    pub fn allocate(bytes: usize) -> Option<Piece> {
        assert!(bytes >= MIN_BYTES);
        // SAFETY: `malloc` takes any size.
        let address = unsafe { libc::malloc(bytes) };
        let piece = Piece(NonNull::new(address.cast())?);
        piece.mark(bytes);
        Some(piece)
    }

    /// Calls `realloc` and writes the new first word and last byte; gives the piece back if that fails.
    #[inline]
    pub fn resize(self, bytes: usize) -> Result<Piece, Piece> {
        assert!(bytes >= MIN_BYTES);
        // SAFETY: the piece holds what malloc or realloc gave, and is not used again if this succeeds.
        let address = unsafe { libc::realloc(self.0.as_ptr().cast(), bytes) };
        match NonNull::new(address.cast()) {
            Some(address) => {
                let piece = Piece(address);
                piece.mark(bytes);
                Ok(piece)
            }
            None => Err(self),
        }
    }

    fn mark(&self, bytes: usize) {
        let first = self.0.as_ptr();
        // SAFETY: the block has `bytes` bytes, at least 16, aligned for any integer. The writes are
        // volatile because nobody reads most of them.
        unsafe {
            first.add(bytes - 1).write_volatile(1);
            first.cast::<usize>().write_volatile(bytes);
        }
    }

    /// The size in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        // SAFETY: `mark` wrote the size there, and nothing else writes the first word.
        unsafe { self.0.as_ptr().cast::<usize>().read_volatile() }
    }

    /// Calls `free`.
    #[inline]
    pub fn free(self) {
        // SAFETY: the piece holds what malloc or realloc gave; its only handle is consumed here.
        unsafe { libc::free(self.0.as_ptr().cast()) };
    }

    /// Writes one byte of each page.
    pub fn touch_pages(&self) {
        for offset in (size_of::<usize>()..self.bytes()).step_by(PAGE_BYTES) {
            // SAFETY: the offset is below the size, and behind the first word.
            unsafe { self.0.as_ptr().add(offset).write_volatile(1) };
        }
    }

    /// Writes the word behind the size.
    #[inline]
    pub fn write(&mut self, value: u64) {
        // SAFETY: a piece has at least 16 bytes.
        unsafe { self.0.as_ptr().cast::<u64>().add(1).write_volatile(value) };
    }
}

/// Places for pieces, on pages of their own and not in the allocator under test. Threads may share them.
#[derive(Debug)]
pub struct Slots(Mapping<AtomicU64>);

impl Slots {
    /// `count` empty places.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn new(count: usize) -> io::Result<Slots> {
        Mapping::zeroed(count).map(Slots)
    }

    /// The number of places.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a piece, or nothing, into a place and returns what was there.
    #[inline]
    pub fn swap(&self, index: usize, piece: Option<Piece>) -> Option<Piece> {
        let word = piece.map_or(0, |piece| piece.0.as_ptr() as u64);
        // AcqRel: publishes the piece's contents, and makes those of the one taken visible. Pairs with
        // itself in the other threads.
        let old = self.0[index].swap(word, AcqRel);
        NonNull::new(old as *mut u8).map(Piece)
    }

    /// Whether there are no places, which [`Slots::new`] never makes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Brings the pieces of the first `count` places into a random order, which `draw(range)` decides: S.
    /// Sattolo's shuffle, where no piece keeps its place.
    pub fn shuffle(&self, count: usize, mut draw: impl FnMut(Range<usize>) -> usize) {
        for last in (1..count).rev() {
            let chosen = self.take(last);
            let other = self.swap(draw(0..last), chosen);
            self.swap(last, other);
        }
    }

    /// Bytes of the places that are resident now.
    pub fn resident_bytes(&self) -> usize {
        self.0.resident_bytes()
    }

    /// Takes what is in a place.
    #[inline]
    pub fn take(&self, index: usize) -> Option<Piece> {
        self.swap(index, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_moves_every_piece_and_loses_none() {
        let slots = Slots::new(9).unwrap();
        for index in 0..8 {
            slots.swap(index, Piece::allocate(100 + index));
        }
        slots.shuffle(8, |range| range.start);
        let mut sizes = Vec::new();
        for index in 0..8 {
            let piece = slots.take(index).unwrap();
            assert_ne!(piece.bytes(), 100 + index);
            sizes.push(piece.bytes());
            piece.free();
        }
        sizes.sort_unstable();
        assert_eq!(sizes, (100..108).collect::<Vec<_>>());
        assert!(slots.take(8).is_none());
    }

    #[test]
    fn a_piece_keeps_its_size_through_writes_growth_and_a_slot() {
        let slots = Slots::new(2).unwrap();
        let mut piece = Piece::allocate(MIN_BYTES).unwrap();
        piece.write(u64::MAX);
        assert_eq!(piece.bytes(), MIN_BYTES);
        let piece = piece.resize(100_000).unwrap();
        piece.touch_pages();
        assert!(slots.swap(1, Some(piece)).is_none());
        let piece = slots.take(1).unwrap();
        assert_eq!(piece.bytes(), 100_000);
        assert!(slots.take(1).is_none() && slots.take(0).is_none());
        piece.free();
    }
}
