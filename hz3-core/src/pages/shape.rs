//! Shape: the sizes of magazines.

/// Bytes of a unit of magazine memory.
pub const UNIT_BYTES: usize = 64;
/// Bytes of a magazine's header.
pub const HEADER_BYTES: usize = 16;
/// Capacity classes.
pub const CLASSES: usize = 4;
/// Most slots of a magazine. Derived: 512 bytes less the header.
pub const MAX_SLOTS: usize = capacity_of(CLASSES - 1);

const _: () = assert!(MAX_SLOTS == 62);

/// Slots in a magazine of `class`.
pub const fn capacity_of(class: usize) -> usize {
    ((UNIT_BYTES << class) - HEADER_BYTES) / size_of::<*mut u8>()
}
