//! Own stack: runs what needs much stack on memory of its own, because the caller's stack may be small.
//!
//! ```text
//! caller's stack   … caller │ call │ switch                       some hundred bytes
//! own stack        guard │                      body │ run │ id
//! ```
//!
//! POSIX grants a thread 16 KiB, and a coroutine may have 4. Walking the caller's stack, counting everything and
//! formatting text take more than an allocator may. The latest stack is kept for the next call; others are unmapped.
//! Unwinders pass from an own stack to the caller's, and a call on an own stack may lead to another such call.
//!
//! Outside rules: the psABIs of the processors (stack alignment, registers); DWARF 4, section 6.4 (call frames).

use crate::platform::atomic::{AtomicPtr, Ordering};
use crate::platform::kernel;
use crate::platform::linux::Linux;
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::valgrind;
use core::ffi::{c_int, c_void};
use core::ptr::{NonNull, null_mut};

/// Chosen: a report takes 16 KiB, libgcc's unwinder 4, and a signal's frame up to 12.
const STACK_BYTES: usize = 64 << 10;
/// Bytes in front of a stack: a guard page of the system's.
fn guard_bytes() -> usize {
    system_page::bytes()
}

fn all_bytes() -> usize {
    guard_bytes() + STACK_BYTES
}

/// Offset of the stack's id under valgrind, a word behind the stack: a stack's end is a multiple of 16.
fn id_at() -> usize {
    all_bytes() - 16
}

/// An unused stack, by its guard page, or null.
static SPARE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// What happens to signals meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// They wait: for short work inside any allocation. A garbage collector that stops threads by a signal takes the
    /// interrupted stack for the thread's.
    Wait,
    /// Their handlers run on the own stack: for work that may wait for a slow reader.
    Pass,
}

struct Task<F, T> {
    body: Option<F>,
    result: Option<T>,
}

/// # Safety
/// `task` is a [`Task`] of these types that nothing else uses meanwhile.
// Not inlined: where no stack is to be had, only then is `body`'s frame on the caller's.
#[inline(never)]
unsafe extern "C" fn run<F: FnOnce() -> T, T>(task: *mut c_void) {
    // SAFETY: the caller passes such a task.
    let task = unsafe { &mut *task.cast::<Task<F, T>>() };
    if let Some(body) = task.body.take() {
        task.result = Some(body());
    }
}

/// Runs `body` on a stack of its own; on the caller's where the system refuses memory for one. `None` never happens.
/// Keeps `errno` but for what `body` does to it. The thread can't be cancelled meanwhile. `result` lies on the caller's
/// stack.
#[inline]
pub fn call<T>(signals: Signals, body: impl FnOnce() -> T) -> Option<T> {
    let mut task = Task { body: Some(body), result: None };
    run_on_own(signals, entry_of(&task), (&raw mut task).cast());
    task.result
}

type Entry = unsafe extern "C" fn(*mut c_void);

fn entry_of<F: FnOnce() -> T, T>(_: &Task<F, T>) -> Entry {
    run::<F, T>
}

#[cold]
#[inline(never)]
fn run_on_own(signals: Signals, entry: Entry, task: *mut c_void) {
    let stack = if cfg!(miri) { None } else { take() };
    let state = (signals == Signals::Wait).then(Blocked::begin);
    let cancel = Uncancelled::begin();
    match stack {
        // SAFETY: `entry` takes the task, and nothing else uses the fresh stack, whose end is a multiple of 16.
        Some(stack) => unsafe { switch(task, entry, stack.as_ptr().add(id_at())) },
        // SAFETY: `entry` takes the task.
        None => unsafe { entry(task) },
    }
    drop(cancel);
    drop(state);
    if let Some(stack) = stack {
        give(stack);
    }
}

fn take() -> Option<NonNull<u8>> {
    // Acquire: pairs with the Release in `give`; its last user has left it.
    if let Some(spare) = NonNull::new(SPARE.swap(null_mut(), Ordering::Acquire)) {
        return Some(spare);
    }
    let start = Linux::reserve(all_bytes())?;
    // SAFETY: within the fresh reservation; its first page stays without access. The id's word is aligned.
    unsafe {
        if Linux::commit(start.add(guard_bytes()), STACK_BYTES) {
            let (first, end) = (start.add(guard_bytes()), start.add(id_at()));
            end.cast().write(valgrind::register_stack(first.as_ptr().addr(), end.as_ptr().addr() - 1));
            return Some(start);
        }
        // A refusal costs address space, but no memory.
        let _ = Linux::unmap(start, all_bytes());
    }
    None
}

