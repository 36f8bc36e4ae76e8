//! Small stacks: threads of the smallest stack that the C library allows make every call, and have a destructor that makes
//! some more.

use crate::counts::Counts;
use crate::hooks::OfThisThread;
use crate::raw;
use crate::storm::below;
use libc::PTHREAD_STACK_MIN;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::RngCore;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Threads at once.
const THREADS: usize = 4; // chosen
/// Blocks of a thread.
const SLOTS: usize = 16; // chosen
/// Steps of a thread.
const STEPS: u64 = 600; // chosen

unsafe extern "C" {
    fn valloc(size: usize) -> *mut c_void;
    fn pvalloc(size: usize) -> *mut c_void;
}

/// What a thread gets and leaves.
struct Part {
    random: u64,
    is_right: bool,
    key: libc::pthread_key_t,
}

/// Runs some threads one after another and at once.
pub fn episode(random: &mut Xoshiro256PlusPlus, counts: &Counts) -> Result<(), String> {
    let key = key()?;
    for _ in 0..1 + below(random, 12) {
        let mut parts: [Part; THREADS] =
            std::array::from_fn(|_| Part { random: random.next_u64(), is_right: false, key });
        let mut threads = Vec::with_capacity(THREADS);
        for part in &mut parts {
            threads.push(start(part)?);
        }
        for thread in threads {
            // SAFETY: the thread is joinable, and is joined once.
            unsafe { libc::pthread_join(thread, null_mut()) };
        }
        if !parts.iter().all(|part| part.is_right) {
            return Err("a thread of the smallest stack had a wrong block or none".to_owned());
        }
        counts.small_stacks.add(THREADS as u64);
    }
    Ok(())
}

fn start(part: &mut Part) -> Result<libc::pthread_t, String> {
    let (mut thread, mut attributes) = (0, std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit());
    // SAFETY: the attributes are initialised first and destroyed last; the part outlives the thread, which alone uses it.
    let code = unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        let mut code = libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), PTHREAD_STACK_MIN);
        if code == 0 {
            code = libc::pthread_create(&raw mut thread, attributes.as_ptr(), live, (&raw mut *part).cast());
        }
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        code
    };
    if code == 0 { Ok(thread) } else { Err(format!("no thread of the smallest stack: {code}")) }
}

extern "C" fn live(part: *mut c_void) -> *mut c_void {
    let _hooks = OfThisThread::find();
    // SAFETY: `start` gives the thread a part of its own.
    let part = unsafe { &mut *part.cast::<Part>() };
    part.is_right = make_every_call(&mut part.random);
    let block = raw::take(&mut part.random);
    // SAFETY: the key is one; the block is the destructor's.
    part.is_right &= !block.is_null() && unsafe { libc::pthread_setspecific(part.key, block.cast()) } == 0;
    null_mut()
}

/// False: a call failed, or some content was wrong.
#[inline(never)]
fn make_every_call(random: &mut u64) -> bool {
    let mut slots = [null_mut::<u8>(); SLOTS];
    let mut is_right = true;
    for step in 0..STEPS {
        let slot = &mut slots[raw::next(random) as usize % SLOTS];
        // SAFETY: each block is its slot's alone.
        unsafe {
            if !slot.is_null() && step % 3 == 0 {
                *slot = raw::resize(*slot, random);
            } else {
                is_right &= raw::swap(*slot, random);
                *slot = if step % 2 == 0 { raw::take(random) } else { aligned(random) };
            }
            is_right &= !slot.is_null() && libc::malloc_usable_size(slot.cast()) >= slot.cast::<usize>().read();
        }
    }
    // SAFETY: the functions take any numbers; each block is its slot's alone.
    unsafe {
        libc::mallinfo();
        libc::malloc_trim(1 << 20);
        slots.into_iter().fold(is_right, |is_right, block| raw::give_back(block) & is_right)
    }
}

/// A block of one of the calls that take an alignment, or of `reallocarray`. Null: it failed, or isn't aligned.
#[inline(never)]
fn aligned(random: &mut u64) -> *mut u8 {
    let (size, stamp) = (raw::size(random), raw::next(random));
    let alignment = 8 << (stamp % 11);
    let mut block = null_mut();
    // SAFETY: alignments are powers of two, of at least a pointer's size; the result has a place.
    unsafe {
        let expected = match (stamp >> 8) % 6 {
            0 => {
                libc::posix_memalign(&raw mut block, alignment, size);
                alignment
            }
            1 => {
                block = libc::aligned_alloc(alignment, size);
                alignment
            }
            2 => {
                block = libc::memalign(alignment, size);
                alignment
            }
            3 => {
                block = valloc(size);
                4096
            }
            4 => {
                block = pvalloc(size);
                4096
            }
            _ => {
                block = libc::reallocarray(null_mut(), 1, size);
                8
            }
        };
        if block.addr() % expected != 0 { null_mut() } else { raw::mark(block.cast(), size, stamp) }
    }
}

/// The destructor: frees, allocates and leaves a block for whoever comes.
unsafe extern "C" fn end(block: *mut c_void) {
    let mut random = block.addr() as u64;
    // SAFETY: the block is one of `raw`, and the destructor's own. Wrong content ends the process.
    unsafe {
        let is_right = raw::give_back(block.cast());
        let block = raw::take(&mut random);
        if !is_right || block.is_null() || !raw::swap(block, &mut random) {
            libc::abort();
        }
    }
}

/// One key for the process.
fn key() -> Result<libc::pthread_key_t, String> {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the key has a place; the destructor stays.
        (unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } == 0).then_some(key)
    });
    key.ok_or_else(|| "no key of thread-specific data".to_owned())
}
