//! A sampling heap profile: which call stacks allocate the program's memory.
//!
//! ```text
//! blocks   address → { bytes, stack }                                     open-addressed, at most half full
//! stacks   hash → { counts, size class, frames } → { … }                  chained, never removed
//! ```
//!
//! The table has the live sampled blocks; a stack counts those and past ones. It has a row per size class, because
//! readers scale a row by its mean size, and sampling probability depends on the size. One lock protects everything,
//! and is free while memory is requested from the system.

use crate::platform::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::table::Table;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

/// Most frames of a stack; outer ones are cut off.
pub const MAX_FRAMES: usize = 128;
/// Chosen: programs have some thousand stacks that allocate.
const CHAINS: usize = 4096;
const FIRST_CAPACITY: usize = 1024;
const UNIT_BYTES: usize = 64;

/// `_Unwind_Backtrace` (Itanium C++ ABI): calls back for each frame, innermost first, until that returns nonzero.
pub type Backtrace =
    unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int, *mut c_void) -> c_int;
/// `_Unwind_GetIP`: the return address of a frame.
pub type GetIp = unsafe extern "C" fn(*mut c_void) -> usize;

/// How to walk a stack.
#[derive(Clone, Copy)]
pub struct Unwinder {
    /// Walks the stack.
    pub backtrace: Backtrace,
    /// Reads a frame's return address.
    pub get_ip: GetIp,
    /// First address of the allocator's code, whose frames are left out.
    pub own_start: usize,
    /// One past its last.
    pub own_end: usize,
}

/// Numbers of sampled blocks, and sums of their requested sizes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Live blocks.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Live and past blocks.
    pub all_blocks: u64,
    /// Their bytes.
    pub all_bytes: u64,
}

/// A sampled block.
#[derive(Clone, Copy)]
pub struct Sample {
    address: usize,
    /// Requested size.
    pub bytes: usize,
    stack: u32,
}

const NO_SAMPLE: Sample = Sample { address: 0, bytes: 0, stack: 0 };

/// A row: a stack and size class. Its frames follow.
#[repr(C)]
struct Stack {
    counts: Counts,
    hash: u64,
    next: u32,
    depth: u16,
    class: u16,
}

/// Eight classes per doubling: sizes in one differ by at most an eighth.
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

/// Sync, every field and what it leads to: the profile's lock.
struct Samples {
    chains: [u32; CHAINS],
    blocks: *mut Sample,
    /// Places for blocks: 0 or a power of two.
    capacity: usize,
    used: usize,
    totals: Counts,
}

impl Ranked for Samples {
    const RANK: Rank = Rank::Profile;
}

// SAFETY: the structure owns the memory it leads to.
unsafe impl Send for Samples {}

impl Samples {
    /// Where the search for a block starts. Most addresses are multiples of the page size.
    fn search_start(&self, address: usize) -> usize {
        ((address >> 4) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) as usize & (self.capacity - 1)
    }

    fn block(&self, place: usize) -> *mut Sample {
        self.blocks.wrapping_add(place & (self.capacity - 1))
    }

    fn find(&self, address: usize) -> Option<usize> {
        if self.capacity == 0 {
            return None;
        }
        let mut place = self.search_start(address);
        loop {
            // SAFETY: the mask keeps the place in the table; half of it is empty, so the loop ends.
            match unsafe { (*self.block(place)).address } {
                0 => return None,
                found if found == address => return Some(place),
                _ => place += 1,
            }
        }
    }

    /// Adds a block that is new to the table, which has room.
    fn insert(&mut self, sample: Sample) {
        let mut place = self.search_start(sample.address);
        // SAFETY: the mask keeps the place in the table; half of it is empty, so the loop ends.
        unsafe {
            while (*self.block(place)).address != 0 {
                place += 1;
            }
            *self.block(place) = sample;
        }
        self.used += 1;
    }

