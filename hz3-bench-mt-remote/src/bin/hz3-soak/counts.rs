//! Counts: what has happened so far in this process, for the `[SOAK]` line.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A figure that threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, number: u64) {
        // Relaxed, here and below: a figure.
        self.0.fetch_add(number, Relaxed);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.load(Relaxed))
    }
}

/// The figures.
#[derive(Debug, Default)]
pub struct Counts {
    /// Steps of the random mixture.
    pub operations: Count,
    /// Blocks freed by another thread than the one that had them.
    pub sent: Count,
    /// Short-lived threads.
    pub threads: Count,
    /// Children of fork, whoever forks.
    pub forks: Count,
    /// Their children.
    pub grandchildren: Count,
    /// Children and grandchildren that started a thread.
    pub child_threads: Count,
    /// Streams read to their end beside flushes and forks.
    pub stdio: Count,
    /// Flushes of all streams.
    pub flushes: Count,
    /// Plug-ins opened, used by threads that outlive them, and closed.
    pub plug_ins: Count,
    /// Plug-ins opened and closed unused.
    pub unused_plug_ins: Count,
    /// Coroutines that ran to their end.
    pub coroutines: Count,
    /// Times that a thread went on with a coroutine.
    pub switches: Count,
    /// Threads of the smallest stack.
    pub small_stacks: Count,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { operations, sent, threads, forks, grandchildren, child_threads, stdio, flushes, .. } = self;
        let Counts { plug_ins, unused_plug_ins, coroutines, switches, small_stacks, .. } = self;
        write!(formatter, "operations={operations} sent={sent} threads={threads} forks={forks} ")?;
        write!(formatter, "grandchildren={grandchildren} child_threads={child_threads} stdio={stdio} ")?;
        write!(formatter, "flushes={flushes} plug_ins={plug_ins} unused_plug_ins={unused_plug_ins} ")?;
        write!(formatter, "coroutines={coroutines} switches={switches} small_stacks={small_stacks}")
    }
}
