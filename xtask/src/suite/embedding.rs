//! Embedding: programs that are linked with an installed hz3, shared and static, by pkg-config alone.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::{Lane, process};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NEEDED: [Package; 3] = [
    Package { command: "cc", name: "gcc" },
    Package { command: "c++", name: "g++" },
    Package { command: "pkg-config", name: "pkg-config" },
];
const TIME_LIMIT: Duration = Duration::from_secs(60);
const INSTALL_TIME_LIMIT: Duration = Duration::from_secs(600);

/// One step for both lanes and both languages: they share the installed tree.
pub fn steps() -> Vec<Step> {
    vec![Step::new("embedding", programs_are_linked_and_run)]
}

fn programs_are_linked_and_run(session: &mut Session) -> Result<(), Stop> {
    package::require(&NEEDED)?;
    session.libraries(&Lane::ALL)?;
    let folder = session.empty_folder("embedding")?;
    let prefix = folder.join("prefix");
    let mut install = Command::new(&session.own_program);
    install.args(["install", "--prefix"]).arg(&prefix);
    process::expect_success(&mut install, INSTALL_TIME_LIMIT)?;
    Ok(link_and_run(&session.workspace.root, &prefix, &folder, &[("cc", "c"), ("c++", "c++")])?)
}

/// Links the embedding program with each lane of the tree at `prefix`, shared and static, by each of the `compilers`
/// (command and language), and runs it. The workspace's `root` has its source; `folder` gets the program.
pub fn link_and_run(root: &Path, prefix: &Path, folder: &Path, compilers: &[(&str, &str)]) -> Result<()> {
    let header = std::fs::read_to_string(prefix.join("include/hz3.h")).context("hz3.h")?;
    let source = root.join("hz3-preload/tests/c/embedding.c");
    for lane in Lane::ALL {
        for is_static in [false, true] {
            for &(compiler, language) in compilers {
                let program = folder.join("program");
                let mut compile = Command::new(compiler);
                compile.args(["-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-x", language]).arg(&source);
                compile.args(["-x", "none", "-o"]).arg(&program);
                compile.args(if is_static { &["-static", "-pthread"][..] } else { &["-pthread"] });
                compile.args(flags(prefix, lane, is_static)?).env_remove("LD_PRELOAD");
                process::expect_success(&mut compile, TIME_LIMIT)?;
                let mut run = Command::new(&program);
                run.env_remove("LD_PRELOAD");
                if !is_static {
                    run.env("LD_LIBRARY_PATH", prefix.join("lib"));
                }
                let captured = process::expect_success(&mut run, TIME_LIMIT)?;
                for text in [captured.stdout_text(), captured.stderr_text()] {
                    is_the_table(&text, &header, lane)
                        .with_context(|| format!("{lane}, {compiler}, static: {is_static}\n{}", captured.text()))?;
                }
            }
        }
    }
    Ok(())
}

/// Builds the embedding program by CMake with each lane of the tree at `prefix`, and runs it.
pub fn build_with_cmake(root: &Path, prefix: &Path, folder: &Path) -> Result<()> {
    let build = folder.join("cmake");
    let header = std::fs::read_to_string(prefix.join("include/hz3.h")).context("hz3.h")?;
    let cmake = |words: &[&str]| {
        let mut command = Command::new("cmake");
        command.args(words).arg(&build).env_remove("LD_PRELOAD").env("CMAKE_PREFIX_PATH", prefix);
        process::expect_success(&mut command, TIME_LIMIT)
    };
    let source = root.join("hz3-preload/tests/cmake");
    cmake(&["-S", &source.to_string_lossy(), "-B"])?;
    cmake(&["--build"])?;
    for lane in Lane::ALL {
        for name in [format!("{lane}"), format!("{lane}_static")] {
            let captured =
                process::expect_success(Command::new(build.join(&name)).env_remove("LD_PRELOAD"), TIME_LIMIT)?;
            is_the_table(&captured.stdout_text(), &header, lane)
                .with_context(|| format!("{name}\n{}", captured.text()))?;
        }
    }
    Ok(())
}

/// What pkg-config says of the lane.
fn flags(prefix: &Path, lane: Lane, is_static: bool) -> Result<Vec<String>> {
    let mut command = Command::new("pkg-config");
    command.args(["--cflags", "--libs"]).args(is_static.then_some("--static"));
    command.arg(if lane == Lane::Scale { "hz3".to_owned() } else { format!("hz3-{lane}") });
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).env_remove("LD_PRELOAD");
    let captured = process::expect_success(&mut command, TIME_LIMIT)?;
    Ok(captured.stdout_text().split_whitespace().map(str::to_owned).collect())
}

/// The table has the lane's name in its head and the fields of the header's first struct, in the header's order.
pub fn is_the_table(text: &str, header: &str, lane: Lane) -> Result<()> {
    let head = text.lines().next().unwrap_or_default();
    ensure!(head.starts_with("hz3 ") && head.ends_with(&format!(" lane {lane}")), "the head is {head:?}");
    let first = header.split("};").next().unwrap_or_default();
    let fields: Vec<_> = first
        .lines()
        .filter_map(|line| line.strip_prefix("    size_t ")?.split_once(';').map(|(name, _)| name))
        .collect();
    let rows: Vec<_> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(rows == fields, "the rows {rows:?} are not hz3.h's fields {fields:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_lane_s_table_and_a_moved_field_are_noticed() {
        let header = "struct x {\n    size_t a; /* one */\n    size_t b;\n};\nstruct y {\n    size_t c;\n};\n";
        assert!(is_the_table("hz3 1 lane fast\na 1\nb 2\n", header, Lane::Fast).is_ok());
        assert!(is_the_table("hz3 1 lane fast\na 1\nb 2\n", header, Lane::Scale).is_err());
        assert!(is_the_table("hz3 1 lane fast\nb 2\na 1\n", header, Lane::Fast).is_err());
    }
}
