//! Plot: results as SVG pictures that are legible in a browser, on a light and on a dark page.

mod bars;
mod colour;
pub mod costs;
mod headline;
#[cfg(test)]
mod layout;
pub mod over_time;
mod ratios;
mod scale;
mod scaling;
mod tails;

use hz3::record::{Bound, Call, Kind, Metric, Results};

/// A picture and the file name it is written under.
pub struct Plot {
    /// Name of the picture, without extension.
    pub name: String,
    /// What it shows, for the report's heading.
    pub title: String,
    /// The SVG document.
    pub svg: String,
}

/// Every plot that the results have data for.
pub fn plots(results: &Results) -> Vec<Plot> {
    let mut plots = Vec::new();
    let mut add = |name: &str, title: &str, svg: Option<String>| {
        if let Some(svg) = svg {
            plots.push(Plot { name: name.to_owned(), title: title.to_owned(), svg });
        }
    };
    match results.header.kind {
        Kind::Throughput => {
            add("headline", "Speed of all, in short", headline::draw(results));
            add("speed", "Speed", bars::draw(results, Metric::OpsPerSecond, "Speed"));
            add("ratio", "Speed against the fastest peer", ratios::draw(results, Metric::OpsPerSecond, "Speed"));
            add("memory", "Memory", bars::draw(results, Metric::RssOverLive, "Memory"));
            add(
                "memory-ratio",
                "Memory against the most frugal peer",
                ratios::draw(results, Metric::RssOverLive, "Memory"),
            );
            add("scaling", "Scaling over threads", scaling::draw(results));
        }
        Kind::Latency => {
            for call in Call::ALL {
                let name = format!("latency-{}", call.name().replace('_', "-"));
                add(&name, &format!("Time of {}", call.label()), tails::draw(results, call));
            }
        }
        Kind::Memory => {
            for bound in Bound::ALL {
                let metric = Metric::Bound(bound);
                add(bound.name(), &metric.label(), bars::draw(results, metric, "Memory"));
            }
        }
        Kind::Programs | Kind::Rust => {
            add("time", "Time", bars::draw(results, Metric::WallSeconds, "Time"));
            add("time-ratio", "Time against the fastest peer", ratios::draw(results, Metric::WallSeconds, "Time"));
            add("memory", "Memory", bars::draw(results, Metric::PeakRss, "Memory"));
            add(
                "memory-ratio",
                "Memory against the most frugal peer",
                ratios::draw(results, Metric::PeakRss, "Memory"),
            );
        }
    }
    plots
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::results::synthetic::synthetic;
    use hz3::record::{LatencyFigures, Role};

    const FIELD: [(&str, Role); 4] =
        [("fast", Role::Lane), ("scale", Role::Lane), ("system", Role::System), ("a<b&c", Role::Peer)];

    fn results() -> Results {
        synthetic(&FIELD, 8, |row, name, round| (1e6 * (row.len() + name.len()) as f64 * f64::from(10 + round), 1.25))
    }

    fn names(results: &Results) -> Vec<String> {
        plots(results).into_iter().map(|plot| plot.name).collect()
    }

    #[test]
    fn a_full_measurement_has_six_plots_each_a_well_formed_document() {
        let results = results();
        assert_eq!(names(&results), ["headline", "speed", "ratio", "memory", "memory-ratio", "scaling"]);
        for plot in plots(&results) {
            let mut depth = 0;
            for event in svg::read(&plot.svg).unwrap() {
                use svg::node::element::tag::Type;
                use svg::parser::Event;
                match event {
                    Event::Error(error) => panic!("{}: {error}", plot.name),
                    Event::Tag(_, Type::Start, _) => depth += 1,
                    Event::Tag(_, Type::End, _) => depth -= 1,
                    _ => {}
                }
            }
            assert_eq!(depth, 0, "{}", plot.name);
            assert!(plot.svg.contains("prefers-color-scheme: dark"), "{}", plot.name);
            assert!(!plot.svg.contains("a<b&c"), "{}: text is escaped", plot.name);
            assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}", plot.name);
        }
    }

    #[test]
    fn the_bars_name_their_unit_and_every_row_and_allocator() {
        let results = results();
        let svg = &plots(&results)[1].svg;
        assert!(svg.contains("million ops/s"));
        for row in &results.header.rows {
            assert!(svg.contains(&row.label), "{}", row.label);
        }
        assert!(svg.contains("a&lt;b&amp;c"));
    }

    #[test]
    fn void_data_leave_a_gap_instead_of_a_picture() {
        let mut results = results();
        for run in &mut results.runs {
            run.void = Some("void".to_owned());
        }
        assert!(names(&results).is_empty());
    }

    #[test]
    fn tails_are_drawn_for_the_calls_that_occurred() {
        let mut results = results();
        results.header.kind = Kind::Latency;
        for run in &mut results.runs {
            let malloc = LatencyFigures {
                call: "malloc".to_owned(),
                count: 9,
                p50: 20.0,
                p99: 90.0,
                p999: 1e3,
                p9999: 1e4,
                max: 1e6,
            };
            run.latency = vec![malloc];
        }
        assert_eq!(names(&results), ["latency-malloc"]);
    }
}
