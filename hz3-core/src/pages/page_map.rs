//! PageMap: windows of addresses and the tags of their pages, as `free` looks them up.
//!
//! ```text
//! address + origin = offset      offset / page < pages → tags[offset / page]      else not of this window
//!
//! window   | mapped | a stranger's | mapped    | …        tags   all readable below `pages`, zero where nothing is
//!          base                              end ≤ pages ≤ capacity
//! ```
//!
//! A window begins with the few pages that its first growth maps, and its bound, `pages`, follows. The bound never shrinks, and
//! tags below it stay readable, so any thread may look up any address at any time. A thread that grows a window claims it
//! alone, maps pages and their tags without the lock, and publishes them. What changes, changes under the growth lock.
//!
//! `free` looks at two windows at most: the *near* one, the first, and the *far* one, the second. What lies in neither is
//! searched for.

use crate::platform::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::platform::units::{PAGE_BYTES, PAGE_SHIFT, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ptr::null_mut;

/// A window of addresses, with a tag `T` for each page below its bound.
#[repr(C, align(64))]
pub struct ArenaTags<T> {
    /// Minus the first page's address, modulo 2^64.
    origin: AtomicUsize,
    /// The bound.
    pages: AtomicUsize,
    tags: AtomicPtr<T>,
    /// Most pages. Sync: the growth lock.
    capacity: AtomicUsize,
    /// Behind the last mapped page; [`CLAIMED`] while a thread grows the window. Sync: the growth lock.
    end: AtomicUsize,
}

/// Where a window lies.
#[derive(Clone, Copy)]
pub struct Reach {
    /// Its number.
    pub number: usize,
    /// Its first address.
    pub base: usize,
    /// Its bytes.
    pub bytes: usize,
}

const CLAIMED: usize = 1 << (usize::BITS - 1);

impl<T> ArenaTags<T> {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
        }
    }

    /// Opens the window: `pages` mapped pages from `base` on, whose `tags` are readable, and room for `capacity`. Once. The
    /// caller holds the growth lock.
    fn open(&self, base: usize, tags: *mut T, pages: usize, capacity: usize) {
        debug_assert!(self.pages() == 0 && base % PAGE_BYTES == 0 && pages <= capacity);
        // Relaxed, all: published by `pages`.
        self.tags.store(tags, Ordering::Relaxed);
        self.capacity.store(capacity, Ordering::Relaxed);
        self.end.store(pages, Ordering::Relaxed);
        self.origin.store(base.wrapping_neg(), Ordering::Relaxed);
        self.set_pages(pages);
    }

    /// Address of the first page.
    pub fn base(&self) -> usize {
        // Relaxed: constant once the window is open.
        self.origin.load(Ordering::Relaxed).wrapping_neg()
    }

    /// The tags, one per page.
    pub fn tags(&self) -> *mut T {
        // Relaxed: constant once the window is open.
        self.tags.load(Ordering::Relaxed)
    }

    /// Pages below the bound.
    pub fn pages(&self) -> usize {
        // Relaxed: exact under the growth lock, elsewhere a count.
        self.pages.load(Ordering::Relaxed)
    }

    /// Most pages: exact under the growth lock, a moment old elsewhere.
    pub fn capacity(&self) -> usize {
        // Relaxed: under the lock.
        self.capacity.load(Ordering::Relaxed)
    }

    /// Leaves the addresses from `start` on to another window. The caller holds the growth lock.
    pub fn leave(&self, start: usize) {
        let pages = start.wrapping_sub(self.base()) / SEGMENT_BYTES * SEGMENT_PAGES as usize;
        if start > self.base() && pages < self.capacity() {
            // Relaxed: under the lock. It may have grown to between the other one's tags and its pages.
            self.capacity.store(pages.max(self.pages()), Ordering::Relaxed);
        }
    }

    /// Where the last mapped page ends, or ended a moment ago.
    pub fn end_address(&self) -> usize {
        // Relaxed: exact under the growth lock, elsewhere a hint.
        self.base() + (self.end.load(Ordering::Relaxed) & !CLAIMED) * PAGE_BYTES
    }

    /// Whether the last mapped page ends at `address`, and no thread grows the window. The caller holds the growth lock.
    pub fn ends_at(&self, address: usize) -> bool {
        // Relaxed: under the lock.
        let end = self.end.load(Ordering::Relaxed);
        end & CLAIMED == 0 && address == self.base() + end * PAGE_BYTES
    }

    /// Claims the end of the window to map more pages there, or to unmap some. `None` while another thread has it. The
    /// caller holds the growth lock.
    pub fn claim(&self) -> Option<Claim> {
        // Relaxed, both: under the lock.
        let end = self.end.load(Ordering::Relaxed);
        if end & CLAIMED != 0 {
            return None;
        }
        self.end.store(end | CLAIMED, Ordering::Relaxed);
        Some(Claim { end, pages: self.pages(), capacity: self.capacity() })
    }

    /// Gives up `claim`: nothing has changed. The caller holds the growth lock.
    pub fn give_up(&self, claim: Claim) {
        // Relaxed: under the lock.
        self.end.store(claim.end, Ordering::Relaxed);
    }

    /// Ends `claim`: pages are mapped up to `end`, and their tags too. The caller holds the growth lock.
    pub fn publish(&self, claim: Claim, end: usize) {
        // Relaxed: under the lock.
        self.end.store(end, Ordering::Relaxed);
        if end > claim.pages {
            self.set_pages(end);
        }
    }

    /// Makes the first `pages` pages' tags visible to all threads. The caller holds the growth lock.
    fn set_pages(&self, pages: usize) {
        // Release: publishes the origin and the tags. Pairs with the Acquire in `tag`.
        self.pages.store(pages, Ordering::Release);
    }

    /// Calls `found` with the first tag and the number of the page that holds `address`, or `none` outside the window. (An `Option`
    /// of a reference would cost `free` a second test.)
    #[inline(always)]
    pub fn with_tag<R>(&self, address: usize, found: impl FnOnce(*const T, usize) -> R, none: impl FnOnce() -> R) -> R {
        // Relaxed, all three: a thread with a block of this window got it after they were stored. x86-64 loads them in
        // this order, so that any other address, seen while the window opens, is refused or finds a readable tag.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        if page < self.pages.load(Ordering::Relaxed) { found(self.tags.load(Ordering::Relaxed), page) } else { none() }
    }

    /// The tag of the page that holds `address`, any address at all, even while another thread adds its page.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        // Acquire, and loaded first: sees the origin and the tags. Pairs with the Release in `set_pages`.
        let pages = self.pages.load(Ordering::Acquire);
        // Relaxed, both: ordered by the Acquire.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        // SAFETY: `page` is below the bound, where tags stay readable.
        (page < pages).then(|| unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
    }
}

