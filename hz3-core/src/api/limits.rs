//! Limits: sets a limit on an allocator's memory while the program runs.

use crate::allocator::Lane;
use crate::platform::options::SoftLimit;
use crate::platform::os::Os;

/// A limit on the memory of an allocator. What counts: blocks, each with its whole slot or pages, and free memory that has
/// not gone back to the system; not the allocator's own tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Growth beyond it first gives all free memory back to the system, in steps of about a millisecond.
    Soft,
    /// Growth beyond it fails, after all free memory within reach has gone back.
    Hard,
}

/// Sets a limit of lane `L` in bytes from now on; 0: none. What exceeds it already stays. Takes no lock.
pub fn set<L: Lane>(limit: Limit, bytes: usize) {
    let (allocator, options) = (L::allocator(), L::allocator().read_options());
    match limit {
        Limit::Soft if bytes == 0 => options.set_soft_limit(SoftLimit::None),
        Limit::Soft => options.set_soft_limit(SoftLimit::Bytes(bytes)),
        Limit::Hard => options.set_hard_limit_bytes(bytes),
    }
    allocator.pages.runs.limit.set_soft::<L::Os>(options, L::Os::now_ms());
}
