//! Metric: one figure of a run, with its unit and its better direction.

use super::run::{LatencyFigures, Run};

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Completed mallocs and frees per second.
    OpsPerSecond,
    /// Peak resident size over peak live bytes.
    RssOverLive,
    /// Wall-clock time of a process in seconds.
    WallSeconds,
    /// Processor time of a process, user and system, in seconds.
    CpuSeconds,
    /// Largest resident size in MB.
    PeakRss,
    /// A quantile of the time of one kind of call in nanoseconds.
    Latency(Call, Quantile),
    /// A figure that has a bound.
    Bound(Bound),
}

/// A figure of a memory scenario that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Resident memory some seconds after all was freed, over the peak.
    After,
    /// The same after `malloc_trim(0)`.
    AfterTrim,
    /// Peak resident over peak live.
    PeakOverLive,
    /// Resident memory at the end over that after the first tenth.
    Growth,
    /// Resident over live at the end of a phase, the worst one's.
    PhaseEnd,
}

impl Bound {
    /// All bounds.
    pub const ALL: [Bound; 5] = [Bound::After, Bound::AfterTrim, Bound::PeakOverLive, Bound::Growth, Bound::PhaseEnd];

    /// The name in results files.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::After => "after",
            Bound::AfterTrim => "after-trim",
            Bound::PeakOverLive => "peak-over-live",
            Bound::Growth => "growth",
            Bound::PhaseEnd => "phase-end",
        }
    }

    /// The name in headings.
    pub const fn label(self) -> &'static str {
        match self {
            Bound::After => "resident after freeing all ÷ peak",
            Bound::AfterTrim => "resident after malloc_trim ÷ peak",
            Bound::PeakOverLive => "peak resident ÷ peak live",
            Bound::Growth => "resident at the end (less 4 MB) ÷ after the first tenth",
            Bound::PhaseEnd => "resident ÷ live at the end of the worst phase",
        }
    }
}

/// A kind of call whose time is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `malloc`.
    Malloc,
    /// `free` of a block that the same thread allocated.
    FreeLocal,
    /// `free` of a block that another thread allocated.
    FreeRemote,
}

/// A quantile of call times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The median.
    P50,
    /// 99 %.
    P99,
    /// 99.9 %.
    P999,
    /// 99.99 %.
    P9999,
    /// The longest.
    Max,
}

impl Call {
    /// All calls.
    pub const ALL: [Call; 3] = [Call::Malloc, Call::FreeLocal, Call::FreeRemote];

    /// The name in results files.
    pub const fn name(self) -> &'static str {
        match self {
            Call::Malloc => "malloc",
            Call::FreeLocal => "local_free",
            Call::FreeRemote => "remote_free",
        }
    }

    /// The name in headings.
    pub const fn label(self) -> &'static str {
        match self {
            Call::Malloc => "malloc",
            Call::FreeLocal => "free, local",
            Call::FreeRemote => "free, remote",
        }
    }
}

impl Quantile {
    /// All quantiles, ascending.
    pub const ALL: [Quantile; 5] = [Quantile::P50, Quantile::P99, Quantile::P999, Quantile::P9999, Quantile::Max];

    /// The name in headings.
    pub const fn label(self) -> &'static str {
        match self {
            Quantile::P50 => "p50",
            Quantile::P99 => "p99",
            Quantile::P999 => "p99.9",
            Quantile::P9999 => "p99.99",
            Quantile::Max => "max",
        }
    }

    const fn of(self, figures: &LatencyFigures) -> f64 {
        match self {
            Quantile::P50 => figures.p50,
            Quantile::P99 => figures.p99,
            Quantile::P999 => figures.p999,
            Quantile::P9999 => figures.p9999,
            Quantile::Max => figures.max,
        }
    }
}

