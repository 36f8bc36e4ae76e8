//! Fork: takes all locks of a lane before a fork, in the order of [`Rank`], and releases them in both processes.
//!
//! ```text
//! before            takes rank by rank, lowest first; waits until each lock's value is settled
//! after, parent     releases, highest first
//! after, child      makes every other thread's heap an orphan; then as in the parent
//! ```
//!
//! A process with one thread takes no lock: if a signal handler forks, that thread may hold some itself, and goes on with
//! them in both processes. Other libraries' handlers may allocate in the forking thread: locks held for the fork let it
//! through.
//!
//! Outside rules: pthread_atfork(3) (handlers that were registered first run last before the fork and first after it),
//! fork(2) (async-signal-safe in POSIX.1-2008).

use crate::allocator::{Allocator, Lane};
use crate::platform::libc_inside;
use crate::platform::lock::ForkLock;
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::record::observer::Event;
use crate::thread::heap::{heap_at, is_static};
use core::ptr::null_mut;

fn each_lock<L: Lane>(allocator: &Allocator<L>, rank: Rank, mut visit: impl FnMut(&dyn ForkLock)) {
    let pages = &allocator.pages;
    match rank {
        Rank::Heaps => visit(allocator.heaps.lock_for_fork()),
        Rank::Shard => allocator.exchange.shards().iter().for_each(|shard| visit(shard.owned())),
        Rank::Direct => visit(pages.direct.lock_for_fork()),
        Rank::Waiting => visit(pages.guards.lock_for_fork()),
        Rank::Magazines => visit(allocator.exchange.lock_for_fork()),
        Rank::Profile => visit(allocator.profile.lock_for_fork()),
        Rank::Growth => visit(pages.runs.arenas.lock_for_fork()),
        Rank::Runs => visit(pages.runs.lock_for_fork()),
    }
}

fn acquire_all<L: Lane>(allocator: &Allocator<L>) {
    libc_inside::lock_streams();
    for rank in Rank::ALL {
        each_lock(allocator, rank, |lock| lock.acquire_for_fork());
    }
    L::Os::begin_fork();
}

/// Whether the calling thread took all locks for its fork.
fn is_held<L: Lane>(allocator: &Allocator<L>) -> bool {
    allocator.heaps.lock_for_fork().is_held_for_fork()
}

/// # Safety
/// The calling thread took all locks by [`acquire_all`], before the fork or not, and has no guard of any.
unsafe fn release_all<L: Lane>(allocator: &Allocator<L>) {
    L::Os::end_fork();
    for rank in Rank::ALL.into_iter().rev() {
        // SAFETY: the thread took the lock by `acquire_for_fork` and has no guard of it.
        each_lock(allocator, rank, |lock| unsafe { lock.release_after_fork() });
    }
}

/// The handler before a fork.
///
/// # Safety
/// For `pthread_atfork` alone.
pub unsafe extern "C" fn before<L: Lane>() {
    if !libc_inside::is_single_threaded() {
        acquire_all(L::allocator());
    }
}

/// The handler after a fork in the parent.
///
/// # Safety
/// For `pthread_atfork` alone: [`before`] ran in this thread.
pub unsafe extern "C" fn after_in_parent<L: Lane>() {
    let allocator = L::allocator();
    if is_held(allocator) {
        // SAFETY: `before` took the locks in this thread, which has no guard here.
        unsafe {
            release_all(allocator);
            libc_inside::unlock_streams();
        }
    }
}

/// The handler after a fork in the child.
///
/// # Safety
/// For `pthread_atfork` alone: [`before`] ran in this thread.
pub unsafe extern "C" fn after_in_child<L: Lane>() {
    let (allocator, entries) = (L::allocator(), L::heap());
    if is_held(allocator) {
        // SAFETY: `entries` is this thread's pointer. `before` took the locks in this thread, which has no guard here.
        // Until the release, no thread that an earlier handler started gets a heap: all others in use are orphans.
        unsafe {
            allocator.heaps.orphan_all_but(if is_static(entries) { null_mut() } else { heap_at(entries) });
            release_all(allocator);
            libc_inside::reset_streams();
        }
    }
    allocator.observer.notify(Event::Forked);
    allocator.on_fork_child.notify(Event::Forked);
}
