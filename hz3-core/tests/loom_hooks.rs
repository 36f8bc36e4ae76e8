//! Models of the process-wide hooks: threads that start at once, and one that starts within the installation,
//! explored exhaustively by loom.
#![cfg(loom)]

use hz3_core::thread::hooks::Hooks;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::{AtomicU32, Ordering};

/// The two threads' keys, and what the C library keeps of each: loom reports a thread that uses one before it is made.
struct Process {
    hooks: Hooks,
    keys: [UnsafeCell<u32>; 2],
    registered: UnsafeCell<u32>,
    deleted: AtomicU32,
}

impl Process {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            hooks: Hooks::new(),
            keys: [UnsafeCell::new(0), UnsafeCell::new(0)],
            registered: UnsafeCell::new(0),
            deleted: AtomicU32::new(0),
        })
    }

    /// What the start of thread `number` does, to which the system gives the key of that number, if any.
    fn start(&self, number: u32, has_keys: bool) -> Option<u32> {
        let key = self.hooks.key(
            || {
                // SAFETY: each thread makes its own key; loom reports another use meanwhile.
                self.keys[number as usize].with_mut(|key| unsafe { *key += 1 });
                has_keys.then_some(number)
            },
            |key| {
                assert_eq!(key, number, "deletes another thread's key");
                self.deleted.fetch_add(1, Ordering::Relaxed);
            },
            || {
                // SAFETY: one thread comes here; loom reports a second.
                self.registered.with_mut(|count| unsafe { *count += 1 });
                // To register may allocate, and so come back here.
                let again = self.hooks.key(|| unreachable!(), |_| unreachable!(), || unreachable!());
                assert_eq!(again, has_keys.then_some(number));
            },
        );
        if let Some(key) = key {
            // SAFETY: after the key's making, in whichever thread it was.
            assert_eq!(self.keys[key as usize].with(|key| unsafe { *key }), 1);
        }
        key
    }
}

fn threads_start_at_once(has_keys: bool) {
    loom::model(move || {
        let process = Process::new();
        let other = {
            let process = process.clone();
            thread::spawn(move || process.start(1, has_keys))
        };
        let first = process.start(0, has_keys);
        assert_eq!(first.is_some(), has_keys);
        assert_eq!(other.join().unwrap(), first);
        assert_eq!(process.start(0, has_keys), first);
        // SAFETY: the other thread has ended.
        assert_eq!(process.registered.with(|count| unsafe { *count }), 1);
        let made: u32 = process.keys.iter().map(|key| key.with(|key| unsafe { *key })).sum();
        assert_eq!(process.deleted.load(Ordering::Relaxed), if has_keys { made - 1 } else { 0 });
    });
}

#[test]
fn one_key_is_left_and_every_thread_has_it() {
    threads_start_at_once(true);
}

#[test]
fn without_a_key_every_thread_goes_on() {
    threads_start_at_once(false);
}
