//! Profile: which call stacks the program's memory comes from, by a sample of its blocks.
//!
//! ```text
//! blocks   address → { bytes, stack }                                     open-addressed, at most half full
//! stacks   hash → { counts, size class, frames } → { … }                  chained, never removed
//! ```
//!
//! Blocks that are live now are in the table; a stack counts those and all that ever were. A stack has a row
//! per size class, because readers scale a row by the mean size of its blocks, which must not mix sizes that
//! are sampled with different probabilities. Everything lies in memory from the operating system, under one
//! lock, which is taken per sampled block and per free of a block that may be one. It is asked for more memory
//! while the lock is free.

use crate::platform::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::table::Table;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

/// Most frames of a stack; what is further out is cut off.
pub const MAX_FRAMES: usize = 128;
/// Chains of stacks. Chosen: programs have some thousand stacks that allocate.
const CHAINS: usize = 4096;
/// Room of the first table of blocks.
const FIRST_ROOM: usize = 1024;
/// Bytes of a unit of stacks' memory.
const UNIT_BYTES: usize = 64;

/// Calls its argument with each frame of the calling thread, innermost first, until that returns other than 0:
/// `_Unwind_Backtrace` of the Itanium C++ ABI.
pub type Backtrace =
    unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int, *mut c_void) -> c_int;
/// The return address of a frame: `_Unwind_GetIP`.
pub type GetIp = unsafe extern "C" fn(*mut c_void) -> usize;

/// How stacks are taken.
#[derive(Clone, Copy)]
pub struct Unwinder {
    /// Walks the stack.
    pub backtrace: Backtrace,
    /// Reads a frame.
    pub get_ip: GetIp,
    /// First address of the allocator's own code, whose frames are left out.
    pub own_start: usize,
    /// One past its last.
    pub own_end: usize,
}

/// Numbers of sampled blocks, and the bytes that were asked for with them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Blocks that live.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Blocks ever.
    pub all_blocks: u64,
    /// Their bytes.
    pub all_bytes: u64,
}

/// A sampled block.
#[derive(Clone, Copy)]
pub struct Sample {
    address: usize,
    /// Bytes that were asked for.
    pub bytes: usize,
    stack: u32,
}

const NO_SAMPLE: Sample = Sample { address: 0, bytes: 0, stack: 0 };

/// A stack's row of one size class; its frames follow it.
#[repr(C)]
struct Stack {
    counts: Counts,
    hash: u64,
    next: u32,
    depth: u16,
    class: u16,
}

/// Size classes: eight per doubling, so that no row's sizes differ by more than an eighth.
fn class_of(bytes: usize) -> u16 {
    let bytes = bytes.max(1);
    let doubling = bytes.ilog2();
    let eighth = if doubling < 3 { bytes << (3 - doubling) } else { bytes >> (doubling - 3) } & 7;
    (doubling as usize * 8 + eighth) as u16
}

