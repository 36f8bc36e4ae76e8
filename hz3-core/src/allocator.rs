//! Allocator: composes the subsystems of one lane and owns no algorithm itself.
//!
//! ```text
//! heap ⇄ exchange ⇄ other heaps      whole magazines, one exchange each
//!  ↓ homeward                        batches of one owner and bin
//! spans → page heap → operating system
//! ```

use crate::hardening::quarantine::Quarantine;
use crate::pages::page_heap::PageHeap;
use crate::platform::abort;
use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::record::observer::Observer;
use crate::record::profile::Profile;
use crate::regions::index::Regions;
use crate::thread::heap::{Entries, Heap, LEFT_HEAP, heap_at, is_static};
use crate::thread::heaps::Heaps;
use crate::thread::hooks::Hooks;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::remote_stash::RemoteStash;
use crate::upkeep::schedule::{Rests, Schedule};

/// A lane: a set of constants and types, and its one allocator. The lanes are [`Fast`](crate::Fast),
/// [`Scale`](crate::Scale) and [`Hardened`](crate::Hardened); other crates can't add one.
///
/// # Safety
/// `allocator` is always the same one. `heap` is what this thread last gave to `set_heap`, at first `NO_HEAP`. Zeros
/// are an empty `Stash` and an empty `Quarantine`. The calling thread owns what `start_thread` returns.
pub unsafe trait Lane: Sharded {
    /// The kind of remote stash.
    #[doc(hidden)]
    type Stash: RemoteStash + 'static;
    /// The kind of quarantine.
    #[doc(hidden)]
    type Quarantine: Quarantine + 'static;

    /// The lane's allocator.
    #[doc(hidden)]
    fn allocator() -> &'static Allocator<Self>;
    /// The calling thread's pointer: its heap, the decoy in front of it, or a static heap.
    #[doc(hidden)]
    fn heap() -> *mut Entries;
    /// Sets the calling thread's pointer.
    ///
    /// # Safety
    /// `heap` is a static heap, or a heap or decoy that this thread owns while its pointer stays.
    #[doc(hidden)]
    unsafe fn set_heap(heap: *mut Entries);
    /// Takes a heap for the calling thread, which has none. `None` if it is ending, or when memory has run out.
    #[doc(hidden)]
    fn start_thread() -> Option<*mut HeapOf<Self>>;
    /// Starts the background thread, if one is wanted and worth it. The caller holds no lock.
    #[doc(hidden)]
    fn start_helper();
}

/// A heap of lane `L`.
pub type HeapOf<L> = Heap<<L as Lane>::Stash, <L as Lane>::Quarantine>;

/// The calling thread's heap; takes one if it has none. `None` for a thread that is ending, or when memory has run out.
#[inline]
pub fn thread_heap<L: Lane>() -> Option<*mut HeapOf<L>> {
    let entries = L::heap();
    // SAFETY: `entries` is this thread's pointer and not a static heap.
    if is_static(entries) { L::start_thread() } else { Some(unsafe { heap_at(entries) }) }
}

/// Runs `body`, which changes `heap` and calls out, with the thread's pointer elsewhere: a library in the place of libc's
/// functions allocates in such a call, and must not meet a heap in the middle of a change. It is served by the spans, as
/// in a thread that is ending.
///
/// # Safety
/// The heap is the calling thread's.
#[inline]
pub unsafe fn set_aside<L: Lane, T>(heap: &HeapOf<L>, body: impl FnOnce() -> T) -> T {
    let entries = L::heap();
    heap.set_aside();
    // SAFETY: a static heap.
    unsafe { L::set_heap(LEFT_HEAP.entries()) };
    let result = body();
    // SAFETY: what was there before, which this thread owns.
    unsafe { L::set_heap(entries) };
    L::allocator().heaps.take_back(heap);
    result
}

/// A lane's allocator.
pub struct Allocator<L: Lane> {
    /// Where memory comes from.
    pub pages: PageHeap<L>,
    /// Regions, in spans of their own.
    pub regions: Regions<L::Os>,
    /// The shards, and the magazines that move between them.
    pub exchange: Exchange<L>,
    /// Threads' heaps.
    pub heaps: Heaps<L::Stash, L::Quarantine, L::Os>,
    /// When upkeep is due.
    pub schedule: Schedule,
    /// When threads' caches are looked at.
    pub rests: Rests,
    /// The thread-exit key and the fork handlers.
    pub hooks: Hooks,
    /// The heap profile; off unless begun.
    pub profile: Profile<L::Os>,
    /// Told that time passes and that the process forked.
    pub observer: Observer,
    /// Starts the background thread in a forked child.
    pub on_fork_child: Observer,
    /// Trim requests so far. At its next miss, a thread that sees a new one empties its cache.
    trims: AtomicU32,
}

impl<L: Lane> Allocator<L> {
    /// An allocator without memory.
    #[allow(clippy::new_without_default, reason = "only a lane's static is one")]
    pub const fn new() -> Self {
        Self {
            pages: PageHeap::new(),
            regions: Regions::new(),
            exchange: Exchange::new(),
            heaps: Heaps::new(),
            schedule: Schedule::new(),
            rests: Rests::new(),
            hooks: Hooks::new(),
            profile: Profile::new(),
            observer: Observer::none(),
            on_fork_child: Observer::none(),
            trims: AtomicU32::new(0),
        }
    }

    /// The options: defaults until [`Allocator::read_options`].
    #[inline]
    pub fn options(&self) -> &Options {
        self.pages.options()
    }

    /// The options; the first call reads them from the environment.
    #[inline]
    pub fn read_options(&self) -> &Options {
        self.options().read::<L::Os>(abort::unless_pages_fit::<L::Os>, abort::warning::<L::Os>);
        self.options()
    }

    /// Trim requests so far, modulo 2^32.
    #[inline]
    pub fn trims(&self) -> u32 {
        // Relaxed: a hint; nothing is published.
        self.trims.load(Ordering::Relaxed)
    }

    /// Requests that every thread empty its cache at its next miss.
    pub fn request_trim(&self) {
        // Relaxed: a hint; nothing is published.
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    /// [`Allocator::request_trim`] with a rate limit; whether it did. Repeated failures must not empty all caches each time.
    pub fn request_trim_if_due(&self) -> bool {
        let is_due = self.schedule.claim_trim_request(L::Os::now_ms());
        if is_due {
            self.request_trim();
        }
        is_due
    }
}
