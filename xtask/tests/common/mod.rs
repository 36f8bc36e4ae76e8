//! What the tests of the built program share.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs xtask to its end.
pub fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().expect("xtask starts")
}

/// The command was wrong: exit code 2 and one line on standard error that has `mention` in it.
pub fn assert_one_line_and_code_2(arguments: &[&str], mention: &str) {
    let output = xtask(arguments);
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    assert!(message.starts_with("error: ") && message.contains(mention), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty());
}

/// Compiles C; `None` where the linker lacks something, in the words of its first complaint.
#[allow(dead_code)]
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
#[allow(dead_code)]
pub fn compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    try_compile(folder, name, source, options).expect("the source is right")
}

/// Says what a test leaves out. Written past the harness, which would keep it to itself in a test that passes.
#[allow(dead_code)]
pub fn skipped(what: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {what}: {why}").expect("standard error is writable");
}

/// A path as an argument.
#[allow(dead_code)]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}
