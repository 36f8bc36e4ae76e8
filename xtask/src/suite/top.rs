//! Top: real programs, looked at while they run, in each lane; that the numbers add up, and what becomes of the page
//! at the end, in forked children and where it can't be made.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::{Lane, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TIME_LIMIT: Duration = Duration::from_secs(60);
/// As the benchmark's steps, but for minutes: half of the blocks are freed by another thread. It is ended when it has
/// been looked at.
const ARGUMENTS: [&str; 7] = ["4", "1000000000", "400", "16", "2048", "50", "65536"];
/// What gives a terminal a screen of its own, and what gives it back the usual one.
const ALTERNATE_SCREEN: &str = "\x1b[?1049h";
const USUAL_SCREEN: &str = "\x1b[?1049l";
/// What ends each view: a screen without a cursor.
const NO_CURSOR: &str = "\x1b[?25l";
/// Gives a program a terminal.
const TERMINAL: [Package; 1] = [Package { command: "script", name: "bsdutils" }];
const SHELL: [Package; 1] = [Package { command: "bash", name: "bash" }];

/// Two steps per lane.
pub fn steps() -> Vec<Step> {
    let steps = |lane: Lane| {
        [
            Step::new(format!("top/benchmark/{lane}"), move |session| benchmark(session, lane)),
            Step::new(format!("top/page/{lane}"), move |session| page(session, lane)),
        ]
    };
    Lane::FOR_SPEED.into_iter().flat_map(steps).collect()
}

/// A program that is ended with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?;
        self.0.wait()?;
        Ok(())
    }
}

fn top(session: &Session, arguments: &[&str]) -> Result<process::Captured> {
    let mut command = Command::new(&session.own_program);
    command.arg("top").args(arguments).env_remove("LD_PRELOAD");
    process::capture(&mut command, TIME_LIMIT)
}

/// The view as JSON, once there is a page.
fn json(session: &Session, id: u32) -> Result<Value> {
    let begin = Instant::now();
    loop {
        let captured = top(session, &["--json", "--interval", "0.6", &id.to_string()])?;
        if captured.status.success() {
            return Ok(serde_json::from_str(&captured.stdout_text())?);
        }
        ensure!(captured.status.code() == Some(2), "{}", captured.text());
        ensure!(begin.elapsed() < Duration::from_secs(20), "no page: {}", captured.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} in place of a number"))
}

fn sum(object: &Value) -> Result<u64> {
    object.as_object().context("an object")?.values().map(number).sum()
}

/// What holds of every view.
fn adds_up(view: &Value, lane: Lane) -> Result<()> {
    ensure!(view["lane"] == lane.name(), "lane {}", view["lane"]);
    let counts = &view["counts"];
    let of_bins = |add: &dyn Fn(&Value) -> Result<u64>| -> Result<u64> {
        view["bins"].as_array().context("bins")?.iter().map(add).sum()
    };
    let bytes = |bin: &Value, names: &[&str]| -> Result<u64> {
        let slots: Result<u64> = names.iter().map(|name| number(&bin[*name])).sum();
        Ok(slots? * number(&bin["slot_bytes"])?)
    };
    let spans = of_bins(&|bin| number(&bin["span_bytes"]))?;
    ensure!(spans == number(&counts["small_span_bytes"])?, "spans by bin: {spans}");
    let depots = of_bins(&|bin| bytes(bin, &["in_depots"]))?;
    ensure!(depots == number(&counts["depot_bytes"])?, "depots by bin: {depots}");
    let threads = of_bins(&|bin| bytes(bin, &["in_threads"]))?;
    let expected = number(&counts["magazine_bytes"])? + number(&counts["stash_bytes"])?;
    ensure!(threads == expected, "caches by bin: {threads}, by use {expected}");
    let (uses, held, resident) = (sum(&view["uses"])?, sum(&view["held"])?, number(&view["resident_bytes"])?);
    let mapped = number(&counts["mapped_bytes"])?;
    // While threads are at work the parts are of different moments; what is missing then is what moved meanwhile.
    ensure!(uses.abs_diff(mapped) <= mapped / 10, "uses add up to {uses}, and {mapped} are mapped");
    ensure!(held == number(&view["held_bytes"])? && held <= uses, "{held} held of {uses}");
    // Live blocks are written by these programs; fresh slots and metadata that nobody wrote to hold nothing.
    let live = number(&counts["live_bytes"])?;
    ensure!(live / 2 <= resident && live <= uses, "{live} live, {resident} resident, {uses} in use");
    for bin in view["bins"].as_array().context("bins")? {
        ensure!(number(&bin["foreign"])? <= number(&bin["freed"])?, "more foreign than freed: {bin}");
        ensure!(bytes(bin, &["slots"])? <= number(&bin["span_bytes"])?, "more slots than span: {bin}");
    }
    Ok(())
}

fn benchmark(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&TERMINAL)?;
    session.build_evaluation()?;
    let program = session.workspace.build_benchmark("hz3-bench-mt-remote")?;
    let place = session.empty_folder("top")?.join("%p.page");
    let mut command = Command::new(program);
    command.args(ARGUMENTS).env("LD_PRELOAD", session.library(lane)?).env("HZ3_STATS_PAGE", &place);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running(command.spawn().context("the benchmark")?);
    Ok(watch(session, lane, &mut running)?)
}

