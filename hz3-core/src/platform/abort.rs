//! Abort: reports on standard error; all but warnings end the process with `SIGABRT`, as glibc does.
//!
//! Nothing here allocates or uses `fmt`.

use crate::platform::os::Os;
use crate::platform::system_page;

/// Longest line in bytes; the rest is cut. Chosen: every report of misuse fits.
const LINE_BYTES: usize = 192;

struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Line {
    fn of_misuse(entry: &str, problem: &str, address: usize) -> Self {
        let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
        line.push(b"hz3: ");
        line.push(entry.as_bytes());
        line.push(b": ");
        line.push(problem.as_bytes());
        line.push(b" ");
        line.push_hex(address);
        line
    }

    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
    }

    fn push_hex(&mut self, value: usize) {
        self.push(b"0x");
        let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let nibble = (value >> (digit * 4) & 0xf) as u8;
            self.push(&[if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }]);
        }
    }

    fn push_decimal(&mut self, value: usize) {
        let digits = value.checked_ilog10().unwrap_or(0);
        for digit in (0..=digits).rev() {
            self.push(&[b'0' + (value / 10usize.pow(digit) % 10) as u8]);
        }
    }

    fn show<O: Os>(&mut self) {
        self.used = self.used.min(LINE_BYTES - 1);
        self.push(b"\n");
        O::write_error(self.bytes.get(..self.used).unwrap_or(b"hz3: fault\n"));
    }

    fn end<O: Os>(mut self) -> ! {
        self.show::<O>();
        O::abort()
    }
}

/// Ends the process: `hz3: free(): double free of 0x7f…`. `entry` is the function called ("free()"), `problem` its
/// error, `address` the pointer.
#[cold]
#[inline(never)]
pub fn misuse<O: Os>(entry: &str, problem: &str, address: usize) -> ! {
    Line::of_misuse(entry, problem, address).end::<O>()
}

/// [`misuse`] of a small block: `hz3: free(): double free of 0x7f… (bin of 64 bytes)`.
#[cold]
#[inline(never)]
pub fn misuse_in_bin<O: Os>(entry: &str, problem: &str, address: usize, slot_bytes: usize) -> ! {
    let mut line = Line::of_misuse(entry, problem, address);
    line.push(b" (bin of ");
    line.push_decimal(slot_bytes);
    line.push(b" bytes)");
    line.end::<O>()
}

/// Writes `hz3: ` and `parts` as one line; the process goes on.
#[cold]
pub fn warning<O: Os>(parts: &[&[u8]]) {
    let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
    line.push(b"hz3: ");
    for part in parts {
        line.push(part);
    }
    line.show::<O>();
}

/// Learns the size of the system's pages. Ends the process, with a line and status 1, if hz3 can't divide memory at their ends.
pub fn unless_pages_fit<O: Os>() {
    if !system_page::begin(O::page_bytes()) {
        let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
        line.push(b"hz3: this system has pages of ");
        line.push_decimal(O::page_bytes());
        line.push(b" bytes; hz3 works with 4096, 16384 and 65536");
        line.show::<O>();
        O::exit(1);
    }
}

/// Ends the process in a state that only corruption or a bug can cause.
#[cold]
#[inline(never)]
pub fn impossible<O: Os>(what: &str) -> ! {
    let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
    line.push(b"hz3: corrupt heap: ");
    line.push(what.as_bytes());
    line.end::<O>()
}
