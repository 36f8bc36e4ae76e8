//! Fork: every lock of a lane, taken before a fork in the order of [`Rank`], released after it in both processes.
//!
//! ```text
//! before            rank by rank, lowest first; a lock whose value is not settled is waited for
//! after, parent     the same list, highest first
//! after, child      first every other thread's heap becomes an orphan; then as in the parent
//! ```
//!
//! While a thread forks, other libraries' handlers may allocate in it: a lock that it holds for the fork lets it through.
//!
//! Outside rules: pthread_atfork(3) (handlers that were registered first run last before the fork and first after it, so
//! that other libraries' handlers may allocate).

use crate::allocator::{Allocator, Lane};
use crate::platform::lock::ForkLock;
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::record::observer::Event;
use crate::thread::heap::{behind, is_static};
use core::ptr::null_mut;

/// Calls `visit` with each lock of `rank`.
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
    for rank in Rank::ALL {
        each_lock(allocator, rank, |lock| lock.acquire_for_fork());
    }
    L::Os::begin_fork();
}

/// # Safety
/// The calling thread took all of them.
unsafe fn release_all<L: Lane>(allocator: &Allocator<L>) {
    L::Os::end_fork();
    for rank in Rank::ALL.into_iter().rev() {
        // SAFETY: the caller's promise.
        each_lock(allocator, rank, |lock| unsafe { lock.release_after_fork() });
    }
}

/// The handler before a fork.
///
/// # Safety
/// For `pthread_atfork` alone.
pub unsafe extern "C" fn before<L: Lane>() {
    acquire_all(L::allocator());
}

/// The handler after a fork in the parent.
///
/// # Safety
/// As for [`before`], which was called in this thread.
pub unsafe extern "C" fn after_in_parent<L: Lane>() {
    // SAFETY: `before` took the locks in this thread.
    unsafe { release_all(L::allocator()) }
}

/// The handler after a fork in the child.
///
/// # Safety
/// As for [`after_in_parent`].
pub unsafe extern "C" fn after_in_child<L: Lane>() {
    let (allocator, entries) = (L::allocator(), L::heap());
    // SAFETY: this thread took the locks before the fork. Until they are free no other thread that an earlier
    // handler may have started gets a heap, so that all heaps but this thread's belong to threads that are gone.
    unsafe {
        allocator.heaps.orphan_all_but(if is_static(entries) { null_mut() } else { behind(entries) });
        release_all(allocator);
    }
    allocator.observer.notify(Event::Forked);
    allocator.in_child.notify(Event::Forked);
}
