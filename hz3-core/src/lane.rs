//! Lane: defines every lane, each a set of constants and types.
//!
//! To add one: `docs/design.md`, "Where is a lane added?"

use crate::allocator::{Allocator, HeapOf, Lane};
use crate::hardening::quarantine;
use crate::pages::bins::BINS;
use crate::pages::policy::{Policy, Shape, shapes};
#[cfg(feature = "internals")]
use crate::platform::fake::Fake;
use crate::platform::linux::Linux;
use crate::process::{background, lifecycle};
use crate::thread::heap::Entries;
use crate::thread::tls::thread_pointer;
use crate::transfer::exchange::Sharded;
use crate::transfer::remote_stash::{Dense, Sparse};
use crate::transfer::shard::Shard;

/// Defines a lane. Its arguments are all that distinguishes it from the others.
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

        impl Policy for $name {
            type Os = $os;

            const NAME: &'static str = $label;
            const SHARD_COUNT: usize = $shards;
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
        }

        impl Sharded for $name {
            type Shards = [Shard<$os>; $shards];
            #[allow(clippy::declare_interior_mutable_const, reason = "used once, to initialise a static")]
            const FRESH_SHARDS: Self::Shards = [const { Shard::new() }; $shards];
        }

        // SAFETY: one static allocator; the thread pointer starts at NO_HEAP, and only `set_heap` writes it; zeros are
        // an empty stash and an empty quarantine; `lifecycle::start` returns a heap that the thread owns.
        unsafe impl Lane for $name {
            type Stash = $stash;
            type Quarantine = $quarantine;

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

            #[inline]
            fn start_thread() -> Option<*mut HeapOf<Self>> {
                lifecycle::start::<Self>()
            }

            fn start_helper() {
                background::start_if_worthwhile::<Self>();
            }
        }

        const _: () = assert!($shards <= 32 && usize::is_power_of_two($shards) && ($marks || !$hardened));
    };
}

lane! {
    /// For programs with few threads that mostly free their own blocks: remote frees go home to the owner.
    Fast, label: "fast", os: Linux, shards: 8, stash: Dense<8>, quarantine: quarantine::NoQuarantine,
    first_arena: 4 << 30, adopt: false, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: false, hardened: false, purge_delay_ms: 1000, thread_pointer: "hz3_heap_fast",
}

lane! {
    /// For many threads that free each other's blocks: the freeing thread's shard adopts remote frees.
    Scale, label: "scale", os: Linux, shards: 32, stash: Sparse<256>, quarantine: quarantine::NoQuarantine,
    first_arena: 16 << 30, adopt: true, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: false, hardened: false, purge_delay_ms: 1000, thread_pointer: "hz3_heap_scale",
}

lane! {
    /// As [`Scale`], and detects misuse of memory at a cost: all means of `Policy::HARDENED`.
    Hardened, label: "hardened", os: Linux, shards: 32, stash: Sparse<256>, quarantine: quarantine::Ring<256, { 1 << 20 }>,
    first_arena: 16 << 30, adopt: true, magazine: (62, 32 << 10, 4),
    depot_bytes: 8 << 20, depot_magazines: 255, first_batch: 4,
    marks: true, hardened: true, purge_delay_ms: 1000, thread_pointer: "hz3_heap_hardened",
}

#[cfg(feature = "internals")]
lane! {
    /// For tests: adopts; a magazine has room for two slots, a depot for two magazines, the stash for four slots.
    Tiny, label: "tiny", os: Fake, shards: 2, stash: Sparse<4>, quarantine: quarantine::NoQuarantine,
    first_arena: 16 << 20, adopt: true, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: false, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny",
}

#[cfg(feature = "internals")]
lane! {
    /// For tests: as [`Tiny`], but remote frees go home through a dense stash.
    TinyHome, label: "tiny-home", os: Fake, shards: 4, stash: Dense<4>, quarantine: quarantine::NoQuarantine,
    first_arena: 16 << 20, adopt: false, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: false, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny_home",
}

#[cfg(feature = "internals")]
lane! {
    /// For tests: as [`Tiny`], hardened, with a quarantine of four slots.
    TinyHardened, label: "tiny-hardened", os: Fake, shards: 2, stash: Sparse<4>, quarantine: quarantine::Ring<4, 4096>,
    first_arena: 16 << 20, adopt: true, magazine: (2, 64, 2),
    depot_bytes: 64, depot_magazines: 2, first_batch: 1,
    marks: true, hardened: true, purge_delay_ms: 0, thread_pointer: "hz3_heap_tiny_hardened",
}
