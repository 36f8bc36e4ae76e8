//! Models of what grows while others read: arenas with their page tags, and metadata tables. Explored
//! exhaustively by loom.
#![cfg(loom)]

use hz3_core::depot::{Links, Stack};
use hz3_core::extent::Extents;
use hz3_core::os::Os;
use hz3_core::sync::{AtomicU32, Waiter};
use hz3_core::table::{CHUNK_BYTES, Table};
use hz3_core::units::PAGE_BYTES;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::ptr::NonNull;

/// A page tag; loom reports a look at one that was not committed before.
type Tag = UnsafeCell<u32>;

const BASE: usize = 0x7f00_0000_0000;
const PAGES: usize = 2;

struct Arenas {
    extents: Extents<Tag, 2>,
    tags: [Box<[Tag; PAGES]>; 2],
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
        let link = std::array::from_fn(|_| AtomicU32::new(0));
        Arc::new(Self { extents: Extents::new(), tags: [tags(), tags()], link, depot: Stack::new() })
    }

    fn address(arena: usize, page: usize) -> usize {
        BASE + (arena << 30) + page * PAGE_BYTES + 8
    }

    /// Reserves arena number `arena` and commits its pages one by one.
    fn grow(&self, arena: usize) {
        let tags = &self.tags[arena];
        let base = Self::address(arena, 0) - 8;
        let extent = self.extents.add(base, tags.as_ptr().cast_mut(), PAGES).unwrap();
        for (page, tag) in tags.iter().enumerate() {
            // SAFETY: committing makes the tag; nobody may look before.
            tag.with_mut(|tag| unsafe { *tag = 7 });
            extent.set_pages(page + 1);
        }
    }

    fn look(&self, arena: usize, page: usize) -> bool {
        let found = self.extents.tag(Self::address(arena, page));
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
        assert!(arenas.extents.tag(64).is_none());
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

/// The hot path reads the first arena without any order of its own: the block's way to it is the order.
#[test]
fn a_block_that_came_through_a_depot_has_its_tag() {
    loom::model(|| {
        let arenas = Arenas::new();
        let grower = {
            let arenas = arenas.clone();
            thread::spawn(move || {
                arenas.grow(0);
                assert!(arenas.depot.push(&*arenas, 1, 63));
            })
        };
        if arenas.depot.pop(&*arenas).is_some() {
            arenas.extents.first().with_tag(
                Arenas::address(0, 1),
                // SAFETY: loom reports it where the tag is not known to be committed.
                |tag| assert_eq!(tag.with(|tag| unsafe { *tag }), 7),
                || panic!("a live block without a tag"),
            );
        }
        grower.join().unwrap();
    });
}

const UNIT_BYTES: usize = 512;
const UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;

/// A unit of the table: loom reports a look at memory that was not mapped before.
type Unit = UnsafeCell<u32>;

const _: () = assert!(size_of::<Unit>() <= UNIT_BYTES && UNITS == 2);

/// A system that maps chunks whose units read as 7.
struct Mapper;

fn layout() -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(CHUNK_BYTES, 64).unwrap()
}

// SAFETY: as for `Turns` of the hooks' models.
unsafe impl Waiter for Mapper {
    fn yield_now() {
        thread::yield_now();
    }
    fn wait(_: &AtomicU32, _: u32) {
        unimplemented!()
    }
    fn wake(_: &AtomicU32) {
        unimplemented!()
    }
    fn is_forking() -> bool {
        false
    }
}

// SAFETY: `map` returns fresh memory; the rest is not called.
unsafe impl Os for Mapper {
    fn map(bytes: usize) -> Option<NonNull<u8>> {
        assert_eq!(bytes, CHUNK_BYTES);
        // SAFETY: the layout is not empty, and its units hold a cell each.
        unsafe {
            let chunk = NonNull::new(std::alloc::alloc(layout()))?;
            for unit in 0..UNITS as usize {
                let unit = chunk.add(unit * UNIT_BYTES).cast::<Unit>();
                unit.write(UnsafeCell::new(0));
                unit.as_ref().with_mut(|value| *value = 7);
            }
            Some(chunk)
        }
    }
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        assert_eq!(bytes, CHUNK_BYTES);
        // SAFETY: a result of `map`; nobody has seen it, or the model is over.
        unsafe {
            for unit in 0..UNITS as usize {
                start.add(unit * UNIT_BYTES).cast::<Unit>().drop_in_place();
            }
            std::alloc::dealloc(start.as_ptr(), layout());
        }
        true
    }
    fn reserve(_: usize, _: usize) -> Option<NonNull<u8>> {
        unimplemented!()
    }
    unsafe fn commit(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn remap(_: NonNull<u8>, _: usize, _: usize) -> Option<NonNull<u8>> {
        unimplemented!()
    }
    unsafe fn purge(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn populate(_: NonNull<u8>, _: usize) {
        unimplemented!()
    }
    unsafe fn guard(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn unguard(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn prefer_huge(_: NonNull<u8>, _: usize, _: bool) {
        unimplemented!()
    }
    fn now_ms() -> u32 {
        unimplemented!()
    }
    fn random_seed() -> u64 {
        0
    }
    fn random_key() -> u64 {
        0
    }
    fn address_space_limit() -> usize {
        // A process under a limit maps each chunk on its own, which is the exchange that is modelled here.
        1 << 30
    }
    fn each_environment(_: impl FnMut(&[u8])) {
        unimplemented!()
    }
    fn is_last_thread() -> bool {
        unimplemented!()
    }
    fn begin_fork() {
        unimplemented!()
    }
    fn end_fork() {
        unimplemented!()
    }
    fn write_error(_: &[u8]) {
        unimplemented!()
    }
    fn abort() -> ! {
        unimplemented!()
    }
}

/// A table that gives its chunks back with the model.
struct Units(Table<UNIT_BYTES>);

impl Units {
    fn read(&self, id: u32) {
        // SAFETY: handed out; loom reports it where the chunk is not known to be mapped.
        unsafe {
            let unit = self.0.unit(id);
            assert!(unit.addr() >= CHUNK_BYTES, "no chunk behind id {id}");
            assert_eq!((*unit.cast::<Unit>()).with(|value| *value), 7);
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        // The first chunk's ids begin at 1; a chunk may be in place before an id of it is handed out.
        for chunk in (0..).map_while(|chunk| NonNull::new(self.0.peek(chunk * UNITS))) {
            // SAFETY: a chunk of the table; the model is over.
            assert!(unsafe { Mapper::unmap(chunk, CHUNK_BYTES) });
        }
    }
}

#[test]
fn units_below_the_end_are_mapped_and_no_id_is_handed_out_twice() {
    let mut model = loom::model::Builder::new();
    // Faults of two threads need few preemptions to show; without a bound this takes minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let units = Arc::new(Units(Table::new()));
        let taker = |units: &Units| units.0.allocate::<Mapper>(1).inspect(|&id| units.read(id));
        let other = {
            let units = units.clone();
            thread::spawn(move || taker(&units))
        };
        // What `stats` and the adoption of heaps do.
        (1..units.0.end()).for_each(|id| units.read(id));
        let mine = taker(&units);
        let theirs = other.join().unwrap();
        let mut ids = [mine.unwrap(), theirs.unwrap()];
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        (1..units.0.end()).for_each(|id| units.read(id));
    });
}
