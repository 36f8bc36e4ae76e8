//! Models of threads that start, end and fork, and of whose each heap is meanwhile. Explored exhaustively by loom.
#![cfg(loom)]

mod loom_system;

use hz3_core::thread::registry::{HeapState, HeapStates, Members, Pointer, Stage, begin, leave};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use loom_system::{System, Unit, Units};
use std::cell::Cell;

/// A model that tries all interleavings up to three switches that nobody asked for, where all would take minutes.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A thread's pointer.
struct OwnPointer(Cell<Stage<u32>>);

impl OwnPointer {
    fn new() -> Self {
        Self(Cell::new(Stage::Without))
    }
}

impl Pointer for OwnPointer {
    type Heap = u32;
    fn stage(&self) -> Stage<u32> {
        self.0.get()
    }
    fn set_stage(&self, stage: Stage<u32>) {
        self.0.set(stage);
    }
}

// ---- threads, and who reads their heaps meanwhile ----

/// A heap in a table, with words that loom watches: it reports two accesses that nothing orders.
struct TableHeap {
    state: HeapState,
    /// Written where the heap is mapped, read by whoever walks over all heaps.
    mapped: UnsafeCell<u32>,
    /// Slots. Sync: owner thread.
    slots: UnsafeCell<u32>,
    owned: UnsafeCell<bool>,
}

impl Unit for TableHeap {
    fn mapped() -> Self {
        let mapped = UnsafeCell::new(0);
        // SAFETY: nobody else has it.
        mapped.with_mut(|value| unsafe { *value = 7 });
        Self { state: HeapState::new(), mapped, slots: UnsafeCell::new(0), owned: UnsafeCell::new(false) }
    }
}

impl TableHeap {
    fn look(&self) {
        // SAFETY: loom reports it where the heap is not known to be mapped.
        assert_eq!(self.mapped.with(|value| unsafe { *value }), 7);
    }

    fn add(&self, slots: u32) {
        // SAFETY: the owner's; loom reports it where that is not ordered.
        self.slots.with_mut(|held| unsafe { *held += slots });
    }

    /// Empties the heap; the slots it had.
    fn empty(&self) -> u32 {
        // SAFETY: as above.
        self.slots.with_mut(|held| unsafe { std::mem::take(&mut *held) })
    }

    fn set_owned(&self, owned: bool) {
        // SAFETY: as above.
        let was = self.owned.with_mut(|value| unsafe { std::mem::replace(&mut *value, owned) });
        assert_ne!(was, owned, "two owners, or none");
    }
}

struct Threads {
    states: HeapStates<System<TableHeap>>,
    heaps: Units<TableHeap>,
}

impl Members for Threads {
    fn state(&self, id: u32) -> &HeapState {
        &self.heaps.at(id).state
    }
    fn make(&self) -> Option<u32> {
        self.heaps.allocate()
    }
    fn end(&self) -> u32 {
        self.heaps.table.end()
    }
}

impl Threads {
    fn new() -> Arc<Self> {
        Arc::new(Self { states: HeapStates::new(), heaps: Units::new() })
    }

    fn take(&self) -> Option<u32> {
        let id = self.states.take(self, || {})?;
        self.heaps.at(id).set_owned(true);
        assert_eq!(self.heaps.at(id).empty(), 0, "slots of another thread's");
        Some(id)
    }

    fn give(&self, id: u32) {
        self.heaps.at(id).set_owned(false);
        self.states.give(self.state(id));
    }

    /// All that a thread does. Its heap's id.
    fn live(&self) -> u32 {
        let pointer = OwnPointer::new();
        let id = begin(&pointer, || self.take()).expect("there is room");
        self.heaps.at(id).add(2);
        assert_eq!(begin(&pointer, || unreachable!("it has one")), Some(id));
        leave(&pointer, |id| {
            assert_eq!(self.heaps.at(id).empty(), 2);
            // What goes home may be freed on the way, by the same thread.
            assert_eq!(begin(&pointer, || unreachable!("a second heap")), None);
            self.give(id);
        });
        // Destructors that run later.
        assert_eq!(begin(&pointer, || unreachable!("a second heap")), None);
        leave(&pointer, |_| unreachable!("it has none"));
        id
    }

