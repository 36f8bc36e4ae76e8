//! Models of what grows while others read: arenas with their page tags, and metadata tables. Explored
//! exhaustively by loom.
#![cfg(loom)]

mod loom_system;

use hz3_core::pages::page_map::PageMap;
use hz3_core::platform::atomic::AtomicU32;
use hz3_core::platform::lock::{Mutex, Ranked};
use hz3_core::platform::rank::Rank;
use hz3_core::platform::units::PAGE_BYTES;
use hz3_core::transfer::depot::{Links, Stack};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_system::{System, Unit, Units};

/// A page tag; loom reports a look at one that was not committed before.
type Tag = UnsafeCell<u32>;

const BASE: usize = 0x7f00_0000_0000;
const PAGES: usize = 2;

/// Stands for the right to claim and publish.
struct Growth;

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

struct Arenas {
    extents: PageMap<Tag, 2>,
    growth: Mutex<Growth, System<Seven>>,
    tags: [Box<[Tag; PAGES]>; 2],
    /// Which tags are committed. The kernel's own lock orders commits of the same pages.
    committed: loom::sync::Mutex<[[bool; PAGES]; 2]>,
    link: [AtomicU32; 2],
    depot: Stack,
}

impl Links for Arenas {
    fn next(&self, id: u32) -> &AtomicU32 {
        &self.link[id as usize]
    }
}

impl Arenas {
    fn new() -> Arc<Self> {
        let tags = || Box::new(std::array::from_fn(|_| UnsafeCell::new(0)));
        Arc::new(Self {
            extents: PageMap::new(),
            growth: Mutex::new(Growth),
            tags: [tags(), tags()],
            committed: loom::sync::Mutex::new([[false; PAGES]; 2]),
            link: std::array::from_fn(|_| AtomicU32::new(0)),
            depot: Stack::new(),
        })
    }

    fn address(arena: usize, page: usize) -> usize {
        BASE + (arena << 30) + page * PAGE_BYTES + 8
    }

    /// Reserves arena number `arena`.
    fn reserve(&self, arena: usize) {
        let _growth = self.growth.lock();
        self.extents.add(Self::address(arena, 0) - 8, self.tags[arena].as_ptr().cast_mut(), PAGES).unwrap();
    }

    /// Reserves arena number `arena` and grows it page by page.
    fn grow(&self, arena: usize) {
        self.reserve(arena);
        for page in 0..PAGES {
            assert_eq!(self.grow_by_one(arena, || true), Some(page));
        }
    }

    /// Claims, commits and publishes a page, and returns it; `None` if the system refuses. `commit` stands for what a
    /// library does in the place of the system call, and says whether the system commits.
    fn grow_by_one(&self, arena: usize, commit: impl FnOnce() -> bool) -> Option<usize> {
        let growth = self.growth.lock();
        let extent = &self.extents.all()[arena];
        if extent.room() == 0 {
            return None;
        }
        let claim = extent.claim(1);
        drop(growth);
        let is_committed = commit();
        if is_committed {
            let mut committed = self.committed.lock().unwrap();
            for page in claim.published..claim.end {
                if !std::mem::replace(&mut committed[arena][page], true) {
                    // SAFETY: committing makes the tag; nobody may look before.
                    self.tags[arena][page].with_mut(|tag| unsafe { *tag = 7 });
                }
            }
        }
        let _growth = self.growth.lock();
        let first = claim.first;
        if is_committed {
            extent.publish(claim);
        } else {
            extent.give_up(claim);
        }
        is_committed.then_some(first)
    }

    fn look(&self, arena: usize, page: usize) -> bool {
        // The windows, which `PageMap::tag` looks at first, have a model of their own: to look there too would multiply the
        // interleavings.
        let address = Self::address(arena, page);
        let found = self.extents.all().iter().find_map(|extent| extent.tag(address));
        if let Some(tag) = found {
            // SAFETY: loom reports it where the tag is not known to be committed.
            assert_eq!(tag.with(|tag| unsafe { *tag }), 7);
        }
        found.is_some()
    }
}

#[test]
fn a_look_at_any_address_meets_committed_tags_only() {
    loom::model(|| {
        let arenas = Arenas::new();
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || arenas.grow(0))
        };
        arenas.look(0, 1);
        arenas.look(0, 0);
        assert!(!arenas.look(0, PAGES));
        assert!(arenas.extents.all().iter().all(|extent| extent.tag(64).is_none()));
        grower.join().unwrap();
        assert!(arenas.look(0, 0) && arenas.look(0, 1));
    });
}

#[test]
fn a_second_arena_appears_whole() {
    loom::model(|| {
        let arenas = Arenas::new();
        arenas.grow(0);
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || arenas.grow(1))
        };
        arenas.look(1, 1);
        assert!(arenas.look(0, 1));
        grower.join().unwrap();
        assert!(arenas.look(1, 0) && arenas.look(1, 1));
    });
}

