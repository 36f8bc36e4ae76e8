//! Unwritten: looks at free slots for what was written to them.
//!
//! ```text
//! a slot that is handed out     one that goes home to a vacated span     all of a span that is given up, a shard's or a region's
//! ```

use crate::hardening::free_mark;
use crate::pages::bins;
use crate::pages::policy::Policy;
use crate::pages::slot::Slot;
use crate::pages::span::Span;
use crate::platform::abort;
use crate::platform::units::Bin;
use core::ptr::with_exposed_provenance_mut;

/// In the hardened lane, stops the process, in the name of `entry`, if the free `slot` of `bin` was written to.
#[inline]
pub fn require_unwritten<P: Policy>(entry: &str, bin: Bin, slot: &Slot) {
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    // SAFETY: the slot is the caller's, and has the bytes of its bin.
    if P::HARDENED && unsafe { !free_mark::is_wiped(slot.as_ptr(), slot_bytes) } {
        abort::misuse_in_bin::<P::Os>(entry, "write after free to", slot.address(), slot_bytes);
    }
}

/// [`require_unwritten`] of all slots of `span`, in the name of `free`.
///
/// # Safety
/// The caller owns the span, of which no slot is out.
pub unsafe fn require_span_unwritten<P: Policy>(span: &Span) {
    if !P::HARDENED {
        return;
    }
    for number in 0..usize::from(span.carved) {
        let start = with_exposed_provenance_mut(span.start + number * bins::info(span.bin).slot_bytes as usize);
        // SAFETY: a slot at home, and with the span the caller's. It holds memory: a hardened lane purges no holes.
        let slot = unsafe { Slot::new(start) };
        require_unwritten::<P>("free()", span.bin, &slot);
    }
}