    fn look_at_all(&self) {
        (1..self.end()).for_each(|id| self.heaps.at(id).look());
    }
}

#[test]
fn a_heap_is_one_threads_at_a_time_and_serves_the_next() {
    explore(|| {
        let threads = Threads::new();
        // One heap is free already, so that one is taken from the list and perhaps one made.
        let first = threads.live();
        let other = {
            let threads = threads.clone();
            thread::spawn(move || threads.live())
        };
        let ids = [threads.live(), other.join().unwrap()];
        assert!(ids.contains(&first), "a free heap was not used");
        // All are free again, and no further one is made while they are.
        let made = threads.end();
        let mut all: Vec<u32> = (1..made).map(|_| threads.take().unwrap()).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..made), "lost while free: {all:?} of {made}");
        assert_eq!(threads.end(), made);
    });
}

#[test]
fn who_walks_over_the_heaps_meets_mapped_ones_only() {
    explore(|| {
        let threads = Threads::new();
        let other = {
            let threads = threads.clone();
            thread::spawn(move || threads.live())
        };
        threads.look_at_all();
        // Nobody has forked: there is nothing to adopt, whatever the others do.
        assert_eq!(threads.states.adopt(&*threads), None, "a living thread's heap");
        threads.look_at_all();
        other.join().unwrap();
        assert_eq!(threads.end(), 2);
    });
}

// ---- fork ----

/// Most heaps of a process.
const HEAPS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Nobody,
    /// A thread of this process.
    Living,
    /// One that did not survive the fork.
    Gone,
    Adopter,
}

/// What is in memory beside the states. Behind one lock, which stands for an instant: a fork copies it between two
/// steps of the other threads, and each step is one store of theirs.
#[derive(Clone)]
struct Contents {
    made: usize,
    /// Two words that agree outside of changes: its slots.
    slots: [[u32; 2]; HEAPS + 1],
    owner: [Owner; HEAPS + 1],
    busy: [bool; HEAPS + 1],
    /// Slots at home.
    home: u32,
    /// Slots there are.
    all: u32,
    /// Threads that are about to have a heap.
    taking: usize,
    /// As `busy` and `taking` at the fork from which this process comes.
    lost: [bool; HEAPS + 1],
    unmade: usize,
}

struct Process {
    states: HeapStates<System<TableHeap>>,
    heaps: [HeapState; HEAPS + 1],
    contents: Mutex<Contents>,
}

impl Members for Process {
    fn state(&self, id: u32) -> &HeapState {
        &self.heaps[id as usize]
    }
    fn make(&self) -> Option<u32> {
        self.step(|now| {
            let is_room = now.made < HEAPS;
            now.made += usize::from(is_room);
            is_room.then_some(now.made as u32)
        })
    }
    fn end(&self) -> u32 {
        self.step(|now| now.made as u32 + 1)
    }
}

impl Process {
    fn new() -> Arc<Self> {
        let contents = Contents {
            made: 0,
            slots: [[0; 2]; HEAPS + 1],
            owner: [Owner::Nobody; HEAPS + 1],
            busy: [false; HEAPS + 1],
            home: 0,
            all: 0,
            taking: 0,
            lost: [false; HEAPS + 1],
            unmade: 0,
        };
        let heaps = std::array::from_fn(|_| HeapState::new());
        Arc::new(Self { states: HeapStates::new(), heaps, contents: Mutex::new(contents) })
    }

    fn step<R>(&self, step: impl FnOnce(&mut Contents) -> R) -> R {
        step(&mut self.contents.lock().unwrap())
    }