impl Metric {
    /// The figure of `run`; `None` where the run has none.
    pub fn of(self, run: &Run) -> Option<f64> {
        let benchmark = run.benchmark.as_ref();
        let process = run.process.as_ref();
        match self {
            Metric::OpsPerSecond => benchmark.map(|figures| figures.ops_per_second),
            Metric::RssOverLive => benchmark.and_then(|figures| figures.rss_over_live),
            Metric::WallSeconds => process.map(|figures| figures.wall_seconds),
            Metric::CpuSeconds => process.map(|figures| figures.user_seconds + figures.system_seconds),
            Metric::PeakRss => process
                .and_then(|figures| figures.peak_rss_mb)
                .or_else(|| benchmark.and_then(|figures| figures.peak_rss_mb)),
            Metric::Latency(call, quantile) => {
                run.latency.iter().find(|figures| figures.call == call.name()).map(|f| quantile.of(f))
            }
            Metric::Bound(bound) => benchmark
                .and_then(|figures| figures.bounds.iter().find(|figures| figures.name == bound.name()))
                .map(|figures| figures.value),
        }
    }

    /// Whether more is better.
    pub const fn higher_is_better(self) -> bool {
        matches!(self, Metric::OpsPerSecond)
    }

    /// The name in headings, with its unit.
    pub fn label(self) -> String {
        match self {
            Metric::OpsPerSecond => "million ops/s".to_owned(),
            Metric::RssOverLive => "peak resident ÷ peak live".to_owned(),
            Metric::WallSeconds => "wall time (s)".to_owned(),
            Metric::CpuSeconds => "processor time, user + system (s)".to_owned(),
            Metric::PeakRss => "peak resident size (MB)".to_owned(),
            Metric::Latency(call, quantile) => format!("{}, {} (ns)", call.label(), quantile.label()),
            Metric::Bound(bound) => bound.label().to_owned(),
        }
    }

    /// `value` in the unit of [`Metric::label`], with as many digits as mean something.
    pub fn show(self, value: f64) -> String {
        let shown = self.scaled(value);
        match self {
            Metric::RssOverLive => format!("{shown:.2}"),
            Metric::Bound(_) => format!("{shown:.3}"),
            Metric::Latency(..) => format!("{shown:.0}"),
            _ if shown >= 100.0 => format!("{shown:.0}"),
            _ if shown >= 10.0 => format!("{shown:.1}"),
            _ if shown < 0.1 => format!("{shown:.4}"),
            _ => format!("{shown:.2}"),
        }
    }

    /// `value` in the unit of [`Metric::label`].
    pub fn scaled(self, value: f64) -> f64 {
        if self == Metric::OpsPerSecond { value / 1e6 } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::run::{BenchmarkFigures, ProcessFigures};

    #[test]
    fn the_kernel_s_peak_counts_before_the_benchmark_s_own() {
        let benchmark = BenchmarkFigures { peak_rss_mb: Some(7.0), ..BenchmarkFigures::default() };
        let mut run = Run { benchmark: Some(benchmark), ..Run::default() };
        assert_eq!(Metric::PeakRss.of(&run), Some(7.0));
        run.process = Some(ProcessFigures { peak_rss_mb: Some(9.0), ..ProcessFigures::default() });
        assert_eq!(Metric::PeakRss.of(&run), Some(9.0));
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        assert_eq!(Metric::OpsPerSecond.show(123_456_789.0), "123");
        assert_eq!(Metric::OpsPerSecond.show(12_345_678.0), "12.3");
        assert_eq!(Metric::OpsPerSecond.show(1_234_567.0), "1.23");
        assert_eq!(Metric::WallSeconds.show(0.01234), "0.0123");
        assert_eq!(Metric::RssOverLive.show(1.0567), "1.06");
    }

    #[test]
    fn a_latency_metric_finds_its_own_call() {
        let figures = |call: &str, p50| LatencyFigures { call: call.to_owned(), p50, ..LatencyFigures::default() };
        let run = Run { latency: vec![figures("malloc", 20.0), figures("remote_free", 90.0)], ..Run::default() };
        assert_eq!(Metric::Latency(Call::FreeRemote, Quantile::P50).of(&run), Some(90.0));
        assert_eq!(Metric::Latency(Call::FreeLocal, Quantile::P50).of(&run), None);
    }
}
