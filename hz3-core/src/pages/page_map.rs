//! ArenaTags: the published pages of an arena and their tags, as `free` looks them up.
//!
//! ```text
//! address + origin = offset      offset / page < pages → tags[offset / page]      else not of this arena
//! ```
//!
//! A thread that needs pages claims those after all others' claims, commits them and the tags of all claimed pages before
//! them, and publishes them as `pages`. Extents, claims and `pages` change under the growth lock, which is not held during
//! the commit. Any thread looks up any address meanwhile. Tags below `pages` stay readable; those of a claim that is not
//! committed yet, or was refused, read as zero.
//!
//! A *window* is a wide range of addresses, published whole, with a readable tag for each page, zero where nothing is.
//! There are two: the near one around the first arena, and the far one around the first arena that lies outside the near
//! one. So `free` looks at two ranges at most, however many arenas there are. What lies in neither is searched for.
//!
//! ```text
//! near window   |     …     third |  …  | second | first |    |      tags: all readable, writable for committed pages
//! ```

use crate::platform::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::platform::units::{PAGE_BYTES, PAGE_SHIFT};
use core::ptr::null_mut;

/// The published pages of an arena, with a tag `T` each.
#[repr(C, align(64))]
pub struct ArenaTags<T> {
    /// Minus the first page's address, modulo 2^64.
    origin: AtomicUsize,
    pages: AtomicUsize,
    tags: AtomicPtr<T>,
    capacity: AtomicUsize,
    /// Pages that threads have committed or are about to: `pages` or more. Sync: the growth lock.
    claimed: AtomicUsize,
}

impl<T> ArenaTags<T> {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
        }
    }

    /// Sets the extent, which has no pages yet. The caller holds the growth lock.
    fn fill(&self, base: usize, tags: *mut T, capacity: usize) {
        // Relaxed, all three: published by `count` or, in a window, by `pages`.
        self.tags.store(tags, Ordering::Relaxed);
        self.capacity.store(capacity, Ordering::Relaxed);
        self.origin.store(base.wrapping_neg(), Ordering::Relaxed);
    }

    /// Opens a window: `pages` pages from `base` on, all of whose `tags` are readable. Once; no extent in neither window
    /// overlaps it. The caller holds the growth lock.
    pub fn open(&self, base: usize, tags: *mut T, pages: usize) {
        debug_assert!(self.pages() == 0 && base % PAGE_BYTES == 0);
        self.fill(base, tags, pages);
        self.set_pages(pages);
    }

    /// Address of the first page, and number of published pages; `None` without any.
    pub fn range(&self) -> Option<(usize, usize)> {
        // Acquire, and loaded first: sees the origin. Pairs with the Release in `set_pages`.
        let published = self.pages.load(Ordering::Acquire);
        (published > 0).then(|| (self.base(), published))
    }

    /// Address of the first page.
    pub fn base(&self) -> usize {
        // Relaxed: constant once the extent is known.
        self.origin.load(Ordering::Relaxed).wrapping_neg()
    }

    /// The tags, one per page.
    pub fn tags(&self) -> *mut T {
        // Relaxed: constant once the extent is known.
        self.tags.load(Ordering::Relaxed)
    }

    /// Published pages: all are committed, but for claims that others are still committing or were refused.
    pub fn pages(&self) -> usize {
        // Relaxed: exact under the growth lock, elsewhere a count.
        self.pages.load(Ordering::Relaxed)
    }

    /// Reserved pages.
    pub fn capacity(&self) -> usize {
        // Relaxed: constant once the extent is known.
        self.capacity.load(Ordering::Relaxed)
    }

    /// Pages that are not claimed. The caller holds the growth lock.
    pub fn room(&self) -> usize {
        // Relaxed: under the lock.
        self.capacity() - self.claimed.load(Ordering::Relaxed)
    }

    /// Claims `pages` pages, at most [`ArenaTags::room`]. The caller holds the growth lock.
    pub fn claim(&self, pages: usize) -> Claim {
        // Relaxed, both: under the lock.
        let first = self.claimed.load(Ordering::Relaxed);
        self.claimed.store(first + pages, Ordering::Relaxed);
        Claim { published: self.pages(), first, end: first + pages }
    }

    /// Gives up `claim`. If another claim follows, its pages are lost. The caller holds the growth lock.
    pub fn give_up(&self, claim: Claim) {
        // Relaxed, both: under the lock.
        if self.claimed.load(Ordering::Relaxed) == claim.end {
            self.claimed.store(claim.first, Ordering::Relaxed);
        }
    }

    /// Publishes `claim`, which is committed. The caller holds the growth lock.
    pub fn publish(&self, claim: Claim) {
        // A thread that claimed later pages may have been faster.
        if claim.end > self.pages() {
            self.set_pages(claim.end);
        }
    }

    /// Makes the first `pages` pages' tags visible to all threads. The caller holds the growth lock.
    fn set_pages(&self, pages: usize) {
        // Release: publishes the origin and the tags. Pairs with the Acquire in `tag`.
        self.pages.store(pages, Ordering::Release);
    }

    /// Calls `found` with the tag of the page that holds `address`, or `none` outside the committed pages. (An `Option`
    /// of a reference would cost `free` a second test.)
    #[inline(always)]
    pub fn with_tag<R>(&self, address: usize, found: impl FnOnce(&T) -> R, none: impl FnOnce() -> R) -> R {
        // Relaxed, all three: a thread with a block of this window got it after they were stored. x86-64 loads them in
        // this order, so that any other address, seen while the window opens, is refused or finds a readable tag.
        // Elsewhere that takes an Acquire, and loaded first, as in `tag`.
        let (origin, pages) = if cfg!(target_arch = "x86_64") {
            (self.origin.load(Ordering::Relaxed), self.pages.load(Ordering::Relaxed))
        } else {
            let count = self.pages.load(Ordering::Acquire);
            (self.origin.load(Ordering::Relaxed), count)
        };
        let page = address.wrapping_add(origin) >> PAGE_SHIFT;
        if page < pages {
            // SAFETY: `page` is published, and tags of published pages stay readable.
            found(unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
        } else {
            none()
        }
    }

    /// The tag of the page that holds `address`, any address at all, even while another thread adds its page.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        // Acquire, and loaded first: sees the origin and the tags. Pairs with the Release in `set_pages`.
        let pages = self.pages.load(Ordering::Acquire);
        // Relaxed, both: ordered by the Acquire.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        // SAFETY: `page` is published, and tags of published pages stay readable.
        (page < pages).then(|| unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
    }
}

