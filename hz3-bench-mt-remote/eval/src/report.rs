//! `report`: makes tables and plots from a results file.

use crate::lane_table;
use crate::plot::{Plot, plots};
use crate::table;
use crate::verdict::judge;
use anyhow::{Context, Result, ensure};
use hz3::record::{Call, Kind, Metric, Quantile, Results, load};
use hz3::report::statistics_file::StatisticsFile;
use hz3::{UsageError, Workspace};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes a page's table.
type MakeTable = fn(&Results) -> String;

/// The pages with a table that is made from the matrix's data, and what makes it.
const PAGES: [(&str, MakeTable); 2] =
    [("README.md", table::readme), ("docs/choosing-a-lane.md", lane_table::lane_table)];

/// The lines of a page between which its results stand.
const BEGIN: &str = "<!-- results:begin -->";
const END: &str = "<!-- results:end -->";

/// The report's file name in its folder.
const REPORT: &str = "README.md";

/// Arguments of `report`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The results file, or what a process wrote where HZ3_STATS_JSON said
    file: PathBuf,
    /// The folder of the table and the plots [default: the file's name without its extension]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Renew the tables in the workspace's README.md and docs/choosing-a-lane.md too
    #[arg(long)]
    readme: bool,
}

/// `cargo xtask report FILE.json`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    if let Ok(text) = std::fs::read_to_string(&arguments.file)
        && StatisticsFile::is_meant(&text)
    {
        if arguments.readme {
            return Err(UsageError("--readme needs a results file of bench-mt".to_owned()).into());
        }
        return hz3::report::draw(&arguments.file, &text, arguments.output.as_deref());
    }
    let loaded = load(&arguments.file)?;
    if !loaded.complete {
        eprintln!("warning: {} is an interrupted measurement", arguments.file.display());
    }
    let folder = arguments.output.clone().unwrap_or_else(|| folder_of(&arguments.file));
    write(&loaded.results, &folder)?;
    println!("{}", folder.join(REPORT).display());
    if arguments.readme {
        if loaded.results.header.kind != Kind::Throughput {
            return Err(UsageError("--readme needs a results file of bench-mt".to_owned()).into());
        }
        let root = Workspace::locate()?.root;
        for (page, table) in PAGES {
            let path = root.join(page);
            renew(&path, &table(&loaded.results))?;
            println!("{}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `check-documents`: [`check_documents`] of the workspace.
pub fn check() -> Result<ExitCode> {
    check_documents(&Workspace::locate()?.root)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that the tables of the workspace's documents, and the reports under docs/results, are those that their data
/// give.
///
/// # Errors
/// Names the documents that are not, and the command that renews them.
fn check_documents(root: &Path) -> Result<()> {
    let mut stale = Vec::new();
    let results = root.join("docs/results");
    for entry in std::fs::read_dir(&results).with_context(|| format!("{}", results.display()))? {
        let folder = entry?.path();
        let data = folder.join("data.json");
        if !data.is_file() {
            continue;
        }
        let loaded = load(&data)?;
        let name = folder.strip_prefix(root)?.display();
        let (text, plots) = report_text(&loaded.results);
        let is_drawn = |plot: &Plot| read(&folder.join(plot_file(plot))).is_ok_and(|drawn| drawn == plot.svg);
        if without_line_ends(&read(&folder.join(REPORT))?) != without_line_ends(&text) || !plots.iter().all(is_drawn) {
            stale.push(format!("cargo xtask report {name}/data.json --output {name}"));
        }
        if folder.ends_with("matrix") {
            for (page, table) in PAGES {
                let text = read(&root.join(page))?;
                if with_results(&text, &table(&loaded.results)).as_deref() != Some(text.as_str()) {
                    stale.push(format!("cargo xtask report {name}/data.json --output {name} --readme    ({page})"));
                }
            }
        }
    }
    ensure!(stale.is_empty(), "documents that are not what their data say; renew them by\n{}", stale.join("\n"));
    Ok(())
}

/// What the check compares: an editor may have cut blanks at the ends of lines.
fn without_line_ends(text: &str) -> Vec<&str> {
    text.trim_end().lines().map(str::trim_end).collect()
}

/// Shows the essence of a finished measurement and writes its report beside its file.
pub fn print(results: &Results, file: &Path) -> Result<()> {
    let folder = folder_of(file);
    write(results, &folder)?;
    let tail = Metric::Latency(Call::Malloc, Quantile::P999);
    let shown = match results.header.kind {
        Kind::Throughput => vec![Metric::OpsPerSecond, Metric::RssOverLive],
        Kind::Latency => vec![tail, Metric::Latency(Call::FreeRemote, Quantile::P999)],
        Kind::Programs | Kind::Rust => vec![Metric::WallSeconds, Metric::PeakRss],
        Kind::Memory => Vec::new(),
    };
    for metric in shown {
        let table = table::medians(results, metric);
        if !table.is_empty() {
            println!("{}\n\n{table}", metric.label());
        }
    }
    if results.header.kind == Kind::Memory {
        println!("{}", table::bounds(results));
    }
    if results.header.kind == Kind::Throughput {
        println!("{}", table::verdicts(&judge(results)));
    }
    println!("results: {}\nreport:  {}", file.display(), folder.join(REPORT).display());
    Ok(())
}

fn folder_of(file: &Path) -> PathBuf {
    // A name without an extension would make the folder collide with the file.
    if file.extension().is_some() { file.with_extension("") } else { file.with_extension("report") }
}

/// Writes the report and its plots.
fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let (text, plots) = report_text(results);
    for plot in plots {
        put(&folder.join(plot_file(&plot)), &plot.svg)?;
    }
    put(&folder.join(REPORT), &text)
}

/// The report, and the plots that it links.
fn report_text(results: &Results) -> (String, Vec<Plot>) {
    let plots = plots(results);
    let mut text = table::report(results);
    text += "## Plots\n";
    for plot in &plots {
        text += &format!("\n![{}]({})\n", plot.title, plot_file(plot));
    }
    (text, plots)
}

fn plot_file(plot: &Plot) -> String {
    format!("{}.svg", plot.name)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn renew(path: &Path, table: &str) -> Result<()> {
    let renewed = with_results(&read(path)?, table)
        .ok_or_else(|| UsageError(format!("{} lacks the lines '{BEGIN}' and '{END}'", path.display())))?;
    put(path, &renewed)
}

/// `text` with `results` between its two marker lines.
fn with_results(text: &str, results: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{results}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::Role;
    use hz3::record::results::synthetic::synthetic;

    fn results() -> Results {
        synthetic(&[("scale", Role::Lane), ("tcmalloc", Role::Peer)], 7, |_, _, _| (1e8, 1.2))
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let readme = format!("# hz3\n{BEGIN}\nold\n{END}\nrest\n");
        let once = with_results(&readme, "new\n").unwrap();
        assert_eq!(once, format!("# hz3\n{BEGIN}\n\nnew\n\n{END}\nrest\n"));
        assert_eq!(with_results(&once, "new\n").unwrap(), once, "renewing twice changes nothing");
        assert_eq!(with_results("# hz3\n", "new\n"), None);
    }

    #[test]
    fn a_report_links_exactly_the_plots_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        write(&results(), folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(REPORT)).unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name == REPORT || text.contains(&format!("({name})")), "{name}");
        }
        assert_eq!(text.matches(".svg)").count(), 6);
    }

    #[test]
    fn a_readme_without_markers_is_a_usage_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("README.md");
        std::fs::write(&path, "# hz3\n").unwrap();
        let error = renew(&path, &table::readme(&results())).unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# hz3\n");
    }

    #[test]
    fn a_page_that_its_data_do_not_give_is_named_with_what_renews_it() {
        let root = tempfile::tempdir().unwrap();
        let matrix = root.path().join("docs/results/matrix");
        let results = results();
        write(&results, &matrix).unwrap();
        put(&matrix.join("data.json"), &serde_json::to_string(&results).unwrap()).unwrap();
        for (page, _) in PAGES {
            put(&root.path().join(page), &format!("{BEGIN}\n{END}\n")).unwrap();
        }
        for (page, table) in PAGES {
            let path = root.path().join(page);
            assert!(check_documents(root.path()).unwrap_err().to_string().contains(page));
            renew(&path, &table(&results)).unwrap();
        }
        for file in [REPORT, "ratio.svg"] {
            check_documents(root.path()).unwrap();
            put(&matrix.join(file), "# bench-mt\n").unwrap();
            let error = check_documents(root.path()).unwrap_err().to_string();
            assert!(
                error.ends_with("cargo xtask report docs/results/matrix/data.json --output docs/results/matrix"),
                "{error}"
            );
            write(&results, &matrix).unwrap();
        }
    }

    #[test]
    fn a_report_s_folder_never_is_the_file_itself() {
        assert_eq!(folder_of(Path::new("a/b.json")), Path::new("a/b"));
        assert_eq!(folder_of(Path::new("a/b")), Path::new("a/b.report"));
    }
}
