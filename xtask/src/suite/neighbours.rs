//! Neighbours: other libraries that stand in the place of libc's functions, beside each lane: libfaketime, preloaded
//! before and after, and UCX, which a program is linked with.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Result, ensure};
use hz3::record::tuning_variables;
use hz3::{Lane, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TIME_LIMIT: Duration = Duration::from_secs(60);
const COMPILER: Package = Package { command: "cc", name: "gcc" };
const FAKETIME: Package = Package { command: "faketime", name: "faketime" };
const UCX: Package = Package { command: "ucx_info", name: "ucx-utils" };
const UCX_HEADER: &str = "/usr/include/ucm/api/ucm.h";

/// The day that libfaketime shows.
const DAY: &str = "2020-01-02";
/// Programs that allocate and then print the day.
const CLOCKS: [(Package, &[&str]); 4] = [
    (Package { command: "date", name: "coreutils" }, &["+%Y-%m-%d"]),
    (
        Package { command: "python3", name: "python3" },
        &[
            "-c",
            "import threading, time
def work():
    for _ in range(200): blocks = [b'x' * (i * 37 % 9000) for i in range(60)]; time.time()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.strftime('%Y-%m-%d'))",
        ],
    ),
    (
        Package { command: "perl", name: "perl" },
        &["-MPOSIX", "-e", "$h{$_} = 'x' x ($_ % 500) for 1..20000; print strftime('%Y-%m-%d', gmtime)"],
    ),
    (
        Package { command: "sqlite3", name: "sqlite3" },
        &[
            ":memory:",
            "create table t(a, b); with recursive c(x) as (select 1 union all select x + 1 from c where x < 10000) \
             insert into t select x, hex(x) from c; select date('now') from t limit 1;",
        ],
    ),
];

/// One step per library and lane.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for lane in Lane::ALL {
        steps.push(Step::new(format!("neighbour/faketime/{lane}"), move |session| faketime(session, lane)));
    }
    for lane in Lane::ALL {
        steps.push(Step::new(format!("neighbour/ucx/{lane}"), move |session| ucx(session, lane)));
    }
    steps
}

/// libfaketime, where Debian has it, in a folder of the architecture.
fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let library = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    folders.filter_map(Result::ok).map(library).find(|library| library.exists())
}

fn faketime(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&[FAKETIME])?;
    let Some(other) = libfaketime() else {
        return Err(Stop::Skipped("there is no libfaketime.so.1 under /usr/lib".to_owned()));
    };
    let library = session.library(lane)?;
    for (package, arguments) in CLOCKS {
        package::require(&[package])?;
        for preloaded in [[&library, &other], [&other, &library]] {
            for options in [&[][..], &[("HZ3_BACKGROUND_THREAD", "1"), ("HZ3_PURGE_DELAY_MS", "100")]] {
                shows_the_day(package.command, arguments, preloaded, options)?;
            }
        }
    }
    Ok(())
}

fn shows_the_day(program: &str, arguments: &[&str], preloaded: [&PathBuf; 2], options: &[(&str, &str)]) -> Result<()> {
    let mut command = without_options(Command::new(program));
    command.args(arguments).envs(options.iter().copied());
    command.env("LD_PRELOAD", preloaded.map(|library| library.display().to_string()).join(":"));
    command.env("FAKETIME", format!("{DAY} 03:04:05")).env("TZ", "UTC").env("LC_ALL", "C");
    let captured = process::capture(&mut command, TIME_LIMIT)?;
    let text = captured.text();
    ensure!(captured.status.success() && text.trim() == DAY, "{program}: {}, {text}", captured.status);
    Ok(())
}

fn ucx(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&[COMPILER, UCX])?;
    package::require_file(Path::new(UCX_HEADER), "libucx-dev")?;
    let program = session.empty_folder("ucx")?.join("mapped");
    let mut compile = without_options(Command::new("cc"));
    compile.args(["-O1", "-fno-builtin", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    compile.arg(session.workspace.root.join("xtask/programs/mapped.c")).args(["-lucm", "-lucs"]);
    process::expect_success(&mut compile, TIME_LIMIT)?;
    let library = session.library(lane)?;
    process::expect_success(without_options(Command::new(&program)).env("LD_PRELOAD", library), TIME_LIMIT)?;
    Ok(())
}

fn without_options(mut command: Command) -> Command {
    for variable in tuning_variables() {
        command.env_remove(variable);
    }
    command.env_remove("LD_PRELOAD");
    command
}
