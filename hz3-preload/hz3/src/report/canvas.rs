//! Canvas: an SVG document with the plots' common style.
//!
//! Colours are set by class, once for light pages and once, in a media query, for dark ones; nothing
//! carries a colour of its own.

use super::text::{self, FONTS, PLAIN, widest};
use std::fmt::Write;
use svg::Document;
use svg::node::element::{Circle, Line, Polyline, Rectangle, Style, Text, Title};

/// Colours for peers, after which they repeat.
pub const PEER_COLOURS: usize = 8;

/// (class, light, dark) of everything that has a series colour.
const SERIES: [(&str, &str, &str); 4 + PEER_COLOURS] = [
    ("fast", "#0b57d0", "#7cacf8"),
    ("scale", "#c2410c", "#ff9d5c"),
    ("hardened", "#a21caf", "#e879f9"),
    ("system", "#6b7280", "#9ca3af"),
    ("peer0", "#15803d", "#4ade80"),
    ("peer1", "#7e22ce", "#c084fc"),
    ("peer2", "#0e7490", "#22d3ee"),
    ("peer3", "#a16207", "#facc15"),
    ("peer4", "#be185d", "#f472b6"),
    ("peer5", "#4d7c0f", "#a3e635"),
    ("peer6", "#57534e", "#d6d3d1"),
    ("peer7", "#1e3a8a", "#93c5fd"),
];

/// (class, property, light, dark) of everything else.
const INK: [(&str, &str, &str, &str); 10] = [
    ("page", "fill", "#ffffff", "#0d1117"),
    ("ink", "fill", "#1f2328", "#e6edf3"),
    ("faint", "fill", "#59636e", "#9198a1"),
    ("neutral", "fill", "#b6bec8", "#505a66"),
    ("grid", "stroke", "#e2e6ea", "#262c34"),
    ("axis", "stroke", "#59636e", "#9198a1"),
    ("whisker", "stroke", "#1f2328", "#e6edf3"),
    ("link", "stroke", "#b6bec8", "#505a66"),
    ("hollow", "fill", "#ffffff", "#0d1117"),
    ("rim", "stroke", "#59636e", "#9198a1"),
];

const FAMILY: &str = "font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;\
    font-variant-numeric:tabular-nums";
const LINES: &str = "line,polyline{fill:none;stroke-width:1}.thick{stroke-width:2.5}.thin{stroke-width:1.3}";

/// Distance of everything from the edge.
pub const MARGIN: f64 = 24.0;

/// The first free line below the heading.
pub const TOP: f64 = 76.0;

/// Where a text's position lies in it.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// An SVG document under construction. Lengths are in pixels at 100 %.
pub struct Canvas {
    document: Document,
}

impl Canvas {
    /// An empty canvas with its title and two lines that explain it, for which it is wider where they need it.
    pub fn new(width: f64, height: f64, title: &str, explanation: [&str; 2]) -> Canvas {
        let head = widest("faint", explanation).max(text::width("title", title));
        let (width, height) = (width.max(head + 2.0 * MARGIN).ceil(), height.ceil());
        let document = Document::new()
            .set("viewBox", (0, 0, width, height))
            .set("width", width)
            .set("height", height)
            .set("role", "img")
            .add(Title::new(title))
            .add(Style::new(style()));
        let mut canvas = Canvas { document };
        canvas.rectangle(0.0, 0.0, width, height, "page");
        canvas.text(MARGIN, 30.0, Anchor::Start, "ink title", title);
        canvas.text(MARGIN, 48.0, Anchor::Start, "faint", explanation[0]);
        canvas.text(MARGIN, 63.0, Anchor::Start, "faint", explanation[1]);
        canvas
    }

    fn add(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        svg::Node::append(&mut self.document, node);
    }

    /// One line of text with its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let node = Text::new(text).set("x", tenth(x)).set("y", tenth(y)).set("class", class);
        self.add(node.set("text-anchor", anchor));
    }

    /// A filled rectangle.
    pub fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let node = Rectangle::new().set("x", tenth(x)).set("y", tenth(y)).set("class", class);
        self.add(node.set("width", tenth(width)).set("height", tenth(height)));
    }

    /// A rectangle in part of its colour's strength, from 0 to 1, that says `hint` when it is pointed at.
    pub fn cell(&mut self, corner: (f64, f64), size: (f64, f64), class: &str, strength: f64, hint: &str) {
        let node = Rectangle::new().set("x", tenth(corner.0)).set("y", tenth(corner.1)).set("class", class);
        let node = node.set("width", tenth(size.0)).set("height", tenth(size.1));
        self.add(node.set("fill-opacity", (strength * 100.0).round() / 100.0).add(Title::new(hint)));
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let node = Line::new().set("x1", tenth(from.0)).set("y1", tenth(from.1)).set("class", class);
        self.add(node.set("x2", tenth(to.0)).set("y2", tenth(to.1)));
    }

    /// A line through several points.
    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|&(x, y)| format!("{},{}", tenth(x), tenth(y))).collect();
        self.add(Polyline::new().set("points", points.join(" ")).set("class", class));
    }

    /// A dot.
    pub fn dot(&mut self, centre: (f64, f64), radius: f64, class: &str) {
        let node = Circle::new().set("cx", tenth(centre.0)).set("cy", tenth(centre.1));
        self.add(node.set("r", radius).set("class", class));
    }

    /// The document's text.
    pub fn finish(self) -> String {
        format!("{}\n", self.document)
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn style() -> String {
    let mut style = format!("text{{{FAMILY};font-size:{PLAIN}px}}{LINES}");
    for (class, size, bold) in FONTS {
        let _ = write!(style, ".{class}{{font-size:{size}px;font-weight:{}}}", if bold { 600 } else { 400 });
    }
    let colours = |dark: bool| {
        let mut rules = String::new();
        for (class, light_colour, dark_colour) in SERIES {
            let colour = if dark { dark_colour } else { light_colour };
            let _ = write!(rules, ".fill-{class}{{fill:{colour}}}.stroke-{class}{{stroke:{colour}}}");
        }
        for (class, property, light_colour, dark_colour) in INK {
            let colour = if dark { dark_colour } else { light_colour };
            let _ = write!(rules, ".{class}{{{property}:{colour}}}");
        }
        rules
    };
    format!("{style}{}@media (prefers-color-scheme: dark){{{}}}", colours(false), colours(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Lane;

    #[test]
    fn every_lane_has_a_colour_of_its_own() {
        for lane in Lane::ALL {
            let own = SERIES.iter().find(|colours| colours.0 == lane.name()).expect("a colour");
            let same = SERIES.iter().filter(|other| other.1 == own.1 || other.2 == own.2).count();
            assert_eq!(same, 1, "{lane}");
        }
    }
}
