//! Bins: the size classes of small blocks.
//!
//! ```text
//! bin      0        1   2  …  8    9   10 …  16   17  18 …  24    …   72
//! bytes  foreign   16  32 … 128  144  160 … 256  288 320 … 512   …  32768
//! step              16            16             32               2^k / 8
//! ```
//!
//! Multiples of 16 up to 128 bytes, then eight bins per doubling, so that a block above 128 bytes wastes at most
//! 12.5 %. All tables are computed at compile time.
//!
//! Bin 0, *foreign*, stands for every address that is no small block's. Its entry in a heap is always both empty and
//! full, so hit paths don't test for it.

use crate::platform::system_page;
use crate::platform::units::{Bin, MIN_ALIGN, PAGE_BYTES};

/// Bins, bin 0 included. Derived: bin 0, 8 linear ones, and 8 doublings of 8.
pub const BINS: usize = 73;
/// Largest small block, in bytes. Chosen: above it a lock per call no longer shows.
pub const MAX_SMALL_BYTES: usize = 32 * 1024;
/// The bin of everything but small blocks.
pub const FOREIGN: Bin = Bin(0);
/// Most slots of a span. Chosen: the span's bitmap then fills one cache line.
pub const MAX_SPAN_SLOTS: usize = 512;

const LINEAR_BINS: usize = 8;
const PER_DOUBLING: usize = 8;
/// Fewest slots of a span. Chosen: fewer would waste more by rounding and cost more span traffic.
const MIN_SPAN_SLOTS: usize = 8;
const MIN_SPAN_PAGES: usize = 16;
const MAX_SPAN_PAGES: usize = 80;

/// What slow paths need of a bin.
#[derive(Clone, Copy)]
pub struct BinInfo {
    /// Bytes of one slot.
    pub slot_bytes: u32,
    /// Pages and slots of one span, by the [class](system_page::class) of the system's pages.
    spans: [(u16, u16); system_page::CLASSES],
    /// ceil(2^32 / slot_bytes): divides an offset in a span by a multiplication.
    reciprocal: u64,
}

/// Bytes of a slot of bin number `bin`, which is not 0.
pub const fn slot_bytes_of(bin: usize) -> usize {
    if bin <= LINEAR_BINS {
        return bin * MIN_ALIGN;
    }
    let step = (bin - LINEAR_BINS - 1) % PER_DOUBLING;
    let doubling = (bin - LINEAR_BINS - 1) / PER_DOUBLING;
    let floor = 128 << doubling;
    floor + (step + 1) * (floor / PER_DOUBLING)
}

/// Pages of a span: 512 slots up to 128 bytes. Above, the first size from 64 KiB up that holds eight slots and wastes
/// at most 1/64, or else the size that wastes least.
const fn span_pages_of(slot_bytes: usize) -> usize {
    if slot_bytes <= 128 {
        return slot_bytes * MAX_SPAN_SLOTS / PAGE_BYTES;
    }
    let fewest = (slot_bytes * MIN_SPAN_SLOTS).div_ceil(PAGE_BYTES);
    let mut pages = if fewest > MIN_SPAN_PAGES { fewest } else { MIN_SPAN_PAGES };
    let (mut best, mut best_waste) = (pages, usize::MAX);
    while pages <= MAX_SPAN_PAGES {
        let bytes = pages * PAGE_BYTES;
        if bytes / slot_bytes <= MAX_SPAN_SLOTS {
            let waste = (bytes % slot_bytes) * 1024 / bytes;
            if waste <= 24 {
                return pages;
            }
            if waste < best_waste {
                best_waste = waste;
                best = pages;
            }
        }
        pages += 1;
    }
    best
}

/// Pages and slots of a span where the system's pages are of `class`. Whole ones: rounded down where the bitmap is full, else
/// up. A shorter span shares one.
const fn span_in(slot_bytes: usize, class: usize) -> (u16, u16) {
    let (pages, whole) = (span_pages_of(slot_bytes), system_page::pages_of(class));
    let pages = if pages < whole {
        pages
    } else if pages * PAGE_BYTES / slot_bytes == MAX_SPAN_SLOTS {
        pages / whole * whole
    } else {
        system_page::whole_in(pages, class)
    };
    let slots = pages * PAGE_BYTES / slot_bytes;
    (pages as u16, (if slots < MAX_SPAN_SLOTS { slots } else { MAX_SPAN_SLOTS }) as u16)
}

const fn info_table() -> [BinInfo; BINS] {
    let none = BinInfo { slot_bytes: 0, spans: [(0, 0); system_page::CLASSES], reciprocal: 0 };
    let mut table = [none; BINS];
    let mut bin = 1;
    while bin < BINS {
        let slot_bytes = slot_bytes_of(bin);
        let mut spans = [(0, 0); system_page::CLASSES];
        let mut class = 0;
        while class < system_page::CLASSES {
            spans[class] = span_in(slot_bytes, class);
            class += 1;
        }
        table[bin] =
            BinInfo { slot_bytes: slot_bytes as u32, spans, reciprocal: (1u64 << 32).div_ceil(slot_bytes as u64) };
        bin += 1;
    }
    table
}

const GRANULES: usize = MAX_SMALL_BYTES / MIN_ALIGN + 1;

const fn offset_table() -> [u16; GRANULES] {
    let mut table = [0; GRANULES];
    let mut bin = 1;
    let mut granule = 0;
    while granule < GRANULES {
        while slot_bytes_of(bin) < granule * MIN_ALIGN {
            bin += 1;
        }
        table[granule] = Bin(bin as u8).entry_offset() as u16;
        granule += 1;
    }
    table
}

