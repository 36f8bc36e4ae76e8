//! Page tag: the entry per 4 KiB page that says what the page is, in one load.
//!
//! ```text
//! 63            32 31   24 23   16 15                0
//! |   span id     | kind  | owner | heap entry offset |      0 = not ours
//! ```
//!
//! The lowest 16 bits are the offset of the bin's entry in a heap, so that `free` adds them to the heap's
//! address as they are; for anything but a small span they are 0, the foreign bin.
//! Every page of a small span is tagged; of other spans the first and the last one, so that neighbours
//! find each other. A tag changes only while no block of its page is live, or under the run lock.

use crate::bins::{BIN_ENTRY_BYTES, bin_of_offset};
use crate::span::Kind;
use crate::units::{Bin, ShardId, SpanId};

/// A page tag's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTag(pub u64);

impl PageTag {
    /// A page that is not ours, or no block's.
    pub const NONE: PageTag = PageTag(0);

    /// The tag of a small span's pages.
    pub const fn small(bin: Bin, owner: ShardId, span: SpanId) -> Self {
        PageTag(
            bin.0 as u64 * BIN_ENTRY_BYTES as u64
                | (owner.0 as u64) << 16
                | (Kind::Small as u64) << 24
                | (span.0 as u64) << 32,
        )
    }

    /// The tag of the first and last page of any other span.
    pub const fn edge(kind: Kind, span: SpanId) -> Self {
        PageTag((kind as u64) << 24 | (span.0 as u64) << 32)
    }

    /// Bin of a small span's page; the foreign bin for all others.
    #[inline]
    pub const fn bin(self) -> Bin {
        bin_of_offset((self.0 & 0xffff) as usize)
    }

    /// Owner of a small span's page.
    #[inline]
    pub const fn owner(self) -> ShardId {
        ShardId((self.0 >> 16) as u8)
    }

    /// What the page is.
    #[inline]
    pub const fn kind(self) -> Kind {
        match (self.0 >> 24) as u8 {
            1 => Kind::Small,
            2 => Kind::Large,
            3 => Kind::Dirty,
            4 => Kind::Clean,
            5 => Kind::Transit,
            _ => Kind::None,
        }
    }

    /// The span.
    #[inline]
    pub const fn span(self) -> SpanId {
        SpanId((self.0 >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_gives_back_what_was_put_in() {
        for bin in [1, 40, 72].map(Bin) {
            let tag = PageTag::small(bin, ShardId(31), SpanId(0xdead_beef));
            assert_eq!((tag.bin(), tag.owner(), tag.kind(), tag.span()), (bin, ShardId(31), Kind::Small, SpanId(0xdead_beef)));
        }
        for kind in [Kind::Large, Kind::Dirty, Kind::Clean, Kind::Transit] {
            let tag = PageTag::edge(kind, SpanId(7));
            assert_eq!((tag.bin(), tag.kind(), tag.span()), (Bin(0), kind, SpanId(7)));
        }
        assert_eq!(PageTag::NONE.kind(), Kind::None);
    }
}
