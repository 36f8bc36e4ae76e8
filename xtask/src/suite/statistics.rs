//! Statistics: what processes write at their exit is read back to the letter, and drawn.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::report::statistics_file::StatisticsFile;
use hz3::{Lane, process};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REDIS: [Package; 2] = [
    Package { command: "redis-server", name: "redis-server" },
    Package { command: "redis-benchmark", name: "redis-tools" },
];
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// As the benchmark's steps: half of the blocks are freed by another thread.
const ARGUMENTS: [&str; 7] = ["8", "50000", "400", "16", "2048", "50", "65536"];

/// Two steps per lane.
pub fn steps() -> Vec<Step> {
    let steps = |lane: Lane| {
        [
            Step::new(format!("statistics/benchmark/{lane}"), move |session| benchmark(session, lane)),
            Step::new(format!("statistics/redis/{lane}"), move |session| redis(session, lane)),
        ]
    };
    Lane::ALL.into_iter().flat_map(steps).collect()
}

fn benchmark(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    session.build_evaluation()?;
    let program = session.workspace.build_benchmark("hz3-bench-mt-remote")?;
    let json = session.empty_folder("statistics")?.join("statistics.json");
    let mut command = Command::new(program);
    command.args(ARGUMENTS).env("LD_PRELOAD", session.library(lane)?).env("HZ3_STATS_JSON", &json);
    process::expect_success(&mut command, TIME_LIMIT)?;
    let file = read(&json, lane)?;
    let (freed, foreign) = file.bins.iter().fold((0, 0), |sum, bin| (sum.0 + bin.freed, sum.1 + bin.foreign));
    if freed == 0 || foreign == 0 || file.flow() < foreign {
        return Err(Stop::failed(format!("{freed} slots freed, {foreign} of other shards, {} by flow", file.flow())));
    }
    let mut report = Command::new(&session.own_program);
    report.arg("report").arg(&json);
    process::expect_success(&mut report, TIME_LIMIT)?;
    let picture = std::fs::read_to_string(json.with_extension("svg")).context("no picture")?;
    if !picture.starts_with("<svg") || !picture.contains("slots of shard") {
        return Err(Stop::failed("the picture shows no flow".to_owned()));
    }
    Ok(())
}

fn read(json: &Path, lane: Lane) -> Result<StatisticsFile> {
    let text = std::fs::read_to_string(json).context("no statistics were written")?;
    let file = StatisticsFile::read(&text).with_context(|| text)?;
    ensure!(file.lane == lane.name(), "lane {}", file.lane);
    Ok(file)
}

/// A real server, under load, and its table at the end.
fn redis(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&REDIS)?;
    let folder = session.empty_folder("redis")?;
    let (socket, json) = (folder.join("socket"), folder.join("%p.json"));
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"]).arg(&socket);
    server.current_dir(&folder).env("LD_PRELOAD", session.library(lane)?);
    server.env("HZ3_SHOW_STATS", "1").env("HZ3_STATS_JSON", &json);
    let table = folder.join("table");
    server.stdout(Stdio::null()).stderr(std::fs::File::create(&table).context("a file for the table")?);
    let mut child = server.spawn().context("redis-server")?;
    let id = child.id();
    let load = || -> Result<()> {
        let begin = Instant::now();
        while !socket.exists() {
            ensure!(begin.elapsed() < TIME_LIMIT, "redis-server does not open its socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.arg("-s").arg(&socket).args(["-n", "20000", "-q", "-d", "300", "-r", "5000", "-t", "set,get,lpush"]);
        process::expect_success(&mut benchmark, TIME_LIMIT)?;
        let mut stop = Command::new("redis-cli");
        // The server closes the connection instead of answering.
        process::capture(stop.arg("-s").arg(&socket).args(["shutdown", "nosave"]), TIME_LIMIT)?;
        Ok(())
    };
    let loaded = load();
    if loaded.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("redis-server")?;
    loaded?;
    let text = std::fs::read_to_string(&table).context("no table")?;
    if !status.success() || !text.contains("where the memory is") || !text.contains("slots that threads handed on") {
        return Err(Stop::failed(format!("redis-server: {status}\n{text}")));
    }
    read(&folder.join(format!("{id}.json")), lane)?;
    Ok(())
}