/// A library in the place of the system call allocates, and its allocation grows the arena too.
#[test]
fn a_growth_inside_a_growth_gets_the_next_pages() {
    loom::model(|| {
        let arenas = Arenas::new();
        arenas.reserve(0);
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || {
                let mut inner = None;
                let outer = arenas.grow_by_one(0, || {
                    inner = arenas.grow_by_one(0, || true);
                    // What the inner growth was for is there before the outer one is done.
                    assert!(arenas.look(0, 1));
                    true
                });
                assert_eq!((outer, inner), (Some(0), Some(1)));
            })
        };
        arenas.look(0, 0);
        arenas.look(0, 1);
        grower.join().unwrap();
        assert!(arenas.look(0, 0) && arenas.look(0, 1));
    });
}

#[test]
fn threads_that_grow_at_once_get_pages_of_their_own_whatever_is_refused() {
    for is_refused in [false, true] {
        let mut model = loom::model::Builder::new();
        // Faults of two threads need few preemptions to show; without a bound this takes minutes.
        model.preemption_bound = Some(3);
        model.check(move || {
            let arenas = Arenas::new();
            arenas.reserve(0);
            let other = {
                let arenas = arenas.clone();
                thread::spawn(move || arenas.grow_by_one(0, || !is_refused))
            };
            let mine = arenas.grow_by_one(0, || true).unwrap();
            assert!(arenas.look(0, mine));
            let theirs = other.join().unwrap();
            assert_eq!(theirs.is_none(), is_refused);
            assert_ne!(theirs, Some(mine));
            // The next ones never get a page that is in use.
            for _ in 0..2 {
                let next = arenas.grow_by_one(0, || true);
                assert!(next.is_none() || next != Some(mine) && next != theirs);
            }
        });
    }
}

/// A window, opened with an arena whose first page gets a tag: what a thread does that adds the first arena.
fn open_window(arenas: &Arenas, far: bool) {
    let arena = usize::from(far);
    // SAFETY: stands for mapping the tags; nobody looks before.
    arenas.tags[arena].iter().for_each(|tag| tag.with_mut(|tag| unsafe { *tag = 7 }));
    let (base, tags) = (Arenas::address(arena, 0) - 8, arenas.tags[arena].as_ptr().cast_mut());
    let _growth = arenas.growth.lock();
    let extent = arenas.extents.add(base, tags, PAGES).unwrap();
    let window = if far { arenas.extents.far() } else { arenas.extents.near() };
    window.open(base, tags, PAGES);
    let claim = extent.claim(1);
    extent.publish(claim);
}

#[test]
fn a_look_at_any_address_while_a_window_opens_meets_readable_tags_only() {
    for far in [false, true] {
        loom::model(move || {
            let arenas = Arenas::new();
            let arena = usize::from(far);
            let opener = {
                let arenas = arenas.clone();
                thread::spawn(move || open_window(&arenas, far))
            };
            let look = |page| {
                let found = arenas.extents.tag(Arenas::address(arena, page));
                // SAFETY: loom reports it where the tag is not known to be readable.
                found.map(|tag| assert_eq!(tag.with(|tag| unsafe { *tag }), 7)).is_some()
            };
            look(1);
            opener.join().unwrap();
            assert!(look(0) && look(1));
        });
    }
}

/// The hit path reads the windows without any order of its own: the block's way to it is the order.
#[test]
fn a_block_that_came_through_a_depot_has_its_tag() {
    for far in [false, true] {
        loom::model(move || {
            let arenas = Arenas::new();
            let grower = {
                let arenas = arenas.clone();
                thread::spawn(move || {
                    open_window(&arenas, far);
                    assert!(arenas.depot.push(&*arenas, 1, 63));
                })
            };
            if arenas.depot.pop(&*arenas).is_some() {
                let window = if far { arenas.extents.far() } else { arenas.extents.near() };
                window.with_tag(
                    Arenas::address(usize::from(far), 0),
                    // SAFETY: loom reports it where the tag is not known to be readable.
                    |tag| assert_eq!(tag.with(|tag| unsafe { *tag }), 7),
                    || panic!("a live block without a tag"),
                );
            }
            grower.join().unwrap();
        });
    }
}

/// A unit of the table: loom reports a look at memory that was not mapped before.
struct Seven(UnsafeCell<u32>);

impl Unit for Seven {
    fn mapped() -> Self {
        let cell = UnsafeCell::new(0);
        // SAFETY: nobody else has it.
        cell.with_mut(|value| unsafe { *value = 7 });
        Seven(cell)
    }
}

fn read(units: &Units<Seven>, id: u32) {
    // SAFETY: loom reports it where the chunk is not known to be mapped.
    assert_eq!(units.at(id).0.with(|value| unsafe { *value }), 7);
}

#[test]
fn units_below_the_end_are_mapped_and_no_id_is_handed_out_twice() {
    let mut model = loom::model::Builder::new();
    // Faults of two threads need few preemptions to show; without a bound this takes minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let units = Arc::new(Units::new());
        let taker = |units: &Units<Seven>| units.allocate().inspect(|&id| read(units, id));
        let other = {
            let units = units.clone();
            thread::spawn(move || taker(&units))
        };
        // What `stats` and the adoption of heaps do.
        (1..units.table.end()).for_each(|id| read(&units, id));
        let mine = taker(&units);
        let theirs = other.join().unwrap();
        let mut ids = [mine.unwrap(), theirs.unwrap()];
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        (1..units.table.end()).for_each(|id| read(&units, id));
    });
}
