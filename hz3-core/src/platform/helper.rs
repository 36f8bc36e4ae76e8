//! Helper: whether an allocator's background thread runs, rests, or may be started.
//!
//! ```text
//! ALONE ── a second thread ──→ WANTED ── claim ──→ STARTING ── begin ──→ POSTED ⇄ AWAKE ── rest ──→ RESTING
//!   ↑                                                 │                    ↑         │                 │
//!   │                                                 └── refused ──→ OFF  └─────────│───── post ──────┘
//!   └──────────────────────────── ends: one thread is left ──────────────────────────┘
//! ```
//!
//! It rests without a timer, so whoever makes work for it posts. The process must end with its last thread of its own:
//! so a helper that nobody asked for ends with the first thread, which is known by its stack, and has a heap.

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::os::{Os, Waiter};

const ALONE: u32 = 0;
const WANTED: u32 = 1;
const STARTING: u32 = 2;
/// Runs, and has seen every post.
const AWAKE: u32 = 3;
/// Runs, and has not seen the last post.
const POSTED: u32 = 4;
const RESTING: u32 = 5;
const OFF: u32 = 6;

/// The state of an allocator's helper. All zeros: none.
pub struct Helper {
    state: AtomicU32,
    /// Heaps that this process's threads have taken.
    threads: AtomicU32,
    /// The process, once a thread took a heap in it.
    process: AtomicU32,
    /// Identity of the first thread; 0 while it has no heap.
    first: AtomicUsize,
    /// Identity of the thread that a fork left.
    forked: AtomicUsize,
    /// Not 0 once the first thread has ended.
    is_ending: AtomicU32,
}

