//! Page tag: the entry per 4 KiB page that says what the page is, in one load.
//!
//! ```text
//! |   span id, 32 bits   | kind, 8 | owner, 8 | heap entry offset, 16 |      all 0 = not ours
//! ```
//!
//! The offset is that of the bin's entry in a heap, so that `free` adds it to the heap's address as
//! it is; for anything but a small span it is 0, the foreign bin. The parts are atomics of their own: `free`
//! reads 16 bits and nothing else.
//! Every page of a small span is tagged; of other spans the first and the last one, so that neighbours
//! find each other. A tag changes only while no block of its page is live, or under the run lock.

use crate::platform::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use crate::platform::units::{Bin, ShardId, SpanId};

/// What a span's pages are used for. The values are those in page tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// No span of ours.
    None = 0,
    /// Slots of one bin.
    Small = 1,
    /// One block.
    Large = 2,
    /// Free; its pages may hold memory.
    Dirty = 3,
    /// Free; its pages hold no memory and read as zero.
    Clean = 4,
    /// Between owners: taken from the index, not yet in use, or being purged.
    Transit = 5,
    /// A large block that was freed a short while ago, kept out of reuse.
    Waiting = 6,
}

/// Where a page tag is kept. All zeros is [`PageTag::NONE`].
#[repr(C, align(8))]
pub struct TagCell {
    offset: AtomicU16,
    owner: AtomicU8,
    kind: AtomicU8,
    span: AtomicU32,
}

const _: () = assert!(size_of::<TagCell>() == 8);

impl TagCell {
    /// The heap entry offset alone, by a plain load: an atomic one of 16 bits is widened by a second
    /// instruction.
    ///
    /// # Safety
    /// A block of the page is live, and the caller knows of it: no tag is written then.
    #[inline(always)]
    pub unsafe fn offset(&self) -> usize {
        // SAFETY: the caller's promise rules out a concurrent write.
        usize::from(unsafe { self.offset.as_ptr().read() })
    }

    /// The whole tag. Its parts belong together while a block of the page is live or the run lock held.
    #[inline]
    pub fn get(&self) -> PageTag {
        // Relaxed, all: the tag of a live block's page was written before the block was handed out.
        PageTag(
            u64::from(self.offset.load(Ordering::Relaxed))
                | u64::from(self.owner.load(Ordering::Relaxed)) << 16
                | u64::from(self.kind.load(Ordering::Relaxed)) << 24
                | u64::from(self.span.load(Ordering::Relaxed)) << 32,
        )
    }

    /// Takes a large block's first page out of use; false where another thread was first, or it is none.
    #[inline]
    pub fn claim_large(&self) -> bool {
        // Relaxed: the block is the caller's, and nothing of it is read; of several threads that free it, one
        // finds it large.
        let (large, transit) = (Kind::Large as u8, Kind::Transit as u8);
        self.kind.compare_exchange(large, transit, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Replaces the tag.
    #[inline]
    pub fn set(&self, tag: PageTag) {
        // Relaxed: published by whatever hands the block out.
        self.offset.store(tag.0 as u16, Ordering::Relaxed);
        self.owner.store((tag.0 >> 16) as u8, Ordering::Relaxed);
        self.kind.store((tag.0 >> 24) as u8, Ordering::Relaxed);
        self.span.store((tag.0 >> 32) as u32, Ordering::Relaxed);
    }
}

/// A page tag's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTag(pub u64);

impl PageTag {
    /// A page that is not ours, or no block's.
    pub const NONE: PageTag = PageTag(0);

    /// The tag of a small span's pages.
    pub const fn small(bin: Bin, owner: ShardId, span: SpanId) -> Self {
        PageTag(
            (bin.entry_offset() as u64) | ((owner.0 as u64) << 16) | (Kind::Small as u64) << 24 | (span.0 as u64) << 32,
        )
    }

    /// The tag of the first and last page of any other span.
    pub const fn edge(kind: Kind, span: SpanId) -> Self {
        PageTag((kind as u64) << 24 | (span.0 as u64) << 32)
    }

    /// Bin of a small span's page; the foreign bin for all others.
    #[inline]
    pub const fn bin(self) -> Bin {
        Bin::of_entry_offset((self.0 & 0xffff) as usize)
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
            6 => Kind::Waiting,
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
            assert_eq!(
                (tag.bin(), tag.owner(), tag.kind(), tag.span()),
                (bin, ShardId(31), Kind::Small, SpanId(0xdead_beef))
            );
        }
        for kind in [Kind::Large, Kind::Dirty, Kind::Clean, Kind::Transit, Kind::Waiting] {
            let tag = PageTag::edge(kind, SpanId(7));
            assert_eq!((tag.bin(), tag.kind(), tag.span()), (Bin(0), kind, SpanId(7)));
        }
        assert_eq!(PageTag::NONE.kind(), Kind::None);
    }
}
