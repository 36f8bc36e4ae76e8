//! Single-writer seqlock; readers retry and never block the writer, so they may be other processes.
//!
//! ```text
//! writer   count odd  |fence|  words …            count even      (Release)
//! reader   count even          words …  |fence|   count the same  → the words are of one write
//! ```
//!
//! No word is newer: once a reader has seen a word of a later write, the two fences make that write's odd count, or a
//! later one, visible to its second load, which then differs from the first. No word is older: the Acquire load of the
//! even count sees every word stored before it. The count has 64 bits and never wraps.
//!
//! Source: the fences of the C++20 memory model (`[atomics.fences]`), which is Rust's too.

use crate::platform::atomic::{AtomicU64, Ordering, fence};

/// Writes `values` to `words`, up to the shorter length. Only one thread may write at a time.
pub fn write(count: &AtomicU64, words: &[AtomicU64], values: &[u64]) {
    // Relaxed, both: only the writer stores; the fence orders. Odd already if a fork cut a write off.
    let odd = count.load(Ordering::Relaxed) | 1;
    count.store(odd, Ordering::Relaxed);
    // Release: orders the odd count before the words. Pairs with the Acquire fence in `read`.
    fence(Ordering::Release);
    for (word, &value) in words.iter().zip(values) {
        // Relaxed: ordered by the fence above and the store below.
        word.store(value, Ordering::Relaxed);
    }
    // Release: orders the words before the even count. Pairs with the Acquire load in `read`.
    count.store(odd.wrapping_add(1), Ordering::Release);
}

/// Reads `words` into `values`, up to the shorter length. False if a write interfered: `values` are then useless.
pub fn read(count: &AtomicU64, words: &[AtomicU64], values: &mut [u64]) -> bool {
    // Acquire: sees the words of the write that stored this count. Pairs with the Release store in `write`.
    let before = count.load(Ordering::Acquire);
    if before & 1 != 0 {
        return false;
    }
    for (word, value) in words.iter().zip(values) {
        // Relaxed: ordered by the load above and the fence below.
        *value = word.load(Ordering::Relaxed);
    }
    // Acquire: orders the words before the second load. Pairs with the Release fence in `write`.
    fence(Ordering::Acquire);
    // Relaxed: ordered by the fence.
    count.load(Ordering::Relaxed) == before
}
