//! What the tests of built programs share: those of hz3, hz3-eval and xtask.

#![allow(dead_code)]

use hz3::lane::Lane;
use hz3::workspace::Workspace;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A built program, and what its lines about mistakes begin with.
pub struct Tested {
    /// Its path.
    pub program: &'static str,
    /// The first word of such a line.
    pub prefix: &'static str,
    /// Whether it has to be told where the libraries lie.
    pub is_installed: bool,
}

impl Tested {
    /// The command that runs it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        if self.is_installed {
            command.env(hz3::home::VARIABLE, libraries());
        }
        command.args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// The command was wrong: exit code 2 and one line on standard error that has `mention` in it.
    pub fn assert_one_line_and_code_2(&self, arguments: &[&str], mention: &str) {
        let output = self.run(arguments);
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        let has_prefix = message.strip_prefix(self.prefix).is_some_and(|rest| rest.starts_with(": "));
        assert!(has_prefix && message.contains(mention), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty());
    }
}

/// The folder with every lane's library, built.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let workspace = Workspace::locate().expect("there are sources");
        let build = |lane| workspace.build_library_quietly(lane).expect("the library is built");
        Lane::ALL.map(build)[0].parent().expect("a library lies in a folder").to_owned()
    })
}

/// Compiles C; `None` where the linker lacks something, in the words of its first complaint.
pub fn try_compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> Result<PathBuf, String> {
    let input = folder.join(format!("{name}.c"));
    let output = folder.join(name);
    std::fs::write(&input, source).expect("the folder is writable");
    let compiled = Command::new("cc")
        .args(["-O1", "-fno-builtin", "-o"])
        .arg(&output)
        .arg(&input)
        .args(options)
        .output()
        .expect("there is a C compiler");
    let complaint = String::from_utf8_lossy(&compiled.stderr).lines().next().unwrap_or_default().to_owned();
    if compiled.status.success() { Ok(output) } else { Err(complaint) }
}

/// Compiles C that compiles everywhere.
pub fn compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    try_compile(folder, name, source, options).expect("the source is right")
}

/// Says what a test leaves out. Written past the harness, which would keep it to itself in a test that passes.
pub fn skipped(what: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {what}: {why}").expect("standard error is writable");
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}
