//! Lane: a build of the allocator as a set of constants and types, chosen here and nowhere else.

use crate::allocator::Allocator;
use crate::hardening::quarantine::{self, Quarantine};
use crate::pages::bins::BINS;
use crate::platform::os::{Fake, Linux, Os};
use crate::thread::heap::Entries;
use crate::thread::tls::thread_pointer;
use crate::transfer::magazine::{Shape, shapes};
use crate::transfer::remote_stash::{Dense, RemoteStash, Sparse};
use crate::transfer::shard::Shard;

/// An array of shards.
pub trait Shards<O: Os>: Sync + 'static {
    /// Every shard.
    fn all(&self) -> &[Shard<O>];
}

impl<O: Os, const N: usize> Shards<O> for [Shard<O>; N] {
    #[inline]
    fn all(&self) -> &[Shard<O>] {
        self
    }
}

/// A lane.
///
/// # Safety
/// `allocator` always returns the same allocator, and `heap` returns what this thread last gave to
/// `set_heap`, or a pointer to [`crate::thread::heap::NO_HEAP`]. An all-zero `Stash` is an empty one, and so is an all-zero
/// `Quarantine`.
pub unsafe trait Lane: Sized + Sync + 'static {
    /// The operating system under it.
    type Os: Os;
    /// How slots travel home.
    type Stash: RemoteStash + 'static;
    /// Where a thread's freed slots wait until they may be used again.
    type Quarantine: Quarantine + 'static;
    /// The shards, at most 32 and a power of two.
    type Shards: Shards<Self::Os>;

    /// Name of the lane.
    const NAME: &'static str;
    /// Number of shards.
    const SHARD_COUNT: usize;
    /// Fresh shards.
    const FRESH_SHARDS: Self::Shards;
    /// Address space of the first arena in bytes, where the environment says nothing else.
    const FIRST_ARENA_BYTES: usize;
    /// Whether slots that other shards own may rest in this thread's depot ("adopted"); where not, they
    /// go home when the magazine that they lie in spills.
    const ADOPT: bool;
    /// Most bytes of blocks in one depot (one shard, one bin); what is above goes home to its spans.
    const DEPOT_BYTES: usize;
    /// Most magazines in one depot.
    const DEPOT_MAGAZINES: u32;
    /// Slots that a thread's first refill of a bin carves; each further one doubles it.
    const FIRST_BATCH: u8;
    /// Whether a free slot carries a [`crate::hardening::free_mark`], by which a second `free` of it is told at once.
    const MARKS: bool;
    /// Whether, besides, a free slot reads as zero and is looked at before it is handed out, slots are handed out
    /// in random order, blocks end in a [`crate::hardening::canary`], spans in a guard page, and what was freed waits. Every call
    /// takes its slow path then. Needs [`Lane::MARKS`].
    const HARDENED: bool;
    /// Bytes of a slot beyond what was asked for, at least. Derived.
    const TRAILER_BYTES: usize = if Self::HARDENED { crate::hardening::canary::TRAILER_BYTES } else { 0 };
    /// Pages at the end of a span in use that are nobody's, and without access where the system grants that. Derived.
    const GUARD_PAGES: usize = if Self::HARDENED { 1 } else { 0 };
    /// Whether what goes one way comes back in order ([`crate::thread::one_way`]): where slots are not handed out at random. Derived.
    const KEEPS_ORDER: bool = !Self::HARDENED;
    /// Milliseconds after which free pages are given back, where the environment says nothing else.
    const PURGE_DELAY_MS: u32;

    /// Slots of a magazine, by bin.
    fn shapes() -> &'static [Shape; BINS];
    /// The lane's allocator.
    fn allocator() -> &'static Allocator<Self>;
    /// The calling thread's heap.
    fn heap() -> *mut Entries;
    /// Sets the calling thread's heap.
    ///
    /// # Safety
    /// `heap` lives until it is replaced, and is no other thread's.
    unsafe fn set_heap(heap: *mut Entries);
}

