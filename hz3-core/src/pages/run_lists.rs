//! Run lists: free runs of one kind, in lists by length class.
//!
//! ```text
//! class     1  2  …  63  64  65  …  127  128    129    …     64 per doubling of the page count
//! pages     1  2  …  63  64  65  …  127  128 –  130 –  …
//! heads    [id|id|      |id|    …                    ]
//! map       1  1  0      1                                   a bit per class that has a run
//! ```
//!
//! Below 128 pages a class has one length. Above, a tree finds a run that fits, whatever lies in front of it in the list.
//! A *band* is eight classes side by side: lengths that differ by an eighth at most. Protected by the run lock.

use crate::platform::units::SpanId;

const PER_DOUBLING: usize = 64;
const PER_BAND: usize = 8;
/// Length classes. Derived: up to 2^36 pages; 2^14 are enough for what Miri runs, whose tests look at all classes.
pub const CLASSES: usize = PER_DOUBLING * if cfg!(miri) { 9 } else { 31 };
const MAP_WORDS: usize = CLASSES.div_ceil(64);
/// The first class with several lengths.
const MIXED: usize = 2 * PER_DOUBLING;

/// Class of a run of `pages`. Every run of a higher class is longer.
pub fn class_of(pages: usize) -> usize {
    if pages < PER_DOUBLING {
        return pages;
    }
    let log = pages.ilog2() as usize;
    let step = (pages >> (log - PER_DOUBLING.ilog2() as usize)) & (PER_DOUBLING - 1);
    ((log - 5) * PER_DOUBLING + step).min(CLASSES - 1)
}

/// The classes from `class` to the end of its band.
pub fn rest_of_band(class: usize) -> core::ops::Range<usize> {
    class..(class / PER_BAND + 1) * PER_BAND
}

/// Free runs of one kind, by class.
pub struct Lists {
    heads: [SpanId; CLASSES],
    /// Of the classes from [`MIXED`] on.
    roots: [SpanId; CLASSES - MIXED],
    map: [u64; MAP_WORDS],
    /// Pages of all runs.
    pub pages: usize,
}

impl Lists {
    /// No runs.
    pub const fn new() -> Self {
        Self { heads: [SpanId::NONE; CLASSES], roots: [SpanId::NONE; CLASSES - MIXED], map: [0; MAP_WORDS], pages: 0 }
    }

    /// The first run of `class`; [`SpanId::NONE`] if it has none.
    pub fn head(&self, class: usize) -> SpanId {
        self.heads.get(class).copied().unwrap_or(SpanId::NONE)
    }

    /// Makes `id` the first run of `class`; [`SpanId::NONE`] empties it.
    pub fn set_head(&mut self, class: usize, id: SpanId) {
        if let (Some(head), Some(word)) = (self.heads.get_mut(class), self.map.get_mut(class / 64)) {
            *head = id;
            let bit = 1 << (class % 64);
            *word = if id.is_none() { *word & !bit } else { *word | bit };
        }
    }

    /// The root of the [tree](crate::pages::length_tree) of `class`; `None` if the class has one length.
    pub fn root(&mut self, class: usize) -> Option<&mut SpanId> {
        self.roots.get_mut(class.checked_sub(MIXED)?)
    }

    /// The lowest class from `class` up that has a run.
    pub fn class_from(&self, class: usize) -> Option<usize> {
        let mut mask = u64::MAX << (class % 64);
        for (index, word) in self.map.iter().enumerate().skip(class / 64) {
            if word & mask != 0 {
                return Some(index * 64 + (word & mask).trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The highest class from `class` down that has a run.
    pub fn class_down_from(&self, class: usize) -> Option<usize> {
        let mut mask = u64::MAX >> (63 - class % 64);
        for (index, word) in self.map.iter().enumerate().take(class / 64 + 1).rev() {
            if word & mask != 0 {
                return Some(index * 64 + (word & mask).ilog2() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

impl Default for Lists {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_rise_with_the_page_count_and_never_mix() {
        let mut last = 0;
        for pages in 1..100_000 {
            let class = class_of(pages);
            assert!(class == last || class == last + 1 || pages == 1);
            last = class;
        }
        assert_eq!((class_of(127), class_of(128), class_of(129)), (MIXED - 1, MIXED, MIXED));
        assert_eq!(class_of(1 << 36), CLASSES - 1);
        assert!(class_of((1 << 36) - 1) < CLASSES);
    }

    #[test]
    fn the_next_class_with_a_run_is_found_upwards_and_downwards() {
        let mut lists = Lists::new();
        for class in [1, 63, 64, 200] {
            lists.set_head(class, SpanId(7));
        }
        for class in 0..CLASSES {
            let classes = [1, 63, 64, 200];
            assert_eq!(lists.class_from(class), classes.into_iter().find(|&other| other >= class));
            assert_eq!(lists.class_down_from(class), classes.into_iter().rev().find(|&other| other <= class));
        }
    }

    #[test]
    fn a_band_s_lengths_differ_by_an_eighth_at_most() {
        let mut shortest = 64;
        for pages in 64..100_000 {
            if !rest_of_band(class_of(shortest)).contains(&class_of(pages)) {
                shortest = pages;
            }
            assert!(pages - shortest <= shortest / 8, "{shortest} {pages}");
        }
    }
}
