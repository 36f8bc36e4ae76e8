//! Loader: what the system's own loader says it would load for a program, the library preloaded.
//!
//! The loader is started itself and given the program as an argument (`ld.so --list`): it maps files and prints
//! their list, and runs no code of theirs. It is the system's loader that is run, not whatever the program names.

use crate::process;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What precedes the reason where the program can't be loaded.
const FAULT: &str = "error while loading shared libraries: ";

const TIME_LIMIT: Duration = Duration::from_secs(20);

/// The loader's answer.
#[derive(Debug, Default, PartialEq)]
pub struct List {
    /// The files, in the order in which names are looked up in them, the program itself left out.
    pub files: Vec<PathBuf>,
    /// Why the program can't be loaded at all.
    pub fault: Option<String>,
    /// What the loader complains of.
    pub complaints: Vec<String>,
}

/// Asks the loader at `interpreter`; `library_path` is the user's own `LD_LIBRARY_PATH`.
pub fn list(interpreter: &Path, program: &Path, preload: &OsStr, library_path: Option<&OsStr>) -> Result<List> {
    let mut command = Command::new(interpreter);
    // Variables of the loader that the user has set stay, except those that would have it say other things.
    for variable in ["LD_DEBUG", "LD_DEBUG_OUTPUT", "LD_VERBOSE", "LD_TRACE_LOADED_OBJECTS"] {
        command.env_remove(variable);
    }
    match library_path {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    command.arg("--list").arg(program.canonicalize()?).env("LD_PRELOAD", preload);
    let captured = process::capture(&mut command, TIME_LIMIT).context("the loader")?;
    let mut list = parse(&captured.stdout_text());
    list.complaints = captured.stderr_text().lines().map(str::to_owned).collect();
    if !captured.status.success() {
        let words = list.complaints.last().map(|line| line.split_once(FAULT).map_or(line.as_str(), |(_, rest)| rest));
        list.fault = Some(words.map_or_else(|| format!("the loader ends with {}", captured.status), str::to_owned));
    }
    Ok(list)
}

/// Reads lines such as `libm.so.6 => /lib/libm.so.6 (0x7f…)` and `/lib/x.so (0x7f…)`.
fn parse(text: &str) -> List {
    let places = text.lines().map(|line| line.split_once(" => ").map_or(line.trim(), |(_, place)| place));
    let paths = places.filter_map(|place| Some(place.rsplit_once(" (0x")?.0).filter(|path| path.starts_with('/')));
    List { files: paths.map(PathBuf::from).collect(), ..List::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_s_list_is_read_in_its_order() {
        let text = "\
\tlinux-vdso.so.1 (0x00007f42fbfd8000)
\t/opt/hz3/libhakozuna_hz3_scale.so (0x00007f42fbc00000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f42fbee7000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f42fbfda000)
";
        let expected =
            ["/opt/hz3/libhakozuna_hz3_scale.so", "/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(text).files, expected.map(PathBuf::from));
    }
}
