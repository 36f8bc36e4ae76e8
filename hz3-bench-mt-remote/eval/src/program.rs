//! Program: a whole program with its work, and whether it can be measured here.

use crate::program_inputs::Inputs;
use anyhow::{Context, Result};
use hz3::process;
use hz3::record::{Launch, Missing, Row, Suite};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A whole program with its work.
pub struct Program {
    /// The row's id.
    pub id: &'static str,
    label: &'static str,
    /// Names or paths of the program, the preferred one first.
    candidates: &'static [&'static str],
    /// Other programs that the row needs.
    helpers: &'static [&'static str],
    /// Debian's packages of all of them.
    packages: &'static str,
    arguments: fn(&Inputs) -> Vec<OsString>,
    stdin: Option<&'static str>,
    environment: &'static [(&'static str, &'static str)],
    /// How the program is driven.
    pub drive: Drive,
}

/// How a program is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// It does its work and ends.
    Alone,
    /// It serves redis-benchmark on a socket until it is told to end.
    Redis,
}

/// A program that was found, ready to be launched.
pub struct Ready {
    /// The row that it makes.
    pub row: Row,
    /// What is launched, still without an allocator.
    pub launch: Launch,
    /// How it is driven.
    pub drive: Drive,
}

/// A look at a program's bindings takes longer than a run, but not this long.
const BINDING_TIME_LIMIT: Duration = Duration::from_secs(120);

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn with_path(before: &[&str], path: PathBuf) -> Vec<OsString> {
    let mut all = words(before);
    all.push(path.into());
    all
}

fn compile(options: &[&str], source: &str, object: &str, inputs: &Inputs) -> Vec<OsString> {
    let mut all = words(options);
    all.extend(["-o".into(), inputs.path(object).into(), inputs.path(source).into()]);
    all
}

const fn alone(
    id: &'static str,
    label: &'static str,
    candidates: &'static [&'static str],
    packages: &'static str,
    arguments: fn(&Inputs) -> Vec<OsString>,
) -> Program {
    let drive = Drive::Alone;
    Program { id, label, candidates, helpers: &[], packages, arguments, stdin: None, environment: &[], drive }
}

/// The whole programs, each with about a second of work.
pub const PROGRAMS: [Program; 10] = [
    Program {
        stdin: Some("queries.sql"),
        ..alone("sqlite3", "sqlite3: queries in memory", &["sqlite3"], "sqlite3", |_| words(&["-batch", ":memory:"]))
    },
    alone("python3-json", "python3: JSON", &["/usr/bin/python3", "python3"], "python3", |inputs| {
        with_path(&["-I"], inputs.path("documents.py"))
    }),
    Program {
        // Without this python3 serves small objects from pools of its own.
        environment: &[("PYTHONMALLOC", "malloc")],
        ..alone(
            "python3-objects",
            "python3: objects, PYTHONMALLOC=malloc",
            &["/usr/bin/python3", "python3"],
            "python3",
            |inputs| words(&[&inputs.path("objects.py").to_string_lossy()]),
        )
    },
    Program {
        helpers: &["redis-benchmark", "redis-cli"],
        drive: Drive::Redis,
        ..alone("redis", "redis-server under redis-benchmark", &["redis-server"], "redis-server redis-tools", |_| {
            words(&["--port", "0", "--save", "", "--appendonly", "no", "--activedefrag", "no", "--unixsocket"])
        })
    },
    alone("gcc", "gcc -O2, a C file", &["gcc"], "gcc", |inputs| compile(&["-O2", "-c"], "unit.c", "unit.c.o", inputs)),
    alone("g++", "g++ -O1, standard containers", &["g++"], "g++", |inputs| {
        compile(&["-O1", "-c", "-std=c++17"], "unit.cpp", "unit.cpp.o", inputs)
    }),
    alone("rustc", "rustc, a library", &["/usr/bin/rustc", "rustc"], "rustc", |inputs| {
        compile(&["--crate-type", "lib", "--edition", "2021"], "unit.rs", "libunit.rlib", inputs)
    }),
    alone("z3", "z3: pigeonholes", &["z3"], "z3", |inputs| with_path(&["-smt2"], inputs.path("puzzle.smt2"))),
    alone("ruby", "ruby: structs and strings", &["ruby"], "ruby", |inputs| with_path(&[], inputs.path("items.rb"))),
    alone("ghostscript", "ghostscript: pages to PDF", &["gs"], "ghostscript", |inputs| {
        with_path(
            &["-q", "-dBATCH", "-dNOPAUSE", "-sDEVICE=pdfwrite", "-sOutputFile=/dev/null"],
            inputs.path("pages.ps"),
        )
    }),
];

