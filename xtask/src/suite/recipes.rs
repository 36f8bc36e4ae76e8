//! Recipes: what docs/install.md has to copy for a service, a container and Kubernetes, taken from the page and tried.
//!
//! No engine and no cluster is needed: systemd's own checker reads the unit; the container's instructions are carried out in
//! a folder that holds a few of this machine's programs, and in it hz3 meets the limit that Kubernetes would set.

use super::package::{self, Package};
use super::session::Session;
use super::step::Step;
use anyhow::{Context, Result, bail, ensure};
use hz3::{Lane, process};
use nix::unistd::Uid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PAGE: &str = "docs/install.md";
const VERIFIER: Package = Package { command: "systemd-analyze", name: "systemd" };
const TO_BUILD: [Package; 2] =
    [Package { command: "python3", name: "python3" }, Package { command: "tar", name: "tar" }];
/// Where Debian's python3-yaml lies.
const YAML: (&str, &str) = ("/usr/lib/python3/dist-packages/yaml/__init__.py", "python3-yaml");
const TO_JSON: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
/// What the container's folder has of this machine.
const PROGRAMS: [&str; 3] = ["mv", "sh", "tac"];
/// What the program there reads into its memory.
const TEXT_BYTES: usize = 100 << 20;
const TIME_LIMIT: Duration = Duration::from_secs(60);
const INSTALL_TIME_LIMIT: Duration = Duration::from_secs(600);

/// The steps.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("recipes/service", |session| {
            package::require(&[VERIFIER])?;
            Ok(service(session)?)
        }),
        Step::new("recipes/container", |session| {
            package::require(&TO_BUILD)?;
            package::require_file(Path::new(YAML.0), YAML.1)?;
            session.libraries(&Lane::ALL)?;
            Ok(container(session)?)
        }),
    ]
}

/// The text between the first fences of a language.
fn snippet<'a>(page: &'a str, language: &str) -> Result<&'a str> {
    let (_, rest) =
        page.split_once(&format!("\n```{language}\n")).with_context(|| format!("{PAGE} has no {language}"))?;
    Ok(rest.split("```").next().unwrap_or_default())
}

fn page(session: &Session) -> Result<String> {
    std::fs::read_to_string(session.workspace.root.join(PAGE)).context(PAGE)
}

/// The drop-in of a unit is read without a complaint; one with a mistake is not.
fn service(session: &Session) -> Result<()> {
    let page = page(session)?;
    let drop_in = snippet(&page, "ini")?;
    verify(session, drop_in)?;
    ensure!(verify(session, &drop_in.replace("Environment", "Enviroment")).is_err(), "a mistake in a unit is not seen");
    Ok(())
}