fn give(stack: NonNull<u8>) {
    // Release: this thread has left the stack. Pairs with the Acquire in `take`. Relaxed on failure: nothing is read.
    let kept = SPARE.compare_exchange(null_mut(), stack.as_ptr(), Ordering::Release, Ordering::Relaxed);
    if kept.is_err() {
        // SAFETY: a whole reservation that nothing uses any more, with the id that `take` wrote. A refusal loses it.
        unsafe {
            valgrind::deregister_stack(stack.add(id_at()).cast().read());
            let _ = Linux::unmap(stack, all_bytes());
        }
    }
}

/// While it lives, no signal reaches the thread, those of the C library's own included.
struct Blocked(u64);

/// The kernel's signal set, in bytes.
const SIGNAL_SET_BYTES: usize = size_of::<u64>();

impl Blocked {
    fn begin() -> Self {
        Self(set_signals(u64::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_signals(self.0);
    }
}

/// Blocks the signals in `blocked` and no others; returns those that were. rt_sigprocmask(2) with valid arguments does
/// not fail.
fn set_signals(blocked: u64) -> u64 {
    let mut before = 0_u64;
    if !cfg!(miri) {
        let (new, old) = ((&raw const blocked).expose_provenance(), (&raw mut before).expose_provenance());
        // SAFETY: both sets are the kernel's size, one readable and the other writable.
        let _ =
            unsafe { kernel::call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, old, SIGNAL_SET_BYTES]) };
    }
    before
}

/// While it lives, the thread can't be cancelled: the C library tells from addresses of the thread's own stack which
/// cleanup handlers to run.
struct Uncancelled(c_int);

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// pthread.h.
const CANCEL_DISABLE: c_int = 1;

impl Uncancelled {
    fn begin() -> Self {
        Self(set_cancel_state(CANCEL_DISABLE))
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        set_cancel_state(self.0);
    }
}

/// Returns the state before. pthread_setcancelstate(3) with a valid state does not fail.
fn set_cancel_state(state: c_int) -> c_int {
    let mut before = 0;
    if !cfg!(miri) {
        // SAFETY: `before` is writable.
        unsafe { pthread_setcancelstate(state, &mut before) };
    }
    before
}

#[cfg(not(miri))]
unsafe extern "C" {
    /// Calls `entry` with `task` on the stack that ends at `end`.
    ///
    /// # Safety
    /// `entry` takes `task`, and the writable memory below `end`, a multiple of 16, is the caller's and enough.
    #[link_name = "hz3_switch_stack"]
    fn switch(task: *mut c_void, entry: Entry, end: *mut u8);
}

/// Miri never gets here.
#[cfg(miri)]
unsafe fn switch(_: *mut c_void, _: Entry, _: *mut u8) {}

/// Defines `hz3_switch_stack`. Rust 1.85 has no naked functions.
#[cfg(not(miri))]
macro_rules! define_switch {
    ($($instruction:literal,)*) => {
        core::arch::global_asm!(
            ".pushsection .text.hz3_switch_stack,\"ax\",%progbits",
            ".p2align 4",
            ".globl hz3_switch_stack",
            ".hidden hz3_switch_stack",
            ".type hz3_switch_stack,%function",
            "hz3_switch_stack:",
            ".cfi_startproc",
            $($instruction,)*
            ".cfi_endproc",
            ".size hz3_switch_stack,.-hz3_switch_stack",
            ".popsection",
        );
    };
}

// The frame is found by rbp (DWARF register 6), so that an unwinder gets from one stack to the other.
#[cfg(all(target_arch = "x86_64", not(miri)))]
define_switch!(
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset 6, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register 6",
    "mov rsp, rdx",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    ".cfi_def_cfa 7, 8",
    "ret",
);

// The frame is found by x29, so that an unwinder gets from one stack to the other.
#[cfg(all(target_arch = "aarch64", not(miri)))]
define_switch!(
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset 29, -16",
    ".cfi_offset 30, -8",
    "mov x29, sp",
    ".cfi_def_cfa 29, 16",
    "mov sp, x2",
    "blr x1",
    "mov sp, x29",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa 31, 0",
    ".cfi_restore 29",
    ".cfi_restore 30",
    "ret",
);