fn hash_of(class: u16, frames: &[usize]) -> u64 {
    frames.iter().fold(u64::from(class) + 1, |hash, &frame| {
        (hash ^ frame as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

/// Sync, every field: the profile's lock, over the memory that they lead to as well.
struct Samples {
    chains: [u32; CHAINS],
    blocks: *mut Sample,
    /// Places for blocks: 0 or a power of two.
    room: usize,
    used: usize,
    totals: Counts,
}

impl Ranked for Samples {
    const RANK: Rank = Rank::Profile;
}

// SAFETY: the memory behind the pointer belongs to whoever has the structure.
unsafe impl Send for Samples {}

impl Samples {
    /// Where the search for a block begins. Its address is that of a page, most of the time.
    fn home(&self, address: usize) -> usize {
        ((address >> 4) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) as usize & (self.room - 1)
    }

    fn block(&self, place: usize) -> *mut Sample {
        self.blocks.wrapping_add(place & (self.room - 1))
    }

    /// The place of the block at `address`.
    fn find(&self, address: usize) -> Option<usize> {
        if self.room == 0 {
            return None;
        }
        let mut place = self.home(address);
        loop {
            // SAFETY: the place is masked into the table, which is half empty, so that the loop ends.
            match unsafe { (*self.block(place)).address } {
                0 => return None,
                found if found == address => return Some(place),
                _ => place += 1,
            }
        }
    }

    /// Puts a block that is not there into the table, which has room.
    fn insert(&mut self, sample: Sample) {
        let mut place = self.home(sample.address);
        // SAFETY: as in `find`.
        unsafe {
            while (*self.block(place)).address != 0 {
                place += 1;
            }
            *self.block(place) = sample;
        }
        self.used += 1;
    }

    /// Takes the block at `address` out, and closes the gap that it leaves in the others' search.
    fn remove(&mut self, address: usize) -> Option<Sample> {
        let mut gap = self.find(address)?;
        // SAFETY: as in `find`.
        unsafe {
            let found = *self.block(gap);
            let mut place = gap + 1;
            while (*self.block(place)).address != 0 {
                let moved = *self.block(place);
                let from_home = place.wrapping_sub(self.home(moved.address)) & (self.room - 1);
                if from_home >= (place.wrapping_sub(gap) & (self.room - 1)) {
                    *self.block(gap) = moved;
                    gap = place;
                }
                place += 1;
            }
            *self.block(gap) = NO_SAMPLE;
            self.used -= 1;
            Some(found)
        }
    }
}

/// One allocator's profile.
pub struct Profile<O: Os> {
    /// Mean bytes between two samples; 0 while there is no profile.
    interval_bytes: AtomicUsize,
    /// The unwinder's parts. Written before `interval_bytes`.
    backtrace: AtomicPtr<()>,
    get_ip: AtomicPtr<()>,
    own_start: AtomicUsize,
    own_end: AtomicUsize,
    stacks: Table<UNIT_BYTES>,
    samples: Mutex<Samples, O>,
    /// Samples that were lost because the system had no memory for them.
    lost: AtomicU32,
}

impl<O: Os> Profile<O> {
    /// Off, and empty.
    pub const fn new() -> Self {
        Self {
            interval_bytes: AtomicUsize::new(0),
            backtrace: AtomicPtr::new(null_mut()),
            get_ip: AtomicPtr::new(null_mut()),
            own_start: AtomicUsize::new(0),
            own_end: AtomicUsize::new(0),
            stacks: Table::new(),
            samples: Mutex::new(Samples {
                chains: [0; CHAINS],
                blocks: null_mut(),
                room: 0,
                used: 0,
                totals: Counts { live_blocks: 0, live_bytes: 0, all_blocks: 0, all_bytes: 0 },
            }),
            lost: AtomicU32::new(0),
        }
    }

    /// Whether there is a profile. For the slow paths: one load and a branch.
    #[inline]
    pub fn is_on(&self) -> bool {
        // Relaxed: what depends on it is read by `unwinder`, or under the lock.
        self.interval_bytes.load(Ordering::Relaxed) != 0
    }

    /// Mean bytes between two samples; 0 while there is no profile.
    pub fn interval_bytes(&self) -> usize {
        // Relaxed: as above.
        self.interval_bytes.load(Ordering::Relaxed)
    }

    /// Begins the profile. Call it once.
    pub fn begin(&self, unwinder: Unwinder, interval_bytes: usize) {
        // Relaxed, the first four: the last store publishes them.
        self.backtrace.store(unwinder.backtrace as *mut (), Ordering::Relaxed);
        self.get_ip.store(unwinder.get_ip as *mut (), Ordering::Relaxed);
        self.own_start.store(unwinder.own_start, Ordering::Relaxed);
        self.own_end.store(unwinder.own_end, Ordering::Relaxed);
        // Release: pairs with the Acquire in `unwinder`.
        self.interval_bytes.store(interval_bytes, Ordering::Release);
    }

    /// How stacks are taken; `None` while there is no profile.
    pub fn unwinder(&self) -> Option<Unwinder> {
        // Acquire: pairs with the Release in `begin`.
        if self.interval_bytes.load(Ordering::Acquire) == 0 {
            return None;
        }
        // Relaxed, all: published by the above. SAFETY: the words are `begin`'s function pointers.
        unsafe {
            Some(Unwinder {
                backtrace: core::mem::transmute::<*mut (), Backtrace>(self.backtrace.load(Ordering::Relaxed)),
                get_ip: core::mem::transmute::<*mut (), GetIp>(self.get_ip.load(Ordering::Relaxed)),
                own_start: self.own_start.load(Ordering::Relaxed),
                own_end: self.own_end.load(Ordering::Relaxed),
            })
        }
    }

    /// Notes a fresh block, which the stack `frames` (innermost first) allocated.
    pub fn add(&self, address: usize, bytes: usize, frames: &[usize]) {
        let frames = frames.get(..MAX_FRAMES).unwrap_or(frames);
        let stack = self.stack_of(class_of(bytes), frames);
        if !stack.is_some_and(|stack| self.put(Sample { address, bytes, stack }, true)) {
            // Relaxed: a count.
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the block at `address` out of the profile, if it is there: it is about to be freed or resized.
    pub fn take(&self, address: usize) -> Option<Sample> {
        let mut samples = self.samples.lock();
        let sample = samples.remove(address)?;
        self.count(&mut samples, sample.stack, |counts| {
            counts.live_blocks = counts.live_blocks.wrapping_sub(1);
            counts.live_bytes = counts.live_bytes.wrapping_sub(sample.bytes as u64);
        });
        Some(sample)
    }

    /// Undoes [`Profile::take`]: the block lives on as it was.
    pub fn put_back(&self, sample: Sample) {
        self.put(sample, false);
    }

    /// Bytes that were asked for with the block at `address`, if it is sampled.
    pub fn bytes_of(&self, address: usize) -> Option<usize> {
        let samples = self.samples.lock();
        let place = samples.find(address)?;
        // SAFETY: the place is a block's, and the lock is held.
        Some(unsafe { (*samples.block(place)).bytes })
    }

    /// Counts of all rows together.
    pub fn totals(&self) -> Counts {
        self.samples.lock().totals
    }

    /// Samples that were lost because the system had no memory for them.
    pub fn lost(&self) -> u32 {
        // Relaxed: a count.
        self.lost.load(Ordering::Relaxed)
    }

    /// Calls `look` with each row and its stack, innermost frame first. No lock is held meanwhile.
    pub fn each(&self, mut look: impl FnMut(Counts, &[usize])) {
        let mut frames = [0; MAX_FRAMES];
        for chain in 0..CHAINS {
            let mut id = self.samples.lock().chains.get(chain).copied().unwrap_or(0);
            while id != 0 {
                let (counts, depth) = {
                    let _samples = self.samples.lock();
                    let (stack, its_frames) = self.stack(id);
                    for (frame, its_frame) in frames.iter_mut().zip(its_frames) {
                        *frame = *its_frame;
                    }
                    id = stack.next;
                    (stack.counts, its_frames.len())
                };
                look(counts, frames.get(..depth).unwrap_or(&[]));
            }
        }
    }

    /// The row `id`. The caller holds the lock, or has just made the row.
    fn stack(&self, id: u32) -> (&Stack, &[usize]) {
        // SAFETY: ids in chains and samples are rows', which are never unmapped; `depth` frames follow the head.
        unsafe {
            let stack = self.stacks.unit(id).cast::<Stack>();
            (&*stack, core::slice::from_raw_parts(stack.add(1).cast(), usize::from((*stack).depth)))
        }
    }

    /// Changes the counts of the row `id` and of all rows together.
    fn count(&self, samples: &mut Samples, id: u32, change: impl Fn(&mut Counts)) {
        change(&mut samples.totals);
        // SAFETY: as in `stack`; the caller holds the lock.
        unsafe { change(&mut (*self.stacks.unit(id).cast::<Stack>()).counts) };
    }

    fn find_stack(&self, samples: &Samples, hash: u64, class: u16, frames: &[usize]) -> Option<u32> {
        let mut id = *samples.chains.get(hash as usize % CHAINS)?;
        while id != 0 {
            let (stack, its_frames) = self.stack(id);
            if stack.hash == hash && stack.class == class && its_frames == frames {
                return Some(id);
            }
            id = stack.next;
        }
        None
    }

    /// The row of a stack and a size class, made where there is none; `None` where memory has run out.
    fn stack_of(&self, class: u16, frames: &[usize]) -> Option<u32> {
        let hash = hash_of(class, frames);
        if let Some(id) = self.find_stack(&self.samples.lock(), hash, class, frames) {
            return Some(id);
        }
        let bytes = size_of::<Stack>() + size_of_val(frames);
        let id = self.stacks.allocate::<O>(bytes.div_ceil(UNIT_BYTES) as u32)?;
        // SAFETY: the units were just handed out, zeroed, to this thread alone.
        unsafe {
            let stack = self.stacks.unit(id).cast::<Stack>();
            (*stack).hash = hash;
            (*stack).class = class;
            (*stack).depth = frames.len() as u16;
            stack.add(1).cast::<usize>().copy_from_nonoverlapping(frames.as_ptr(), frames.len());
        }
        let mut samples = self.samples.lock();
        // Another thread that had the same in mind was faster: its row counts, and this one stays unused.
        if let Some(other) = self.find_stack(&samples, hash, class, frames) {
            return Some(other);
        }
        let first = samples.chains.get_mut(hash as usize % CHAINS)?;
        // SAFETY: as above.
        unsafe { (*self.stacks.unit(id).cast::<Stack>()).next = *first };
        *first = id;
        Some(id)
    }

    /// Puts a block into the table; false where there is no memory for a larger one.
    fn put(&self, sample: Sample, is_fresh: bool) -> bool {
        loop {
            let room = {
                let mut samples = self.samples.lock();
                if samples.used * 2 < samples.room {
                    samples.insert(sample);
                    self.count(&mut samples, sample.stack, |counts| {
                        counts.live_blocks = counts.live_blocks.wrapping_add(1);
                        counts.live_bytes = counts.live_bytes.wrapping_add(sample.bytes as u64);
                        if is_fresh {
                            counts.all_blocks = counts.all_blocks.wrapping_add(1);
                            counts.all_bytes = counts.all_bytes.wrapping_add(sample.bytes as u64);
                        }
                    });
                    return true;
                }
                samples.room
            };
            if !self.grow(room) {
                return false;
            }
        }
    }

    /// Gives the table twice the room, if it still has `room`; false where the system refuses.
    #[cold]
    fn grow(&self, room: usize) -> bool {
        let larger = (room * 2).max(FIRST_ROOM);
        let Some(fresh) = O::map(larger * size_of::<Sample>()) else { return false };
        let mut spent = (fresh.as_ptr().cast::<Sample>(), larger);
        {
            let mut samples = self.samples.lock();
            // Else another thread was faster.
            if samples.room == room {
                let old = (samples.blocks, samples.room);
                (samples.blocks, samples.room, samples.used) = (spent.0, spent.1, 0);
                spent = old;
                for place in 0..spent.1 {
                    // SAFETY: the place lies in the old table, which is nobody else's any more.
                    let sample = unsafe { *spent.0.add(place) };
                    if sample.address != 0 {
                        samples.insert(sample);
                    }
                }
            }
        }
        if let Some(start) = core::ptr::NonNull::new(spent.0) {
            // SAFETY: nothing refers to what is one whole mapping. Where the system leaves the address space, it may
            // take the memory; what it refuses twice is lost, at most as much as the table that is in use.
            unsafe {
                let bytes = spent.1 * size_of::<Sample>();
                let _ = O::unmap(start.cast(), bytes) || O::purge(start.cast(), bytes);
            }
        }
        true
    }

    /// Bytes that the profile itself has mapped.
    pub fn mapped_bytes(&self) -> usize {
        self.stacks.mapped_bytes() + self.samples.lock().room * size_of::<Sample>()
    }

    /// The profile's lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.samples
    }
}

impl<O: Os> Default for Profile<O> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
