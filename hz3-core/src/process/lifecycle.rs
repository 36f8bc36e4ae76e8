//! Lifecycle: a thread takes a heap at its first miss and gives it back, empty, when it exits.
//!
//! ```text
//! NO_HEAP ── first miss ──→ a heap ── key destructor ──→ LEFT_HEAP ── thread's end
//! ```
//!
//! Destructors that run later may still allocate and free: at `LEFT_HEAP` they use the spans directly.
//!
//! Outside rules: pthread_key_create(3) (destructors run in up to four rounds, in no stated order).

use crate::allocator::{HeapOf, Lane};
use crate::observe::sampling;
use crate::platform::libc_inside;
use crate::platform::units::ShardId;
use crate::process::{fork, keep_loaded};
use crate::thread::heap::{LEFT_HEAP, NO_HEAP, TICKS, has_left, heap_at, is_static};
use crate::thread::registry::{self, Pointer, Stage};
use crate::upkeep::trim::flush;
use core::marker::PhantomData;

struct CurrentThread<L>(PhantomData<fn() -> L>);

impl<L: Lane> Pointer for CurrentThread<L> {
    type Heap = *mut HeapOf<L>;

    fn stage(&self) -> Stage<*mut HeapOf<L>> {
        let entries = L::heap();
        if has_left(entries) {
            Stage::Left
        } else if is_static(entries) {
            Stage::Without
        } else {
            // SAFETY: `entries` is this thread's pointer and not a static heap.
            Stage::With(unsafe { heap_at(entries) })
        }
    }

    fn set_stage(&self, stage: Stage<*mut HeapOf<L>>) {
        let entries = match stage {
            Stage::Without => NO_HEAP.entries(),
            Stage::With(heap) => heap.cast(),
            Stage::Left => LEFT_HEAP.entries(),
        };
        // SAFETY: a static heap, or one that this thread owns.
        unsafe { L::set_heap(entries) };
    }
}

/// Gives the calling thread's pointer the first value that the loader will give it, if it has not yet. Calls nothing.
pub fn prepare_thread<L: Lane>() {
    if L::heap().is_null() {
        // SAFETY: a static heap.
        unsafe { L::set_heap(NO_HEAP.entries()) };
    }
}

/// The calling thread's heap; takes one if it has none. `None` for a thread that is ending, or when memory has run out.
/// Takes the heaps' lock.
#[cold]
#[inline(never)]
pub fn start<L: Lane>() -> Option<*mut HeapOf<L>> {
    let allocator = L::allocator();
    let heap = registry::begin(&CurrentThread::<L>(PhantomData), || {
        allocator.read_options();
        let mut shard = ShardId(0);
        let heap = allocator.heaps.take(|| shard = allocator.exchange.assign_shard())?;
        // SAFETY: `take` gave the heap to this thread alone.
        unsafe {
            (*heap).shard.set(shard);
            (*heap).ticks.set(TICKS);
            (*heap).trims.set(allocator.trims());
            if L::HARDENED {
                // Seeds it: later calls, in the middle of a change, make none to the outside.
                (*heap).random::<L::Os>();
            }
        }
        // A library in the place of a libc function that was called here has allocated: one heap is enough.
        if let Stage::With(other) = (CurrentThread::<L>(PhantomData)).stage() {
            // SAFETY: `heap` is this thread's, and empty.
            unsafe { allocator.heaps.give(heap) };
            return Some(other);
        }
        Some(heap)
    })?;
    if allocator.profile.is_on() {
        // SAFETY: the heap is this thread's.
        unsafe { sampling::install_decoy::<L>(heap) };
    }
    // Last, because its calls may allocate: the thread has its heap now.
    let tells_end = hook_thread_exit::<L>(heap);
    allocator.pages.helper.note_thread::<L::Os>(tells_end);
    Some(heap)
}

/// Makes the thread's exit give `heap` back, and once installs the fork handlers; false without a key: the heap leaks.
fn hook_thread_exit<L: Lane>(heap: *mut HeapOf<L>) -> bool {
    keep_loaded::keep_before_use();
    let make_key = || {
        let mut key = 0;
        // SAFETY: `key` is valid to write; `leave` stays loaded, by `keep_loaded`.
        (unsafe { libc::pthread_key_create(&mut key, Some(leave::<L>)) } == 0).then_some(key)
    };
    let delete_key = |key| {
        // SAFETY: this thread made the key, and nothing has a value for it.
        unsafe { libc::pthread_key_delete(key) };
    };
    let register = || {
        // Miri has no fork.
        if cfg!(miri) {
            return;
        }
        // SAFETY: the handlers stay loaded, by `keep_loaded`.
        unsafe { libc_inside::at_fork(fork::before::<L>, fork::after_in_parent::<L>, fork::after_in_child::<L>) };
    };
    L::allocator().hooks.key(make_key, delete_key, register).is_some_and(|key| {
        // SAFETY: the key exists and is never deleted. A null value would keep the destructor from running.
        unsafe { libc::pthread_setspecific(key, heap.cast()) == 0 }
    })
}

/// The key's destructor.
///
/// # Safety
/// The calling thread is ending.
unsafe extern "C" fn leave<L: Lane>(_: *mut libc::c_void) {
    registry::leave(&CurrentThread::<L>(PhantomData), |heap| {
        // SAFETY: this thread owns the heap, and its pointer has left it.
        unsafe {
            let allocator = L::allocator();
            flush(&allocator.pages, &allocator.exchange, &*heap);
            allocator.heaps.give(heap);
            allocator.pages.helper.note_end::<L::Os>();
        }
    });
}
