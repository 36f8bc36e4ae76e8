//! Valgrind: tells it, if the program runs under it, of stacks that it can't know.
//!
//! It takes a change of the stack pointer for a push or a pop where it knows no other stack there, and the caller's frames
//! for dead. Elsewhere, a request is a handful of instructions that change nothing.
//!
//! Outside rules: valgrind/valgrind.h (the instructions and the requests of each architecture).

use core::arch::asm;

const STACK_REGISTER: usize = 0x1501;
const STACK_DEREGISTER: usize = 0x1502;

/// Tells of the stack from `start` to `end`, its last byte. Returns its id, 0 outside valgrind.
pub fn register_stack(start: usize, end: usize) -> usize {
    request(&[STACK_REGISTER, start, end, 0, 0, 0])
}

/// Takes back what [`register_stack`] told.
pub fn deregister_stack(id: usize) {
    request(&[STACK_DEREGISTER, id, 0, 0, 0, 0]);
}

/// valgrind's answer, or 0.
fn request(words: &[usize; 6]) -> usize {
    let answer: usize;
    // SAFETY: the rotations add up to whole turns, and the last instruction exchanges a register with itself. valgrind reads
    // the words.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inlateout("rdx") 0_usize => answer,
            options(nostack),
        );
    }
    // SAFETY: as above; the last instruction combines a register with itself.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") words.as_ptr(),
            inlateout("x3") 0_usize => answer,
            options(nostack),
        );
    }
    // SAFETY: the shifts write to the register that stays zero; the last instruction combines a register with itself.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!(
            ".option push",
            ".option norvc",
            "srli zero, zero, 3",
            "srli zero, zero, 13",
            "srli zero, zero, 51",
            "srli zero, zero, 61",
            "or a0, a0, a0",
            ".option pop",
            in("a4") words.as_ptr(),
            inlateout("a3") 0_usize => answer,
            options(nostack),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn outside_valgrind_requests_are_answered_with_0() {
        assert_eq!(register_stack(4096, 8191), 0);
        deregister_stack(0);
    }
}
