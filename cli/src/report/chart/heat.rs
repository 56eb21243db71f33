//! Heat maps: a table of numbers whose cells are tinted by what they hold.

use super::lines::names_width;
use super::{Anchor, Drawing, LINE, fitting, text_width};

/// The strongest tint: dark text can still be read on it.
const STRONGEST: f64 = 0.75;
/// From this tint on, text takes the colour that goes with tints, on dark pages too.
const STRONG: f64 = 0.45;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct HeatMap {
    /// Above the map.
    pub title: String,
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The cells, row by row.
    pub cells: Vec<Vec<Cell>>,
    /// Rows and columns that belong together, as half-open ranges of both: outlined.
    pub blocks: Vec<(usize, usize)>,
    /// Height of a row; none makes cells square.
    pub row_height: Option<f64>,
}

/// One cell.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Strength of the tint, 0 to 1 (the strongest); none leaves the cell empty.
    pub tint: Option<f64>,
    /// Colour, 1 to 6.
    pub colour: usize,
    /// What is written in it, at most two lines; left out where it does not fit.
    pub lines: Vec<String>,
    /// What it says when pointed at.
    pub tip: String,
}

impl HeatMap {
    /// Draws the map; its height follows from its rows.
    pub fn draw(&self, width: f64) -> Drawing {
        let left = names_width(self.rows.iter().map(String::as_str), 11.0, 0.38 * width);
        let columns = self.columns.len().max(1) as f64;
        // Names that rise reach to the right of the last column.
        let cell_beside = |margin: f64| ((width - left - margin) / columns).min(76.0);
        let fit = |cell: f64| self.columns.iter().all(|name| text_width(name, 10.0) <= cell - 2.0);
        let flat = fit(cell_beside(2.0));
        let cell = cell_beside(if flat { 2.0 } else { 28.0 });
        let row = self.row_height.unwrap_or(cell.min(46.0));
        let longest = self.columns.iter().map(|name| text_width(name, 10.0)).fold(0.0, f64::max).min(90.0);
        let top = LINE + 6.0 + if flat { LINE } else { longest * 0.62 + 12.0 };
        let mut drawing = Drawing::new(width, top + self.rows.len() as f64 * row + 4.0);
        drawing.text((0.0, 12.0), Anchor::Start, "title", &fitting(&self.title, 12.5, width));
        for (index, name) in self.columns.iter().enumerate() {
            let middle = left + (index as f64 + 0.5) * cell;
            if flat {
                drawing.text((middle, top - 5.0), Anchor::Middle, "soft small", name);
            } else {
                let room = ((width - middle) / 0.79).min(96.0);
                drawing.rising_text((middle, top - 5.0), "soft small", &fitting(name, 10.0, room));
            }
        }
        for (index, (name, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let above = top + index as f64 * row;
            let name = fitting(name, 11.0, left - 6.0);
            drawing.text((left - 6.0, above + row / 2.0 + 4.0), Anchor::End, "", &name);
            for (column, content) in cells.iter().enumerate() {
                let place = [left + column as f64 * cell, above, cell, row];
                content.draw(&mut drawing, place);
            }
        }
        for &(start, end) in &self.blocks {
            let length = (end - start) as f64;
            let corner = (left + start as f64 * cell, top + start as f64 * row);
            let place = [corner.0, corner.1, length * cell, length * row];
            drawing.rectangle(place, "outline", None, None);
        }
        drawing
    }
}

impl Cell {
    fn draw(&self, drawing: &mut Drawing, place: [f64; 4]) {
        let [x, y, width, height] = place;
        let tint = self.tint.filter(|tint| tint.is_finite()).map(|tint| STRONGEST * tint.clamp(0.0, 1.0));
        let class = tint.map_or("cell empty".to_owned(), |_| format!("cell f{}", self.colour));
        drawing.rectangle(place, &class, tint, (!self.tip.is_empty()).then_some(&*self.tip));
        let fits = |line: &&String| text_width(line, 10.0) <= width - 2.0;
        let most = ((height - 2.0) / 12.0) as usize;
        let lines: Vec<&String> = self.lines.iter().filter(fits).take(most).collect();
        let first = y + height / 2.0 + 4.0 - (lines.len().saturating_sub(1)) as f64 * 6.0;
        for (index, line) in lines.into_iter().enumerate() {
            let class = if tint.unwrap_or(0.0) > STRONG { "small on-tint" } else { "small" };
            drawing.text((x + width / 2.0, first + 12.0 * index as f64), Anchor::Middle, class, line);
        }
    }
}