static INFO: [BinInfo; BINS] = info_table();
/// Offset of a size's bin entry in a heap, per 16 bytes (4 KiB; small sizes touch one line).
static OFFSETS: [u16; GRANULES] = offset_table();

const _: () = assert!(slot_bytes_of(BINS - 1) == MAX_SMALL_BYTES);

/// Offset in a heap of the bin entry that serves `bytes`.
///
/// # Safety
/// `bytes` is at most [`MAX_SMALL_BYTES`].
#[inline(always)]
pub unsafe fn entry_offset(bytes: usize) -> usize {
    // SAFETY: at most (MAX_SMALL_BYTES + 15) / 16, the table's last index.
    usize::from(unsafe { *OFFSETS.get_unchecked((bytes + (MIN_ALIGN - 1)) >> 4) })
}

/// The bin that serves `bytes`; `None` above [`MAX_SMALL_BYTES`]. 0 bytes get the first bin.
#[inline]
pub fn bin_for(bytes: usize) -> Option<Bin> {
    if bytes > MAX_SMALL_BYTES {
        return None;
    }
    // SAFETY: `bytes` is at most MAX_SMALL_BYTES, as checked.
    Some(Bin::of_entry_offset(unsafe { entry_offset(bytes) }))
}

/// The smallest bin for `bytes` whose slots are all multiples of `align`, a power of two. `None` if there is none or
/// `align` is above a page: such a block needs a run.
pub fn bin_for_aligned(bytes: usize, align: usize) -> Option<Bin> {
    if align > PAGE_BYTES {
        return None;
    }
    let mut bin = bin_for(bytes)?;
    while (bin.0 as usize) < BINS {
        if info(bin).slot_bytes as usize & (align - 1) == 0 {
            return Some(bin);
        }
        bin = Bin(bin.0 + 1);
    }
    None
}

/// The properties of `bin`; those of bin 0 if it is invalid.
#[inline]
pub fn info(bin: Bin) -> &'static BinInfo {
    // A clamp instead of a bounds check, which could panic.
    let index = usize::from(bin.0);
    &INFO[if index < BINS { index } else { 0 }]
}

impl BinInfo {
    #[inline]
    fn span(&self) -> (u16, u16) {
        let [short, middle, long] = self.spans;
        match system_page::class() {
            0 => short,
            1 => middle,
            _ => long,
        }
    }

    /// Pages of one span.
    #[inline]
    pub fn span_pages(&self) -> usize {
        usize::from(self.span().0)
    }

    /// Slots of one span.
    #[inline]
    pub fn span_slots(&self) -> u16 {
        self.span().1
    }

    /// Number of the slot that begins `offset` bytes into a span; `None` if none does.
    #[inline]
    pub fn slot_at(&self, offset: usize) -> Option<usize> {
        if offset >= self.span_pages() * PAGE_BYTES {
            return None;
        }
        let slot = ((offset as u64 * self.reciprocal) >> 32) as usize;
        (slot * self.slot_bytes as usize == offset && slot < usize::from(self.span_slots())).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_served_by_the_smallest_slot_that_holds_it() {
        for bytes in 0..=MAX_SMALL_BYTES {
            let bin = bin_for(bytes).expect("small");
            assert!(info(bin).slot_bytes as usize >= bytes.max(1));
            if bin.0 > 1 {
                assert!((info(Bin(bin.0 - 1)).slot_bytes as usize) < bytes);
            }
        }
        assert_eq!(bin_for(MAX_SMALL_BYTES + 1), None);
    }

    #[test]
    fn waste_above_128_bytes_is_at_most_an_eighth() {
        for bytes in 129..=MAX_SMALL_BYTES {
            let slot = info(bin_for(bytes).expect("small")).slot_bytes as usize;
            assert!((slot - bytes) * 8 <= slot, "{bytes} in {slot}");
        }
    }

    #[test]
    fn spans_hold_eight_to_512_slots_and_waste_little() {
        for bin in 1..BINS {
            let info = info(Bin(bin as u8));
            let bytes = info.span_pages() * PAGE_BYTES;
            let slots = usize::from(info.span_slots());
            assert!((MIN_SPAN_SLOTS..=MAX_SPAN_SLOTS).contains(&slots));
            assert!((bytes - slots * info.slot_bytes as usize) * 32 <= bytes, "bin {bin}");
        }
    }

    #[test]
    fn only_the_first_byte_of_a_slot_has_a_slot_number() {
        for bin in 1..BINS {
            let info = info(Bin(bin as u8));
            let size = info.slot_bytes as usize;
            for offset in 0..info.span_pages() * PAGE_BYTES {
                let expected =
                    (offset % size == 0 && offset / size < usize::from(info.span_slots())).then_some(offset / size);
                assert_eq!(info.slot_at(offset), expected, "bin {bin} offset {offset}");
            }
        }
    }

    #[test]
    fn an_aligned_bin_has_only_aligned_slots() {
        for align in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096] {
            for bytes in 0..=MAX_SMALL_BYTES {
                if let Some(bin) = bin_for_aligned(bytes, align) {
                    let slot = info(bin).slot_bytes as usize;
                    assert!(slot % align == 0 && slot >= bytes);
                } else {
                    assert!(bytes + align > MAX_SMALL_BYTES);
                }
            }
        }
    }
}
