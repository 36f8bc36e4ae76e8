//! Api: what programs call.

pub mod apart;
pub mod block;
pub mod checked;
pub mod global_alloc;
pub mod hot;
pub mod large;
pub mod limits;
pub mod miss;
pub mod refill;
pub mod region;
pub mod region_handle;
pub mod size;
pub mod slack;
pub mod spill;
