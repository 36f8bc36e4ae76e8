//! Memory: what the kernel says about this process's resident size.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};

/// One of the kernel's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Resident now.
    Resident,
    /// The most that was ever resident since the program was loaded. (The value of `getrusage` can be that
    /// of the program that started this one.)
    PeakResident,
}

impl Figure {
    fn key(self) -> &'static str {
        match self {
            Self::Resident => "VmRSS:",
            Self::PeakResident => "VmHWM:",
        }
    }
}

/// The figure for this process, in bytes. Reads `/proc/self/status` into a buffer on the stack: the
/// allocator under test takes no part.
///
/// # Errors
/// The kernel's, and `InvalidData` if the figure is missing.
pub fn of_this_process(figure: Figure) -> io::Result<u64> {
    let mut text = [0; 8192];
    let mut len = 0;
    let mut file = File::open("/proc/self/status")?;
    while len < text.len() {
        match file.read(&mut text[len..])? {
            0 => break,
            count => len += count,
        }
    }
    parse(&text[..len], figure)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/status lacks {}", figure.key())))
}

/// Finds a line such as `VmHWM:    1234 kB`, where kB are 1024 bytes.
fn parse(status: &[u8], figure: Figure) -> Option<u64> {
    let line = status.split(|byte| *byte == b'\n').find(|line| line.starts_with(figure.key().as_bytes()))?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let kilobytes: u64 = words.next()?.parse().ok()?;
    (words.next()? == "kB").then_some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names_and_given_in_bytes() {
        let status = b"Name:\tbench\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse(status, Figure::PeakResident), Some(2048 * 1024));
        assert_eq!(parse(status, Figure::Resident), Some(1024 * 1024));
    }

    #[test]
    fn a_missing_or_strange_figure_is_none() {
        for status in [&b"Name:\tbench\n"[..], b"VmHWM:\n", b"VmHWM:\tx kB\n", b"VmHWM:\t1 MB\n"] {
            assert_eq!(parse(status, Figure::PeakResident), None);
        }
    }

    #[test]
    fn memory_that_is_touched_shows_in_the_figures() {
        let before = of_this_process(Figure::Resident).unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = of_this_process(Figure::Resident).unwrap();
        assert!(after > before + (48 << 20), "{before} then {after}");
        drop(touched);
        assert!(of_this_process(Figure::PeakResident).unwrap() > before + (48 << 20));
    }
}
