//! The hardened lane in a process that has locked its memory: guards need another way there, and are there.

use crate::access::is_readable;
use hz3_core::Hardened;
use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::observe::stats::collect;
use hz3_core::platform::units::PAGE_BYTES;

fn a_block_and_what_is_left_of_it_are_guarded(bytes: usize) {
    let block = block::malloc::<Hardened>(bytes);
    assert!(!block.is_null());
    let address = block.expose_provenance();
    assert!(is_readable(address + bytes - 1) && !is_readable(address + bytes), "a guard behind a live block");
    // SAFETY: live, and not used again.
    unsafe { block::free::<Hardened>(block) };
    assert!(!is_readable(address) && !is_readable(address + bytes - 1), "a block that was freed");
}

#[test]
fn locked_memory_is_guarded_too() {
    apart!();
    // Guarded in the usual way, and opened when that is none any more.
    a_block_and_what_is_left_of_it_are_guarded(25 * PAGE_BYTES);
    // SAFETY: changes no memory of the program's.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        println!("not tested: memory can't be locked here ({})", std::io::Error::last_os_error());
        return;
    }
    a_block_and_what_is_left_of_it_are_guarded(30 * PAGE_BYTES);
    trim::<Hardened>();
    let stats = collect::<Hardened>();
    assert_eq!((stats.refused_guards, stats.held_bytes), (0, 0));
    // In the pages of both, which are to be used again.
    let whole = 54 * PAGE_BYTES;
    let block = block::malloc::<Hardened>(whole);
    assert!(!block.is_null());
    // SAFETY: a live block of that many bytes, and not used afterwards.
    unsafe {
        block.write_bytes(1, whole);
        block::free::<Hardened>(block);
    }
}
