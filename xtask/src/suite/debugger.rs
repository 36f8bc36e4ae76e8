//! Debugger: gdb calls functions that need memory in a process on hz3. What the library's debug information says of
//! `malloc`, if it says anything, must be true.

use super::package::{self, Package};
use super::step::{Step, Stop};
use hz3::{Lane, process};
use std::process::Command;
use std::time::Duration;

const GDB: Package = Package { command: "gdb", name: "gdb" };
/// What gdb itself runs with.
const PTRACE: &str = "xtask/programs/ptrace.c";
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane: Lane| {
        Step::new(format!("gdb/{lane}"), move |session| {
            package::require(&[GDB])?;
            let library = session.library(lane)?;
            let ptrace = session.empty_folder("gdb")?.join("ptrace.so");
            let mut compile = Command::new("cc");
            compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&ptrace);
            process::expect_success(compile.arg(session.workspace.root.join(PTRACE)), TIME_LIMIT)?;
            let mut command = Command::new("gdb");
            command.args(["-batch", "-nx", "-ex", "set startup-with-shell off", "-ex", "set breakpoint pending on"]);
            command.arg("-ex").arg(format!("set environment LD_PRELOAD {}", library.display()));
            command.args(["-ex", "set debuginfod enabled off", "-ex", "break write", "-ex", "run"]);
            command.args(["-ex", "call (char*)strdup(\"xyz\")", "-ex", "print ((long)malloc(10) & 15) + 4321"]);
            command
                .args(["-ex", "print \"a text\"", "-ex", "kill", "--args", "echo", "text"])
                .env("LD_PRELOAD", &ptrace);
            let captured = process::capture(&mut command, TIME_LIMIT)?;
            let text = captured.text();
            for answer in ["\"xyz\"", "= 4321", "\"a text\""] {
                if !text.contains(answer) {
                    return Err(Stop::failed(format!("gdb did not print {answer}\n{text}")));
                }
            }
            Ok(())
        })
    };
    Lane::ALL.into_iter().map(step).collect()
}
