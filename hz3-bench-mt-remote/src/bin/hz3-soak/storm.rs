//! Storm: one thread's random calls, with its short-lived threads and its forks.

use crate::child::{CHILD_SECONDS, GRANDCHILD_SECONDS, forked};
use crate::counts::Counts;
use crate::held::{Call, Held};
use crate::hooks::OfThisThread;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

/// Slots of one thread.
const SLOTS: usize = 384; // chosen: some MiB live
/// Blocks that a short-lived thread gets, and that it leaves.
const VISITING: usize = 32; // chosen
/// Calls that a child of fork makes before it frees the parent's blocks.
const CHILD_CALLS: usize = 200; // chosen

/// One thread of the storm.
pub struct Storm<'a> {
    random: Xoshiro256PlusPlus,
    slots: Vec<Option<Held>>,
    inbox: Receiver<Held>,
    others: Vec<SyncSender<Held>>,
    counts: &'a Counts,
}

impl<'a> Storm<'a> {
    /// Has no blocks yet.
    pub fn new(seed: u64, inbox: Receiver<Held>, others: Vec<SyncSender<Held>>, counts: &'a Counts) -> Self {
        let slots = (0..SLOTS).map(|_| None).collect();
        Self { random: Xoshiro256PlusPlus::seed_from_u64(seed), slots, inbox, others, counts }
    }

    /// Storms until `end` and frees everything; what is wrong, in one line.
    pub fn run(mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            for _ in 0..256 {
                self.step()?;
            }
            self.counts.operations.add(256);
            while let Ok(held) = self.inbox.try_recv() {
                held.check()?;
                held.free();
            }
            match self.below(256) {
                0..6 => self.receive_a_visit()?,
                6..8 => self.fork()?,
                _ => {}
            }
        }
        drop(self.others);
        for held in self.slots.into_iter().flatten().chain(self.inbox) {
            held.check()?;
            held.free();
        }
        Ok(())
    }

    fn below(&mut self, limit: usize) -> usize {
        below(&mut self.random, limit)
    }

    fn step(&mut self) -> Result<(), String> {
        let index = self.below(SLOTS);
        let Some(held) = self.slots[index].take() else {
            self.slots[index] = Some(allocate(&mut self.random)?);
            return Ok(());
        };
        held.check()?;
        match self.below(100) {
            0..45 => held.free(),
            45..70 => {
                let other = self.below(self.others.len());
                match self.others[other].try_send(held) {
                    Ok(()) => self.counts.sent.add(1),
                    Err(error) => {
                        use std::sync::mpsc::TrySendError::{Disconnected, Full};
                        let (Full(held) | Disconnected(held)) = error;
                        held.free();
                    }
                }
            }
            70..90 => {
                let len = size(&mut self.random).max(1);
                self.slots[index] = Some(held.resize(len)?);
            }
            _ => self.slots[index] = Some(held),
        }
        Ok(())
    }

    /// A thread takes some blocks along, frees them, leaves others and ends.
    fn receive_a_visit(&mut self) -> Result<(), String> {
        let brought: Vec<Held> = self.slots.iter_mut().take(VISITING).filter_map(Option::take).collect();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.random.next_u64());
        let visitor = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let _hooks = OfThisThread::find();
            for held in brought {
                held.check()?;
                held.free();
            }
            (0..VISITING).map(|_| allocate(&mut random)).collect::<Result<Vec<_>, _>>()
        });
        let visitor = visitor.map_err(|error| format!("no thread: {error}"))?;
        let left = visitor.join().map_err(|_| "a short-lived thread panicked".to_owned())??;
        for (slot, held) in self.slots.iter_mut().zip(left) {
            *slot = Some(held);
        }
        self.counts.threads.add(1);
        Ok(())
    }

    /// A child allocates, checks and frees this thread's blocks, maybe starts a thread or forks, and ends; it must end well.
    fn fork(&mut self) -> Result<(), String> {
        let (starts_a_thread, descends) = (self.below(4) == 0, self.below(4) == 0);
        forked(CHILD_SECONDS, || {
            if descends {
                forked(GRANDCHILD_SECONDS, || self.live_as_a_child())?;
            }
            if starts_a_thread {
                live_in_a_thread(&mut self.random)?;
            }
            self.live_as_a_child()
        })?;
        self.counts.forks.add(1);
        self.counts.child_threads.add(u64::from(starts_a_thread));
        self.counts.grandchildren.add(u64::from(descends));
        Ok(())
    }

    fn live_as_a_child(&mut self) -> Result<(), String> {
        for _ in 0..CHILD_CALLS {
            let held = allocate(&mut self.random)?;
            let index = self.below(SLOTS);
            if let Some(old) = self.slots[index].replace(held) {
                old.check()?;
                old.free();
            }
        }
        for held in self.slots.iter_mut().filter_map(Option::take) {
            held.check()?;
            held.free();
        }
        Ok(())
    }
}

/// What a child's thread gets and leaves.
struct ChildThread {
    random: Xoshiro256PlusPlus,
    outcome: Result<(), String>,
}

/// A child's thread allocates and frees. It is none of Rust's standard library: those take a lock when they start and end
/// (`sys/pal/unix/stack_overflow/thread_info.rs`), which a thread that the child lacks may have held at the fork.
pub fn live_in_a_thread(random: &mut Xoshiro256PlusPlus) -> Result<(), String> {
    let random = Xoshiro256PlusPlus::seed_from_u64(random.next_u64());
    let mut part = ChildThread { random, outcome: Err("a child's thread did not run".to_owned()) };
    let mut thread = 0;
    // SAFETY: the part outlives the thread, which alone uses it and is joined once.
    let code = unsafe {
        let code = libc::pthread_create(&raw mut thread, null(), live_as_a_thread, (&raw mut part).cast());
        if code == 0 { libc::pthread_join(thread, null_mut()) } else { code }
    };
    if code == 0 { part.outcome } else { Err(format!("no thread in a child: {code}")) }
}

extern "C" fn live_as_a_thread(part: *mut c_void) -> *mut c_void {
    let _hooks = OfThisThread::find();
    // SAFETY: `live_in_a_thread` gives the thread a part of its own.
    let part = unsafe { &mut *part.cast::<ChildThread>() };
    part.outcome = (0..VISITING).try_for_each(|_| {
        let held = allocate(&mut part.random)?;
        held.check()?;
        held.free();
        Ok(())
    });
    null_mut()
}

/// A random number below `limit`.
pub fn below(random: &mut Xoshiro256PlusPlus, limit: usize) -> usize {
    (random.next_u64() % limit as u64) as usize
}

/// A block by a random call.
pub fn allocate(random: &mut Xoshiro256PlusPlus) -> Result<Held, String> {
    let call = match random.next_u64() % 10 {
        0..6 => Call::Malloc,
        6..8 => Call::Calloc,
        _ => Call::Aligned(8 << (random.next_u64() % 14)),
    };
    let stamp = random.next_u64();
    Held::allocate(call, size(random), stamp)
}

/// Mostly small; up to 4 MiB, and 0 now and then.
fn size(random: &mut Xoshiro256PlusPlus) -> usize {
    let limit: u64 = match random.next_u64() % 1000 {
        0..700 => 1 << 10,
        700..930 => 32 << 10,
        930..995 => 256 << 10,
        _ => 4 << 20,
    };
    (random.next_u64() % (limit + 1)) as usize
}
