//! Twice: whether a magazine that is about to leave a heap holds a slot that was freed twice.
//!
//! ```text
//! oldest    | a | b | c | d | …      each slot's place in the table has the index of the first slot there
//! table     | · | 2 | · | 0 | · | 1 | …       d finds b at its place, is not b: displaced
//! younger   | x | y | z | …          looked up in the same way, not entered
//! ```
//!
//! A slot at whose place no other lies has no double among those entered before it, and one whose place holds
//! its double is told at once. What meets a stranger at its place is put aside, and what was put aside is
//! compared with one another: of two equal slots, both are there or the first is in the table. That makes the
//! answer exact, and next to nobody is put aside. No step depends on what the last one found, so that there is
//! no branch to guess wrong.

use crate::magazine::MAX_SLOTS;

const TABLE_BITS: u32 = 9;
/// Places of the table. Chosen: of 62 random slots, three or four meet a stranger then.
const PLACES: usize = 1 << TABLE_BITS;
/// Room for the slots put aside, a power of two so that an index is bounded by a mask.
const ASIDE: usize = 64;

const _: () = assert!(MAX_SLOTS <= ASIDE && ASIDE <= u8::MAX as usize);

/// 2^64 over the golden ratio, and a 16th of that, as slots lie at multiples of 16: neighbours are far apart.
const FACTOR: u64 = 0x09e3_779b_97f4_a7c1;

/// The place of `slot` in the table.
#[inline(always)]
fn place(slot: *mut u8) -> usize {
    ((slot.addr() as u64).wrapping_mul(FACTOR) >> (u64::BITS - TABLE_BITS)) as usize
}

/// The indices of slots that met a stranger.
struct Aside {
    indices: [u8; ASIDE],
    count: usize,
}

impl Aside {
    const NONE: Self = Self { indices: [0; ASIDE], count: 0 };

    /// Adds `index` where `is_aside`, without a branch.
    #[inline(always)]
    fn add(&mut self, index: usize, is_aside: bool) {
        self.indices[self.count % ASIDE] = index as u8;
        self.count += usize::from(is_aside);
    }

    /// The slots of `slots` that were put aside.
    fn of<'a>(&'a self, slots: &'a [*mut u8]) -> impl Iterator<Item = &'a *mut u8> + Clone {
        self.indices.iter().take(self.count).filter_map(|&index| slots.get(usize::from(index)))
    }
}

/// A slot that lies twice in `oldest`, or in `oldest` and in `younger`, of at most [`MAX_SLOTS`] each.
#[inline(never)]
pub fn first_twice(oldest: &[*mut u8], younger: &[*mut u8]) -> Option<*mut u8> {
    let oldest = oldest.get(..MAX_SLOTS).unwrap_or(oldest);
    let younger = younger.get(..MAX_SLOTS).unwrap_or(younger);
    let &first = oldest.first()?;
    // An unused place names the first slot too: what looks there is compared with it in vain.
    let mut table = [0u8; PLACES];
    let first_place = place(first);
    // The slot at a place, its index, and whether somebody lies there at all.
    let look = |table: &[u8; PLACES], place: usize| {
        let index = table[place % PLACES];
        let slot = oldest.get(usize::from(index)).copied().unwrap_or(first);
        (slot, index, (index != 0) | (place == first_place))
    };
    let mut is_twice = false;
    let mut aside = Aside::NONE;
    for (index, &slot) in oldest.iter().enumerate().skip(1) {
        let place = place(slot);
        let (other, at, is_taken) = look(&table, place);
        is_twice |= other == slot;
        aside.add(index, is_taken);
        table[place % PLACES] = if is_taken { at } else { index as u8 };
    }
    let mut younger_aside = Aside::NONE;
    for (index, &slot) in younger.iter().enumerate() {
        let (other, _, is_taken) = look(&table, place(slot));
        is_twice |= other == slot;
        younger_aside.add(index, is_taken);
    }
    for (earlier, &slot) in aside.of(oldest).enumerate() {
        for &other in aside.of(oldest).skip(earlier + 1).chain(younger_aside.of(younger)) {
            is_twice |= other == slot;
        }
    }
    if is_twice { find(oldest, younger) } else { None }
}

/// [`first_twice`] by comparing each with each.
#[cold]
fn find(oldest: &[*mut u8], younger: &[*mut u8]) -> Option<*mut u8> {
    let mut rest = oldest;
    while let Some((&slot, later)) = rest.split_first() {
        if later.contains(&slot) || younger.contains(&slot) {
            return Some(slot);
        }
        rest = later;
    }
    None
}