    /// The child: a copy of all memory, in which the calling thread, whose heap is `own`, holds the heaps' lock.
    fn fork(&self, own: Option<u32>) -> Arc<Process> {
        self.states.lock_for_fork().acquire_for_fork();
        let now = self.contents.lock().unwrap();
        let mut contents = now.clone();
        contents.lost = now.busy;
        contents.unmade = now.taking;
        contents.taking = 0;
        for (id, owner) in contents.owner.iter_mut().enumerate() {
            if *owner != Owner::Nobody && own != Some(id as u32) {
                *owner = Owner::Gone;
            }
        }
        let heaps = std::array::from_fn(|id| self.heaps[id].forked());
        let child = Process { states: self.states.forked(), heaps, contents: Mutex::new(contents) };
        drop(now);
        // SAFETY: acquired above, and there is no guard of it.
        unsafe { self.states.lock_for_fork().release_after_fork() };
        Arc::new(child)
    }

    /// What the handler does in the child: see `process::fork`.
    fn after_fork_in_child(&self, own: Option<u32>) {
        self.states.orphan_all_but(own.map(|own| self.state(own)));
        // SAFETY: `fork` left the lock to this thread, and no guard of it.
        unsafe { self.states.lock_for_fork().release_after_fork() };
    }

    fn take(&self) -> Option<u32> {
        self.step(|now| now.taking += 1);
        let id = self.states.take(self, || {});
        self.step(|now| {
            now.taking -= 1;
            let at = id? as usize;
            assert_eq!(now.owner[at], Owner::Nobody, "heap {at} has an owner");
            assert_eq!(now.slots[at], [0; 2], "slots of another thread's");
            now.owner[at] = Owner::Living;
            Some(())
        });
        id
    }

    /// One more slot, in two steps, as a slow path does it.
    fn put(&self, id: u32) {
        self.put_half(id);
        self.step(|now| now.slots[id as usize][1] += 1);
        self.settle(id);
    }

    fn put_half(&self, id: u32) {
        let at = id as usize;
        self.step(|now| {
            assert_eq!(now.owner[at], Owner::Living);
            assert!(!self.state(id).claim().begin());
            now.busy[at] = true;
            now.all += 1;
        });
        self.step(|now| now.slots[at][0] += 1);
    }

    fn settle(&self, id: u32) {
        self.step(|now| {
            self.state(id).claim().end();
            now.busy[id as usize] = false;
        });
    }

    /// As `trim::flush` and then `Heaps::give`, by `owner`.
    fn empty_and_give(&self, id: u32, owner: Owner) {
        let at = id as usize;
        self.step(|now| {
            assert!(!self.state(id).claim().begin());
            now.busy[at] = true;
        });
        self.step(|now| now.home += now.slots[at][0]);
        self.step(|now| now.slots[at] = [0; 2]);
        self.settle(id);
        self.step(|now| assert_eq!(std::mem::replace(&mut now.owner[at], Owner::Nobody), owner, "heap {at}"));
        self.states.give(self.state(id));
    }

    fn adopt(&self) {
        while let Some(id) = self.states.adopt(self) {
            let at = id as usize;
            self.step(|now| {
                assert!(matches!(now.owner[at], Owner::Gone | Owner::Nobody), "heap {at} is {:?}'s", now.owner[at]);
                let [one, other] = now.slots[at];
                assert_eq!(one, other, "heap {at} was being changed");
                assert!(!now.lost[at], "heap {at} was being changed");
                now.owner[at] = Owner::Adopter;
            });
            self.empty_and_give(id, Owner::Adopter);
        }
    }

    /// All that a thread does.
    fn live(&self) {
        let pointer = OwnPointer::new();
        if let Some(id) = begin(&pointer, || self.take()) {
            self.put(id);
        }
        leave(&pointer, |id| self.empty_and_give(id, Owner::Living));
        assert_eq!(begin(&pointer, || self.take()), None, "a second heap");
    }

