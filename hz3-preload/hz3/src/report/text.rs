//! Text: the room that a text takes, in the widest of the fonts that a browser may choose.

/// Class, size in pixels and whether it is bold, of every font but the plain one.
pub const FONTS: [(&str, f64, bool); 4] =
    [("title", 17.0, true), ("heading", 12.0, true), ("small", 10.0, false), ("strong", 11.0, true)];

/// The plain font's size in pixels.
pub const PLAIN: f64 = 11.0;

/// Above the baseline and below it, as shares of the font's size.
pub const RISE: [f64; 2] = [0.78, 0.24];

/// The size of the font that one of some classes chooses, and whether it is bold.
pub fn font(classes: &str) -> (f64, bool) {
    let chosen = FONTS.iter().find(|(class, ..)| classes.split(' ').any(|one| one == *class));
    chosen.map_or((PLAIN, false), |&(_, size, bold)| (size, bold))
}

/// At most this wide in pixels.
pub fn width(classes: &str, text: &str) -> f64 {
    let (size, bold) = font(classes);
    text.chars().map(ems).sum::<f64>() * size * if bold { 1.0 } else { 0.92 }
}

/// The widest of some texts.
pub fn widest<'a>(classes: &str, texts: impl IntoIterator<Item = &'a str>) -> f64 {
    texts.into_iter().map(|text| width(classes, text)).fold(0.0, f64::max)
}

/// Widths of DejaVu Sans Bold, rounded up; its plain face has at most 0.92 of them.
fn ems(character: char) -> f64 {
    match character {
        ' ' | 'i' | 'j' | 'l' | 'I' | 'J' | '\'' | ',' | '.' | '/' | ':' | ';' | '-' | '|' => 0.42,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '!' | '"' => 0.53,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '+' | '<' | '=' | '>' | '#' | '^' | '~' | '÷' | '×' => 1.11,
        'A' | 'B' | 'C' | 'D' | 'G' | 'H' | 'K' | 'N' | 'O' | 'Q' | 'R' | 'U' | 'V' | 'X' | 'Z' | '&' => 0.88,
        'a' | 'c' | 'e' | 'k' | 'o' | 's' | 'v' | 'x' | 'y' | 'z' => 0.69,
        ' '..='~' | '–' => 0.74,
        _ => 1.11,
    }
}
