//! Machine: what the measurement ran on, as far as it matters for reading the figures.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The machine and its system software. A string is empty where the system does not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model name.
    pub processor: String,
    /// Processors the process may run on.
    pub processors: usize,
    /// Memory in MB of 1,048,576 bytes.
    pub memory_mb: u64,
    /// Kernel release.
    pub kernel: String,
    /// C library and version.
    pub c_library: String,
    /// Distribution.
    pub distribution: String,
    /// Setting of transparent huge pages.
    pub huge_pages: String,
    /// The compiler that built hz3.
    pub rustc: String,
    /// Load average over one minute before the first run; far above 0 means that others ran too.
    pub load_at_start: f64,
}

/// The version of hz3's sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Version of the workspace.
    pub version: String,
    /// Commit; empty outside a git checkout.
    pub commit: String,
    /// Whether tracked files differed from the commit.
    pub modified: bool,
}

/// Above this load average before the start, a warning is due.
const QUIET_LOAD: f64 = 0.5;

impl Machine {
    /// Describes this machine.
    pub fn describe() -> Machine {
        Machine {
            processor: field_of("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mb: field_of("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes / 1024),
            kernel: text_of("/proc/sys/kernel/osrelease"),
            c_library: output_of(Command::new("getconf").arg("GNU_LIBC_VERSION")),
            distribution: field_of("/etc/os-release", "PRETTY_NAME").trim_matches('"').to_owned(),
            huge_pages: chosen(&text_of("/sys/kernel/mm/transparent_hugepage/enabled")),
            rustc: output_of(Command::new("rustc").arg("--version")),
            load_at_start: text_of("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// Warns a person whose measurement begins while others use the machine.
    pub fn warn_if_busy(&self) {
        if self.load_at_start > QUIET_LOAD {
            eprintln!("warning: the load average is {:.2}; figures of a busy machine mislead", self.load_at_start);
        }
    }

    /// One line for the head of a report.
    pub fn line(&self) -> String {
        format!(
            "{}, {} processors, {} MB, {}, Linux {}, {}, transparent huge pages: {}, {}",
            self.processor,
            self.processors,
            self.memory_mb,
            self.distribution,
            self.kernel,
            self.c_library,
            self.huge_pages,
            self.rustc
        )
    }
}

impl Source {
    /// The version of the sources in `root`.
    pub fn describe(root: &Path) -> Source {
        let git = |arguments: &[&str]| output_of(Command::new("git").current_dir(root).args(arguments));
        Source {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: git(&["rev-parse", "--short=12", "HEAD"]),
            modified: !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        }
    }

    /// One phrase for reports.
    pub fn line(&self) -> String {
        let modified = if self.modified { ", with changes" } else { "" };
        match self.commit.as_str() {
            "" => self.version.clone(),
            commit => format!("{} ({commit}{modified})", self.version),
        }
    }
}

/// A file's text without the space around it; empty where it can't be read.
pub fn text_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of the first line `name: value` or `name=value`.
fn field_of(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once([':', '=']))
        .find(|(key, _)| key.trim() == name)
        .map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// The bracketed word of `always [madvise] never`.
pub fn chosen(setting: &str) -> String {
    let bracketed = setting.split('[').nth(1).and_then(|rest| rest.split(']').next());
    bracketed.unwrap_or(setting).to_owned()
}

/// The first line of a command's output; empty when it can't be run.
pub fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).env_remove("LD_PRELOAD").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_in_brackets_is_the_chosen_one() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
    }

    #[test]
    fn this_machine_has_a_processor_memory_and_a_kernel() {
        let machine = Machine::describe();
        assert!(machine.processors >= 1 && machine.memory_mb > 0 && !machine.kernel.is_empty());
    }

    #[test]
    fn a_missing_command_gives_an_empty_answer() {
        assert_eq!(output_of(&mut Command::new("no-such-command-here")), "");
    }
}