impl Helper {
    /// None.
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(ALONE),
            threads: AtomicU32::new(0),
            process: AtomicU32::new(0),
            first: AtomicUsize::new(0),
            forked: AtomicUsize::new(0),
            is_ending: AtomicU32::new(0),
        }
    }

    /// Notes that the calling thread took a heap. `tells_end`: [`Helper::note_end`] will be called.
    pub fn note_thread<O: Os>(&self, tells_end: bool) {
        let thread = O::this_thread();
        // Relaxed, all: hints; a thread that sees an old value starts no helper yet.
        // A library that allocates in a call of the first one's start has noted that thread already.
        let is_noted = self.first.load(Ordering::Relaxed) == thread;
        if self.process.load(Ordering::Relaxed) == 0 {
            self.process.store(O::process_id(), Ordering::Relaxed);
        }
        if tells_end && (self.forked.load(Ordering::Relaxed) == thread || O::is_on_first_stack()) {
            self.first.store(thread, Ordering::Relaxed);
        }
        if !is_noted && self.threads.fetch_add(1, Ordering::Relaxed) > 0 && self.knows_first() {
            self.want();
        }
    }

    fn want(&self) {
        // Relaxed: publishes nothing.
        let _ = self.state.compare_exchange(ALONE, WANTED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the first thread has a heap, and so will tell its end.
    pub fn knows_first(&self) -> bool {
        // Relaxed: a hint, as in `note_thread`.
        self.first.load(Ordering::Relaxed) != 0
    }

    /// Notes that the calling thread has given its heap back and ends.
    pub fn note_end<W: Waiter>(&self) {
        // Relaxed, both: the helper looks again with each nap, and the post below wakes it.
        if self.first.load(Ordering::Relaxed) == W::this_thread() {
            self.is_ending.store(1, Ordering::Relaxed);
        }
        self.post::<W>();
    }

    /// Whether the first thread has ended.
    pub fn is_ending(&self) -> bool {
        // Relaxed: as in `note_end`.
        self.is_ending.load(Ordering::Relaxed) != 0
    }

    /// Whether a helper may be started: the process has had two threads.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        // Relaxed: a hint; `claim` looks again.
        self.state.load(Ordering::Relaxed) == WANTED
    }

    /// Claims the start of the helper; whether this thread won. Never in the child of a vfork or of a raw clone, which has
    /// the parent's words.
    pub fn claim<O: Os>(&self) -> bool {
        // Relaxed, all: publishes nothing; pthread_create(3) orders what the helper sees.
        !self.is_ending()
            && self.process.load(Ordering::Relaxed) == O::process_id()
            && self.state.compare_exchange(WANTED, STARTING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Claims the start of a helper that the options ask for; false if there is one.
    pub fn claim_always(&self) -> bool {
        // Relaxed, both: as in `claim`.
        let state = self.state.load(Ordering::Relaxed);
        matches!(state, ALONE | WANTED)
            && self.state.compare_exchange(state, STARTING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// There will be none: the system or the options refuse one, or it has ended for good.
    pub fn turn_off(&self) {
        // Relaxed: publishes nothing.
        self.state.store(OFF, Ordering::Relaxed);
    }

    /// The helper begins, and looks for work.
    pub fn begin(&self) {
        // Relaxed: publishes nothing.
        self.state.store(POSTED, Ordering::Relaxed);
    }

    /// Whether there is a helper, or it starts.
    pub fn is_there(&self) -> bool {
        // Relaxed: a hint.
        matches!(self.state.load(Ordering::Relaxed), STARTING | AWAKE | POSTED | RESTING)
    }

    /// Tells the helper that there is work, and wakes it if it rests; false if there is none.
    #[inline]
    pub fn post<W: Waiter>(&self) -> bool {
        // Relaxed: as in `post_slow`. Mostly there is none, or it has a post before it.
        match self.state.load(Ordering::Relaxed) {
            POSTED | STARTING => true,
            AWAKE | RESTING => self.post_slow::<W>(),
            _ => false,
        }
    }

    #[cold]
    fn post_slow<W: Waiter>(&self) -> bool {
        loop {
            // Relaxed: the exchange looks again.
            let state = self.state.load(Ordering::Relaxed);
            if !matches!(state, AWAKE | RESTING) {
                return matches!(state, POSTED | STARTING);
            }
            // Release: what was freed before is there for the helper. Pairs with the Acquire in `take_post`.
            if self.state.compare_exchange(state, POSTED, Ordering::Release, Ordering::Relaxed).is_ok() {
                if state == RESTING {
                    W::wake((&raw const self.state).cast());
                }
                return true;
            }
        }
    }

    /// The helper's: whether there was a post since the last call.
    pub fn take_post(&self) -> bool {
        // Acquire: pairs with the Release in `post_slow`. Relaxed on failure: nothing was posted.
        self.state.compare_exchange(POSTED, AWAKE, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The helper's: sleeps until there is a post. Returns at once if there is one.
    pub fn rest<W: Waiter>(&self) {
        // Relaxed, all: `take_post` follows. A post since the last one makes the exchange fail.
        if self.state.compare_exchange(AWAKE, RESTING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            while self.state.load(Ordering::Relaxed) == RESTING {
                W::wait((&raw const self.state).cast(), RESTING);
            }
        }
    }

    /// The helper's: ends, if the program has a single thread; whether it does. The next thread that takes a heap makes it
    /// wanted again.
    pub fn end_if_alone<O: Os>(&self) -> bool {
        // Relaxed, all: publishes nothing. A thread that came meanwhile is seen before or after.
        let threads = self.threads.load(Ordering::Relaxed);
        if O::thread_count() != 2 {
            return false;
        }
        self.state.store(ALONE, Ordering::Relaxed);
        if self.threads.load(Ordering::Relaxed) != threads {
            self.want();
        }
        true
    }

    /// In a forked child, which has no helper. `has_heap`: its thread has one.
    pub fn reset_in_child<W: Waiter>(&self, has_heap: bool) {
        let thread = W::this_thread();
        // Relaxed, all: one thread.
        self.state.store(ALONE, Ordering::Relaxed);
        self.threads.store(u32::from(has_heap), Ordering::Relaxed);
        self.process.store(0, Ordering::Relaxed);
        self.first.store(if has_heap { thread } else { 0 }, Ordering::Relaxed);
        self.forked.store(thread, Ordering::Relaxed);
        self.is_ending.store(0, Ordering::Relaxed);
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    #[test]
    fn a_second_thread_and_a_first_one_that_tells_its_end_make_a_helper_wanted() {
        let helper = Helper::new();
        helper.note_thread::<Linux>(true);
        helper.note_thread::<Linux>(true);
        // A test runs on no first stack.
        assert!(!helper.is_wanted() && !helper.knows_first());
        helper.reset_in_child::<Linux>(false);
        helper.note_thread::<Linux>(true);
        helper.note_thread::<Linux>(true);
        assert!(!helper.is_wanted() && helper.knows_first(), "one thread, twice");
        helper.reset_in_child::<Linux>(false);
        helper.note_thread::<Linux>(false);
        helper.note_thread::<Linux>(true);
        assert!(helper.is_wanted() && helper.knows_first());
        assert!(!helper.post::<Linux>(), "there is none yet");
        assert!(helper.claim::<Linux>() && !helper.claim::<Linux>());
        helper.note_end::<Linux>();
        assert!(helper.is_ending());
    }

    #[test]
    fn a_post_ends_a_rest_and_one_before_it_prevents_it() {
        let helper = Helper::new();
        assert!(helper.claim_always() && !helper.claim_always());
        helper.begin();
        assert!(helper.take_post() && !helper.take_post());
        assert!(helper.post::<Linux>());
        helper.rest::<Linux>();
        assert!(helper.take_post());
        std::thread::scope(|scope| {
            scope.spawn(|| helper.rest::<Linux>());
            while helper.state.load(Ordering::Relaxed) != RESTING {
                std::thread::yield_now();
            }
            assert!(helper.post::<Linux>());
        });
        assert!(helper.take_post());
        helper.turn_off();
        assert!(!helper.post::<Linux>());
    }
}
