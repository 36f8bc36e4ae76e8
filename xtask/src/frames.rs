//! Frames: how much stack each function of a library takes for itself, read off the compiled code (x86-64).
//!
//! Callers' stacks are small: what takes more than [`LIMIT_BYTES`] runs on a stack of hz3's own, or on no program's
//! thread. What a whole path takes, `hz3-preload/tests/c/stack.c` measures.

use crate::disassembly::Disassembly;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Most bytes of a frame on a caller's stack. Chosen: half of what a whole path may take.
const LIMIT_BYTES: u64 = 1024;

const ON_OWN_STACK: &str = "runs on a stack of hz3's own";

/// The functions with larger frames, by their paths' ends, and why they may have them.
const EXEMPT: [(&str, &str); 14] = [
    ("own_stack::run", "is where a stack of hz3's own begins"),
    ("File::create", ON_OWN_STACK),
    ("Name::of", ON_OWN_STACK),
    ("page::publish", ON_OWN_STACK),
    ("page::end", ON_OWN_STACK),
    ("profile::write_to", ON_OWN_STACK),
    ("profile::write_named", ON_OWN_STACK),
    ("report::show", ON_OWN_STACK),
    // The closures in these.
    ("report::dump", ON_OWN_STACK),
    ("report::fill", ON_OWN_STACK),
    ("report::malloc_stats", ON_OWN_STACK),
    ("statistics::write_file", ON_OWN_STACK),
    ("statistics::write_reports", ON_OWN_STACK),
    // Formats a floating-point number: only reports do.
    ("core::fmt::float", ON_OWN_STACK),
];

/// Checks a library; the error names every frame that is too large.
///
/// # Errors
/// There are such frames, or the library can't be read or has no symbols.
pub fn check(library: &Path) -> Result<()> {
    let disassembly = Disassembly::read(library)?;
    let mut faults = Vec::new();
    let mut is_known = false;
    for name in disassembly.names() {
        is_known |= is_of(name, "own_stack::run");
        let bytes = disassembly.frame_bytes(name).with_context(|| name.to_owned())?;
        if bytes > LIMIT_BYTES && !EXEMPT.iter().any(|(path, _)| is_of(name, path)) {
            faults.push(format!("{name} takes {bytes} bytes of stack, at most {LIMIT_BYTES} are allowed"));
        }
    }
    ensure!(is_known, "{}: the library has no symbols", library.display());
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Whether the linker's name is that of a function at `path`, or of one in it. Both of rustc's manglings write each
/// part of a path behind its length.
fn is_of(name: &str, path: &str) -> bool {
    let parts: String = path.split("::").map(|part| format!("{}{part}", part.len())).collect();
    name.contains(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mangled_name_tells_its_path() {
        let legacy = "_ZN11hz3_preload10statistics10write_file17h0123456789abcdefE";
        let new = "_RNvNtCs1234_11hz3_preload10statistics10write_file";
        for name in [legacy, new] {
            assert!(is_of(name, "statistics::write_file"));
            assert!(!is_of(name, "statistics::write"));
            assert!(!is_of(name, "page::write_file"));
        }
    }

    #[test]
    fn exemptions_are_few_and_each_is_said_once() {
        let mut paths: Vec<_> = EXEMPT.iter().map(|(path, _)| path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), EXEMPT.len());
    }
}
