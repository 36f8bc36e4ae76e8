//! Allocator: the parts of one lane, put together. It owns no algorithm.
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
use crate::thread::heap::{Entries, Heap, Heaps, behind, is_static};
use crate::thread::hooks::Hooks;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::remote_stash::RemoteStash;
use crate::upkeep::schedule::Schedule;

/// A lane: a choice of constants and types, and the one allocator that is made of them. The lanes are
/// [`Fast`](crate::Fast), [`Scale`](crate::Scale) and [`Hardened`](crate::Hardened); there can be no others.
///
/// # Safety
/// `allocator` always returns the same allocator, and `heap` returns what this thread last gave to `set_heap`, or a
/// pointer to `NO_HEAP`. An all-zero `Stash` is an empty one, and so is an all-zero
/// `Quarantine`. What `start_thread` returns is the calling thread's.
pub unsafe trait Lane: Sharded {
    /// How slots travel home.
    #[doc(hidden)]
    type Stash: RemoteStash + 'static;
    /// Where a thread's freed slots wait until they may be used again.
    #[doc(hidden)]
    type Quarantine: Quarantine + 'static;

    /// The lane's allocator.
    #[doc(hidden)]
    fn allocator() -> &'static Allocator<Self>;
    /// The calling thread's pointer: where its entries are.
    #[doc(hidden)]
    fn heap() -> *mut Entries;
    /// Sets the calling thread's pointer.
    ///
    /// # Safety
    /// `heap` lives until it is replaced, and is no other thread's.
    #[doc(hidden)]
    unsafe fn set_heap(heap: *mut Entries);
    /// Gives the calling thread, whose pointer leads to a static heap, its heap. `None` for a thread that is ending, or
    /// when memory has run out.
    #[doc(hidden)]
    fn start_thread() -> Option<*mut HeapOf<Self>>;
}

/// A thread's heap in lane `L`.
pub type HeapOf<L> = Heap<<L as Lane>::Stash, <L as Lane>::Quarantine>;

/// The calling thread's heap, taken now if it has none. `None` for a thread that is ending, or when memory has run out:
/// the caller then goes to the spans directly.
#[inline]
pub fn thread_heap<L: Lane>() -> Option<*mut HeapOf<L>> {
    let entries = L::heap();
    // SAFETY: the thread's own pointer, to none of the static heaps.
    if is_static(entries) { L::start_thread() } else { Some(unsafe { behind(entries) }) }
}

/// A lane's allocator.
pub struct Allocator<L: Lane> {
    /// Where memory comes from.
    pub pages: PageHeap<L>,
    /// The shards, and what moves between them.
    pub exchange: Exchange<L>,
    /// Threads' heaps.
    pub heaps: Heaps<L::Stash, L::Quarantine, L::Os>,
    /// When upkeep is due.
    pub schedule: Schedule,
    /// What tells hz3 of a thread's end and of forks.
    pub hooks: Hooks<L::Os>,
    /// Which stacks the program's memory comes from, if that was asked for.
    pub profile: Profile<L::Os>,
    /// Who is told that time passes.
    pub observer: Observer,
    /// Who starts the background thread in a forked child.
    pub in_child: Observer,
    /// Trims asked for so far. Threads see it at their next slow path, and empty their caches.
    trims: AtomicU32,
}

impl<L: Lane> Allocator<L> {
    /// An allocator that has asked the system for nothing yet.
    #[allow(clippy::new_without_default, reason = "only a lane's static is one")]
    pub const fn new() -> Self {
        Self {
            pages: PageHeap::new(),
            exchange: Exchange::new(),
            heaps: Heaps::new(),
            schedule: Schedule::new(),
            hooks: Hooks::new(),
            profile: Profile::new(),
            observer: Observer::none(),
            in_child: Observer::none(),
            trims: AtomicU32::new(0),
        }
    }

    /// What the environment says.
    #[inline]
    pub fn options(&self) -> &Options {
        self.pages.options()
    }

    /// Reads the environment, the first time that it is called, and returns what it says.
    #[inline]
    pub fn read_options(&self) -> &Options {
        self.options().read::<L::Os>(abort::warning::<L::Os>);
        self.options()
    }

    /// Trims asked for so far.
    #[inline]
    pub fn trims(&self) -> u32 {
        // Relaxed: a hint to other threads.
        self.trims.load(Ordering::Relaxed)
    }

    /// Asks every thread to empty its cache at its next slow path.
    pub fn ask_for_trim(&self) {
        // Relaxed: as above.
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Allocator::ask_for_trim`], once in a while: a thread that fails again and again does not cost the others
    /// their caches each time.
    pub fn ask_for_trim_now_and_then(&self) {
        if self.schedule.may_ask(L::Os::now_ms()) {
            self.ask_for_trim();
        }
    }
}
