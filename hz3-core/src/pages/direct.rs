//! Direct mappings: large blocks with a mapping each, found by address.
//!
//! ```text
//! buckets[hash of the address] → block → block → …    256 here, more in pages of a table
//! freed           → kept, to serve again, or unmapped
//! munmap refused  → first → mapping → … → last → retried, or the next large block that fits
//! ```
//!
//! There are about as many buckets as there were blocks at most, so a search takes a few steps. Each new block splits a
//! bucket or two, never all at once (linear hashing: W. Litwin, VLDB 1980): bucket `n` takes from `n - 2^k`, the largest
//! power of two below, what belongs to it. Pages for buckets come before the lock is taken; without memory for one,
//! chains grow longer.
//!
//! munmap(2) is refused if it would split a mapping (the kernel merges neighbours) and the process has as many as it
//! may. The memory is purged instead, and the mapping waits: upkeep and trims retry, and a new block may reuse it.

use crate::pages::kept::{Keeping, Kept, Mapping, WASTE};
use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, SpanQueue, Spans, at};
use crate::platform::atomic::{AtomicUsize, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::system_page;
use crate::platform::table::Table;
use crate::platform::units::{PAGE_BYTES, SpanId};
use core::ptr::NonNull;

/// Size in bytes from which every large block is a direct mapping. Chosen: shorter ones use one another's memory.
pub const DIRECT_BYTES: usize = 128 << 20;
/// The same where address space is limited. Chosen: a mapping goes back to others, the arenas' pages do not.
pub const LIMITED_DIRECT_BYTES: usize = 32 << 20;
/// Buckets without a page. Chosen: one KiB of every allocator.
const FIRST_BUCKETS: usize = 256;
/// Buckets in a page. Derived: 1,024.
const PAGE_BUCKETS: usize = PAGE_BYTES / size_of::<SpanId>();
/// Most buckets that one insertion splits: two, so that their number catches up once there is memory again.
const SPLITS: usize = 2;
/// Unreturned mappings that a request examines: bounds the time under the lock.
const PROBES: usize = 64;

/// The direct mappings of an allocator.
pub struct DirectMappings<O: Os> {
    index: Mutex<Index, O>,
    /// Bytes of kept mappings, for a look without the lock.
    kept_bytes: AtomicUsize,
    /// Pages of buckets, in the order of their ids.
    pages: Table<PAGE_BYTES>,
}

struct Index {
    first: [SpanId; FIRST_BUCKETS],
    /// Buckets in use, at least [`FIRST_BUCKETS`].
    buckets: usize,
    /// Pages of buckets that are there.
    pages: usize,
    blocks: usize,
    /// Blocks below [`DIRECT_BYTES`].
    small: usize,
    /// Most of them at once so far.
    most_small: usize,
    bytes: usize,
    kept: Kept,
    /// Mappings that the system refused to unmap.
    unreturned: SpanQueue,
}

impl Ranked for Index {
    const RANK: Rank = Rank::Direct;
}

impl Index {
    /// The number of the bucket of `address`.
    fn bucket_of(&self, address: usize) -> usize {
        let hash = hash(address);
        let half = 1 << self.buckets.ilog2();
        let number = hash & (2 * half - 1);
        if number < self.buckets { number } else { number & (half - 1) }
    }

    /// Where bucket `number`, of those that have a place, has its first block.
    fn place(&mut self, pages: &Table<PAGE_BYTES>, number: usize) -> *mut SpanId {
        match self.first.get_mut(number) {
            Some(place) => place,
            // SAFETY: so many pages were handed out; their ids begin with 1. The bucket lies in its page.
            None => unsafe {
                let beyond = number - FIRST_BUCKETS;
                pages.unit((beyond / PAGE_BUCKETS + 1) as u32).cast::<SpanId>().add(beyond % PAGE_BUCKETS)
            },
        }
    }

    fn has_place(&self) -> bool {
        self.buckets < FIRST_BUCKETS + self.pages * PAGE_BUCKETS
    }

    fn is_crowded(&self) -> bool {
        self.blocks > self.buckets
    }

    /// Adds a bucket, which has a place, and moves its blocks there.
    fn split(&mut self, pages: &Table<PAGE_BYTES>, spans: &Spans) {
        let new = self.buckets;
        let mut from = self.place(pages, new - (1 << new.ilog2()));
        let mut to = self.place(pages, new);
        self.buckets += 1;
        // SAFETY: the lock is held, and protects the buckets and their descriptors; `from` and `to` point to buckets or
        // into descriptors, each the end of a chain so far.
        unsafe {
            while !(*from).is_none() {
                let id = *from;
                let span = at(spans, id);
                if self.bucket_of((*span).start) == new {
                    *from = (*span).next;
                    (*span).next = SpanId::NONE;
                    *to = id;
                    to = &raw mut (*span).next;
                } else {
                    from = &raw mut (*span).next;
                }
            }
        }
    }
}

/// A hash of a page's address: every bit of the page number changes the low bits, which choose the bucket.
fn hash(address: usize) -> usize {
    // Fibonacci hashing, twice: blocks of one size lie at a stride, whose low bits are zeros.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = ((address / PAGE_BYTES) as u64).wrapping_mul(FACTOR);
    ((product ^ product >> 32).wrapping_mul(FACTOR) >> 32) as usize
}

impl<O: Os> DirectMappings<O> {
    /// No mappings.
    pub const fn new() -> Self {
        let index = Index {
            first: [SpanId::NONE; FIRST_BUCKETS],
            buckets: FIRST_BUCKETS,
            pages: 0,
            blocks: 0,
            small: 0,
            most_small: 0,
            bytes: 0,
            kept: Kept::new(),
            unreturned: SpanQueue::new(),
        };
        Self { index: Mutex::new(index), kept_bytes: AtomicUsize::new(0), pages: Table::new() }
    }

    /// Adds the mapping `id`. May ask the system for a page of buckets.
    ///
    /// # Safety
    /// The caller owns the descriptor and hands it over.
    pub unsafe fn insert(&self, spans: &Spans, id: SpanId) {
        let mut index = self.index.lock();
        if index.is_crowded() && !index.has_place() {
            drop(index);
            let has_page = self.add_page();
            index = self.index.lock();
            index.pages += usize::from(has_page);
        }
        for _ in 0..SPLITS {
            if index.is_crowded() && index.has_place() {
                index.split(&self.pages, spans);
            }
        }
        // SAFETY: the caller owns the descriptor; the lock is held, and protects the bucket.
        unsafe {
            let span = &mut *at(spans, id);
            index.bytes += span.bytes();
            let live = index.bytes;
            index.kept.note_live(live);
            index.blocks += 1;
            index.small += usize::from(span.bytes() < DIRECT_BYTES);
            index.most_small = index.most_small.max(index.small);
            let number = index.bucket_of(span.start);
            let first = index.place(&self.pages, number);
            span.next = *first;
            *first = id;
        }
    }

    /// Adds a page of buckets, with memory, so that no page fault happens under the lock. False if memory runs out. A
    /// fork before it is counted costs the child a page.
    #[cold]
    fn add_page(&self) -> bool {
        let Some(page) = self.pages.allocate::<O>(1) else { return false };
        // SAFETY: just handed out, in a chunk of whole pages of the system. Other threads may have counted it already; contents stay.
        unsafe {
            let page = self.pages.unit(page);
            let before = page.addr() - system_page::start_of(page.addr());
            if let Some(page) = NonNull::new(page.sub(before)) {
                O::populate(page, system_page::bytes());
            }
        }
        true
    }

    /// Bytes of address space that buckets have.
    pub fn bucket_bytes(&self) -> usize {
        self.pages.mapped_bytes()
    }

    /// Removes the block at `address`; the caller then owns its descriptor. `None` if there is none.
    pub fn remove(&self, spans: &Spans, address: usize) -> Option<SpanId> {
        let mut index = self.index.lock();
        let number = index.bucket_of(address);
        let mut link = index.place(&self.pages, number);
        // SAFETY: the lock is held, and protects the chain's descriptors; `link` points to the bucket or into one.
        unsafe {
            while !(*link).is_none() {
                let id = *link;
                let span = at(spans, id);
                if (*span).start == address {
                    *link = (*span).next;
                    let bytes = (*span).bytes();
                    index.bytes -= bytes;
                    index.blocks -= 1;
                    index.small -= usize::from(bytes < DIRECT_BYTES);
                    return Some(id);
                }
                link = &raw mut (*span).next;
            }
        }
        None
    }

    /// The result of `read` for the block at `address`, called under the lock; `None` if there is none.
    pub fn with<T>(&self, spans: &Spans, address: usize, read: impl FnOnce(&Span) -> T) -> Option<T> {
        self.find(spans, address, |_, span| read(span))
    }

    /// The descriptor of the block at `address`; `None` if there is none.
    pub fn id_of(&self, spans: &Spans, address: usize) -> Option<SpanId> {
        self.find(spans, address, |id, _| id)
    }

    fn find<T>(&self, spans: &Spans, address: usize, read: impl FnOnce(SpanId, &Span) -> T) -> Option<T> {
        let mut index = self.index.lock();
        let number = index.bucket_of(address);
        // SAFETY: the lock is held, and protects the bucket.
        let mut id = unsafe { *index.place(&self.pages, number) };
        while !id.is_none() {
            // SAFETY: the lock is held, and protects the chain's descriptors.
            let span = unsafe { &*at(spans, id) };
            if span.start == address {
                return Some(read(id, span));
            }
            id = span.next;
        }
        None
    }

    /// Number and bytes of the blocks with a mapping of their own.
    pub fn count_and_bytes(&self) -> (usize, usize) {
        let index = self.index.lock();
        (index.blocks, index.bytes)
    }

    /// Number of the blocks below [`DIRECT_BYTES`].
    pub fn small_blocks(&self) -> usize {
        self.index.lock().small
    }

    /// Most blocks below [`DIRECT_BYTES`] at once so far.
    pub fn most_small_blocks(&self) -> usize {
        self.index.lock().most_small
    }

    /// Bytes of kept mappings.
    #[inline]
    pub fn kept_bytes(&self) -> usize {
        // Relaxed: a count, stored under the lock.
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Calls `change` with the kept mappings and the bytes of live ones, under the lock.
    fn change_kept<T>(&self, change: impl FnOnce(&mut Kept, usize) -> T) -> T {
        let mut index = self.index.lock();
        let live = index.bytes;
        let result = change(&mut index.kept, live);
        // Relaxed: as above.
        self.kept_bytes.store(index.kept.bytes(), Ordering::Relaxed);
        result
    }

    /// Whether a mapping of `bytes` may be kept, which was a block's until now.
    pub fn may_keep(&self, keeping: Keeping, bytes: usize) -> bool {
        self.change_kept(|kept, live| kept.may_put(keeping, live, bytes))
    }

    /// Keeps a mapping that the caller owns. The caller unmaps the one that is returned, and then those of
    /// [`DirectMappings::take_excess`].
    #[must_use]
    pub fn keep(&self, mapping: Mapping) -> Option<Mapping> {
        self.change_kept(|kept, _| kept.put(mapping))
    }

    /// Takes the oldest kept mapping if more is kept than may be; the caller then owns it, and unmaps it.
    pub fn take_excess(&self, keeping: Keeping) -> Option<Mapping> {
        self.change_kept(|kept, live| kept.take_excess(keeping, live))
    }

    /// Takes the oldest kept mapping, or up to `most_pages` from its end, if it is `delay_ms` old; the caller then owns that.
    pub fn take_idle(&self, now: u32, delay_ms: u32, most_pages: usize) -> Option<Mapping> {
        self.change_kept(|kept, _| kept.cut_oldest(now, delay_ms, most_pages))
    }

    /// Notes that arenas handed out `bytes` of fresh memory. Takes a piece of the oldest kept mapping once they add up to it,
    /// `most_pages` or as much as was handed out; the caller then owns that, and unmaps it.
    #[cold]
    pub fn take_for_fresh(&self, now: u32, bytes: usize, most_pages: usize) -> Option<Mapping> {
        self.change_kept(|kept, _| kept.take_for_fresh(now, bytes, most_pages))
    }

    /// Takes a kept mapping, or a part of one, for a block of `pages` at a multiple of `align`. The caller then owns it.
    pub fn take_kept(&self, keeping: Keeping, pages: usize, align: usize) -> Option<Mapping> {
        self.change_kept(|kept, _| {
            let taken = kept.take(pages, align, pages * PAGE_BYTES >= LIMITED_DIRECT_BYTES);
            kept.note_request(keeping, pages, taken.as_ref());
            taken
        })
    }

    /// Number and bytes of the mappings that the system refused to unmap, without those being retried.
    pub fn unreturned(&self) -> (usize, usize) {
        let index = self.index.lock();
        (index.unreturned.count(), index.unreturned.bytes())
    }

    /// Appends the mapping `id`, which the system refused to unmap.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no list, and hands it over. Nothing uses the mapping.
    pub unsafe fn push_unreturned(&self, spans: &Spans, id: SpanId) {
        // SAFETY: the caller owns the descriptor, of `spans`, and hands it over.
        unsafe { self.index.lock().unreturned.push(spans, id) };
    }

    /// Takes the oldest unreturned mapping; the caller then owns its descriptor.
    pub fn pop_unreturned(&self, spans: &Spans) -> Option<SpanId> {
        self.index.lock().unreturned.pop(spans)
    }

    /// Takes an unreturned mapping of `pages`, to an eighth more or, if `at_any_waste`, any number more, at a multiple of
    /// `align`; the caller then owns it.
    pub fn reuse(&self, spans: &Spans, pages: usize, at_any_waste: bool, align: usize) -> Option<SpanId> {
        let most_pages = if at_any_waste { usize::MAX } else { pages + pages / WASTE };
        self.index.lock().unreturned.take(spans, PROBES, |start, bytes| {
            (pages..=most_pages).contains(&(bytes / PAGE_BYTES)) && start % align == 0
        })
    }

    /// Checks the table against its counts.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans) -> Result<(), &'static str> {
        let mut index = self.index.lock();
        let (mut blocks, mut small, mut bytes) = (0, 0, 0);
        for number in 0..index.buckets {
            // SAFETY: the lock is held, and protects the bucket.
            let mut id = unsafe { *index.place(&self.pages, number) };
            while !id.is_none() {
                // SAFETY: the lock is held, and protects the chain's descriptors.
                let span = unsafe { &*at(spans, id) };
                if span.kind != Kind::Large || index.bucket_of(span.start) != number {
                    return Err("a direct mapping in the wrong place");
                }
                small += usize::from(span.bytes() < DIRECT_BYTES);
                (blocks, bytes, id) = (blocks + 1, bytes + span.bytes(), span.next);
            }
        }
        if (blocks, small, bytes) != (index.blocks, index.small, index.bytes) {
            return Err("the count of direct mappings");
        }
        index.kept.check()?;
        // Relaxed: stored under the lock.
        if index.kept.bytes() != self.kept_bytes.load(Ordering::Relaxed) {
            return Err("the count of kept bytes");
        }
        index.unreturned.check(spans, Kind::Transit)
    }

    /// The table's lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.index
    }
}

