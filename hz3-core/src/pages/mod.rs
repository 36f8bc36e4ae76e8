//! Pages: address space, and the runs, spans and mappings in it.

#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod bins;
#[cfg(not(loom))]
pub mod clearing;
#[cfg(not(loom))]
pub mod direct;
#[cfg(not(loom))]
pub mod early;
#[cfg(not(loom))]
pub mod ends;
#[cfg(not(loom))]
pub mod fresh;
#[cfg(not(loom))]
pub mod guards;
#[cfg(not(loom))]
pub mod kept;
#[cfg(not(loom))]
pub mod left_out;
pub mod length_tree;
#[cfg(not(loom))]
pub mod limit;
#[cfg(not(loom))]
pub mod page_heap;
pub mod page_map;
#[cfg(not(loom))]
pub mod page_tag;
#[cfg(not(loom))]
pub mod places;
#[cfg(not(loom))]
pub mod policy;
#[cfg(not(loom))]
pub mod run_lists;
#[cfg(not(loom))]
pub mod runs;
#[cfg(not(loom))]
pub mod shape;
pub mod slot;
#[cfg(not(loom))]
pub mod span;
