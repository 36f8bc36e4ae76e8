//! A system for models: it hands out processors in turn, and maps chunks of tables whose units are a model's own.
#![allow(dead_code, reason = "each model uses its part")]

use hz3_core::platform::os::Waiter;
use hz3_core::platform::os::{NotMapped, Os};
use hz3_core::platform::table::{CHUNK_BYTES, Table};
use loom::thread;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Bytes of one unit of a model's table.
pub const UNIT_BYTES: usize = 512;
const UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;

/// What a model keeps in a unit.
pub trait Unit: 'static {
    /// What a freshly mapped one holds. Where zeros would do in the allocator, a value that loom watches does here.
    fn mapped() -> Self;
}

/// A system without sleep, which maps chunks of `U`.
pub struct System<U>(PhantomData<fn() -> U>);

fn layout() -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(CHUNK_BYTES, 64).unwrap()
}

// SAFETY: returns at once, which `wait` may; allocates nothing of the allocator's.
unsafe impl<U> Waiter for System<U> {
    fn yield_now() {
        thread::yield_now();
    }
    fn wait(_: *const u32, _: u32) {
        thread::yield_now();
    }
    fn wake(_: *const u32) {}
    fn this_thread() -> usize {
        1
    }
    fn is_forking() -> bool {
        false
    }
}

// SAFETY: `map` returns fresh memory; the rest is not called.
unsafe impl<U: Unit> Os for System<U> {
    fn map(bytes: usize) -> Option<NonNull<u8>> {
        const { assert!(size_of::<U>() <= UNIT_BYTES && align_of::<U>() <= 64) }
        assert_eq!(bytes, CHUNK_BYTES);
        // SAFETY: the layout is not empty, and has room for all units.
        unsafe {
            let chunk = NonNull::new(std::alloc::alloc(layout()))?;
            for unit in 0..UNITS as usize {
                chunk.add(unit * UNIT_BYTES).cast::<U>().write(U::mapped());
            }
            Some(chunk)
        }
    }
    unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
        assert_eq!(bytes, CHUNK_BYTES);
        // SAFETY: a result of `map`; nobody has seen it, or the model is over.
        unsafe {
            for unit in 0..UNITS as usize {
                start.add(unit * UNIT_BYTES).cast::<U>().drop_in_place();
            }
            std::alloc::dealloc(start.as_ptr(), layout());
        }
        true
    }
    fn reserve(_: usize) -> Option<NonNull<u8>> {
        unimplemented!()
    }
    fn map_at(_: usize, _: usize, _: bool) -> Result<NonNull<u8>, NotMapped> {
        unimplemented!()
    }
    unsafe fn commit(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn move_out(_: NonNull<u8>, _: usize) -> Option<NonNull<u8>> {
        None
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
    unsafe fn prefer_huge(_: NonNull<u8>, _: usize, _: bool) {
        unimplemented!()
    }
    unsafe fn guard(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    unsafe fn unguard(_: NonNull<u8>, _: usize) -> bool {
        unimplemented!()
    }
    fn now_ms() -> u32 {
        unimplemented!()
    }
    fn random_seed() -> u64 {
        unimplemented!()
    }
    fn random_key() -> u64 {
        unimplemented!()
    }
    fn address_space_limit() -> usize {
        // A process under a limit maps each chunk on its own, which is the exchange that is modelled here.
        1 << 30
    }
    fn for_each_variable(_: impl FnMut(&[u8])) {
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
pub struct Units<U: Unit> {
    /// The table.
    pub table: Table<UNIT_BYTES>,
    unit: PhantomData<fn() -> U>,
}

impl<U: Unit> Units<U> {
    pub fn new() -> Self {
        Self { table: Table::new(), unit: PhantomData }
    }

    pub fn allocate(&self) -> Option<u32> {
        self.table.allocate::<System<U>>(1)
    }

    /// Unit `id`, which was handed out or counted.
    pub fn at(&self, id: u32) -> &U {
        // SAFETY: handed out.
        let unit = unsafe { self.table.unit(id) };
        assert!(unit.addr() >= CHUNK_BYTES, "no chunk behind id {id}");
        // SAFETY: the unit's chunk is mapped and full of `U`; what the table does not order, loom reports at the look.
        unsafe { &*unit.cast::<U>() }
    }
}

impl<U: Unit> Drop for Units<U> {
    fn drop(&mut self) {
        // The first chunk's ids begin at 1; a chunk may be in place before an id of it is handed out.
        for chunk in (0..).map_while(|chunk| NonNull::new(self.table.peek(chunk * UNITS))) {
            // SAFETY: a chunk of the table; the model is over.
            assert!(unsafe { System::<U>::unmap(chunk, CHUNK_BYTES) });
        }
    }
}