/// Writes a lane: the constants are its whole difference from the others.
macro_rules! lane {
    (
        $(#[$doc:meta])* $name:ident, label: $label:literal, os: $os:ty, shards: $shards:literal, stash: $stash:ty, quarantine: $quarantine:ty,
        first_arena: $arena:expr, adopt: $adopt:literal, magazine: $magazine:expr,
        depot_bytes: $depot_bytes:expr, depot_magazines: $depot_magazines:expr, first_batch: $batch:literal,
        marks: $marks:literal, hardened: $hardened:literal, purge_delay_ms: $delay:expr, thread_pointer: $symbol:literal $(,)?
    ) => {
        $(#[$doc])*
        pub struct $name;

        thread_pointer!($name, $symbol);

        // SAFETY: one static allocator; the thread pointer starts at NO_HEAP; null magazines and unused
        // entries make an all-zero stash an empty one.
        unsafe impl Lane for $name {
            type Os = $os;
            type Stash = $stash;
            type Quarantine = $quarantine;
            type Shards = [Shard<$os>; $shards];

            const NAME: &'static str = $label;
            const SHARD_COUNT: usize = $shards;
            #[allow(clippy::declare_interior_mutable_const, reason = "used once, to initialise a static")]
            const FRESH_SHARDS: Self::Shards = [const { Shard::new() }; $shards];
            const FIRST_ARENA_BYTES: usize = $arena;
            const ADOPT: bool = $adopt;
            const DEPOT_BYTES: usize = $depot_bytes;
            const DEPOT_MAGAZINES: u32 = $depot_magazines;
            const FIRST_BATCH: u8 = $batch;
            const MARKS: bool = $marks;
            const HARDENED: bool = $hardened;
            const PURGE_DELAY_MS: u32 = $delay;

            #[inline(always)]
            fn shapes() -> &'static [Shape; BINS] {
                const LIMITS: (usize, usize, usize) = $magazine;
                static SHAPES: [Shape; BINS] = shapes(LIMITS.0, LIMITS.1, LIMITS.2);
                &SHAPES
            }

            #[inline(always)]
            fn allocator() -> &'static Allocator<Self> {
                static ALLOCATOR: Allocator<$name> = Allocator::new();
                &ALLOCATOR
            }

            #[inline(always)]
            fn heap() -> *mut Entries {
                $name::thread_pointer()
            }

            #[inline(always)]
            unsafe fn set_heap(heap: *mut Entries) {
                $name::set_thread_pointer(heap);
            }
        }

        const _: () = assert!($shards <= 32 && usize::is_power_of_two($shards) && ($marks || !$hardened));
    };
}

lane! {
    /// For local-heavy programs with few threads: remote slots go home to the shard that owns them.
    Fast, label: "fast", os: Linux, shards: 8, stash: Dense<8>, quarantine: quarantine::None,
    first_arena: 4 << 30, adopt: false, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: false, hardened: false, purge_delay_ms: 1000, thread_pointer: "hz3_heap_fast",
}

lane! {
    /// For many threads that free each other's blocks: remote slots stay with the thread that freed them.
    Scale, label: "scale", os: Linux, shards: 32, stash: Sparse<256>, quarantine: quarantine::None,
    first_arena: 16 << 30, adopt: true, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: false, hardened: false, purge_delay_ms: 1000, thread_pointer: "hz3_heap_scale",
}

lane! {
    /// For programs that shall find their misuses of memory, at a price: as [`Scale`], with all that
    /// [`Lane::HARDENED`] means.
    Hardened, label: "hardened", os: Linux, shards: 32, stash: Sparse<256>, quarantine: quarantine::Ring<256, { 1 << 20 }>,
    first_arena: 16 << 30, adopt: true, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: true, hardened: true, purge_delay_ms: 1000, thread_pointer: "hz3_heap_hardened",
}

lane! {
    /// For tests: adopts, and overflows after two slots, four stash entries and two magazines.
    Tiny, label: "tiny", os: Fake, shards: 2, stash: Sparse<4>, quarantine: quarantine::None,
    first_arena: 16 << 20, adopt: true, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: false, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny",
}

lane! {
    /// For tests: as [`Tiny`], but slots go home through a dense stash.
    TinyHome, label: "tiny-home", os: Fake, shards: 4, stash: Dense<4>, quarantine: quarantine::None,
    first_arena: 16 << 20, adopt: false, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: false, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny_home",
}

lane! {
    /// For tests: as [`Tiny`], hardened, with a quarantine of four slots.
    TinyHardened, label: "tiny-hardened", os: Fake, shards: 2, stash: Sparse<4>, quarantine: quarantine::Ring<4, 4096>,
    first_arena: 16 << 20, adopt: true, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: true, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny_hardened",
}