fn watch(session: &Session, lane: Lane, running: &mut Running) -> Result<()> {
    let id = running.0.id();
    let begin = Instant::now();
    loop {
        let view = json(session, id)?;
        adds_up(&view, lane).with_context(|| view.to_string())?;
        let moved = |name: &str| view["rates"][name].as_f64().unwrap_or(0.0) > 0.0;
        if moved("refilled") && moved("freed") && moved("foreign") && moved("refills") && moved("spills") {
            break;
        }
        ensure!(begin.elapsed() < TIME_LIMIT, "nothing moves: {view}");
    }
    let text = top(session, &["--once", "--interval", "0.3", &id.to_string()])?;
    let shown = text.stdout_text();
    ensure!(text.status.success() && shown.contains("live_small") && shown.contains('█'), "{}", text.text());
    on_a_terminal(session, id)?;
    // Killed, it leaves its page, which is told.
    running.signal(Signal::SIGKILL)?;
    let text = top(session, &["--once", &id.to_string()])?;
    let line = text.stderr_text();
    ensure!(text.status.code() == Some(2) && line.lines().count() == 1, "{}", text.text());
    ensure!(line.contains(&format!("there is no process {id}")), "{line}");
    Ok(())
}

/// On a terminal the view has a screen of its own, which shows one view after another until a signal or a key ends it,
/// and then gives way to the usual one.
fn on_a_terminal(session: &Session, id: u32) -> Result<()> {
    let view = format!("'{}' top --interval 0.2 {id}", session.own_program.display());
    for (view, keys) in [(format!("timeout --foreground --signal INT 2 {view}"), ":"), (view, "sleep 2; printf q")] {
        // The terminal takes what it gets from the pipe for keys.
        let line = format!("({keys}) | script --quiet --command \"stty rows 40 columns 120; {view}\" /dev/null");
        let mut command = Command::new("bash");
        command.args(["-c", &line]).env_remove("LD_PRELOAD").stdin(Stdio::null());
        let shown = process::capture(&mut command, TIME_LIMIT)?.stdout_text();
        let after = shown.split_once(ALTERNATE_SCREEN).map(|(_, after)| after);
        let (views, end) =
            after.and_then(|after| after.split_once(USUAL_SCREEN)).with_context(|| format!("{shown:?}"))?;
        ensure!(views.contains("live_small") && views.contains('█'), "no view: {views:?}");
        // Later views move the cursor to what has changed, and write that alone.
        let later = views.split(NO_CURSOR).skip(1).filter(|view| view.contains('H')).count();
        ensure!(later > 1, "{later} more views: {views:?}");
        ensure!(!end.contains("live_small"), "a view after the end: {end:?}");
    }
    Ok(())
}

/// A shell on hz3 that allocates and then waits for a line, in the folder.
fn shell(session: &mut Session, lane: Lane, folder: &Path, page: &str, script: &str) -> Result<Running> {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(folder);
    command.env("LD_PRELOAD", session.library(lane)?).env("HZ3_STATS_PAGE", folder.join(page));
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(folder.join("errors")).context("a file")?);
    Ok(Running(command.spawn().context("bash")?))
}

fn page(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&SHELL)?;
    session.build_evaluation()?;
    let folder = session.empty_folder("top-page")?;
    let pages = |folder: &Path| -> Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Result<Vec<String>> = names.collect();
        Ok(names?.into_iter().filter(|name| name.ends_with(".page")).collect())
    };
    // Work enough for a tick in the child; both then wait.
    let work = "for i in {1..30000}; do a[i]=$i$i; done";
    let script = format!("({work}; echo $BASHPID > child; read line <&3) & {work}; read line; wait; exit 0");
    let mut running = shell(session, lane, &folder, "%p.page", &format!("exec 3<&0; {script}"))?;
    let id = running.0.id();
    let view = json(session, id)?;
    adds_up(&view, lane).with_context(|| view.to_string())?;
    let begin = Instant::now();
    let child: u32 = loop {
        let text = std::fs::read_to_string(folder.join("child")).unwrap_or_default();
        if let Ok(child) = text.trim().parse() {
            break child;
        }
        if begin.elapsed() > TIME_LIMIT {
            return Err(Stop::failed("no child"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let of_child = json(session, child)?;
    adds_up(&of_child, lane).with_context(|| of_child.to_string())?;
    if of_child["pid"] != child || view["pid"] != id || pages(&folder)?.len() != 2 {
        return Err(Stop::failed(format!("pages {:?} of {id} and {child}", pages(&folder)?)));
    }
    // The shell's end is an exit, which takes its page away.
    drop(running.0.stdin.take());
    running.0.wait().context("the shell's end")?;
    if folder.join(format!("{id}.page")).exists() {
        return Err(Stop::failed("the page is there after an exit"));
    }
    // A left-over page is taken over.
    let mut first = shell(session, lane, &folder, "one.page", &format!("{work}; read line"))?;
    json(session, first.0.id())?;
    first.signal(Signal::SIGKILL).context("the first")?;
    if !folder.join("one.page").exists() {
        return Err(Stop::failed("a killed process left no page"));
    }
    let mut second = shell(session, lane, &folder, "one.page", &format!("{work}; read line"))?;
    let view = json(session, second.0.id())?;
    adds_up(&view, lane).with_context(|| view.to_string())?;
    // A third that wants the same page finds it taken: one line, and it does its work.
    let mut third = shell(session, lane, &folder, "one.page", "exit 5")?;
    let status = third.0.wait().context("the third")?;
    let said = std::fs::read_to_string(folder.join("errors")).context("errors")?;
    if status.code() != Some(5) || said.lines().count() != 1 || !said.contains("HZ3_STATS_PAGE: the page can't be made")
    {
        return Err(Stop::failed(format!("{status}: {said}")));
    }
    second.signal(Signal::SIGKILL).context("the second")?;
    Ok(())
}
