//! Lifecycle: how a thread gets its heap and gives it back.
//!
//! ```text
//! NO_HEAP ── first slow path ──→ a heap ── key destructor ──→ LEFT_HEAP ── thread's end
//! ```
//!
//! The heap is taken from the unused ones at the thread's first slow path and returned, empty, by a
//! pthread key's destructor. Destructors that run later still allocate and free: a thread whose heap is
//! `LEFT_HEAP` goes to the spans directly, so nothing that is freed late is stranded.
//!
//! Outside rules: pthread_key_create(3) (destructors run in up to four rounds, in no stated order).

use crate::allocator::{HeapOf, Lane};
use crate::observe::sampling;
use crate::process::fork;
use crate::thread::heap::{LEFT_HEAP, NO_HEAP, TICKS, behind, has_left, is_static};
use crate::thread::registry::{self, Pointer, Stage};
use crate::upkeep::trim::flush;
use core::marker::PhantomData;

/// The calling thread's pointer.
struct OfThread<L>(PhantomData<fn() -> L>);

impl<L: Lane> Pointer for OfThread<L> {
    type Heap = *mut HeapOf<L>;

    fn stage(&self) -> Stage<*mut HeapOf<L>> {
        let entries = L::heap();
        if has_left(entries) {
            Stage::Left
        } else if is_static(entries) {
            Stage::Without
        } else {
            // SAFETY: the thread's own pointer, to none of the static heaps.
            Stage::With(unsafe { behind(entries) })
        }
    }

    fn lead_to(&self, stage: Stage<*mut HeapOf<L>>) {
        let entries = match stage {
            Stage::Without => (&raw const NO_HEAP).cast_mut(),
            Stage::With(heap) => heap.cast(),
            Stage::Left => (&raw const LEFT_HEAP).cast_mut(),
        };
        // SAFETY: a static heap, or the one that this thread has taken.
        unsafe { L::set_heap(entries) };
    }
}

/// The calling thread's heap, taken now; its pointer leads to a static heap. `None` for a thread that is ending, or when
/// memory has run out.
#[cold]
#[inline(never)]
pub fn start<L: Lane>() -> Option<*mut HeapOf<L>> {
    let allocator = L::allocator();
    let heap = registry::begin(&OfThread::<L>(PhantomData), || {
        allocator.read_options();
        let heap = allocator.heaps.take()?;
        // SAFETY: the heap is this thread's from here on.
        unsafe {
            (*heap).shard = allocator.exchange.assign_shard();
            (*heap).ticks = TICKS;
            (*heap).trims = allocator.trims();
        }
        Some(heap)
    })?;
    if allocator.profile.is_on() {
        // SAFETY: the heap is this thread's.
        unsafe { sampling::install_decoy::<L>(heap) };
    }
    // From here on the thread can allocate, which the calls below may do.
    hook_thread::<L>(heap);
    Some(heap)
}

/// Sees to it that the thread's end gives `heap` back. Where the system has no key left, the heap stays
/// with the dead thread: memory is lost then, never corrupted.
fn hook_thread<L: Lane>(heap: *mut HeapOf<L>) {
    let make_key = || {
        let mut key = 0;
        // SAFETY: the function lives as long as the library, which is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(leave::<L>)) } == 0).then_some(key)
    };
    let register = || {
        // Which has no fork.
        if cfg!(miri) {
            return;
        }
        // SAFETY: as above. A refusal leaves fork without protection; nothing else can be done about it.
        unsafe {
            libc::pthread_atfork(
                Some(fork::before::<L>),
                Some(fork::after_in_parent::<L>),
                Some(fork::after_in_child::<L>),
            )
        };
    };
    if let Some(key) = L::allocator().hooks.key(make_key, register) {
        // SAFETY: the key exists; the value is not null, so that the destructor runs.
        unsafe { libc::pthread_setspecific(key, heap.cast()) };
    }
}

/// The key's destructor.
unsafe extern "C" fn leave<L: Lane>(_: *mut libc::c_void) {
    registry::leave(&OfThread::<L>(PhantomData), |heap| {
        // SAFETY: the thread's own heap, which it stops using here.
        unsafe {
            let allocator = L::allocator();
            flush(&allocator.pages, &allocator.exchange, heap);
            allocator.heaps.give(heap);
        }
    });
}