// The frame is found by s0 (DWARF register 8), so that an unwinder gets from one stack to the other.
#[cfg(all(target_arch = "riscv64", not(miri)))]
define_switch!(
    "addi sp, sp, -16",
    ".cfi_def_cfa_offset 16",
    "sd ra, 8(sp)",
    "sd s0, 0(sp)",
    ".cfi_offset 1, -8",
    ".cfi_offset 8, -16",
    "addi s0, sp, 16",
    ".cfi_def_cfa 8, 0",
    "mv sp, a2",
    "jalr a1",
    "addi sp, s0, -16",
    ".cfi_def_cfa 2, 16",
    "ld ra, 8(sp)",
    "ld s0, 0(sp)",
    ".cfi_restore 1",
    ".cfi_restore 8",
    "addi sp, sp, 16",
    ".cfi_def_cfa_offset 0",
    "ret",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of<T>(value: &T) -> usize {
        core::ptr::from_ref(value).addr()
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn a_body_runs_far_from_the_callers_stack_and_its_result_comes_back() {
        let here = 0_u8;
        let (place, sum) = call(Signals::Pass, || {
            let large = core::hint::black_box([1_u8; 32 << 10]);
            (place_of(&large), large.iter().map(|&byte| usize::from(byte)).sum::<usize>())
        })
        .expect("a result");
        assert_eq!(sum, 32 << 10);
        assert!(place.abs_diff(place_of(&here)) > 48 << 10);
    }

    #[test]
    fn calls_nest_and_threads_have_stacks_of_their_own() {
        let threads: std::vec::Vec<_> = (0..4_usize)
            .map(|number| {
                std::thread::spawn(move || {
                    for turn in 0..if cfg!(miri) { 2 } else { 500_usize } {
                        let inner = || call(Signals::Wait, || core::hint::black_box(turn) + number);
                        assert_eq!(
                            call(Signals::Wait, || inner().map(|sum| sum + 1)).flatten(),
                            Some(turn + number + 1)
                        );
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no signals")]
    fn signals_wait_and_are_let_through_again() {
        let blocked_now = || {
            let blocked = set_signals(u64::MAX);
            set_signals(blocked);
            blocked
        };
        let before = blocked_now();
        let of_user = 1 << (libc::SIGUSR1 - 1);
        assert_eq!(call(Signals::Wait, blocked_now).map(|blocked| blocked & of_user), Some(of_user));
        assert_eq!(call(Signals::Pass, blocked_now), Some(before));
        assert_eq!(blocked_now(), before);
    }

    unsafe extern "C" {
        fn _Unwind_Backtrace(visit: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int, to: *mut c_void) -> c_int;
        fn _Unwind_GetIP(frame: *mut c_void) -> usize;
        fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
    }

    /// # Safety
    /// `frame` is the unwinder's, and `functions` a vector without another reference.
    unsafe extern "C" fn note(frame: *mut c_void, functions: *mut c_void) -> c_int {
        // SAFETY: the caller passes a frame and the vector.
        unsafe {
            let address = core::ptr::with_exposed_provenance_mut(_Unwind_GetIP(frame).saturating_sub(1));
            (*functions.cast::<std::vec::Vec<usize>>()).push(_Unwind_FindEnclosingFunction(address).addr());
        }
        0
    }

    #[inline(never)]
    fn walk_on_own_stack() -> std::vec::Vec<usize> {
        let mut functions = std::vec::Vec::new();
        let to = (&raw mut functions).cast();
        // SAFETY: `note` takes a vector, which nothing else uses meanwhile.
        call(Signals::Pass, || unsafe { _Unwind_Backtrace(note, to) });
        core::hint::black_box(functions)
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri walks no stack")]
    fn a_walk_passes_from_an_own_stack_to_the_callers() {
        let functions = walk_on_own_stack();
        let place = |function: usize| functions.iter().position(|&found| found == function).expect("a frame");
        let own = place(switch as *const () as usize);
        let caller = place(walk_on_own_stack as *const () as usize);
        assert!(own < caller && caller + 3 < functions.len(), "{own}, {caller} of {}", functions.len());
    }
}
