//! Models of what grows while others read: windows with their page tags, and metadata tables. Explored
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

/// A page tag; loom reports a look at one that was not mapped before.
type Tag = UnsafeCell<u32>;

const BASE: usize = 0x7f00_0000_0000;
const PAGES: usize = 2;
const WINDOWS: usize = 3;

/// Stands for the right to claim and publish.
struct Growth;

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

struct Arenas {
    windows: PageMap<Tag, WINDOWS>,
    growth: Mutex<Growth, System<Seven>>,
    tags: [Box<[Tag; PAGES]>; WINDOWS],
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
        let tags = |_| Box::new(std::array::from_fn(|_| UnsafeCell::new(0)));
        Arc::new(Self {
            windows: PageMap::new(),
            growth: Mutex::new(Growth),
            tags: std::array::from_fn(tags),
            link: std::array::from_fn(|_| AtomicU32::new(0)),
            depot: Stack::new(),
        })
    }

    fn address(window: usize, page: usize) -> usize {
        BASE + (window << 30) + page * PAGE_BYTES + 8
    }

    fn map_tag(&self, window: usize, page: usize) {
        // SAFETY: mapping makes the tag; nobody may look before.
        self.tags[window][page].with_mut(|tag| unsafe { *tag = 7 });
    }

    /// Opens window number `window`, the next one, with a page.
    fn open(&self, window: usize) {
        self.map_tag(window, 0);
        let tags = self.tags[window].as_ptr().cast_mut();
        let _growth = self.growth.lock();
        assert!(self.windows.add(Self::address(window, 0) - 8, tags, 1, PAGES));
    }

    /// Claims the end of `window`, maps and publishes a page, and returns it; `None` if another thread has claimed it, there
    /// is no room, or the system refuses. `map` stands for what a library does in the place of the system call, and says
    /// whether the system maps.
    fn grow_by_one(&self, window: usize, map: impl FnOnce() -> bool) -> Option<usize> {
        let growth = self.growth.lock();
        let place = &self.windows.all()[window];
        let claim = place.claim()?;
        drop(growth);
        let (page, is_mapped) = (claim.end, claim.end < claim.capacity && map());
        if is_mapped {
            self.map_tag(window, page);
        }
        let _growth = self.growth.lock();
        if is_mapped {
            place.publish(claim, page + 1);
        } else {
            place.give_up(claim);
        }
        is_mapped.then_some(page)
    }

    fn look(&self, window: usize, page: usize) -> bool {
        let found = self.windows.all().iter().find_map(|place| place.tag(Self::address(window, page)));
        if let Some(tag) = found {
            // SAFETY: loom reports it where the tag is not known to be mapped.
            assert_eq!(tag.with(|tag| unsafe { *tag }), 7);
        }
        found.is_some()
    }
}

/// Faults of two threads need few preemptions to show; without a bound some models take minutes.
fn with_preemptions(most: usize) -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(most);
    model
}

#[test]
fn a_look_at_any_address_meets_mapped_tags_only() {
    loom::model(|| {
        let arenas = Arenas::new();
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || {
                arenas.open(0);
                assert_eq!(arenas.grow_by_one(0, || true), Some(1));
            })
        };
        arenas.look(0, 1);
        arenas.look(0, 0);
        assert!(!arenas.look(0, PAGES));
        assert!(arenas.windows.all().iter().all(|window| window.tag(64).is_none()));
        grower.join().unwrap();
        assert!(arenas.look(0, 0) && arenas.look(0, 1));
    });
}

#[test]
fn a_further_window_appears_whole() {
    loom::model(|| {
        let arenas = Arenas::new();
        arenas.open(0);
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || arenas.open(1))
        };
        arenas.look(1, 0);
        assert!(arenas.look(0, 0));
        grower.join().unwrap();
        assert!(arenas.look(1, 0));
    });
}

/// A library in the place of the system call allocates, and its allocation grows too, in a window of its own.
#[test]
fn a_growth_inside_a_growth_gets_pages_of_its_own() {
    with_preemptions(5).check(|| {
        let arenas = Arenas::new();
        arenas.open(0);
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || {
                let outer = arenas.grow_by_one(0, || {
                    assert_eq!(arenas.grow_by_one(0, || true), None);
                    arenas.open(1);
                    // What the inner growth was for is there before the outer one is done.
                    assert!(arenas.look(1, 0));
                    true
                });
                assert_eq!(outer, Some(1));
            })
        };
        arenas.look(0, 1);
        arenas.look(1, 0);
        grower.join().unwrap();
        assert!(arenas.look(0, 1) && arenas.look(1, 0));
    });
}

#[test]
fn threads_that_grow_at_once_get_pages_of_their_own_whatever_is_refused() {
    for is_refused in [true, false] {
        with_preemptions(5).check(move || {
            let arenas = Arenas::new();
            arenas.open(0);
            let other = {
                let arenas = arenas.clone();
                thread::spawn(move || arenas.grow_by_one(0, || !is_refused))
            };
            let mine = arenas.grow_by_one(0, || true);
            assert!(mine.is_none_or(|page| page == 1 && arenas.look(0, page)));
            let theirs = other.join().unwrap();
            assert!(!is_refused || theirs.is_none());
            assert!(theirs.is_none() || mine.is_none());
            // The next one gets the page if nobody has it, and never one that is in use.
            let next = arenas.grow_by_one(0, || true);
            assert_eq!(next.is_some(), mine.is_none() && theirs.is_none());
        });
    }
}

#[test]
fn a_look_at_any_address_while_a_window_opens_meets_mapped_tags_only() {
    for window in [0, 1] {
        loom::model(move || {
            let arenas = Arenas::new();
            if window == 1 {
                arenas.open(0);
            }
            let opener = {
                let arenas = arenas.clone();
                thread::spawn(move || arenas.open(window))
            };
            let look = || {
                let found = arenas.windows.tag(Arenas::address(window, 0));
                // SAFETY: loom reports it where the tag is not known to be mapped.
                found.map(|tag| assert_eq!(tag.with(|tag| unsafe { *tag }), 7)).is_some()
            };
            look();
            opener.join().unwrap();
            assert!(look());
        });
    }
}

/// The hit path reads the windows without any order of its own: the block's way to it is the order.
#[test]
fn a_block_that_came_through_a_depot_has_its_tag() {
    for far in [false, true] {
        loom::model(move || {
            let arenas = Arenas::new();
            if far {
                arenas.open(0);
            }
            let grower = {
                let arenas = arenas.clone();
                thread::spawn(move || {
                    arenas.open(usize::from(far));
                    assert!(arenas.depot.push(&*arenas, 1, 63));
                })
            };
            if arenas.depot.pop(&*arenas).is_some() {
                let window = if far { arenas.windows.far() } else { arenas.windows.near() };
                window.with_tag(
                    Arenas::address(usize::from(far), 0),
                    // SAFETY: the page is one of the window's; loom reports it where the tag is not known to be mapped.
                    |first, page| assert_eq!(unsafe { (*first.add(page)).with(|tag| *tag) }, 7),
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
    with_preemptions(3).check(|| {
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
