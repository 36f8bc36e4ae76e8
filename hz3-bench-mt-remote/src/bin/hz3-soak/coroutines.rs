//! Coroutines: functions on stacks of 4 KiB that allocate, and go on in whatever thread is next.
//!
//! ```text
//! guard | 4 KiB: coroutine's frames, the allocator's below them
//! ```
//!
//! A signal's frame doesn't fit beside these: handlers run on the alternate stack that Rust gives each thread. What hooks
//! allocate inside a call comes on top of that call's frames, so there the stacks are larger.

use crate::counts::Counts;
use crate::hooks::{self, OfThisThread};
use crate::raw;
use crate::storm::below;
use libc::ucontext_t;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::RngCore;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Mutex;

/// Bytes of a stack.
const STACK: usize = 4096; // chosen: what the design promises to be enough
/// Bytes more beside hooks.
const HOOKS_STACK: usize = 8192; // chosen: two calls inside a call, and the hooks' own frames
/// Inaccessible below a stack.
const GUARD: usize = 4096; // chosen: more than any frame
/// Coroutines at once, and the threads that take turns in them.
const COROUTINES: usize = 8; // chosen
const THREADS: usize = 3; // chosen
/// Blocks of a coroutine.
const SLOTS: usize = 16; // chosen
/// Steps of a coroutine, and how many it makes in a row.
const STEPS: u32 = 400; // chosen
const STEPS_IN_A_ROW: u32 = 8; // chosen

/// A coroutine; it stays where it is, as its context has pointers into itself.
struct Coroutine {
    inside: MaybeUninit<ucontext_t>,
    outside: MaybeUninit<ucontext_t>,
    mapping: *mut c_void,
    size: usize,
    random: u64,
    slots: [*mut u8; SLOTS],
    is_right: bool,
    has_ended: bool,
}

// SAFETY: one thread at a time has it; what it has on its stack belongs to no thread.
unsafe impl Send for Coroutine {}

impl Coroutine {
    fn create(random: u64, stack: usize) -> Result<Box<Self>, String> {
        let size = GUARD + stack;
        // SAFETY: a new mapping, whose lowest page is then made inaccessible.
        let mapping = unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let mapping = libc::mmap(null_mut(), size, protection, flags, -1, 0);
            if mapping == libc::MAP_FAILED || libc::mprotect(mapping, GUARD, libc::PROT_NONE) != 0 {
                return Err("no stack for a coroutine".to_owned());
            }
            mapping
        };
        let mut coroutine = Box::new(Self {
            inside: MaybeUninit::zeroed(),
            outside: MaybeUninit::zeroed(),
            mapping,
            size,
            random,
            slots: [null_mut(); SLOTS],
            is_right: true,
            has_ended: false,
        });
        let address = (&raw mut *coroutine).addr();
        // SAFETY: the context is initialised by getcontext; `enter` takes two numbers, as is said.
        unsafe {
            let context = coroutine.inside.as_mut_ptr();
            if libc::getcontext(context) != 0 {
                return Err("no context for a coroutine".to_owned());
            }
            (*context).uc_stack.ss_sp = mapping.byte_add(GUARD);
            (*context).uc_stack.ss_size = stack;
            (*context).uc_link = null_mut();
            let enter = std::mem::transmute::<extern "C" fn(u32, u32), extern "C" fn()>(enter);
            libc::makecontext(context, enter, 2, (address >> 32) as u32, address as u32);
        }
        Ok(coroutine)
    }

    /// Lets it go on until it stops or ends.
    fn go_on(&mut self) {
        // SAFETY: `inside` is a context that was made or has stopped.
        unsafe { libc::swapcontext(self.outside.as_mut_ptr(), self.inside.as_ptr()) };
    }
}

impl Drop for Coroutine {
    fn drop(&mut self) {
        // SAFETY: nobody runs on the stack.
        unsafe { libc::munmap(self.mapping, self.size) };
    }
}

/// The first function on a coroutine's stack; it never returns.
extern "C" fn enter(high: u32, low: u32) {
    let coroutine = std::ptr::with_exposed_provenance_mut::<Coroutine>((high as usize) << 32 | low as usize);
    // SAFETY: `create` gives the address of the coroutine, which lives as long as its stack.
    unsafe { run(coroutine) }
}

/// # Safety
/// It runs on the coroutine's stack.
#[inline(never)]
unsafe fn run(coroutine: *mut Coroutine) {
    let mut step = 0;
    // SAFETY: `go_on` has the coroutine's memory to itself and waits; each block is its slot's alone.
    unsafe {
        while step < STEPS && (*coroutine).is_right {
            (*coroutine).is_right = make_a_step(&mut (*coroutine).slots, &mut (*coroutine).random);
            step += 1;
            if step % STEPS_IN_A_ROW == 0 {
                stop(coroutine);
            }
        }
        for slot in 0..SLOTS {
            let is_right = raw::give_back((*coroutine).slots[slot]);
            (*coroutine).is_right &= is_right;
        }
        (*coroutine).has_ended = true;
        loop {
            stop(coroutine);
        }
    }
}

/// Back to the thread. The next that goes on may be another.
///
/// # Safety
/// As for `run`.
#[inline(never)]
unsafe fn stop(coroutine: *mut Coroutine) {
    // SAFETY: `outside` is the context of the `go_on` that waits.
    unsafe { libc::swapcontext((*coroutine).inside.as_mut_ptr(), (*coroutine).outside.as_ptr()) };
}

/// False: a call failed, or some content was wrong.
#[inline(never)]
fn make_a_step(slots: &mut [*mut u8; SLOTS], random: &mut u64) -> bool {
    let slot = &mut slots[raw::next(random) as usize % SLOTS];
    // SAFETY: each block is its slot's alone.
    unsafe {
        if slot.is_null() {
            *slot = raw::take(random);
            return !slot.is_null();
        }
        match raw::next(random) % 3 {
            0 => {
                *slot = raw::resize(*slot, random);
                !slot.is_null()
            }
            1 => raw::give_back(std::mem::replace(slot, null_mut())),
            _ => raw::swap(std::mem::replace(slot, null_mut()), random),
        }
    }
}

/// Some coroutines, from their start to their end, and some again.
pub fn episode(random: &mut Xoshiro256PlusPlus, counts: &Counts) -> Result<(), String> {
    (0..1 + below(random, 12)).try_for_each(|_| from_start_to_end(random, counts))
}

fn from_start_to_end(random: &mut Xoshiro256PlusPlus, counts: &Counts) -> Result<(), String> {
    let stack = if hooks::are_preloaded() { STACK + HOOKS_STACK } else { STACK };
    let waiting = (0..COROUTINES).map(|_| Coroutine::create(random.next_u64(), stack));
    let waiting = Mutex::new(waiting.collect::<Result<VecDeque<_>, _>>()?);
    let threads = 1 + below(random, THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let _hooks = OfThisThread::find();
                    take_turns(&waiting, counts)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a coroutine's thread panicked".to_owned())?)
    })
}

fn take_turns(waiting: &Mutex<VecDeque<Box<Coroutine>>>, counts: &Counts) -> Result<(), String> {
    loop {
        let Some(mut coroutine) = waiting.lock().expect("no thread panics").pop_front() else {
            return Ok(());
        };
        coroutine.go_on();
        counts.switches.add(1);
        if !coroutine.is_right {
            return Err("a coroutine had a wrong block or none".to_owned());
        }
        if coroutine.has_ended {
            counts.coroutines.add(1);
        } else {
            waiting.lock().expect("no thread panics").push_back(coroutine);
        }
    }
}
