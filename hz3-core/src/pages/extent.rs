//! Extent: what `free` reads of an arena, and the list of them, in terms of `sync` alone.
//!
//! ```text
//! address + origin = offset      offset / page < pages → tags[offset / page]      else not of this arena
//! ```
//!
//! One thread at a time adds extents and pages (it holds the arenas' growing lock); any thread looks up any
//! address meanwhile. Tags below `pages` are readable for good.

use crate::platform::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::platform::units::{PAGE_BYTES, PAGE_SHIFT};
use core::ptr::null_mut;

/// The committed part of an arena, with a tag `T` for each page.
#[repr(C, align(64))]
pub struct Extent<T> {
    /// Minus the address of the first page, modulo 2^64: an address plus this is its offset.
    origin: AtomicUsize,
    /// Committed pages.
    pages: AtomicUsize,
    /// Page tags, one a page.
    tags: AtomicPtr<T>,
    /// Pages reserved.
    capacity: AtomicUsize,
}

impl<T> Extent<T> {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
        }
    }

    /// Address of the first page.
    pub fn base(&self) -> usize {
        // Relaxed: read where the extent is known to exist.
        self.origin.load(Ordering::Relaxed).wrapping_neg()
    }

    /// Page tags, one a page.
    pub fn tags(&self) -> *mut T {
        // Relaxed: as for `base`.
        self.tags.load(Ordering::Relaxed)
    }

    /// Committed pages.
    pub fn pages(&self) -> usize {
        // Relaxed: exact for the thread that may add some, a count for others.
        self.pages.load(Ordering::Relaxed)
    }

    /// Pages reserved.
    pub fn capacity(&self) -> usize {
        // Relaxed: as for `base`.
        self.capacity.load(Ordering::Relaxed)
    }

    /// Says that the first `pages` pages and their tags are usable from now on.
    pub fn set_pages(&self, pages: usize) {
        // Release: the tags exist before an address is checked against the new bound. Pairs with the Acquire
        // in `tag`.
        self.pages.store(pages, Ordering::Release);
    }

    /// Calls `found` with the tag of the page that holds `address`, `none` where that lies outside the
    /// committed part. (An `Option` of a reference would cost `free` a second test.)
    #[inline(always)]
    pub fn with_tag<R>(&self, address: usize, found: impl FnOnce(&T) -> R, none: impl FnOnce() -> R) -> R {
        // Relaxed, all three: whoever holds a block of this arena got it through an exchange that came
        // after these were written; for any other address each mix of old and new values is either
        // refused here or names a tag that is readable.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        if page < self.pages.load(Ordering::Relaxed) {
            // SAFETY: tags of committed pages are mapped for good.
            found(unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
        } else {
            none()
        }
    }

    /// The tag of the page that holds `address`, which may be any at all, and of a page that another thread
    /// is just about to add.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        // Acquire, and read first: the origin and the tags below this bound are seen. Pairs with the Release in
        // `set_pages`.
        let pages = self.pages.load(Ordering::Acquire);
        // Relaxed, here and below: as above.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        // SAFETY: tags of committed pages are mapped for good.
        (page < pages).then(|| unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
    }
}

/// Up to `N` extents.
pub struct Extents<T, const N: usize> {
    extents: [Extent<T>; N],
    count: AtomicUsize,
}

impl<T, const N: usize> Extents<T, N> {
    /// None yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { extents: [const { Extent::new() }; N], count: AtomicUsize::new(0) }
    }

    /// None yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { extents: core::array::from_fn(|_| Extent::new()), count: AtomicUsize::new(0) }
    }

    /// The first extent, which may have no page yet, for the hot path.
    #[inline(always)]
    pub const fn first(&self) -> &Extent<T> {
        const { assert!(N > 0) }
        &self.extents[0]
    }

    /// Every extent there is.
    #[inline]
    pub fn all(&self) -> &[Extent<T>] {
        // Acquire: pairs with the Release in `add`.
        self.extents.get(..self.count.load(Ordering::Acquire)).unwrap_or(&self.extents)
    }

    /// The tag of the page that holds `address`, in whichever extent.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        self.all().iter().find_map(|extent| extent.tag(address))
    }

    /// Adds an extent without a page yet. `None` where there are `N`. One thread at a time.
    pub fn add(&self, base: usize, tags: *mut T, capacity: usize) -> Option<&Extent<T>> {
        debug_assert!(base.is_multiple_of(PAGE_BYTES));
        let count = self.all().len();
        let extent = self.extents.get(count)?;
        // Relaxed: published by the count, or, for the first extent's hot use, by `pages`.
        extent.tags.store(tags, Ordering::Relaxed);
        extent.capacity.store(capacity, Ordering::Relaxed);
        extent.origin.store(base.wrapping_neg(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `all`.
        self.count.store(count + 1, Ordering::Release);
        Some(extent)
    }
}

impl<T, const N: usize> Default for Extents<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
