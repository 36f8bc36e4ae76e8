//! Sequence: a lock for one writer's words that no reader ever takes, so that readers may be other processes, which
//! can't hold the writer up: they see from a count whether what they read is all of one writing.
//!
//! ```text
//! writer   count odd  |fence|  words …            count even      (Release)
//! reader   count even          words …  |fence|   count the same  → the words are one writing's
//! ```
//!
//! Why that is enough: where a reader has seen a word of a writing, the writer's Release fence before it and the
//! reader's Acquire fence after it make the odd count of that writing (or a later one) visible to the reader's second
//! look, which then differs from the first. And where the first look saw an even count, its Acquire with the writer's
//! Release makes all words of that writing visible, so that none is older. The count has 64 bits and never comes round.
//!
//! Outside rule: the fences are those of the C++20 memory model (`[atomics.fences]`), which Rust has.

use crate::platform::atomic::{AtomicU64, Ordering, fence};

/// Writes `values` into `words`, as far as both go. One thread writes at a time, which the caller sees to.
pub fn write(count: &AtomicU64, words: &[AtomicU64], values: &[u64]) {
    // Relaxed: the only writer's own. A writing that was broken off (the process had a copy made in the middle) left
    // it odd; it is odd again then.
    let odd = count.load(Ordering::Relaxed) | 1;
    count.store(odd, Ordering::Relaxed);
    // Release: the odd count before every word below. Pairs with the Acquire fence in `read`.
    fence(Ordering::Release);
    for (word, &value) in words.iter().zip(values) {
        // Relaxed: ordered by the fence above and the store below.
        word.store(value, Ordering::Relaxed);
    }
    // Release: every word before the even count. Pairs with the Acquire in `read`.
    count.store(odd.wrapping_add(1), Ordering::Release);
}

/// Reads `words` into `values`, as far as both go; false where what was read may be of two writings, and is to be
/// thrown away.
pub fn read(count: &AtomicU64, words: &[AtomicU64], values: &mut [u64]) -> bool {
    // Acquire: sees the words of the writing that left this count. Pairs with the Release store in `write`.
    let before = count.load(Ordering::Acquire);
    if before & 1 != 0 {
        return false;
    }
    for (word, value) in words.iter().zip(values) {
        // Relaxed: ordered by the load above and the fence below.
        *value = word.load(Ordering::Relaxed);
    }
    // Acquire: every word before the second look. Pairs with the Release fence in `write`.
    fence(Ordering::Acquire);
    // Relaxed: ordered by the fence.
    count.load(Ordering::Relaxed) == before
}
