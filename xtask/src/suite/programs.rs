//! Programs: real programs that must do under each lane exactly what they do without hz3.
//!
//! A program is a list of commands run in an empty folder that holds its input files. Compared are
//! every command's exit status and both its outputs, so that a line of the loader or of hz3 on
//! standard error counts as a difference, and the bytes of the files that the commands leave.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::Lane;
use hz3::process::{self, Captured};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const BASH: Package = Package { command: "bash", name: "bash" };
const AWK: Package = Package { command: "awk", name: "mawk" };
const PYTHON: Package = Package { command: "python3", name: "python3" };
const PERL: Package = Package { command: "perl", name: "perl" };
const GIT: Package = Package { command: "git", name: "git" };
const GCC: Package = Package { command: "gcc", name: "gcc" };
const GXX: Package = Package { command: "g++", name: "g++" };
const RUSTC: Package = Package { command: "rustc", name: "rustc" };
const SQLITE: Package = Package { command: "sqlite3", name: "sqlite3" };

/// For one command; the slowest takes a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// What is run, and on what.
struct Program {
    name: &'static str,
    needs: &'static [Package],
    /// Files in the folder: name and contents.
    inputs: &'static [(&'static str, &'static str)],
    commands: &'static [&'static [&'static str]],
    /// Files to compare afterwards.
    results: &'static [&'static str],
}

macro_rules! input {
    ($name:literal) => {
        ($name, include_str!(concat!("../../programs/", $name)))
    };
}

const PROGRAMS: [Program; 11] = [
    Program {
        name: "bash",
        needs: &[BASH],
        inputs: &[input!("shell.sh")],
        commands: &[&["bash", "shell.sh"]],
        results: &[],
    },
    Program {
        name: "python-threads",
        needs: &[PYTHON],
        inputs: &[input!("threads.py")],
        commands: &[&["python3", "threads.py"]],
        results: &[],
    },
    Program {
        name: "python-fork",
        needs: &[PYTHON],
        inputs: &[input!("processes.py")],
        commands: &[&["python3", "-W", "ignore", "processes.py", "fork"]],
        results: &[],
    },
    Program {
        name: "python-spawn",
        needs: &[PYTHON],
        inputs: &[input!("processes.py")],
        commands: &[&["python3", "-W", "ignore", "processes.py", "spawn"]],
        results: &[],
    },
    Program {
        name: "perl",
        needs: &[PERL],
        inputs: &[input!("words.pl")],
        commands: &[&["perl", "words.pl"]],
        results: &[],
    },
    Program {
        name: "git",
        needs: &[GIT, BASH],
        inputs: &[input!("repository.sh")],
        commands: &[&["bash", "repository.sh"]],
        results: &[],
    },
    Program {
        name: "gcc",
        needs: &[GCC],
        inputs: &[input!("tree.c")],
        commands: &[
            &["gcc", "-O2", "-Wall", "-c", "tree.c", "-o", "tree.o"],
            &["gcc", "tree.o", "-o", "tree", "-pthread"],
            &["./tree"],
        ],
        results: &["tree.o", "tree"],
    },
    Program {
        name: "g++",
        needs: &[GXX],
        inputs: &[input!("containers.cpp")],
        commands: &[
            &["g++", "-O2", "-std=c++17", "-Wall", "-c", "containers.cpp", "-o", "containers.o"],
            &["g++", "containers.o", "-o", "containers", "-pthread"],
            &["./containers"],
        ],
        results: &["containers.o", "containers"],
    },
    Program {
        name: "rustc",
        needs: &[RUSTC, GCC],
        inputs: &[input!("channels.rs")],
        commands: &[&["rustc", "--edition", "2021", "-O", "channels.rs"], &["./channels"]],
        results: &["channels"],
    },
    Program {
        name: "sqlite3",
        needs: &[SQLITE],
        inputs: &[input!("rows.sql")],
        commands: &[&["sqlite3", "rows.db", ".read rows.sql"]],
        results: &["rows.db"],
    },
    Program {
        name: "sort",
        needs: &[BASH, AWK],
        inputs: &[input!("sort.sh")],
        commands: &[&["bash", "sort.sh"]],
        results: &["sorted", "reversed"],
    },
];

/// One step per program and lane.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for program in &PROGRAMS {
        let reference = Arc::new(OnceLock::new());
        for lane in Lane::FOR_SPEED {
            let name = format!("program/{}/{lane}", program.name);
            let reference = Arc::clone(&reference);
            steps.push(Step::new(name, move |session| compare(session, program, lane, &reference)));
        }
    }
    steps
}

/// `reference` is what the program does without hz3, once that is known.
fn compare(session: &mut Session, program: &Program, lane: Lane, reference: &OnceLock<Record>) -> Result<(), Stop> {
    package::require(program.needs)?;
    let library = session.library(lane)?;
    let reference = match reference.get() {
        Some(reference) => reference,
        None => {
            let record = Record::of(session, program, None)?;
            record.check_success(program)?;
            reference.get_or_init(|| record)
        }
    };
    Ok(Record::of(session, program, Some(&library))?.check_same(reference, program)?)
}

/// What a program's commands did.
struct Record {
    commands: Vec<Captured>,
    results: Vec<Vec<u8>>,
}

