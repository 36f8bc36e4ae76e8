//! Prefetch: requests cache lines of other processors before they are needed.
//!
//! A store to such a line waits in the store buffer, and the next locked instruction waits with it. Lines requested
//! together arrive together; lines stored to in turn arrive one by one.

/// Requests the cache line at `address` for writing. Accesses no memory: any address is allowed.
#[inline(always)]
pub fn to_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint that changes no memory, register or flag and never faults; a no-op on processors that lack it.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a hint that changes no memory, register or flag and never faults.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    // `prefetch.w` of the extension Zicbop, by the instruction that it is elsewhere.
    #[cfg(all(target_arch = "riscv64", not(miri)))]
    // SAFETY: writes to the register that stays zero.
    unsafe {
        core::arch::asm!("ori zero, {}, 3", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(miri)]
    let _ = address;
}
