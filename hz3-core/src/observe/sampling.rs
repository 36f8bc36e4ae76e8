//! Sampling: chooses allocations for the heap profile and removes them when freed.
//!
//! ```text
//! thread pointer → decoy: null entries, pace              each call takes its slow path, and counts its bytes
//!                    └──→ heap                            serves the slow path, except for samples
//! sampled small block = a run of pages, tagged large      its free looks it up among the sampled blocks
//! ```
//!
//! Only its page tag marks a sampled block, so other frees look up nothing. Its pages return to the free runs, never to
//! a magazine. Without a profile there are no decoys, and each slow path has one test. Threads count requested sizes;
//! those without a heap (late destructors) count nothing.

use crate::allocator::{HeapOf, Lane, thread_heap};
use crate::pages::bins::{self, MAX_SMALL_BYTES, bin_for};
use crate::platform::os::Os;
use crate::platform::own_stack::{self, Signals};
use crate::record::profile::{MAX_FRAMES, Sample, Unwinder};
use crate::thread::heap::{self, is_static};
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

/// Begins the profile: samples this thread and those that start later. Call it once, before there are others, and only
/// if blocks are freed by address: a free by size can't tell sampled blocks if there was no memory for a decoy.
pub fn begin<L: Lane>(unwinder: Unwinder, interval_bytes: usize) {
    let allocator = L::allocator();
    // An uncounted walk first: it may load and initialise something.
    own_stack::call(Signals::Pass, || {
        Walk::new(unwinder).run();
    });
    allocator.profile.begin(unwinder, interval_bytes);
    // SAFETY: the pointer and the heap are this thread's.
    unsafe {
        if let Some(heap) = thread_heap::<L>().filter(|_| heap::decoy(L::heap()).is_none()) {
            install_decoy::<L>(heap);
        }
    }
}

/// Points the thread at the decoy of `heap`: samples it from now on, unless memory has run out.
///
/// # Safety
/// The heap is the calling thread's.
#[cold]
pub unsafe fn install_decoy<L: Lane>(heap: *mut HeapOf<L>) {
    let allocator = L::allocator();
    // SAFETY: the caller owns the heap and so its decoy, which is never unmapped and no other thread's.
    unsafe {
        if let Some(decoy) = allocator.heaps.decoy_of(heap) {
            let seed = decoy.as_ptr().addr() as u64 ^ (u64::from(L::Os::now_ms()) << 40);
            (*decoy.as_ptr()).pace.start(seed, allocator.profile.interval_bytes());
            // In a forked child, the heap's former thread may have been taking a sample.
            (*decoy.as_ptr()).pace.set_busy(false);
            L::set_heap(decoy.as_ptr().cast());
        }
    }
}

/// The sampled block that `make` allocates for `bytes`, at most [`MAX_SMALL_BYTES`], if a sample is due.
#[inline]
pub fn small<L: Lane>(bytes: usize, make: impl FnOnce() -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    if L::allocator().profile.is_on() { sample_if_due::<L>(bytes, make) } else { None }
}

/// Counts an allocation; if a sample is due, `block` allocates it, and its stack is recorded.
#[cold]
#[inline(never)]
fn sample_if_due<L: Lane>(bytes: usize, block: impl FnOnce() -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    let profile = &L::allocator().profile;
    if is_static(L::heap()) {
        thread_heap::<L>()?;
    }
    // SAFETY: the argument is the calling thread's pointer.
    let decoy = unsafe { heap::decoy(L::heap()) }?.as_ptr();
    let interval_bytes = profile.interval_bytes();
    // SAFETY: the decoy is this thread's, and no reference to its pace outlives the call.
    let is_due = unsafe { (*decoy).pace.is_due(bytes, interval_bytes) };
    if !is_due {
        return None;
    }
    let unwinder = profile.unwinder()?;
    let block = block()?;
    // SAFETY: the decoy is this thread's. Busy: allocations by the walk are not the program's.
    unsafe { (*decoy).pace.set_busy(true) };
    // The frames and libgcc's unwinder take kilobytes.
    own_stack::call(Signals::Wait, || profile.add(block.as_ptr().addr(), bytes, Walk::new(unwinder).run()));
    // SAFETY: the decoy is this thread's; the reference that the walk may have made has ended.
    unsafe { (*decoy).pace.set_busy(false) };
    Some(block)
}

/// Counts the large block at `address`, of requested size `bytes`, and samples it if due.
#[inline]
pub fn large<L: Lane>(address: usize, bytes: usize) {
    if L::allocator().profile.is_on() {
        sample_if_due::<L>(bytes, || NonNull::new(core::ptr::with_exposed_provenance_mut(address)));
    }
}

/// Removes the large block at `address` from the profile, if it is there, before it is freed or resized.
#[inline]
pub fn take<L: Lane>(address: usize) -> Option<Sample> {
    let profile = &L::allocator().profile;
    if profile.is_on() { profile.take(address) } else { None }
}

/// Undoes [`take`].
#[inline]
pub fn put_back<L: Lane>(sample: Option<Sample>) {
    if let Some(sample) = sample {
        L::allocator().profile.put_back(sample);
    }
}

/// Usable bytes of the large block at `address`: its `run_bytes` or, so that sampling does not change the program's
/// behaviour, the slot size of a sampled small block.
#[inline]
pub fn usable_bytes<L: Lane>(address: usize, run_bytes: usize) -> usize {
    let profile = &L::allocator().profile;
    if !profile.is_on() || run_bytes > MAX_SMALL_BYTES {
        return run_bytes;
    }
    match profile.bytes_of(address).and_then(bin_for) {
        Some(bin) => bins::info(bin).slot_bytes as usize,
        None => run_bytes,
    }
}

struct Walk {
    unwinder: Unwinder,
    frames: [usize; MAX_FRAMES],
    depth: usize,
}

/// `_URC_NO_REASON` and `_URC_END_OF_STACK` of the Itanium C++ ABI.
const CONTINUE: c_int = 0;
const STOP: c_int = 5;

impl Walk {
    fn new(unwinder: Unwinder) -> Self {
        Self { unwinder, frames: [0; MAX_FRAMES], depth: 0 }
    }

    /// Return addresses, from the allocator's caller outwards.
    fn run(&mut self) -> &[usize] {
        self.depth = 0;
        let backtrace = self.unwinder.backtrace;
        // SAFETY: `_Unwind_Backtrace` may be called anywhere; `visit` alone uses the walk meanwhile.
        unsafe { backtrace(Self::visit, (&raw mut *self).cast()) };
        self.frames.get(..self.depth).unwrap_or(&[])
    }

    /// # Safety
    /// `frame` is the unwinder's, and `walk` a [`Walk`] without another reference.
    unsafe extern "C" fn visit(frame: *mut c_void, walk: *mut c_void) -> c_int {
        // SAFETY: `walk` is the one that `run` passed, and nothing else refers to it.
        let walk = unsafe { &mut *walk.cast::<Walk>() };
        // SAFETY: the unwinder passes its own frame to be read by its own function.
        let address = unsafe { (walk.unwinder.get_ip)(frame) };
        if walk.depth == 0 && (walk.unwinder.own_start..walk.unwinder.own_end).contains(&address) {
            return CONTINUE;
        }
        match walk.frames.get_mut(walk.depth) {
            Some(place) if address != 0 => {
                *place = address;
                walk.depth += 1;
                CONTINUE
            }
            _ => STOP,
        }
    }
}
