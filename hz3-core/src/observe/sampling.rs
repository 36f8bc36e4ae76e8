//! Sampling: how allocations get into the profile, and out of it.
//!
//! ```text
//! thread pointer → decoy: entries all null, pace          each call takes its slow path, and counts its bytes
//!                    └──→ heap                            from which the slow path serves all but samples
//! sampled small block = a run of pages, tagged large      its free finds the table of sampled blocks
//! ```
//!
//! A sampled block differs from others by its page tag alone, so that nothing has to be looked up for the rest.
//! It is never in a magazine: what is freed goes back to the runs. While there is no profile, threads have no
//! decoys, and what is left of all this is one test in each slow path.
//!
//! A thread counts what was asked for, by its own calls; what it allocates while it has no heap (in destructors
//! that run late) or before the profile began is not in the profile.

use crate::allocator::{HeapOf, Lane, thread_heap};
use crate::pages::bins::{self, MAX_SMALL_BYTES, bin_for};
use crate::platform::os::Os;
use crate::record::profile::{MAX_FRAMES, Sample, Unwinder};
use crate::thread::heap::{self, is_static};
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

/// Begins the profile of lane `L`: this thread, and those that start from here on, are sampled. Call it once, before
/// there are other threads, in a lane whose blocks are freed by address: who frees by size alone, as
/// [`crate::api::global_alloc::Hz3`] does, can't tell a sampled block where memory for the thread's decoy was refused.
pub fn begin<L: Lane>(unwinder: Unwinder, interval_bytes: usize) {
    let allocator = L::allocator();
    // Once before it counts, because the first walk may load and initialise something.
    let mut walk = Walk::new(unwinder);
    walk.go();
    allocator.profile.begin(unwinder, interval_bytes);
    // SAFETY: the heap, and the pointer, are this thread's.
    unsafe {
        if let Some(heap) = thread_heap::<L>()
            && heap::decoy(L::heap()).is_none()
        {
            disguise::<L>(heap);
        }
    }
}

/// Puts the decoy of `heap` at the thread's pointer, so that the thread is sampled from here on. Where the system
/// has no memory for one, the thread is not.
///
/// # Safety
/// The heap is the calling thread's.
#[cold]
pub unsafe fn disguise<L: Lane>(heap: *mut HeapOf<L>) {
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

/// A sampled block of `bytes`, at most [`MAX_SMALL_BYTES`], which `make` makes, if the calling thread is due for one.
#[inline]
pub fn small<L: Lane>(bytes: usize, make: impl FnOnce() -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    if L::allocator().profile.is_on() { sample_if_due::<L>(bytes, make) } else { None }
}

/// Counts an allocation of `bytes` and, where it is due, has `block` make it, and takes the stack down.
#[cold]
#[inline(never)]
fn sample_if_due<L: Lane>(bytes: usize, block: impl FnOnce() -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    let profile = &L::allocator().profile;
    if is_static(L::heap()) {
        thread_heap::<L>()?;
    }
    // SAFETY: the thread's own pointer.
    let decoy = unsafe { heap::decoy(L::heap()) }?.as_ptr();
    let interval_bytes = profile.interval_bytes();
    // SAFETY: the decoy is this thread's; no reference to its pace lives across the walk.
    let is_due = unsafe { (*decoy).pace.is_due(bytes, interval_bytes) };
    if !is_due {
        return None;
    }
    let mut walk = Walk::new(profile.unwinder()?);
    let block = block()?;
    // SAFETY: as above. What the walk may allocate is not the program's.
    unsafe { (*decoy).pace.set_busy(true) };
    profile.add(block.as_ptr().addr(), bytes, walk.go());
    // SAFETY: as above.
    unsafe { (*decoy).pace.set_busy(false) };
    Some(block)
}

/// Counts the large block at `address`, for which `bytes` were asked, and samples it if it is due.
#[inline]
pub fn large<L: Lane>(address: usize, bytes: usize) {
    if L::allocator().profile.is_on() {
        sample_if_due::<L>(bytes, || NonNull::new(core::ptr::with_exposed_provenance_mut(address)));
    }
}

/// Takes the large block at `address` out of the profile, where it is in it: it is about to be freed or resized.
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

/// Bytes that may be used of the large block at `address`, whose run has `run_bytes`: of a small one that was sampled
/// as many as if it had not been, so that the program goes on in the same way.
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

/// A walk of the calling thread's stack.
struct Walk {
    unwinder: Unwinder,
    frames: [usize; MAX_FRAMES],
    depth: usize,
}

/// `_URC_NO_REASON` and `_URC_END_OF_STACK` of the Itanium C++ ABI.
const GO_ON: c_int = 0;
const END: c_int = 5;

impl Walk {
    fn new(unwinder: Unwinder) -> Self {
        Self { unwinder, frames: [0; MAX_FRAMES], depth: 0 }
    }

    /// The return addresses of the frames from the allocator's caller outwards.
    fn go(&mut self) -> &[usize] {
        self.depth = 0;
        let backtrace = self.unwinder.backtrace;
        // SAFETY: the unwinder is the platform's; `visit` gets this walk back, which nothing else refers to.
        unsafe { backtrace(Self::visit, (&raw mut *self).cast()) };
        self.frames.get(..self.depth).unwrap_or(&[])
    }

    unsafe extern "C" fn visit(frame: *mut c_void, walk: *mut c_void) -> c_int {
        // SAFETY: `walk` is the argument of `go`.
        let walk = unsafe { &mut *walk.cast::<Walk>() };
        // SAFETY: the unwinder's own frame, read by its own function.
        let address = unsafe { (walk.unwinder.get_ip)(frame) };
        if walk.depth == 0 && (walk.unwinder.own_start..walk.unwinder.own_end).contains(&address) {
            return GO_ON;
        }
        match walk.frames.get_mut(walk.depth) {
            Some(place) if address != 0 => {
                *place = address;
                walk.depth += 1;
                GO_ON
            }
            _ => END,
        }
    }
}
