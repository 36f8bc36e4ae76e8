//! Run: one execution of a test program in a process group of its own, with a time limit.

use super::TIME_LIMIT;
use super::compiler::{Program, compiled};
use std::env;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An emulator and its arguments, for programs that `CC` and `CXX` compile for another processor.
const EMULATOR: &str = "PRELOAD_TEST_EMULATOR";

/// Length of the system's pages in KiB, for tests of hz3 with others than this system's: 16 or 64.
const PAGES: &str = "PRELOAD_TEST_PAGES";

/// What makes the system's pages as long as the environment says.
fn large_pages() -> Option<PathBuf> {
    const SOURCE: &str = "c/plugin/large_pages.c";
    match env::var(PAGES).ok()?.as_str() {
        "16" => Some(compiled(SOURCE, &["-shared", "-DPAGE=0x4000ul"])),
        "64" => Some(compiled(SOURCE, &["-shared", "-DPAGE=0x10000ul"])),
        other => panic!("{PAGES} is {other}"),
    }
}

/// Whether programs run under an emulator.
pub fn is_emulated() -> bool {
    env::var_os(EMULATOR).is_some()
}

/// A command for `program`, under the emulator if there is one.
pub fn emulated(program: &Path) -> Command {
    let words = env::var(EMULATOR).unwrap_or_default();
    let mut words = words.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    command
}

/// A limit on a process's resources, in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// All mappings together, as `ulimit -v` sets it.
    AddressSpace(u64),
    /// Private writable mappings, as `ulimit -d` sets it.
    Data(u64),
}

/// A program that is about to be run.
pub struct Run {
    name: String,
    command: Command,
    limit: Option<Limit>,
    plugin: Option<std::path::PathBuf>,
    group: Option<std::ffi::CString>,
}

/// What became of a run.
pub struct Outcome {
    /// The program and its arguments.
    pub name: String,
    /// How it ended; `None` if it had to be killed for taking too long.
    pub status: Option<ExitStatus>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Run {
    /// A run of `program`, which is compiled first. Nothing is preloaded yet.
    pub fn new(program: &Program) -> Run {
        let mut command = emulated(&program.build());
        command
            .env_remove("LD_PRELOAD")
            // The tests' own; to the library under test it would be an unknown option, which it reports.
            .env_remove("HZ3_PRELOAD_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        Run {
            name: program.source().to_owned(),
            command,
            limit: program.resource_limit(),
            plugin: program.build_plugin(),
            group: None,
        }
    }

    /// With a further argument.
    pub fn argument(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Run {
        self.name += &format!(" {}", argument.as_ref().display());
        self.command.arg(argument);
        self
    }

    /// With an environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Run {
        self.name = format!("{name}={value} {}", self.name);
        self.command.env(name, value);
        self
    }

    /// In the control group of that folder.
    pub fn group(mut self, folder: &Path) -> Run {
        self.name = format!("in {}: {}", folder.display(), self.name);
        let path = folder.join("cgroup.procs").display().to_string();
        self.group = Some(std::ffi::CString::new(path).expect("no zero"));
        self
    }

    /// With a preloaded library.
    pub fn preload(mut self, library: &Path) -> Run {
        let pages = large_pages().map(|pages| PathBuf::from(format!("{}:{}", pages.display(), library.display())));
        let library = pages.as_deref().unwrap_or(library);
        self.name = format!("LD_PRELOAD={} {}", library.display(), self.name);
        // The emulator is a program of this system: it takes the guest's for its own otherwise.
        let name = if is_emulated() { "QEMU_SET_ENV" } else { "LD_PRELOAD" };
        let value = if is_emulated() { format!("LD_PRELOAD={}", library.display()).into() } else { library.to_owned() };
        self.command.env(name, value);
        self
    }

    /// With several preloaded libraries, in this order.
    pub fn preload_all(self, libraries: &[&Path]) -> Run {
        let list: Vec<_> = libraries.iter().map(|library| library.display().to_string()).collect();
        self.preload(Path::new(&list.join(":")))
    }

    /// Runs the program to its end, or to the end of its time.
    pub fn finish(mut self) -> Outcome {
        if let Some(plugin) = self.plugin.take() {
            self.command.arg(plugin);
        }
        let (limit, group) = (self.limit, self.group.take());
        // SAFETY: between fork and exec the closure makes a few system calls and touches no memory
        // but its own.
        unsafe {
            self.command.pre_exec(move || {
                // A program that is expected to abort leaves no core file behind.
                set_limit(libc::RLIMIT_CORE, 0)?;
                if let Some(group) = &group {
                    enter(group)?;
                }
                match limit {
                    Some(Limit::AddressSpace(bytes)) => set_limit(libc::RLIMIT_AS, bytes),
                    Some(Limit::Data(bytes)) => set_limit(libc::RLIMIT_DATA, bytes),
                    None => Ok(()),
                }
            });
        }
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let stdout = read_to_end(child.stdout.take());
        let stderr = read_to_end(child.stderr.take());
        let status = wait_with_limit(&mut child);
        Outcome {
            name: self.name,
            status,
            stdout: stdout.join().expect("the reader does not panic"),
            stderr: stderr.join().expect("the reader does not panic"),
        }
    }
}

/// Puts the calling process into the control group with that list of processes.
fn enter(processes: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: a C string, and a text of one byte; the descriptor is this function's.
    let is_done = unsafe {
        let file = libc::open(processes.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        file >= 0 && libc::write(file, c"0".as_ptr().cast(), 1) == 1 && libc::close(file) == 0
    };
    if is_done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_limit(resource: libc::__rlimit_resource_t, bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the pointer is to a local that lives through the call.
    match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads a pipe in a thread of its own, so that the program never waits for a reader.
fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut pipe = pipe.expect("standard output and error are pipes");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error ends the text; what was read up to it is still shown.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the child, kills what is left of its process group, and reaps it. `None` if the child
/// itself had to be killed.
fn wait_with_limit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + TIME_LIMIT;
    let mut pause = Duration::from_millis(1);
    let ended = loop {
        if has_ended(child) {
            break true;
        }
        if Instant::now() >= deadline {
            break false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    // The child is not reaped yet, so its number still stands for its group and nothing else.
    // SAFETY: a plain system call without pointers.
    unsafe { libc::kill(-group(child), libc::SIGKILL) };
    let status = child.wait().expect("the child is ours to wait for");
    ended.then_some(status)
}

fn group(child: &Child) -> libc::pid_t {
    libc::pid_t::try_from(child.id()).expect("a process number fits its type")
}

/// True once the child has ended; it stays there to be reaped.
fn has_ended(child: &Child) -> bool {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` lives through the call.
    let result = unsafe { libc::waitid(libc::P_PID, child.id(), &mut info, options) };
    assert_eq!(result, 0, "waitid: {}", io::Error::last_os_error());
    // SAFETY: waitid has filled the structure in, or left it zero.
    unsafe { info.si_pid() != 0 }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.name)?;
        match self.status {
            None => write!(formatter, "hung; killed after {} s", TIME_LIMIT.as_secs())?,
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(formatter, "exit status {code}")?,
                (None, Some(signal)) => write!(formatter, "died of signal {signal}")?,
                (None, None) => write!(formatter, "{status}")?,
            },
        }
        write!(formatter, "\n{}{}", self.stdout, self.stderr)
    }
}
