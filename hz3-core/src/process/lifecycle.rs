//! Thread: how a thread gets its heap and gives it back, and what fork does to all of them.
//!
//! ```text
//! NO_HEAP ── first slow path ──→ a heap ── key destructor ──→ LEFT_HEAP ── thread's end
//! ```
//!
//! The heap is taken from the unused ones at the thread's first slow path and returned, empty, by a
//! pthread key's destructor. Destructors that run later still allocate and free: a thread whose heap is
//! `LEFT_HEAP` goes to the spans directly, so nothing that is freed late is stranded.
//!
//! Outside rules: pthread_key_create(3) (destructors run in up to four rounds, in no stated order);
//! pthread_atfork(3) (handlers that were registered first run last before the fork and first after it, so
//! that other libraries' handlers may allocate).

use crate::allocator::Allocator;
use crate::hardening::quarantine::Quarantine;
use crate::lane::Lane;
use crate::pages::bins::{self, BINS};
use crate::platform::os::Os;
use crate::platform::units::Bin;
use crate::process::background;
use crate::record::observer::Event;
use crate::thread::heap::{Heap, LEFT_HEAP, NO_HEAP, behind, has_left, is_static, unload};
use crate::thread::registry::{self, Pointer, Stage};
use crate::transfer::homeward::Courier;
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::RemoteStash;
use core::marker::PhantomData;
use core::ptr::null_mut;

/// Slow paths of one thread between two looks at the clock.
pub const TICKS: u8 = 64;

/// The calling thread's heap, taken now if it has none. `None` for a thread that is ending, or where
/// memory has run out: the caller then goes to the spans directly.
#[inline]
pub fn heap<L: Lane>() -> Option<*mut Heap<L>> {
    let entries = L::heap();
    // SAFETY: the thread's own pointer, to none of the static heaps.
    if is_static(entries) { start::<L>() } else { Some(unsafe { behind(entries) }) }
}

/// The calling thread's pointer.
struct OfThread<L>(PhantomData<fn() -> L>);

impl<L: Lane> Pointer for OfThread<L> {
    type Heap = *mut Heap<L>;

