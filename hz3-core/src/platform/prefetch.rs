//! Prefetch: cache lines that another processor has, asked for before they are needed.
//!
//! A store to such a line waits in the store buffer, and the next locked instruction waits with it for as long as the
//! line takes to come: lines that are asked for at once come at once, lines that are stored to one by one come one by one.

/// Asks for the cache line at `address`, to be written soon. Touches nothing: any address will do.
#[inline(always)]
pub fn to_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which reads and writes nothing, and raises no fault. Processors that lack it do nothing: its opcode was
    // reserved as one without effect.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