fn verify(session: &Session, drop_in: &str) -> Result<()> {
    let folder = session.empty_folder("service")?;
    std::fs::create_dir(folder.join("example.service.d"))?;
    std::fs::write(folder.join("example.service"), "[Service]\nExecStart=/bin/true\n")?;
    std::fs::write(folder.join("example.service.d/hz3.conf"), drop_in)?;
    let mut command = Command::new(VERIFIER.command);
    command.args(["verify", "--man=no", "--recursive-errors=yes"]).arg(folder.join("example.service"));
    let said = process::expect_success(command.env_remove("LD_PRELOAD"), TIME_LIMIT)?.text();
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

/// The container's instructions give a root in which programs run on hz3, by itself and as the other recipes have it.
fn container(session: &Session) -> Result<()> {
    let page = page(session)?;
    let folder = session.empty_folder("container")?;
    let mut built = Container::from_instructions(session, &folder, snippet(&page, "dockerfile")?)?;
    built.serves(&[])?;
    // The service's library lies elsewhere.
    let environment = snippet(&page, "ini")?.lines().filter_map(|line| line.strip_prefix("Environment="));
    let (name, library) = environment.clone().find_map(|one| one.split_once('=')).context("no LD_PRELOAD")?;
    ensure!(name == "LD_PRELOAD", "{name} comes before LD_PRELOAD");
    let place = built.root.join(library.trim_start_matches('/'));
    std::fs::create_dir_all(place.parent().context("a folder")?)?;
    std::fs::copy(built.root.join("opt/hz3/lib").join(Lane::Scale.library()), place)?;
    built.environment = environment.map(str::to_owned).collect();
    built.serves(&[])?;

    let mut python = Command::new("python3");
    python.args(["-c", TO_JSON, snippet(&page, "yaml")?]).env_remove("LD_PRELOAD");
    let text = process::expect_success(&mut python, TIME_LIMIT)?.stdout_text();
    let (environment, limit_bytes) = deployment(&serde_json::from_str(&text).context("JSON")?)?;
    built.environment = environment;
    built.limit(limit_bytes)?;
    let soft = limit_bytes / 8 * 7;
    let told = format!("grows past {} MiB", soft >> 20);
    ensure!(page.contains(&told), "{PAGE} does not say {told:?}");
    built.serves(&[&format!("soft_limit_bytes {soft}")])
}

/// What a Deployment says of its container: the environment and the limit in bytes. An error where the API would refuse it.
fn deployment(manifest: &Value) -> Result<(Vec<String>, u64)> {
    let at = |path: &str| manifest.pointer(path).with_context(|| format!("the manifest has no {path}"));
    ensure!(at("/apiVersion")? == "apps/v1" && at("/kind")? == "Deployment", "another kind");
    ensure!(at("/metadata/name")?.is_string(), "no name");
    ensure!(at("/spec/selector/matchLabels")? == at("/spec/template/metadata/labels")?, "it selects other pods");
    let containers = at("/spec/template/spec/containers")?.as_array().context("containers")?;
    let [container] = &containers[..] else { bail!("not one container") };
    ensure!(container["name"].is_string() && container["image"].is_string(), "no name or no image");
    let mut environment = Vec::new();
    for variable in container["env"].as_array().context("no env")? {
        // A value that YAML takes for a number is refused.
        let (name, value) = (variable["name"].as_str().context("a name")?, variable["value"].as_str());
        environment.push(format!("{name}={}", value.with_context(|| format!("{name} is not text"))?));
    }
    let limit = container.pointer("/resources/limits/memory").and_then(Value::as_str).context("no limit")?;
    let mebibytes: u64 = limit.strip_suffix("Mi").context("not in Mi")?.parse()?;
    Ok((environment, mebibytes << 20))
}

/// A root folder, and the environment of what runs there.
struct Container {
    root: PathBuf,
    environment: Vec<String>,
}

impl Container {
    fn from_instructions(session: &Session, folder: &Path, text: &str) -> Result<Container> {
        let mut container = Container { root: folder.join("root"), environment: Vec::new() };
        for line in text.lines() {
            let (instruction, rest) = line.split_once(' ').with_context(|| format!("no instruction: {line:?}"))?;
            match (instruction, rest.split_once(' ')) {
                ("FROM", None) => container.populate()?,
                ("ADD", Some((archive, place))) => {
                    let archive = pack(session, folder, archive)?;
                    let place = container.root.join(place.trim_start_matches('/'));
                    std::fs::create_dir_all(&place)?;
                    let mut tar = Command::new("tar");
                    tar.arg("-xzf").arg(archive).arg("-C").arg(place);
                    process::expect_success(tar.env_remove("LD_PRELOAD"), TIME_LIMIT)?;
                }
                ("RUN", _) => drop(process::expect_success(&mut container.command(&["sh", "-c", rest]), TIME_LIMIT)?),
                ("ENV", None) => container.environment.push(rest.to_owned()),
                _ => bail!("an instruction that this check does not know: {line:?}"),
            }
        }
        Ok(container)
    }

    /// Puts a few of this machine's programs into the root, with what they load, in the same places.
    fn populate(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root)?;
        std::fs::write(self.root.join("text"), "a".repeat(TEXT_BYTES))?;
        for program in PROGRAMS {
            let path = which::which(program)?;
            let mut ldd = Command::new("ldd");
            let loads = process::expect_success(ldd.arg(&path).env_remove("LD_PRELOAD"), TIME_LIMIT)?.stdout_text();
            let libraries = loads.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
            for file in libraries.chain([path]) {
                // `bin` and `usr/bin` may be one, and the loader's path goes by the other name.
                let copy = self.root.join(file.strip_prefix("/").context("an absolute path")?);
                std::fs::create_dir_all(copy.parent().context("a folder")?)?;
                std::fs::copy(&file, copy).with_context(|| file.display().to_string())?;
            }
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(if Uid::effective().is_root() { "chroot" } else { "unshare" });
        if !Uid::effective().is_root() {
            command.args(["--map-root-user", "chroot"]);
        }
        command.arg(&self.root).args(words).env_remove("LD_PRELOAD");
        command
    }

    /// As a kernel would show a process that it has this limit.
    fn limit(&self, bytes: u64) -> Result<()> {
        for (file, text) in [("proc/self/cgroup", "0::/pod\n"), ("sys/fs/cgroup/pod/memory.max", &format!("{bytes}\n"))]
        {
            let path = self.root.join(file);
            std::fs::create_dir_all(path.parent().context("a folder")?)?;
            std::fs::write(path, text)?;
        }
        Ok(())
    }

    /// A program in the root runs on hz3, which takes every variable as it is meant, and its statistics have `rows`.
    fn serves(&self, rows: &[&str]) -> Result<()> {
        let assignments = self.environment.iter().map(|one| format!("{one} ")).collect::<String>();
        // The shell that starts it is outside. `auto` holds once 32 MiB are in use.
        let script = format!("HZ3_VERBOSE=1 HZ3_STATS_FILE=/statistics {assignments}tac /text > /copy");
        let banner = process::expect_success(&mut self.command(&["sh", "-c", &script]), TIME_LIMIT)?.stderr_text();
        let statistics = std::fs::read_to_string(self.root.join("statistics")).context("no statistics")?;
        let said = banner + &statistics;
        let lines: Vec<String> =
            said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        ensure!(lines.first().is_some_and(|line| line.ends_with("lane scale")), "{script} is not served:\n{said}");
        ensure!(!said.contains("ignored"), "{script}:\n{said}");
        let options = self.environment.iter().filter(|one| one.starts_with("HZ3_")).map(|one| format!("hz3: {one}"));
        for expected in options.chain(rows.iter().map(|&row| row.to_owned())) {
            ensure!(lines.contains(&expected), "{script} does not say {expected:?}:\n{said}");
        }
        Ok(())
    }
}

/// The installed tree as an archive of the name that `dist` gives it.
fn pack(session: &Session, folder: &Path, name: &str) -> Result<PathBuf> {
    let expected = format!("hz3-{}-x86_64-linux", env!("CARGO_PKG_VERSION"));
    let stem = name.strip_suffix(".tar.gz").context("no .tar.gz")?;
    ensure!(stem == expected, "{PAGE} names {stem}, not {expected}");
    let mut install = Command::new(&session.own_program);
    install.args(["install", "--prefix"]).arg(folder.join(stem)).env_remove("LD_PRELOAD");
    process::expect_success(&mut install, INSTALL_TIME_LIMIT)?;
    let mut tar = Command::new("tar");
    tar.args(["-czf", name, stem]).current_dir(folder).env_remove("LD_PRELOAD");
    process::expect_success(&mut tar, TIME_LIMIT)?;
    Ok(folder.join(name))
}