impl Program {
    /// Finds the program and checks with `library`, any preload library, that a preloaded malloc
    /// reaches it; else says why it is missing.
    pub fn prepare(&self, inputs: &Inputs, library: &Path) -> Result<std::result::Result<Ready, Missing>> {
        let missing = |reason: String| Ok(Err(Missing { name: self.id.to_owned(), reason }));
        let install = format!("apt-get install {}", self.packages);
        if let Some(absent) = self.helpers.iter().find(|name| which::which(name).is_err()) {
            return missing(format!("{absent} is not installed: {install}"));
        }
        let mut own_malloc = None;
        for candidate in self.candidates {
            let Ok(path) = which::which(candidate) else { continue };
            let launch = Launch {
                program: path,
                arguments: (self.arguments)(inputs),
                stdin: self.stdin.map(|name| inputs.path(name)),
                stdout: None,
                environment: self.environment.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect(),
            };
            match foreign_malloc(&launch, library, self.drive)? {
                None => return Ok(Ok(Ready { row: self.row(), launch, drive: self.drive })),
                Some(object) => own_malloc = own_malloc.or(Some(object)),
            }
        }
        match own_malloc {
            Some(object) => missing(format!(
                "it brings its own malloc (in {object}), which no preloaded one replaces; Debian's does not: {install}"
            )),
            None => missing(format!("not installed: {install}")),
        }
    }

    fn row(&self) -> Row {
        Row {
            id: self.id.to_owned(),
            label: self.label.to_owned(),
            suite: Suite::Program,
            command: self.label.to_owned(),
            arguments: None,
        }
    }
}

/// The file name of the object that serves `malloc` to any part of the program, if that is not
/// `library`. The loader itself tells (`LD_DEBUG=bindings`), for each process of the program.
fn foreign_malloc(launch: &Launch, library: &Path, drive: Drive) -> Result<Option<String>> {
    let folder = tempfile::tempdir().context("temporary folder")?;
    let mut command = Command::new(&launch.program);
    // A server would not end by itself, but it tells its version.
    match drive {
        Drive::Alone => command.args(&launch.arguments),
        Drive::Redis => command.arg("--version"),
    };
    command.env("LD_PRELOAD", library);
    command.env("LD_DEBUG", "bindings").env("LD_DEBUG_OUTPUT", folder.path().join("bindings"));
    command.envs(launch.environment.iter().cloned());
    // The outcome is none of our business here; the bindings are.
    process::capture(&mut command, BINDING_TIME_LIMIT)?;
    let mut is_bound = false;
    for entry in std::fs::read_dir(folder.path())? {
        let bytes = std::fs::read(entry?.path())?;
        for target in malloc_bindings(&String::from_utf8_lossy(&bytes)) {
            if Path::new(target) != library {
                let name = Path::new(target).file_name().map(|name| name.to_string_lossy().into_owned());
                return Ok(name);
            }
            is_bound = true;
        }
    }
    Ok((!is_bound).then(|| "a statically linked program".to_owned()))
}

/// The files that the loader bound `malloc` to, from lines such as
/// `1234: binding file /usr/bin/x [0] to /lib/y.so [0]: normal symbol 'malloc' [GLIBC_2.2.5]`.
fn malloc_bindings(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| line.contains("symbol `malloc'"))
        .filter_map(|line| line.split_once("] to ")?.1.rsplit_once(" [0]: ").map(|(target, _)| target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_s_words_about_malloc_are_understood() {
        let text = "\
     77:\tbinding file /usr/bin/a b [0] to /lib/x.so [0]: normal symbol `malloc' [GLIBC_2.2.5]
     77:\tbinding file /usr/bin/a b [0] to /lib/libc.so.6 [0]: normal symbol `printf' [GLIBC_2.2.5]
     78:\tbinding file /lib/z.so [0] to /opt/rustc [0]: normal symbol `malloc' [GLIBC_2.2.5]
";
        assert_eq!(malloc_bindings(text).collect::<Vec<_>>(), ["/lib/x.so", "/opt/rustc"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_missing_with_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs::write(folder.path()).unwrap();
        let absent = alone("x", "x", &["no-such-program-here"], "some-package", |_| Vec::new());
        let missing = absent.prepare(&inputs, Path::new("/lib/any.so")).unwrap().err().unwrap();
        assert!(missing.reason.contains("apt-get install some-package"), "{}", missing.reason);
    }

    #[test]
    fn a_program_that_the_library_does_not_reach_is_missing_with_the_object_that_serves_it() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs::write(folder.path()).unwrap();
        // The loader only warns about a library that it can't load, and libc serves the program.
        let shell = alone("x", "x", &["sh"], "dash", |_| words(&["-c", ":"]));
        let missing = shell.prepare(&inputs, Path::new("/no/such/library.so")).unwrap().err().unwrap();
        assert!(missing.reason.contains("libc.so"), "{}", missing.reason);
    }

    #[test]
    fn no_program_is_listed_twice() {
        let mut ids = PROGRAMS.map(|program| program.id);
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
