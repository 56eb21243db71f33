//! Horizontal bars from zero, with error bars where there are any.

use super::lines::names_width;
use super::scale::{Scale, range};
use super::{Anchor, Drawing, LINE, fitting, text_width};

/// Height of a row.
const ROW: f64 = 22.0;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct BarChart {
    /// Above the chart.
    pub title: String,
    /// Below the axis.
    pub x_label: String,
    /// The bars from the top.
    pub bars: Vec<Bar>,
    /// Range the axis covers at least.
    pub range: (f64, f64),
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length; none says that there is no figure.
    pub value: Option<f64>,
    /// Half the width of its interval.
    pub error: Option<f64>,
    /// The value as text, at the bar's end.
    pub text: String,
    /// Colour, 0 (grey) to 6.
    pub colour: usize,
}

impl BarChart {
    /// Draws the chart; its height follows from its bars.
    pub fn draw(&self, width: f64) -> Drawing {
        let top = LINE + 8.0;
        let bottom = top + self.bars.len() as f64 * ROW;
        let mut drawing = Drawing::new(width, bottom + 2.0 * LINE + 6.0);
        drawing.text((0.0, 12.0), Anchor::Start, "title", &fitting(&self.title, 12.5, width));
        let left = names_width(self.bars.iter().map(|bar| bar.name.as_str()), 11.0, 0.42 * width);
        let texts = self.bars.iter().map(|bar| text_width(&bar.text, 11.0)).fold(0.0, f64::max);
        let pixels = (left + 6.0, width - texts - 12.0);
        let ends = self.bars.iter().filter_map(|bar| Some((bar.value?, bar.error.unwrap_or(0.0))));
        let ends = ends.flat_map(|(value, error)| [value - error, value + error]);
        let x = Scale::linear(range(ends.chain([0.0, self.range.0, self.range.1])), pixels, 4);
        let zero = x.place(0.0);
        for (value, name) in x.marks() {
            let at = x.place(value);
            drawing.line((at, top), (at, bottom), if value == 0.0 { "axis" } else { "grid" });
            drawing.text((at, bottom + LINE), Anchor::Middle, "soft", &name);
        }
        let middle = (pixels.0 + pixels.1) / 2.0;
        drawing.text((middle, bottom + 2.0 * LINE), Anchor::Middle, "soft small", &self.x_label);
        for (index, bar) in self.bars.iter().enumerate() {
            let above = top + index as f64 * ROW;
            let height = above + ROW / 2.0;
            drawing.text((left, height + 4.0), Anchor::End, "", &fitting(&bar.name, 11.0, left));
            drawing.text((width, height + 4.0), Anchor::End, "", &bar.text);
            let Some(value) = bar.value.filter(|value| value.is_finite()) else { continue };
            let end = x.place(value);
            let place = [zero.min(end), above + 4.0, (end - zero).abs(), ROW - 8.0];
            let tip = format!("{}: {}", bar.name, bar.text);
            drawing.rectangle(place, &format!("f{}", bar.colour), Some(0.75), Some(&tip));
            if let Some(error) = bar.error.filter(|error| error.is_finite() && *error > 0.0) {
                let (low, high) = (x.place(value - error), x.place(value + error));
                drawing.line((low, height), (high, height), "whisker");
                for at in [low, high] {
                    drawing.line((at, height - 4.0), (at, height + 4.0), "whisker");
                }
            }
        }
        drawing
    }
}