/// The end of a window, which one thread changes. Ends in [`ArenaTags::publish`] or [`ArenaTags::give_up`].
#[must_use]
pub struct Claim {
    /// Behind the last mapped page.
    pub end: usize,
    /// The bound: pages that have tags.
    pub pages: usize,
    /// Most pages.
    pub capacity: usize,
}

/// Adjacent mapped pages of a window. A stretch stays where it is.
struct Stretch {
    start: AtomicUsize,
    pages: AtomicUsize,
}

/// Most stretches. Chosen: one more for each stranger's mapping in the way.
const STRETCHES: usize = match () {
    () if cfg!(loom) => 4,
    // Miri looks at all of them whenever an allocator is borrowed.
    () if cfg!(miri) => 8,
    () => 256,
};

/// Up to `N` windows.
pub struct PageMap<T, const N: usize> {
    /// In the order in which they were opened: the near one, the far one, and others.
    windows: [ArenaTags<T>; N],
    count: AtomicUsize,
    stretches: [Stretch; STRETCHES],
    stretch_count: AtomicUsize,
}

impl<T, const N: usize> PageMap<T, N> {
    /// No windows.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        const { assert!(N > 2) }
        Self {
            windows: [const { ArenaTags::new() }; N],
            count: AtomicUsize::new(0),
            stretches: [const { Stretch { start: AtomicUsize::new(0), pages: AtomicUsize::new(0) } }; STRETCHES],
            stretch_count: AtomicUsize::new(0),
        }
    }

    /// No windows.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            windows: core::array::from_fn(|_| ArenaTags::new()),
            count: AtomicUsize::new(0),
            stretches: core::array::from_fn(|_| Stretch { start: AtomicUsize::new(0), pages: AtomicUsize::new(0) }),
            stretch_count: AtomicUsize::new(0),
        }
    }

    /// The near window, for the hit path; without pages until it is open.
    #[inline(always)]
    pub const fn near(&self) -> &ArenaTags<T> {
        &self.windows[0]
    }

    /// The far window, for what lies outside the near one; mostly without pages.
    #[inline(always)]
    pub const fn far(&self) -> &ArenaTags<T> {
        &self.windows[1]
    }

    /// All windows.
    #[inline]
    pub fn all(&self) -> &[ArenaTags<T>] {
        // Acquire: sees the windows' fields. Pairs with the Release in `add`.
        self.windows.get(..self.count.load(Ordering::Acquire)).unwrap_or(&self.windows)
    }

    /// The tag of the page that holds `address`, in any window.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&T> {
        self.near().tag(address).or_else(|| self.far().tag(address)).or_else(|| self.search(address))
    }

    #[cold]
    fn search(&self, address: usize) -> Option<&T> {
        self.all().get(2..).unwrap_or(&[]).iter().find_map(|window| window.tag(address))
    }

    /// Opens a window: `pages` mapped pages from `base` on, whose `tags` are readable, and room for `capacity`. False if
    /// there are `N`. The caller holds the growth lock.
    pub fn add(&self, base: usize, tags: *mut T, pages: usize, capacity: usize) -> bool {
        let count = self.all().len();
        let Some(window) = self.windows.get(count).filter(|_| self.note(base, pages)) else { return false };
        window.open(base, tags, pages, capacity);
        // Release: publishes the window's fields. Pairs with the Acquire in `all`.
        self.count.store(count + 1, Ordering::Release);
        true
    }

    fn stretches(&self) -> &[Stretch] {
        // Acquire: sees their fields. Pairs with the Release in `note`.
        self.stretches.get(..self.stretch_count.load(Ordering::Acquire)).unwrap_or(&self.stretches)
    }

    /// Address and number of pages of each stretch of mapped pages.
    pub fn mapped(&self) -> impl Iterator<Item = (usize, usize)> {
        // Acquire: pages are mapped before they are counted. Pairs with the Release in `note`. Relaxed: constant.
        self.stretches()
            .iter()
            .map(|stretch| (stretch.start.load(Ordering::Relaxed), stretch.pages.load(Ordering::Acquire)))
    }

    /// Whether [`PageMap::note`] can note pages that follow none. The caller holds the growth lock.
    pub fn has_stretch(&self) -> bool {
        self.stretches().len() < STRETCHES
    }

    /// Notes `pages` mapped pages at `start`. False if they follow none and there is no room for a further stretch. The
    /// caller holds the growth lock.
    pub fn note(&self, start: usize, pages: usize) -> bool {
        let count = self.stretches().len();
        for (stretch, (from, old)) in self.stretches().iter().zip(self.mapped()) {
            if from + old * PAGE_BYTES == start {
                // Release: as below.
                stretch.pages.store(old + pages, Ordering::Release);
                return true;
            }
        }
        let Some(fresh) = self.stretches.get(count) else { return false };
        // Relaxed: published by the count.
        fresh.start.store(start, Ordering::Relaxed);
        // Release: the pages are mapped. Pairs with the Acquire in `mapped`.
        fresh.pages.store(pages, Ordering::Release);
        // Release: publishes the fields. Pairs with the Acquire in `stretches`.
        self.stretch_count.store(count + 1, Ordering::Release);
        true
    }

    /// Mapped pages that adjoin, up to `end`. The caller holds the growth lock.
    pub fn pages_before(&self, end: usize) -> usize {
        self.mapped().find(|(start, pages)| start + pages * PAGE_BYTES == end).map_or(0, |(_, pages)| pages)
    }

    /// Takes the last `pages` pages off the stretch that ends at `end`, which has more. The caller holds the growth lock.
    pub fn cut(&self, end: usize, pages: usize) {
        for (stretch, (start, old)) in self.stretches().iter().zip(self.mapped()) {
            if start + old * PAGE_BYTES == end && pages < old {
                // Relaxed: publishes nothing.
                stretch.pages.store(old - pages, Ordering::Relaxed);
                return;
            }
        }
    }
}

impl<T, const N: usize> Default for PageMap<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
