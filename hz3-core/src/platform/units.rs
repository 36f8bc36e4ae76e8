//! Units: sizes, and index types that can't be passed in each other's place.

/// log2 of [`PAGE_BYTES`]. Chosen: the smallest page of the supported machines.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page, the unit of page tags. Derived: 4,096.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// log2 of [`SEGMENT_BYTES`]. Chosen: a transparent huge page on x86-64 and AArch64.
pub const SEGMENT_SHIFT: u32 = 21;
/// Bytes of a segment, the step in which arenas are committed. Derived: 2 MiB.
pub const SEGMENT_BYTES: usize = 1 << SEGMENT_SHIFT;
/// Pages of a segment. Derived: 512.
pub const SEGMENT_PAGES: u32 = (SEGMENT_BYTES >> PAGE_SHIFT) as u32;
/// Alignment of every block, in bytes: `max_align_t` of the supported machines.
pub const MIN_ALIGN: usize = 16;

const _: () = assert!(PAGE_BYTES == 4096 && SEGMENT_PAGES == 512);

/// A size class index. Bin 0 stands for everything but small blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bin(pub u8);

/// Bytes of a bin's entry in a heap. Page tags and the size table hold multiples of it.
pub const BIN_ENTRY_BYTES: usize = 32;

impl Bin {
    /// Offset of the bin's entry in a heap, in bytes.
    #[inline(always)]
    pub const fn entry_offset(self) -> usize {
        self.0 as usize * BIN_ENTRY_BYTES
    }

    /// The bin whose entry in a heap has `offset`.
    #[inline(always)]
    pub const fn of_entry_offset(offset: usize) -> Bin {
        Bin((offset / BIN_ENTRY_BYTES) as u8)
    }
}

/// A shard's number, below the lane's shard count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u8);

/// A span descriptor's id. 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanId(pub u32);

impl SpanId {
    /// No span.
    pub const NONE: SpanId = SpanId(0);

    /// Whether this is no span.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Pages that hold `bytes` bytes; 0 for 0.
#[inline]
pub const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` on overflow.
#[inline]
pub const fn align_up(value: usize, align: usize) -> Option<usize> {
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

/// Milliseconds from `then` to `now` on a clock that wraps; 0 if `then` is later, by at most a minute.
pub fn elapsed_ms(then: u32, now: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX - 60_000 { 0 } else { elapsed }
}