    fn stage(&self) -> Stage<*mut Heap<L>> {
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

    fn lead_to(&self, stage: Stage<*mut Heap<L>>) {
        let entries = match stage {
            Stage::Without => (&raw const NO_HEAP).cast_mut(),
            Stage::With(heap) => heap.cast(),
            Stage::Left => (&raw const LEFT_HEAP).cast_mut(),
        };
        // SAFETY: a static heap, or the one that this thread has taken.
        unsafe { L::set_heap(entries) };
    }
}

#[cold]
#[inline(never)]
fn start<L: Lane>() -> Option<*mut Heap<L>> {
    let allocator = L::allocator();
    let heap = registry::begin(&OfThread::<L>(PhantomData), || {
        allocator.options().read::<L::Os>();
        let heap = allocator.heaps.take()?;
        // SAFETY: the heap is this thread's from here on.
        unsafe {
            (*heap).shard = allocator.assign_shard();
            (*heap).ticks = TICKS;
            (*heap).trims = allocator.trims();
        }
        Some(heap)
    })?;
    if allocator.profile.is_on() {
        // SAFETY: the heap is this thread's.
        unsafe { disguise::<L>(heap) };
    }
    // From here on the thread can allocate, which the calls below may do.
    hook_thread::<L>(heap);
    Some(heap)
}

/// Puts the decoy of `heap` at the thread's pointer, so that the thread is sampled from here on. Where the system
/// has no memory for one, the thread is not.
///
/// # Safety
/// The heap is the calling thread's.
#[cold]
pub unsafe fn disguise<L: Lane>(heap: *mut Heap<L>) {
    let allocator = L::allocator();
    // SAFETY: the caller's promise; the decoy is the thread's with the heap.
    unsafe {
        if let Some(decoy) = allocator.heaps.decoy_of(heap) {
            let seed = decoy.as_ptr().addr() as u64 ^ (u64::from(L::Os::now_ms()) << 40);
            (*decoy.as_ptr()).pace.start(seed, allocator.profile.interval_bytes());
            // A forked child's heap may come from a thread that was taking a sample.
            (*decoy.as_ptr()).pace.set_busy(false);
            L::set_heap(decoy.as_ptr().cast());
        }
    }
}

/// Sees to it that the thread's end gives `heap` back. Where the system has no key left, the heap stays
/// with the dead thread: memory is lost then, never corrupted.
fn hook_thread<L: Lane>(heap: *mut Heap<L>) {
    let make_key = || {
        let mut key = 0;
        // SAFETY: the function lives as long as the library, which is never unloaded.
        (unsafe { libc::pthread_key_create(&mut key, Some(leave::<L>)) } == 0).then_some(key)
    };
    let register = || {
        // SAFETY: as above. A refusal leaves fork without protection; nothing else can be done about it.
        unsafe {
            libc::pthread_atfork(
                Some(before_fork::<L>),
                Some(after_fork_in_parent::<L>),
                Some(after_fork_in_child::<L>),
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
            empty(L::allocator(), heap);
            L::allocator().heaps.give(heap);
        }
    });
}

/// Hands all slots of `heap` over: magazines that hold enough to its shard's depot, others, the stash, and what is in
/// quarantine, home to their spans.
///
/// # Safety
/// The caller owns the heap.
pub unsafe fn empty<L: Lane>(allocator: &'static Allocator<L>, heap: *mut Heap<L>) {
    // SAFETY: the caller's promise; each exclusive reference below ends before the next one begins, and
    // each magazine is disposed of once.
    unsafe {
        let shard = (*heap).shard;
        (*heap).unsettled();
        for bin in (1..BINS as u8).map(Bin) {
            empty_bin(allocator, heap, bin);
        }
        let mut courier = Courier { allocator, shard, idle: false };
        while let Some((bin, slot)) = (*heap).quarantine.take() {
            (*heap).stash.put(allocator.runs.arenas.tag_value(slot.addr()).owner(), bin, slot, &mut courier);
        }
        (*heap).stash.flush(&mut courier);
        (*heap).settled();
    }
}

/// As [`empty`], for the magazines of one bin; slots may stay in the stash.
///
/// # Safety
/// As for [`empty`]; the heap is unsettled.
unsafe fn empty_bin<L: Lane>(allocator: &'static Allocator<L>, heap: *mut Heap<L>, bin: Bin) {
    // SAFETY: the caller's promise; as in `empty`.
    unsafe {
        let shard = (*heap).shard;
        for magazine in unload((*heap).entry(bin)).into_iter().flatten() {
            let magazine = magazine.as_ptr();
            if L::ADOPT && (*magazine).is_worthwhile() && allocator.put_full(shard, bin, magazine, false) {
                continue;
            }
            send_home(allocator, &mut (*heap).stash, shard, magazine);
            allocator.return_empty(magazine);
        }
    }
}

/// Bytes of a cache line. Outside rule: x86-64, and AArch64 but for a few.
const LINE_BYTES: u32 = 64;

/// Sends `block` home where it shares a cache line with slots of another shard; whether it did. For the first block that
/// a thread frees in a bin: were it kept, it would be the next to be handed out, again and again, and its line would go
/// back and forth between this thread and its neighbours' for as long.
pub fn send_neighbour_home<L: Lane>(heap: &mut Heap<L>, bin: Bin, block: *mut u8) -> bool {
    let (allocator, shard) = (L::allocator(), heap.shard);
    let owner = allocator.runs.arenas.tag_value(block.addr()).owner();
    let is_neighbour = bins::info(bin).slot_bytes < LINE_BYTES && owner != shard;
    if is_neighbour {
        heap.stash.put(owner, bin, block, &mut Courier { allocator, shard, idle: false });
    }
    is_neighbour
}

/// Sends all slots of `magazine` home through the stash; the magazine is empty afterwards.
///
/// # Safety
/// The caller owns the magazine, which is not loaded.
pub unsafe fn send_home<L: Lane>(
    allocator: &'static Allocator<L>,
    stash: &mut L::Stash,
    shard: crate::platform::units::ShardId,
    magazine: *mut Magazine,
) {
    let mut courier = Courier { allocator, shard, idle: false };
    // SAFETY: the caller's promise.
    unsafe {
        for &mut slot in Magazine::held(magazine) {
            let tag = allocator.runs.arenas.tag_value(slot.addr());
            stash.put(tag.owner(), tag.bin(), slot, &mut courier);
        }
        (*magazine).count = 0;
    }
}

unsafe extern "C" fn before_fork<L: Lane>() {
    L::allocator().acquire_for_fork();
}

unsafe extern "C" fn after_fork_in_parent<L: Lane>() {
    // SAFETY: `before_fork` took the locks in this thread.
    unsafe { L::allocator().release_after_fork() }
}

unsafe extern "C" fn after_fork_in_child<L: Lane>() {
    let allocator = L::allocator();
    let own = match (OfThread::<L>(PhantomData)).stage() {
        Stage::With(heap) => heap,
        Stage::Without | Stage::Left => null_mut(),
    };
    // SAFETY: this thread took the locks before the fork. Until they are free no other thread that an earlier
    // handler may have started gets a heap, so that all heaps but this thread's belong to threads that are gone.
    unsafe {
        allocator.heaps.orphan_all_but(own);
        allocator.reset_after_fork();
    }
    allocator.publisher.tell(Event::Forked);
    background::start_if_wanted::<L>();
}