impl Record {
    /// Runs the program, under a preloaded library or without one. After a command that fails the
    /// rest is not run.
    fn of(session: &Session, program: &Program, library: Option<&Path>) -> Result<Record> {
        let folder = session.empty_folder("program")?;
        for (name, contents) in program.inputs {
            std::fs::write(folder.join(name), contents).context(*name)?;
        }
        let mut record = Record { commands: Vec::new(), results: Vec::new() };
        for words in program.commands {
            let captured = process::capture(&mut command(words, &folder, library), TIME_LIMIT)?;
            let success = captured.status.success();
            record.commands.push(captured);
            if !success {
                break;
            }
        }
        for name in program.results {
            // A file that is missing is an empty one: the reference shows which must exist.
            record.results.push(std::fs::read(folder.join(name)).unwrap_or_default());
        }
        Ok(record)
    }

    /// Without hz3 each command must succeed, write something and leave its results, or there is
    /// nothing to compare with.
    fn check_success(&self, program: &Program) -> Result<()> {
        for (words, captured) in program.commands.iter().zip(&self.commands) {
            ensure!(
                captured.status.success(),
                "without hz3: `{}`: {}\n{}",
                words.join(" "),
                captured.status,
                captured.text()
            );
        }
        ensure!(self.commands.iter().any(|captured| !captured.stdout.is_empty()), "without hz3: no output");
        for (name, bytes) in program.results.iter().zip(&self.results) {
            ensure!(!bytes.is_empty(), "without hz3: no file {name}");
        }
        Ok(())
    }

    fn check_same(&self, reference: &Record, program: &Program) -> Result<()> {
        for ((words, captured), expected) in program.commands.iter().zip(&self.commands).zip(&reference.commands) {
            let line = words.join(" ");
            ensure!(
                captured.status == expected.status,
                "`{line}`: {}, without hz3 {}\n{}",
                captured.status,
                expected.status,
                captured.text()
            );
            let outputs = [
                ("stdout", captured.stdout_text(), expected.stdout_text()),
                ("stderr", captured.stderr_text(), expected.stderr_text()),
            ];
            for (output, found, expected) in outputs {
                if let Some(difference) = first_difference(&found, &expected) {
                    anyhow::bail!("`{line}`: {output} differs from the one without hz3\n{difference}");
                }
            }
        }
        for ((name, found), expected) in program.results.iter().zip(&self.results).zip(&reference.results) {
            ensure!(
                found == expected,
                "{name} ({} bytes) differs from the one without hz3 ({} bytes)",
                found.len(),
                expected.len()
            );
        }
        Ok(())
    }
}

/// A command whose output depends on nothing but the folder's contents.
fn command(words: &[&str], folder: &Path, library: Option<&Path>) -> Command {
    let mut command = match words[0].strip_prefix("./") {
        Some(built) => Command::new(folder.join(built)),
        None => Command::new(words[0]),
    };
    command.args(&words[1..]).current_dir(folder).env("TMPDIR", folder);
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env_remove("MAKEFLAGS").env_remove("BASH_ENV");
    // All of Python's blocks, not only those above 512 bytes, come from malloc.
    command.env("PYTHONMALLOC", "malloc").env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PERL_HASH_SEED", "0").env_remove("PYTHONPATH").env_remove("PERL5OPT");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "hz3").env(format!("GIT_{role}_EMAIL"), "hz3@localhost");
        command.env(format!("GIT_{role}_DATE"), "2025-01-01T00:00:00Z");
    }
    match library {
        Some(library) => command.env("LD_PRELOAD", library),
        None => command.env_remove("LD_PRELOAD"),
    };
    command
}

/// The first line in which two texts differ, from both.
fn first_difference(found: &str, expected: &str) -> Option<String> {
    if found == expected {
        return None;
    }
    let mut lines = (found.lines(), expected.lines());
    for number in 1.. {
        let pair = (lines.0.next(), lines.1.next());
        if pair.0 != pair.1 || pair == (None, None) {
            let show = |line: Option<&str>| line.unwrap_or("(end)").to_owned();
            return Some(format!("line {number}: {}\nwithout: {}", show(pair.0), show(pair.1)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown_from_both_sides() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nx\n", "a\nb\n").unwrap(), "line 2: x\nwithout: b");
        assert_eq!(first_difference("a\n", "a\nb\n").unwrap(), "line 2: (end)\nwithout: b");
        assert_eq!(first_difference("a", "a\n").unwrap(), "line 2: (end)\nwithout: (end)");
    }

    #[test]
    fn a_change_of_status_output_or_result_is_found() {
        let session = Session::start().unwrap();
        let record = |script: &'static str| {
            let program = Program {
                name: "test",
                needs: &[],
                inputs: &[],
                commands: vec![vec!["sh", "-c", script].leak() as &[_]].leak(),
                results: &["result"],
            };
            let record = Record::of(&session, &program, None).unwrap();
            (record, program)
        };
        let (reference, program) = record("echo text; echo result >result");
        reference.check_success(&program).unwrap();
        reference.check_same(&reference, &program).unwrap();
        for script in [
            "echo text; echo result >result; exit 1",
            "echo other; echo result >result",
            "echo text; echo line >&2; echo result >result",
            "echo text; echo other >result",
        ] {
            assert!(record(script).0.check_same(&reference, &program).is_err(), "{script}");
        }
        assert!(record("exit 3").0.check_success(&program).is_err());
    }
}
