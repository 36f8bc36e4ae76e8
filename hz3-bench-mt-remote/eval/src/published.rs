//! Published figures of the C original, for orientation.
//!
//! They come from another machine with many more cores, so only the ratios between its own columns
//! say anything beside ours.

/// Figures of one row in million ops/s.
pub struct Published {
    /// The row's id.
    pub row: &'static str,
    /// The original's fast lane.
    pub fast: f64,
    /// The original's scale lane.
    pub scale: f64,
    /// gperftools' tcmalloc beside it.
    pub tcmalloc: Option<f64>,
    /// The system's malloc beside it.
    pub system: Option<f64>,
}

const fn row(row: &'static str, fast: f64, scale: f64) -> Published {
    Published { row, fast, scale, tcmalloc: None, system: None }
}

/// The original's medians of 30 runs.
pub const PUBLISHED: [Published; 7] = [
    row("t1-r0", 62.6, 59.9),
    row("t8-r0", 202.9, 201.6),
    row("t8-r50", 28.2, 69.4),
    Published { tcmalloc: Some(343.2), system: Some(142.4), ..row("t32-r0", 326.6, 310.9) },
    Published { tcmalloc: Some(122.7), system: Some(16.5), ..row("t32-r50", 35.7, 91.8) },
    Published { tcmalloc: Some(77.1), ..row("t32-r0-32k", 283.3, 265.8) },
    row("t32-r50-32k", 51.6, 55.3),
];

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::row::remote_matrix;

    #[test]
    fn every_published_row_is_one_of_the_matrix() {
        let rows = remote_matrix();
        assert!(PUBLISHED.iter().all(|figures| rows.iter().any(|row| row.id == figures.row)));
    }
}
