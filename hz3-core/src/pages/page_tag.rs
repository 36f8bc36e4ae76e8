//! Page tag: 8 bytes per page that tell its use.
//!
//! ```text
//! |   span id, 32 bits   | kind, 8 | owner, 8 | heap entry offset, 16 |      all 0 = not hz3's
//! ```
//!
//! `free` adds the offset of the bin's entry to its heap's address; outside small spans it is 0, the foreign bin's. The
//! parts are separate atomics, because `free` loads those 16 bits only.
//!
//! Small spans, regions' and shared pages tag every page, other spans the first and the last, so that neighbours find each other. A tag changes
//! only while no block of its page is live, or under the run lock; but for the offset of a small span's pages, which is 0
//! while the span is [vacated](crate::pages::span::Span::is_vacating): what is freed there then misses.

use crate::platform::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use crate::platform::units::{Bin, ShardId, SpanId};

/// What a span is used for, as in page tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// No span.
    None = 0,
    /// Slots of one bin.
    Small = 1,
    /// One block.
    Large = 2,
    /// Free; its pages may hold memory.
    Dirty = 3,
    /// Free; its pages hold no memory and read as zero.
    Clean = 4,
    /// Taken from the free runs and not yet in use, or being purged, or unreturned.
    Transit = 5,
    /// Freed, and waits before reuse (hardened lane).
    Waiting = 6,
    /// Slots of one bin in a region.
    Region = 7,
    /// Free in a [page of the system that spans share](crate::pages::span::SharedPages), or its guard.
    Shared = 8,
}

/// A page's tag in memory. All zeros is [`PageTag::NONE`].
#[repr(C, align(8))]
pub struct TagCell {
    offset: AtomicU16,
    owner: AtomicU8,
    kind: AtomicU8,
    span: AtomicU32,
}

const _: () = assert!(size_of::<TagCell>() == 8);

impl TagCell {
    /// The heap entry offset in the tag of page number `page` of those from `first` on: a relaxed atomic load.
    ///
    /// # Safety
    /// That tag is readable.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    pub unsafe fn offset_at(first: *const TagCell, page: usize) -> usize {
        const { assert!(size_of::<TagCell>() == 8 && core::mem::offset_of!(TagCell, offset) == 0) };
        let offset: usize;
        // The compiler would extend what an atomic load of 16 bits returns once more.
        // SAFETY: loads the tag's first field, an aligned word, which x86-64 does in one access; the caller knows it is
        // readable.
        unsafe {
            core::arch::asm!(
                "movzx {offset:e}, word ptr [{first} + {page} * 8]",
                first = in(reg) first,
                page = in(reg) page,
                offset = lateout(reg) offset,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        offset
    }

    /// The heap entry offset in the tag of page number `page` of those from `first` on: a relaxed atomic load.
    ///
    /// # Safety
    /// That tag is readable.
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    #[inline(always)]
    pub unsafe fn offset_at(first: *const TagCell, page: usize) -> usize {
        // SAFETY: the caller knows that the tag is readable.
        usize::from(unsafe { (*first.add(page)).offset.load(Ordering::Relaxed) })
    }

    /// The whole tag. Its parts match while a block of the page is live, or under the run lock.
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

    /// Claims a large block's first page for this thread. False if another thread was first, or the page is none.
    #[inline]
    pub fn claim_large(&self) -> bool {
        // Relaxed, both: the caller owns the block and reads nothing of it; one thread's exchange succeeds.
        let (large, transit) = (Kind::Large as u8, Kind::Transit as u8);
        self.kind.compare_exchange(large, transit, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sets the heap entry offset of a small span's page, blocks of which may be live, to that of `bin`.
    #[inline]
    pub fn set_bin(&self, bin: Bin) {
        // Relaxed: whoever frees a block may see either, and both are right.
        self.offset.store(bin.entry_offset() as u16, Ordering::Relaxed);
    }

    /// Replaces the tag.
    #[inline]
    pub fn set(&self, tag: PageTag) {
        // Relaxed, all: published together with the block.
        self.offset.store(tag.0 as u16, Ordering::Relaxed);
        self.owner.store((tag.0 >> 16) as u8, Ordering::Relaxed);
        self.kind.store((tag.0 >> 24) as u8, Ordering::Relaxed);
        self.span.store((tag.0 >> 32) as u32, Ordering::Relaxed);
    }
}

/// The value of a page tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTag(pub u64);

impl PageTag {
    /// A page that is not hz3's, or no block's.
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

    /// Bin of a small span's page; else the foreign bin.
    #[inline]
    pub const fn bin(self) -> Bin {
        Bin::of_entry_offset((self.0 & 0xffff) as usize)
    }

    /// Whether the page is of a small span that is being vacated, and so does not tell its bin.
    #[inline]
    pub const fn is_vacating(self) -> bool {
        self.0 & 0xffff == 0 && (self.0 >> 24) as u8 == Kind::Small as u8
    }

    /// The same tag with the bin of its span.
    #[inline]
    pub const fn with_bin(self, bin: Bin) -> Self {
        PageTag(self.0 & !0xffff | bin.entry_offset() as u64)
    }

    /// Owner of a small span's page.
    #[inline]
    pub const fn owner(self) -> ShardId {
        ShardId((self.0 >> 16) as u8)
    }

    /// What the page is used for.
    #[inline]
    pub const fn kind(self) -> Kind {
        match (self.0 >> 24) as u8 {
            1 => Kind::Small,
            2 => Kind::Large,
            3 => Kind::Dirty,
            4 => Kind::Clean,
            5 => Kind::Transit,
            6 => Kind::Waiting,
            7 => Kind::Region,
            8 => Kind::Shared,
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
        for kind in [Kind::Large, Kind::Dirty, Kind::Clean, Kind::Transit, Kind::Waiting, Kind::Region, Kind::Shared] {
            let tag = PageTag::edge(kind, SpanId(7));
            assert_eq!((tag.bin(), tag.kind(), tag.span()), (Bin(0), kind, SpanId(7)));
        }
        assert_eq!(PageTag::NONE.kind(), Kind::None);
    }
}
