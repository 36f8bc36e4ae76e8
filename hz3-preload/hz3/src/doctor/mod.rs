//! `doctor`: what would stop or bend `LD_PRELOAD` for a program.
//!
//! ```text
//!   name ──▶ target ──▶ object ──▶ program, privilege   findings about the files
//!                          └─────▶ loader               who would serve malloc
//!                                  system               findings about the machine
//! ```
//!
//! The program is never run.

mod finding;
mod loader;
mod object;
mod privilege;
mod program;
mod system;
mod target;

use crate::home::Home;
use crate::lane::Lane;
use crate::preload;
use anyhow::Result;
use finding::{Finding, Severity};
use object::Object;
use program::{CORE_FUNCTIONS, Loaded};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use target::{End, Target};

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The lane to look at it with
    #[arg(long, value_enum, default_value_t = Lane::Scale)]
    lane: Lane,
    /// The program: a name that is looked up in PATH, or a path
    program: OsString,
}

/// What the examination of a program found.
pub struct Examination {
    /// The files from the one that was asked for to the one that is loaded.
    target: Target,
    /// All findings, the gravest first.
    findings: Vec<Finding>,
    /// What the loader said.
    loading: Loading,
}

/// What the loader's own list shows.
enum Loading {
    /// The library comes first and serves every allocation function.
    Confirmed,
    /// The loader was not asked.
    Unasked(&'static str),
    /// It would not work; the findings say why.
    Refuted,
}

/// `doctor PROGRAM`: exit code 0 when `LD_PRELOAD` will work, 1 when something stops it.
pub fn command(arguments: &Arguments, home: &dyn Home) -> Result<ExitCode> {
    // A name that leads nowhere is found out before anything is built.
    Target::find(&arguments.program)?;
    let library = home.library(arguments.lane)?;
    let examination = examine(&arguments.program, &library, home.library_path().as_deref())?;
    let system = system::System::read().findings(home.caller());
    print(&examination, &system, &library);
    let stops = examination.stop().is_some() || system.iter().any(|finding| finding.severity == Severity::Stops);
    Ok(if stops { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Examination {
    /// What stops the program from using the library, if anything does.
    pub fn stop(&self) -> Option<&str> {
        let stops = |finding: &&Finding| finding.severity == Severity::Stops;
        self.findings.iter().find(stops).map(|finding| finding.what.as_str())
    }
}

/// Examines the program that `name` leads to, with the preload library at `library`.
pub fn examine(name: &OsStr, library: &Path, library_path: Option<&OsStr>) -> Result<Examination> {
    let target = Target::find(name)?;
    let mut findings = program::of_target(&target);
    let mut loading = Loading::Unasked("there is nothing to load");
    if target.end == End::Elf {
        let library_object = Object::read(library)?;
        loading = match Object::read(target.loaded()) {
            Ok(program) => examine_object(&target, &program, library, &library_object, library_path, &mut findings)?,
            Err(error) => {
                findings.push(Finding::stops(
                    format!("{error:#}"),
                    "The system can't load such a file.",
                    "install the program again.",
                ));
                Loading::Unasked("the file can't be read")
            }
        };
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(Examination { target, findings, loading })
}

fn examine_object(
    target: &Target,
    program: &Object,
    library: &Path,
    library_object: &Object,
    library_path: Option<&OsStr>,
    findings: &mut Vec<Finding>,
) -> Result<Loading> {
    let rights = privilege::Rights::read(target.loaded())?;
    findings.extend(rights.findings());
    let format = program::of_format(program, library_object);
    let is_loadable = format.iter().all(|finding| finding.severity != Severity::Stops);
    findings.extend(format);
    if !is_loadable {
        return Ok(Loading::Refuted);
    }
    findings.extend(program::of_own_malloc(program));
    if rights.is_secure() {
        return Ok(Loading::Unasked("it would load another list for a program with other rights"));
    }
    let Some(interpreter) = system_loader(program) else {
        let wanted = match library_object.c_library_version() {
            Some(version) => format!("glibc {version} or later"),
            None => "musl".to_owned(),
        };
        findings.push(Finding::bends(
            format!("the program has a loader of its own: {}", program.interpreter.as_deref().unwrap_or_default()),
            format!("It brings its own C library, which must be {wanted} for the library to be loaded."),
            "try it: the loader complains in one line on standard error where it can't load the library.",
        ));
        return Ok(Loading::Unasked("only the system's own loader is asked, which this program does not use"));
    };
    let preload = preload::with_preloaded(library, std::env::var_os("LD_PRELOAD").as_deref())?;
    let list = loader::list(&interpreter, target.loaded(), &preload, library_path)?;
    let mut libraries = Vec::new();
    for path in &list.files {
        if !is_same(path, library) && !is_part_of_the_c_library(path) {
            libraries.push(Loaded { path: path.clone(), object: Object::read(path)? });
        }
    }
    findings.extend(program::of_libraries(target.loaded(), program, &libraries));
    if let Some(fault) = list.fault {
        findings.push(Finding::stops(
            format!("the program can't be loaded: {fault}"),
            "It can't be started, with or without hz3.",
            "install what is missing, or set LD_LIBRARY_PATH as the program needs it.",
        ));
        return Ok(Loading::Refuted);
    }
    // Names are looked up in the program itself and then in the order of the list. musl's begins with the loader, which is
    // its C library and comes last.
    let mut files = list.files.iter().skip_while(|path| is_musl(path));
    if !files.next().is_some_and(|path| is_same(path, library)) {
        findings.push(Finding::stops(
            format!("the loader does not load the library: {}", list.complaints.join("; ")),
            "The program runs on its own malloc.",
            "see what the loader complains of.",
        ));
        return Ok(Loading::Refuted);
    }
    let has_own = CORE_FUNCTIONS.iter().any(|name| program.exports.contains(*name));
    Ok(if has_own { Loading::Refuted } else { Loading::Confirmed })
}

/// The program's loader, if it is one that this system's programs use: the one that this program uses, or musl's.
fn system_loader(program: &Object) -> Option<PathBuf> {
    let wanted = Path::new(program.interpreter.as_ref()?);
    if is_musl(wanted) && wanted.parent() == Some(Path::new("/lib")) {
        return Some(wanted.to_owned());
    }
    let own = Object::read(Path::new("/proc/self/exe")).ok()?.interpreter?;
    is_same(wanted, Path::new(&own)).then(|| wanted.to_owned())
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// Whether that is musl's loader, which is its C library too.
fn is_musl(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-musl"))
}

fn is_part_of_the_c_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"].contains(&name.as_ref())
        || name.starts_with("ld-linux")
        || is_musl(path)
}

fn print(examination: &Examination, system: &[Finding], library: &Path) {
    let files: Vec<String> = examination.target.files.iter().map(|file| file.display().to_string()).collect();
    println!("{}", files.join(" → "));
    let mut findings: Vec<&Finding> = examination.findings.iter().chain(system).collect();
    findings.sort_by_key(|finding| finding.severity);
    for finding in &findings {
        println!("{finding}");
    }
    let name = library.file_name().unwrap_or_default().display();
    let is_stopped = findings.iter().any(|finding| finding.severity == Severity::Stops);
    let loading = match examination.loading {
        Loading::Confirmed if !is_stopped => {
            format!(" The loader's own list has {name} first, so that it serves malloc and free.")
        }
        Loading::Unasked(why) => format!(" The loader was not asked: {why}."),
        Loading::Confirmed | Loading::Refuted => String::new(),
    };
    let verdict = if is_stopped { "does not work" } else { "works" };
    println!("LD_PRELOAD {verdict} for this program.{loading}");
}