    /// Removes a block, and moves others up so that no search ends at its place.
    fn remove(&mut self, address: usize) -> Option<Sample> {
        let mut gap = self.find(address)?;
        // SAFETY: the mask keeps every place in the table; half of it is empty, so the loop ends.
        unsafe {
            let found = *self.block(gap);
            let mut place = gap + 1;
            while (*self.block(place)).address != 0 {
                let moved = *self.block(place);
                let from_start = place.wrapping_sub(self.search_start(moved.address)) & (self.capacity - 1);
                if from_start >= (place.wrapping_sub(gap) & (self.capacity - 1)) {
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

/// An allocator's profile. Methods that need blocks or rows take its lock.
pub struct Profile<O: Os> {
    /// Mean bytes between two samples; 0 without a profile.
    interval_bytes: AtomicUsize,
    /// The unwinder; written before `interval_bytes`.
    backtrace: AtomicPtr<()>,
    get_ip: AtomicPtr<()>,
    own_start: AtomicUsize,
    own_end: AtomicUsize,
    stacks: Table<UNIT_BYTES>,
    samples: Mutex<Samples, O>,
    /// Samples lost for lack of memory.
    lost: AtomicU32,
}

impl<O: Os> Profile<O> {
    /// No profile.
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
                capacity: 0,
                used: 0,
                totals: Counts { live_blocks: 0, live_bytes: 0, all_blocks: 0, all_bytes: 0 },
            }),
            lost: AtomicU32::new(0),
        }
    }

    /// Whether a profile is on: one load and a branch.
    #[inline]
    pub fn is_on(&self) -> bool {
        // Relaxed: `unwinder` and the lock order the rest.
        self.interval_bytes.load(Ordering::Relaxed) != 0
    }

    /// Mean bytes between two samples; 0 without a profile.
    pub fn interval_bytes(&self) -> usize {
        // Relaxed: a number.
        self.interval_bytes.load(Ordering::Relaxed)
    }

    /// Starts the profile. Call it once, with an interval above 0.
    pub fn begin(&self, unwinder: Unwinder, interval_bytes: usize) {
        // Relaxed, the first four: the last store publishes them.
        self.backtrace.store(unwinder.backtrace as *mut (), Ordering::Relaxed);
        self.get_ip.store(unwinder.get_ip as *mut (), Ordering::Relaxed);
        self.own_start.store(unwinder.own_start, Ordering::Relaxed);
        self.own_end.store(unwinder.own_end, Ordering::Relaxed);
        // Release: publishes the unwinder. Pairs with the Acquire in `unwinder`.
        self.interval_bytes.store(interval_bytes, Ordering::Release);
    }

    /// The unwinder; `None` without a profile.
    pub fn unwinder(&self) -> Option<Unwinder> {
        // Acquire: pairs with the Release in `begin`.
        if self.interval_bytes.load(Ordering::Acquire) == 0 {
            return None;
        }
        // Relaxed, all: the Acquire orders them. SAFETY: `begin` stored functions of these types.
        unsafe {
            Some(Unwinder {
                backtrace: core::mem::transmute::<*mut (), Backtrace>(self.backtrace.load(Ordering::Relaxed)),
                get_ip: core::mem::transmute::<*mut (), GetIp>(self.get_ip.load(Ordering::Relaxed)),
                own_start: self.own_start.load(Ordering::Relaxed),
                own_end: self.own_end.load(Ordering::Relaxed),
            })
        }
    }

    /// Adds a fresh block and the stack that allocated it, innermost frame first.
    pub fn add(&self, address: usize, bytes: usize, frames: &[usize]) {
        let frames = frames.get(..MAX_FRAMES).unwrap_or(frames);
        let stack = self.stack_of(class_of(bytes), frames);
        if !stack.is_some_and(|stack| self.put(Sample { address, bytes, stack }, true)) {
            // Relaxed: a count.
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes the block at `address`, if it is sampled, before it is freed or resized.
    pub fn take(&self, address: usize) -> Option<Sample> {
        let mut samples = self.samples.lock();
        let sample = samples.remove(address)?;
        self.count(&mut samples, sample.stack, |counts| {
            counts.live_blocks = counts.live_blocks.wrapping_sub(1);
            counts.live_bytes = counts.live_bytes.wrapping_sub(sample.bytes as u64);
        });
        Some(sample)
    }

    /// Undoes [`Profile::take`]: the block stays.
    pub fn put_back(&self, sample: Sample) {
        self.put(sample, false);
    }

    /// Requested size of the block at `address`, if it is sampled.
    pub fn bytes_of(&self, address: usize) -> Option<usize> {
        let samples = self.samples.lock();
        let place = samples.find(address)?;
        // SAFETY: a block's place; the lock is held.
        Some(unsafe { (*samples.block(place)).bytes })
    }

    /// Sum of all rows.
    pub fn totals(&self) -> Counts {
        self.samples.lock().totals
    }

    /// Samples lost for lack of memory.
    pub fn lost(&self) -> u32 {
        // Relaxed: a count.
        self.lost.load(Ordering::Relaxed)
    }

    /// Calls `visit`, without the lock, with each row and its stack, innermost frame first.
    pub fn each(&self, mut visit: impl FnMut(Counts, &[usize])) {
        let mut frames = [0; MAX_FRAMES];
        for chain in 0..CHAINS {
            let mut id = self.samples.lock().chains.get(chain).copied().unwrap_or(0);
            while id != 0 {
                let (counts, depth) = {
                    let _samples = self.samples.lock();
                    let (stack, stack_frames) = self.stack(id);
                    for (frame, source) in frames.iter_mut().zip(stack_frames) {
                        *frame = *source;
                    }
                    id = stack.next;
                    (stack.counts, stack_frames.len())
                };
                visit(counts, frames.get(..depth).unwrap_or(&[]));
            }
        }
    }

    /// A row. The caller holds the lock.
    fn stack(&self, id: u32) -> (&Stack, &[usize]) {
        // SAFETY: a row's id, never unmapped; `depth` frames follow. The caller holds the lock.
        unsafe {
            let stack = self.stacks.unit(id).cast::<Stack>();
            (&*stack, core::slice::from_raw_parts(stack.add(1).cast(), usize::from((*stack).depth)))
        }
    }

    /// Changes the row `id` and the totals.
    fn count(&self, samples: &mut Samples, id: u32, change: impl Fn(&mut Counts)) {
        change(&mut samples.totals);
        // SAFETY: a row's id, never unmapped. The caller holds the lock, and no reference to the row.
        unsafe { change(&mut (*self.stacks.unit(id).cast::<Stack>()).counts) };
    }

    fn find_stack(&self, samples: &Samples, hash: u64, class: u16, frames: &[usize]) -> Option<u32> {
        let mut id = *samples.chains.get(hash as usize % CHAINS)?;
        while id != 0 {
            let (stack, stack_frames) = self.stack(id);
            if stack.hash == hash && stack.class == class && stack_frames == frames {
                return Some(id);
            }
            id = stack.next;
        }
        None
    }

    /// The row of a stack and size class, new or not; `None` when memory has run out.
    fn stack_of(&self, class: u16, frames: &[usize]) -> Option<u32> {
        let hash = hash_of(class, frames);
        if let Some(id) = self.find_stack(&self.samples.lock(), hash, class, frames) {
            return Some(id);
        }
        let bytes = size_of::<Stack>() + size_of_val(frames);
        let id = self.stacks.allocate::<O>(bytes.div_ceil(UNIT_BYTES) as u32)?;
        // SAFETY: the units are this thread's alone and hold the row and its frames; zeros are a valid row.
        unsafe {
            let stack = self.stacks.unit(id).cast::<Stack>();
            (*stack).hash = hash;
            (*stack).class = class;
            (*stack).depth = frames.len() as u16;
            stack.add(1).cast::<usize>().copy_from_nonoverlapping(frames.as_ptr(), frames.len());
        }
        let mut samples = self.samples.lock();
        // Another thread was faster; this row stays unused.
        if let Some(other) = self.find_stack(&samples, hash, class, frames) {
            return Some(other);
        }
        let first = samples.chains.get_mut(hash as usize % CHAINS)?;
        // SAFETY: the row is this thread's until it is in a chain.
        unsafe { (*self.stacks.unit(id).cast::<Stack>()).next = *first };
        *first = id;
        Some(id)
    }

    /// Adds a block; false without memory for a larger table.
    fn put(&self, sample: Sample, is_fresh: bool) -> bool {
        loop {
            let capacity = {
                let mut samples = self.samples.lock();
                if samples.used * 2 < samples.capacity {
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
                samples.capacity
            };
            if !self.grow(capacity) {
                return false;
            }
        }
    }

    /// Doubles the table, if it still has `capacity` places; false if the system refuses.
    #[cold]
    fn grow(&self, capacity: usize) -> bool {
        let larger = (capacity * 2).max(FIRST_CAPACITY);
        let Some(fresh) = O::map(larger * size_of::<Sample>()) else { return false };
        let mut unused = (fresh.as_ptr().cast::<Sample>(), larger);
        {
            let mut samples = self.samples.lock();
            // Else another thread was faster.
            if samples.capacity == capacity {
                let old = (samples.blocks, samples.capacity);
                (samples.blocks, samples.capacity, samples.used) = (unused.0, unused.1, 0);
                unused = old;
                for place in 0..unused.1 {
                    // SAFETY: a place in the old table, this thread's alone now.
                    let sample = unsafe { *unused.0.add(place) };
                    if sample.address != 0 {
                        samples.insert(sample);
                    }
                }
            }
        }
        if let Some(start) = core::ptr::NonNull::new(unused.0) {
            // SAFETY: one whole mapping that nothing refers to. If both calls fail, at most the size of the table in
            // use is lost.
            unsafe {
                let bytes = unused.1 * size_of::<Sample>();
                let _ = O::unmap(start.cast(), bytes) || O::purge(start.cast(), bytes);
            }
        }
        true
    }

    /// Bytes mapped for the profile itself.
    pub fn mapped_bytes(&self) -> usize {
        self.stacks.mapped_bytes() + self.samples.lock().capacity * size_of::<Sample>()
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