impl<O: Os> Default for DirectMappings<O> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    const BLOCKS: usize = if cfg!(miri) { 600 } else { 100_000 };
    const DIRECT_PAGES: u32 = (DIRECT_BYTES / PAGE_BYTES) as u32;

    /// Steps of the longest search.
    fn longest_chain(direct: &DirectMappings<Linux>, spans: &Spans) -> usize {
        let mut index = direct.index.lock();
        (0..index.buckets)
            .map(|number| {
                // SAFETY: the lock is held, and protects buckets and descriptors.
                unsafe {
                    let (mut id, mut steps) = (*index.place(&direct.pages, number), 0);
                    while !id.is_none() {
                        (id, steps) = ((*at(spans, id)).next, steps + 1);
                    }
                    steps
                }
            })
            .max()
            .unwrap_or(0)
    }

    fn put(direct: &DirectMappings<Linux>, spans: &Spans, start: usize, pages: u32) {
        let id = SpanId(spans.allocate::<Linux>(1).expect("memory"));
        // SAFETY: just handed out.
        unsafe {
            let span = &mut *at(spans, id);
            (span.start, span.pages, span.kind) = (start, pages, Kind::Large);
            direct.insert(spans, id);
        }
    }

    #[test]
    fn searches_stay_short_however_many_blocks_there_are() {
        // As mmap(2) places them: side by side; with a guard between; and far apart.
        for (stride, pages) in [(32 << 20, 8192), ((32 << 20) + PAGE_BYTES, 8193), (1 << 30, 1 << 18), (128 << 10, 32)]
        {
            static SPANS: Spans = Spans::new();
            let direct = std::boxed::Box::new(DirectMappings::<Linux>::new());
            let at = |number: usize| 0x7000_0000_0000 - number * stride;
            for number in 0..BLOCKS {
                put(&direct, &SPANS, at(number), pages);
                if number.is_power_of_two() {
                    assert_eq!(direct.check(&SPANS), Ok(()), "{number} blocks at {stride}");
                }
            }
            assert_eq!(direct.check(&SPANS), Ok(()));
            assert_eq!(direct.count_and_bytes(), (BLOCKS, BLOCKS * pages as usize * PAGE_BYTES));
            assert!(direct.index.lock().buckets >= BLOCKS - 1);
            assert!(longest_chain(&direct, &SPANS) <= 12, "{} steps at {stride}", longest_chain(&direct, &SPANS));
            assert_eq!(direct.with(&SPANS, at(BLOCKS), Span::bytes), None);
            // In another order than they came.
            for number in (0..BLOCKS).map(|number| number * 7 % BLOCKS) {
                assert_eq!(direct.with(&SPANS, at(number), |span| span.start), Some(at(number)));
                assert!(direct.remove(&SPANS, at(number)).is_some());
                assert!(direct.remove(&SPANS, at(number)).is_none());
            }
            assert_eq!(direct.check(&SPANS), Ok(()));
            assert_eq!((direct.count_and_bytes(), direct.small_blocks()), ((0, 0), 0));
        }
    }

    #[test]
    fn an_insertion_splits_two_buckets_at_most_and_buckets_catch_up() {
        static SPANS: Spans = Spans::new();
        static DIRECT: DirectMappings<Linux> = DirectMappings::new();
        for number in 1..=2000 {
            put(&DIRECT, &SPANS, number << 27, DIRECT_PAGES);
        }
        // As if there had been no memory for pages of buckets.
        let mut buckets = {
            let mut index = DIRECT.index.lock();
            let blocks: std::vec::Vec<usize> = (1..=2000).map(|number| number << 27).collect();
            drop(index);
            let ids: std::vec::Vec<SpanId> =
                blocks.iter().map(|&address| DIRECT.remove(&SPANS, address).expect("a block")).collect();
            index = DIRECT.index.lock();
            index.buckets = FIRST_BUCKETS;
            for id in ids {
                // SAFETY: just removed; the lock is held.
                unsafe {
                    let number = index.bucket_of((*at(&SPANS, id)).start);
                    let first = index.place(&DIRECT.pages, number);
                    (*at(&SPANS, id)).next = *first;
                    *first = id;
                    index.blocks += 1;
                    index.bytes += (*at(&SPANS, id)).bytes();
                }
            }
            index.buckets
        };
        assert_eq!(DIRECT.check(&SPANS), Ok(()));
        let before = longest_chain(&DIRECT, &SPANS);
        for number in 2001..=4000 {
            put(&DIRECT, &SPANS, number << 27, DIRECT_PAGES);
            let now = DIRECT.index.lock().buckets;
            assert!(now - buckets <= SPLITS);
            buckets = now;
        }
        assert_eq!(DIRECT.check(&SPANS), Ok(()));
        assert!(buckets >= 3999 && longest_chain(&DIRECT, &SPANS) <= before.min(12), "{buckets} buckets");
    }
}