/// Pages of an arena that one thread commits. Ends in [`ArenaTags::publish`] or [`ArenaTags::give_up`].
#[must_use]
pub struct Claim {
    /// Number of pages that were published before: the thread commits the tags from there to `end`, which other threads
    /// may be committing too.
    pub published: usize,
    /// The first page claimed.
    pub first: usize,
    /// One past the last page claimed.
    pub end: usize,
}

/// Up to `N` extents.
pub struct PageMap<T, const N: usize> {
    extents: [ArenaTags<T>; N],
    count: AtomicUsize,
    /// The windows, all of whose pages are published.
    near: ArenaTags<T>,
    far: ArenaTags<T>,
}

impl<T, const N: usize> PageMap<T, N> {
    /// No extents.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            extents: [const { ArenaTags::new() }; N],
            count: AtomicUsize::new(0),
            near: ArenaTags::new(),
            far: ArenaTags::new(),
        }
    }

    /// No extents.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            extents: core::array::from_fn(|_| ArenaTags::new()),
            count: AtomicUsize::new(0),
            near: ArenaTags::new(),
            far: ArenaTags::new(),
        }
    }

    /// The near window, for the hit path; without pages until there is an arena.
    #[inline(always)]
    pub const fn near(&self) -> &ArenaTags<T> {
        &self.near
    }

    /// The far window, for what lies outside the near one; mostly without pages.
    #[inline(always)]
    pub const fn far(&self) -> &ArenaTags<T> {
        &self.far
    }

    /// All extents.
    #[inline]
    pub fn all(&self) -> &[ArenaTags<T>] {
        // Acquire: sees the extents' fields. Pairs with the Release in `add`.
        self.extents.get(..self.count.load(Ordering::Acquire)).unwrap_or(&self.extents)
    }

    /// The tag of the page that holds `address`, in any extent or elsewhere in a window.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        self.near.tag(address).or_else(|| self.far.tag(address)).or_else(|| self.search(address))
    }

    #[cold]
    fn search(&self, address: usize) -> Option<&T> {
        self.all().iter().find_map(|extent| extent.tag(address))
    }

    /// Adds an extent without pages; `None` if there are `N`. The caller holds the growth lock.
    pub fn add(&self, base: usize, tags: *mut T, capacity: usize) -> Option<&ArenaTags<T>> {
        debug_assert!(base % PAGE_BYTES == 0);
        let count = self.all().len();
        let extent = self.extents.get(count)?;
        extent.fill(base, tags, capacity);
        // Release: publishes the extent's fields. Pairs with the Acquire in `all`.
        self.count.store(count + 1, Ordering::Release);
        Some(extent)
    }
}

impl<T, const N: usize> Default for PageMap<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
