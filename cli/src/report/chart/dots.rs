//! Rows of markers over a common axis: what several models make of each task, angles of tensors.

use super::lines::names_width;
use super::scale::Scale;
use super::{Anchor, Drawing, LINE, Shape, fitting, text_width};

/// Height of a row.
const ROW: f64 = 24.0;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct DotChart {
    /// Above the chart.
    pub title: String,
    /// Below the axis.
    pub x_label: String,
    /// Markers and what they mean, drawn above the rows.
    pub legend: Vec<(Marker, String)>,
    /// Name of each row.
    pub rows: Vec<String>,
    /// The dots, later ones over earlier ones.
    pub dots: Vec<Dot>,
    /// Range of the axis; none takes that of the dots.
    pub range: Option<(f64, f64)>,
    /// Joins the dots of a row with a line from the least to the largest.
    pub joined: bool,
}

/// How a marker looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Its shape.
    pub shape: Shape,
    /// Its classes.
    pub class: &'static str,
}

/// One marker.
#[derive(Debug, Clone)]
pub struct Dot {
    /// Its row.
    pub row: usize,
    /// Its value.
    pub value: f64,
    /// How it looks.
    pub marker: Marker,
    /// What it says when pointed at.
    pub tip: String,
}

impl DotChart {
    /// Draws the chart; its height follows from its rows.
    pub fn draw(&self, width: f64) -> Drawing {
        let names: Vec<(Marker, &str)> =
            self.legend.iter().map(|(marker, name)| (*marker, name.as_str())).collect();
        let legend = legend_rows(&names, width);
        let top = LINE + 8.0 + legend_height(&legend);
        let bottom = top + self.rows.len() as f64 * ROW;
        let mut drawing = Drawing::new(width, bottom + 2.0 * LINE + 6.0);
        drawing.text((0.0, 12.0), Anchor::Start, "title", &fitting(&self.title, 12.5, width));
        draw_legend(&mut drawing, &names, &legend);
        let left = names_width(self.rows.iter().map(String::as_str), 11.0, 0.36 * width);
        let pixels = (left + 8.0, width - 12.0);
        let x = match self.range {
            Some(range) => Scale::exact(range, pixels, 5),
            None => Scale::for_values(self.dots.iter().map(|dot| dot.value), pixels, 4),
        };
        for (value, name) in x.marks() {
            let at = x.place(value);
            drawing.line((at, top), (at, bottom), "grid");
            drawing.text((at, bottom + LINE), Anchor::Middle, "soft", &name);
        }
        let middle = (pixels.0 + pixels.1) / 2.0;
        drawing.text((middle, bottom + 2.0 * LINE), Anchor::Middle, "soft small", &self.x_label);
        for (index, name) in self.rows.iter().enumerate() {
            let height = top + (index as f64 + 0.5) * ROW;
            drawing.text((left, height + 4.0), Anchor::End, "", &fitting(name, 11.0, left));
            let of_row = self.dots.iter().filter(|dot| dot.row == index && dot.value.is_finite());
            let places: Vec<f64> = of_row.map(|dot| x.place(dot.value)).collect();
            let least = places.iter().copied().fold(f64::INFINITY, f64::min);
            let most = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if self.joined && most > least {
                drawing.line((least, height), (most, height), "axis");
            }
        }
        for dot in self.dots.iter().filter(|dot| dot.value.is_finite()) {
            let place = (x.place(dot.value), top + (dot.row as f64 + 0.5) * ROW);
            drawing.marker(dot.marker.shape, place, dot.marker.class, Some(&dot.tip));
        }
        drawing
    }
}

/// Entries of a legend in lines that fit: position from the left, and the entry's index.
pub type LegendRows = Vec<Vec<(f64, usize)>>;

/// Markers and what they mean, in lines that fit.
pub fn legend_rows(entries: &[(Marker, &str)], width: f64) -> LegendRows {
    let mut rows: LegendRows = vec![Vec::new()];
    let mut at = 0.0;
    for (index, (_, name)) in entries.iter().enumerate() {
        let needed = 16.0 + text_width(name, 11.0) + 14.0;
        if at + needed > width && at > 0.0 {
            rows.push(Vec::new());
            at = 0.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((at, index));
        }
        at += needed;
    }
    rows
}

/// Height that a legend takes.
pub fn legend_height(rows: &LegendRows) -> f64 {
    if rows.iter().all(Vec::is_empty) { 0.0 } else { rows.len() as f64 * (LINE + 2.0) }
}

/// Draws a legend below the title.
pub fn draw_legend(drawing: &mut Drawing, entries: &[(Marker, &str)], rows: &LegendRows) {
    for (row, of_row) in rows.iter().enumerate() {
        let height = 12.0 + (row as f64 + 1.0) * (LINE + 2.0);
        for &(at, index) in of_row {
            let (marker, name) = entries[index];
            drawing.marker(marker.shape, (at + 6.0, height - 4.0), marker.class, None);
            drawing.text((at + 16.0, height), Anchor::Start, "", name);
        }
    }
}
