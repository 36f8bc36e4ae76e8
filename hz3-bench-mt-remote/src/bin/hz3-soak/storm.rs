//! Storm: one thread's random calls, with its short-lived threads and its forks.

use crate::held::{Call, Held};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

/// Slots of one thread.
const SLOTS: usize = 384; // chosen: some MiB live
/// Blocks that a short-lived thread gets, and that it leaves.
const VISITING: usize = 32; // chosen
/// Calls that a child of fork makes before it frees the parent's blocks.
const CHILD_CALLS: usize = 200; // chosen
/// A child that takes longer hangs, and is killed.
const CHILD_SECONDS: u32 = 40; // chosen

/// What has happened so far, in this process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Steps of the random mixture.
    pub operations: AtomicU64,
    /// Blocks freed by another thread than the one that had them.
    pub sent: AtomicU64,
    /// Short-lived threads.
    pub threads: AtomicU64,
    /// Children of fork.
    pub forks: AtomicU64,
}

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
            // Relaxed, here and below: figures.
            self.counts.operations.fetch_add(256, Relaxed);
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
        (self.random.next_u64() % limit as u64) as usize
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
                    Ok(()) => drop(self.counts.sent.fetch_add(1, Relaxed)),
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
        self.counts.threads.fetch_add(1, Relaxed);
        Ok(())
    }

    /// A child allocates, checks and frees this thread's blocks, and ends; it must end well.
    fn fork(&mut self) -> Result<(), String> {
        // SAFETY: the child calls nothing but the allocator (which must work there), alarm, signal and _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: SIGALRM's default ends the child, which is the point.
            unsafe {
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                libc::alarm(CHILD_SECONDS);
            }
            let code = i32::from(self.live_as_a_child().is_err());
            // SAFETY: ends the child without the parent's handlers.
            unsafe { libc::_exit(code) }
        }
        if child < 0 {
            return Err(format!("no child: {}", std::io::Error::last_os_error()));
        }
        let mut status = 0;
        // SAFETY: the child is this thread's own; the status has a place.
        while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(format!("a child can't be waited for: {error}"));
            }
        }
        if status != 0 {
            return Err(format!("a forked child ended with status {status:#x} (wrong content, a crash, or 0xe: hung)"));
        }
        self.counts.forks.fetch_add(1, Relaxed);
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

/// A block by a random call.
fn allocate(random: &mut Xoshiro256PlusPlus) -> Result<Held, String> {
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
