//! Models of the process-wide hooks: threads that start at once, and one that starts within the installation,
//! explored exhaustively by loom.
#![cfg(loom)]

mod loom_system;

use hz3_core::thread::hooks::Hooks;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_system::System;

struct Process {
    hooks: Hooks<System<()>>,
    /// What the C library keeps of the key: loom reports a thread that uses it before it is made.
    key: UnsafeCell<u32>,
    registered: UnsafeCell<u32>,
}

impl Process {
    fn new() -> Arc<Self> {
        Arc::new(Self { hooks: Hooks::new(), key: UnsafeCell::new(0), registered: UnsafeCell::new(0) })
    }

    /// What a thread's start does. `made` is what the system answers to the request for a key.
    fn start(&self, made: Option<u32>) -> Option<u32> {
        let key = self.hooks.key(
            || {
                // SAFETY: one thread comes here; loom reports a second.
                self.key.with_mut(|key| unsafe { *key += 1 });
                made
            },
            || {
                // SAFETY: as above.
                self.registered.with_mut(|count| unsafe { *count += 1 });
                // To register may allocate, and so come back here: that must not wait.
                assert_eq!(self.hooks.key(|| unreachable!(), || unreachable!()), made);
            },
        );
        // SAFETY: after the key's making, in whichever thread it was.
        assert_eq!(self.key.with(|key| unsafe { *key }), 1);
        key
    }
}

fn threads_start_at_once(made: Option<u32>) {
    loom::model(move || {
        let process = Process::new();
        // Two threads: a third would only wait beside the second, and two that wait give way to each other
        // without an end.
        let other = {
            let process = process.clone();
            thread::spawn(move || assert_eq!(process.start(made), made))
        };
        assert_eq!(process.start(made), made);
        other.join().unwrap();
        assert_eq!(process.start(made), made);
        // SAFETY: the other thread has ended.
        assert_eq!(process.registered.with(|count| unsafe { *count }), 1);
    });
}

#[test]
fn one_key_is_made_and_every_thread_has_it() {
    // The lowest key there is: no state may be taken for it.
    threads_start_at_once(Some(0));
}

#[test]
fn without_a_key_every_thread_goes_on() {
    threads_start_at_once(None);
}
