//! Charts as SVG: axes, lines, dots, bars, heat maps. Lengths are CSS pixels at a chart's own size.

pub mod bars;
pub mod curves;
pub mod dots;
pub mod heat;
pub mod lines;
pub mod scale;

use std::fmt::Write;

use super::escape;

/// Colours and fonts of the charts; the page includes it as it is.
pub const STYLE: &str = include_str!("chart.css");
/// Width of a chart that stands beside others, and on a phone alone.
pub const NARROW: f64 = 340.0;
/// Width of a chart that takes a whole line.
pub const WIDE: f64 = 720.0;
/// Mean width of a letter at font size 1, in the widest of the usual fonts.
const EM: f64 = 0.6;
/// Height of a line of text.
pub const LINE: f64 = 15.0;

/// Where a text's coordinates lie in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// An SVG picture under construction. Classes are those of `chart.css`.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

impl Drawing {
    /// An empty picture.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(pixels);
        let _ = write!(self.body, r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#);
    }

    /// A line through points.
    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let mut path = String::new();
        for (index, &(x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{} {}", if index == 0 { 'M' } else { 'L' }, pixels(x), pixels(y));
        }
        if !path.is_empty() {
            let _ = write!(self.body, r#"<path class="{class}" d="{path}"/>"#);
        }
    }

    /// Many small dots as one element: lines without length, whose round ends are seen.
    pub fn specks(&mut self, points: &[(f64, f64)], class: &str) {
        let mut path = String::new();
        for &(x, y) in points {
            let _ = write!(path, "M{} {}h0", pixels(x), pixels(y));
        }
        if !path.is_empty() {
            let _ = write!(self.body, r#"<path class="specks {class}" d="{path}"/>"#);
        }
    }

    /// A rectangle, with what it says when pointed at.
    pub fn rectangle(&mut self, place: [f64; 4], class: &str, opacity: Option<f64>, tip: Option<&str>) {
        let [x, y, width, height] = place.map(pixels);
        let _ =
            write!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}""#);
        if let Some(opacity) = opacity {
            let _ = write!(self.body, r#" fill-opacity="{:.3}""#, opacity.clamp(0.0, 1.0));
        }
        self.close("rect", tip);
    }

    /// A marker: one of the shapes that tell columns apart without colour.
    pub fn marker(&mut self, shape: Shape, (x, y): (f64, f64), class: &str, tip: Option<&str>) {
        let (x, y) = (pixels(x), pixels(y));
        let path = match shape {
            Shape::Circle => "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
            Shape::Square => "m-3.8 -3.8h7.6v7.6h-7.6z",
            Shape::Diamond => "m0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",
            Shape::Triangle => "m0 -5l5 8.6h-10z",
            Shape::Dot => "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z",
            Shape::Cross => "m-3.4 -3.4l6.8 6.8m0 -6.8l-6.8 6.8",
        };
        let _ = write!(self.body, r#"<path class="{class}" d="M{x} {y}{path}""#);
        self.close("path", tip);
    }

    /// A line of text whose baseline is at the given height.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{}" y="{}"{}>{}</text>"#,
            pixels(x),
            pixels(y),
            anchor_attribute(anchor),
            escape(text)
        );
    }

    /// A text that rises to the right, for the names above narrow columns.
    pub fn rising_text(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let (x, y) = (pixels(x), pixels(y));
        let _ = write!(
            self.body,
            r#"<text class="{class}" transform="translate({x} {y}) rotate(-38)">{}</text>"#,
            escape(text)
        );
    }

    fn close(&mut self, element: &str, tip: Option<&str>) {
        match tip {
            Some(tip) => {
                let _ = write!(self.body, "><title>{}</title></{element}>", escape(tip));
            }
            None => self.body.push_str("/>"),
        }
    }

    /// As an element of a page that has [`STYLE`]; `label` is read to those who do not see it.
    pub fn inline(&self, label: &str, class: &str) -> String {
        format!(
            r#"<svg class="chart {class}" viewBox="0 0 {} {}" style="max-width:{}px" role="img" aria-label="{}">{}</svg>"#,
            pixels(self.width),
            pixels(self.height),
            pixels(self.width * 1.25),
            escape(label),
            self.body
        )
    }

    /// As a file of its own. Many programs that take SVG know no variables: colours are those of light pages.
    pub fn file(&self, label: &str) -> String {
        let (width, height) = (pixels(self.width), pixels(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<title>{}</title>\n<style>{}</style>\n{}\n</svg>\n",
            escape(label),
            without_variables(STYLE),
            self.body
        )
    }
}

/// Shapes of markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// ●
    Circle,
    /// ■
    Square,
    /// ◆
    Diamond,
    /// ▲
    Triangle,
    /// A small ●, for many.
    Dot,
    /// ×
    Cross,
}

fn anchor_attribute(anchor: Anchor) -> &'static str {
    match anchor {
        Anchor::Start => "",
        Anchor::Middle => r#" text-anchor="middle""#,
        Anchor::End => r#" text-anchor="end""#,
    }
}

/// A length to a tenth of a pixel, without needless digits. What is not a number was left out before.
fn pixels(value: f64) -> String {
    let tenths = (value * 10.0).round() / 10.0;
    if tenths.is_finite() && tenths != 0.0 { tenths.to_string() } else { "0".to_owned() }
}

/// About how wide a text is at a font size.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| if c.is_ascii() { EM } else { 0.9 }).sum::<f64>() * size
}

/// A text cut to what fits into a width; empty when that would be less than three letters and an ellipsis.
pub fn fitting(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let most = (width / (EM * size)) as usize;
    if most < 4 { String::new() } else { crate::display::table::shorten(text, most) }
}

/// The style sheet with every variable replaced by its first (light) value, and without the rules for dark
/// pages and print, which only set variables.
fn without_variables(style: &str) -> String {
    let light = style.split('}').next().unwrap_or_default();
    let rules = style.split_once("/* charts */").map_or(style, |(_, rules)| rules);
    let mut rules = rules.to_owned();
    for declaration in light.split(['{', ';']) {
        if let Some((name, value)) = declaration.split_once(':')
            && name.trim().starts_with("--")
        {
            rules = rules.replace(&format!("var({})", name.trim()), value.trim());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short_and_always_numbers() {
        let cases = [(1.0, "1"), (1.26, "1.3"), (-0.04, "0"), (f64::NAN, "0"), (f64::INFINITY, "0")];
        for (value, expected) in cases {
            assert_eq!(pixels(value), expected);
        }
    }

    #[test]
    fn files_name_colours_not_variables() {
        let mut drawing = Drawing::new(10.0, 10.0);
        drawing.text((1.0, 2.0), Anchor::End, "label", "<&\"'\u{0}é");
        let file = drawing.file("a < b");
        assert!(!file.contains("var(") && !file.contains("@media"), "{file}");
        assert!(file.contains("&lt;&amp;&quot;&#39;\u{fffd}é") && file.contains("<title>a &lt; b</title>"));
    }
}