    /// While one thread is left, whose heap is `own`: every heap is its, free, or rightly given up, and so is each slot.
    fn audit(&self, own: Option<u32>) {
        let now = self.step(|now| now.clone());
        let mut found = [false; HEAPS + 1];
        while let Some(id) = self.take() {
            assert!(!std::mem::replace(&mut found[id as usize], true), "heap {id} is twice free");
        }
        let mut unmade = 0;
        for id in 1..=HEAPS {
            if own == Some(id as u32) {
                assert!(!found[id], "heap {id} is free and has an owner");
            } else if now.lost[id] {
                assert!(!found[id], "heap {id} was being changed");
            } else if !found[id] {
                unmade += 1;
                assert_eq!(now.slots[id], [0; 2], "heap {id} is lost");
            }
        }
        assert!(unmade <= now.unmade, "{unmade} heaps lost while free");
        let held = own.map_or(0, |own| now.slots[own as usize][0]);
        if now.lost.contains(&true) {
            assert!(now.home + held <= now.all);
        } else {
            assert_eq!(now.home + held, now.all, "slots are lost, or there are too many");
        }
    }
}

/// A process with a forking thread that has heap 1 and a slot.
fn process() -> (Arc<Process>, u32) {
    let process = Process::new();
    let own = process.take().unwrap();
    process.put(own);
    (process, own)
}

#[test]
fn a_child_adopts_what_a_gone_thread_left_settled() {
    explore(|| {
        let (parent, own) = process();
        let other = {
            let parent = parent.clone();
            thread::spawn(move || parent.live())
        };
        let child = parent.fork(Some(own));
        child.after_fork_in_child(Some(own));
        child.adopt();
        child.audit(Some(own));
        other.join().unwrap();
        parent.audit(Some(own));
    });
}

/// As above, but the forking thread has no heap, and one is free.
#[test]
fn a_thread_without_a_heap_forks() {
    explore(|| {
        let parent = Process::new();
        parent.live();
        let other = {
            let parent = parent.clone();
            thread::spawn(move || parent.live())
        };
        let child = parent.fork(None);
        child.after_fork_in_child(None);
        child.adopt();
        child.live();
        child.audit(None);
        other.join().unwrap();
        parent.audit(None);
    });
}

/// A handler of another library, which ran earlier, has started a thread in the child. It and the forking thread look
/// for orphans at the same time, of which one was between changes and one in the middle of one.
#[test]
fn an_orphan_is_adopted_once_and_no_living_threads_heap_is() {
    explore(|| {
        let (parent, own) = process();
        let gone = parent.take().unwrap();
        parent.put(gone);
        let changing = parent.take().unwrap();
        parent.put_half(changing);
        let child = parent.fork(Some(own));
        let started = {
            let child = child.clone();
            thread::spawn(move || {
                let pointer = OwnPointer::new();
                let id = begin(&pointer, || child.take()).expect("there is room");
                child.adopt();
                leave(&pointer, |id| child.empty_and_give(id, Owner::Living));
                id
            })
        };
        child.after_fork_in_child(Some(own));
        child.adopt();
        assert_ne!(started.join().unwrap(), own);
        child.audit(Some(own));
    });
}

/// A thread of the child forks while another one adopts: what is left half done is given up, the rest adopted there.
#[test]
fn a_fork_within_an_adoption_leaves_no_slot_twice() {
    explore(|| {
        let (parent, own) = process();
        let gone = parent.take().unwrap();
        parent.put(gone);
        let child = parent.fork(Some(own));
        child.after_fork_in_child(Some(own));
        let adopter = {
            let child = child.clone();
            thread::spawn(move || child.adopt())
        };
        let grandchild = child.fork(Some(own));
        grandchild.after_fork_in_child(Some(own));
        grandchild.adopt();
        grandchild.audit(Some(own));
        adopter.join().unwrap();
        child.audit(Some(own));
    });
}
