//! Fork: takes all locks of a lane before a fork, in the order of [`Rank`], and releases them in both processes.
//!
//! ```text
//! before            takes rank by rank, lowest first; waits, without locks, while others have things in transit
//! after, parent     releases, highest first
//! after, child      makes every other thread's heap an orphan; then as in the parent
//! ```
//!
//! A process with one thread takes no lock: if a signal handler forks, that thread may hold some itself, and goes on with
//! them in both processes. Other libraries' handlers may allocate in the forking thread: locks held for the fork let it
//! through. If such a handler forks in turn, that fork leaves them as they are.
//!
//! Outside rules: pthread_atfork(3) (handlers that were registered first run last before the fork and first after it),
//! fork(2) (async-signal-safe in POSIX.1-2008).

use crate::allocator::{Allocator, Lane};
use crate::platform::libc_inside;
use crate::platform::lock::ForkLock;
use crate::platform::os::{Os, Waiter};
use crate::platform::rank::Rank;
use crate::record::observer::Event;
use crate::thread::heap::{heap_at, is_static};
use core::ptr::null_mut;

fn each_lock<L: Lane>(allocator: &Allocator<L>, rank: Rank, mut visit: impl FnMut(&dyn ForkLock)) {
    let pages = &allocator.pages;
    match rank {
        Rank::Heaps => visit(allocator.heaps.lock_for_fork()),
        Rank::Regions => allocator.regions.each_lock(visit),
        Rank::Shard => allocator.exchange.shards().iter().for_each(|shard| visit(shard.owned())),
        Rank::Direct => visit(pages.direct.lock_for_fork()),
        Rank::Waiting => visit(pages.guards.lock_for_fork()),
        Rank::Magazines => visit(allocator.exchange.lock_for_fork()),
        Rank::Profile => visit(allocator.profile.lock_for_fork()),
        Rank::Growth => visit(pages.runs.arenas.lock_for_fork()),
        Rank::Runs => visit(pages.runs.lock_for_fork()),
    }
}

/// Turns of a fork that waits for others' transits; after the last, the child loses what is in transit. Chosen: 1.5 s.
const TURNS: u32 = 100;

fn acquire_all<L: Lane>(allocator: &Allocator<L>) {
    let acquire = || {
        let mut is_settled = true;
        for rank in Rank::ALL {
            each_lock(allocator, rank, |lock| is_settled &= lock.acquire_for_fork());
        }
        is_settled
    };
    // SAFETY: `acquire` took them in this thread, which has no guard here.
    let release = || unsafe { release_all(allocator) };
    let forks = &allocator.pages.runs.forks;
    // A fork in transit may be what another waits for.
    let turns = if forks.is_in_transit::<L::Os>() { 1 } else { TURNS };
    for turn in 1..=turns {
        libc_inside::lock_streams();
        if forks.acquire_settled::<L::Os>(acquire, release) || turn == turns {
            break;
        }
        // Somebody in transit may wait for the streams, in a library in libc's place.
        release();
        // SAFETY: this thread took them above.
        unsafe { libc_inside::unlock_streams() };
        L::Os::nap();
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
    for rank in Rank::ALL.into_iter().rev() {
        // SAFETY: the thread took the lock by `acquire_for_fork` and has no guard of it.
        each_lock(allocator, rank, |lock| unsafe { lock.release_after_fork() });
    }
}

/// The handler before a fork.
///
/// # Safety
/// For [`libc_inside::at_fork`] alone.
pub unsafe extern "C" fn before<L: Lane>() {
    let allocator = L::allocator();
    if is_held(allocator) {
        allocator.pages.runs.forks.begin_nested();
    // musl and older versions of glibc do not tell; the system does.
    } else if !libc_inside::is_single_threaded().unwrap_or_else(|| L::Os::thread_count() == 1) {
        acquire_all(allocator);
    }
}

/// The handler after a fork in the parent.
///
/// # Safety
/// For [`libc_inside::at_fork`] alone: [`before`] ran in this thread.
pub unsafe extern "C" fn after_in_parent<L: Lane>() {
    let allocator = L::allocator();
    if is_held(allocator) && !allocator.pages.runs.forks.end_nested() {
        L::Os::end_fork();
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
/// For [`libc_inside::at_fork`] alone: [`before`] ran in this thread.
pub unsafe extern "C" fn after_in_child<L: Lane>() {
    let (allocator, entries) = (L::allocator(), L::heap());
    allocator.pages.helper.reset_in_child::<L::Os>(!is_static(entries));
    if is_held(allocator) {
        // SAFETY: `entries` is this thread's pointer. `before` took the locks in this thread, which has no guard here.
        // Until the release, no thread that an earlier handler started gets a heap: all others in use are orphans.
        unsafe {
            allocator.heaps.orphan_all_but(if is_static(entries) { null_mut() } else { heap_at(entries) });
            for rank in Rank::ALL {
                each_lock(allocator, rank, |lock| lock.forget_others());
            }
            allocator.pages.runs.forks.forget_others::<L::Os>();
            allocator.schedule.put_off(L::Os::now_ms());
            libc_inside::reset_streams();
            if allocator.pages.runs.forks.end_nested() {
                // The outer fork, still to come in this process too, undoes one.
                libc_inside::lock_streams();
            } else {
                L::Os::end_fork();
                release_all(allocator);
            }
        }
    }
    allocator.observer.notify(Event::Forked);
    allocator.on_fork_child.notify(Event::Forked);
}
