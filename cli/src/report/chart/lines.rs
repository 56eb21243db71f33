//! Lines over optimizer steps: faint raw values, a strong smoothed line, stages marked.

use super::scale::{Scale, range};
use super::{Anchor, Drawing, LINE, fitting, text_width};

/// Most raw values drawn; more are thinned to the extremes of stretches.
const MOST_RAW: usize = 700;
/// Most points of a smoothed line.
const MOST_SMOOTH: usize = 360;
/// Stretches of a chart that tell their values when pointed at.
const TIPS: usize = 24;

/// What is drawn.
#[derive(Debug, Clone, Default)]
pub struct LineChart {
    /// Above the chart.
    pub title: String,
    /// Above the vertical axis.
    pub y_label: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Values by position on the horizontal axis, ascending.
    pub values: Vec<(f64, f64)>,
    /// Values on each side that the smoothed line is the mean of; none draws the values as they are.
    pub smoothing: Option<usize>,
    /// Range of the vertical axis, where several charts share one; none takes that of the values.
    pub y_range: Option<(f64, f64)>,
    /// Named stretches of the horizontal axis, in rows from the top.
    pub spans: Vec<Vec<Span>>,
    /// Colour, 1 to 6.
    pub colour: usize,
}

/// A named stretch of the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// First position.
    pub start: f64,
    /// Last position.
    pub end: f64,
    /// Its name.
    pub name: String,
}

impl LineChart {
    /// Draws the chart.
    pub fn draw(&self, width: f64, height: f64) -> Drawing {
        let mut drawing = Drawing::new(width, height);
        let top = 2.0 * LINE + 6.0 + self.spans.len() as f64 * LINE;
        let (left, right, bottom) = (46.0, width - 44.0, height - 2.0 * LINE - 4.0);
        drawing.text((0.0, 12.0), Anchor::Start, "title", &fitting(&self.title, 12.5, width));
        drawing.text((0.0, 12.0 + LINE), Anchor::Start, "soft small", &self.y_label);
        drawing.text(((left + right) / 2.0, height - 4.0), Anchor::Middle, "soft small", &self.x_label);
        let smooth = match self.smoothing {
            Some(reach) => smoothed(&self.values, reach),
            None => self.values.clone(),
        };
        let y = match self.y_range {
            Some((low, high)) => Scale::for_values([low, high].into_iter(), (bottom, top), 4),
            None => Scale::for_values(self.values.iter().map(|(_, y)| *y), (bottom, top), 4),
        };
        let x = Scale::exact(range(self.values.iter().map(|(x, _)| *x)), (left, right), 5);
        for (value, name) in y.marks() {
            let height = y.place(value);
            drawing.line((left, height), (right, height), "grid");
            drawing.text((left - 6.0, height + 3.5), Anchor::End, "soft", &name);
        }
        drawing.line((left, bottom), (right, bottom), "axis");
        for (value, name) in x.marks() {
            drawing.line((x.place(value), bottom), (x.place(value), bottom + 4.0), "axis");
            drawing.text((x.place(value), bottom + LINE), Anchor::Middle, "soft", &name);
        }
        self.draw_spans(&mut drawing, &x, (top, bottom));
        let place = |&(at, value): &(f64, f64)| (x.place(at), y.place(value));
        if self.smoothing.is_some() {
            let raw: Vec<_> = thinned(&self.values, MOST_RAW).iter().map(place).collect();
            drawing.specks(&raw, &format!("s{}", self.colour));
        }
        let line: Vec<_> = thinned(&smooth, MOST_SMOOTH).iter().map(place).collect();
        drawing.polyline(&line, &format!("strong s{}", self.colour));
        if let (Some(&(_, value)), Some(&(end, height))) = (smooth.last(), line.last()) {
            drawing.text((end + 5.0, height + 3.5), Anchor::Start, "", &significant(value));
        }
        self.draw_tips(&mut drawing, &smooth, &x, (top, bottom));
        drawing
    }

    fn draw_spans(&self, drawing: &mut Drawing, x: &Scale, (top, bottom): (f64, f64)) {
        for (row, spans) in self.spans.iter().enumerate() {
            let above = top - (self.spans.len() - row) as f64 * LINE;
            for (index, span) in spans.iter().enumerate() {
                let (start, end) = (x.place(span.start), x.place(span.end));
                if row == 0 && index % 2 == 1 {
                    drawing.rectangle([start, above, end - start, bottom - above], "band", None, None);
                }
                if row > 0 || index > 0 {
                    drawing.line((start, above + 2.0), (start, bottom), "mark");
                }
                let size = if row == 0 { 11.0 } else { 10.0 };
                let class = if row == 0 { "" } else { "soft small" };
                let name = fitting(&span.name, size, end - start - 5.0);
                if !name.is_empty() {
                    drawing.text((start + 4.0, above + 11.0), Anchor::Start, class, &name);
                }
            }
        }
    }

    /// Strips over the chart that say what the line is there.
    fn draw_tips(&self, drawing: &mut Drawing, smooth: &[(f64, f64)], x: &Scale, (top, bottom): (f64, f64)) {
        let Some(size) = smooth.len().checked_div(TIPS.min(smooth.len())) else { return };
        let middles: Vec<_> = smooth.chunks(size.max(1)).map(|chunk| chunk[chunk.len() / 2]).collect();
        let first = smooth.first().map_or(0.0, |(at, _)| x.place(*at));
        let last = smooth.last().map_or(0.0, |(at, _)| x.place(*at));
        let between = |a: (f64, f64), b: (f64, f64)| (x.place(a.0) + x.place(b.0)) / 2.0;
        for (index, &(at, value)) in middles.iter().enumerate() {
            let start = if index == 0 { first } else { between(middles[index - 1], middles[index]) };
            let end = middles.get(index + 1).map_or(last, |&next| between(middles[index], next));
            let tip = format!("{} {}: {}", self.x_label, at, significant(value));
            drawing.rectangle([start, top, end - start, bottom - top], "hover", None, Some(&tip));
        }
    }
}

/// Centred means over up to `reach` values on each side, as many on both.
pub fn smoothed(values: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    for (_, value) in values {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |(index, &(at, _)): (usize, &(f64, f64))| {
        let reach = reach.min(index).min(values.len() - 1 - index);
        let (start, end) = (index - reach, index + reach + 1);
        (at, (sums[end] - sums[start]) / (end - start) as f64)
    };
    values.iter().enumerate().map(mean).collect()
}

/// At most about `most` of the points: the lowest and the highest of every stretch, and both ends.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let size = points.len().div_ceil(most / 2);
    let extremes = |stretch: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut both: Vec<_> = stretch
            .iter()
            .min_by(by_value)
            .into_iter()
            .chain(stretch.iter().max_by(by_value))
            .copied()
            .collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both
    };
    let mut kept: Vec<_> = points.chunks(size).flat_map(extremes).collect();
    kept.insert(0, points[0]);
    kept.push(points[points.len() - 1]);
    kept.dedup();
    kept
}

/// A value with three significant digits.
pub fn significant(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        size if size == 0.0 || size >= 99.95 => 0,
        size if size < 1e-3 || !size.is_finite() => return format!("{value:.1e}"),
        size => (2.0 - size.log10().floor()).clamp(0.0, 5.0) as usize,
    };
    format!("{value:.decimals$}").replace('-', "−")
}

/// Width of a column of names.
pub fn names_width<'a>(names: impl Iterator<Item = &'a str>, size: f64, most: f64) -> f64 {
    names.map(|name| text_width(name, size)).fold(24.0, f64::max).min(most) + 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_is_a_centred_mean_that_keeps_lines() {
        let line: Vec<_> = (0..20).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        for ((at, value), (_, expected)) in smoothed(&line, 3).into_iter().zip(&line) {
            assert!((value - expected).abs() < 1e-12, "{at}");
        }
        assert_eq!(smoothed(&[(0.0, 1.0), (1.0, 5.0), (2.0, 3.0)], 9)[1].1, 3.0);
        assert!(smoothed(&[], 3).is_empty());
    }

    #[test]
    fn thinning_keeps_extremes_and_ends() {
        let mut points: Vec<_> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[5000].1 = 9.0;
        points[70_001].1 = -3.0;
        let thin = thinned(&points, 700);
        assert!(thin.len() < 720, "{}", thin.len());
        assert!(thin.contains(&(5000.0, 9.0)) && thin.contains(&(70_001.0, -3.0)));
        assert_eq!((thin[0], thin[thin.len() - 1]), ((0.0, 1.0), (99_999.0, 1.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn values_have_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.5, "1.50"),
            (123.4, "123"),
            (2e-7, "2.0e-7"),
            (-3.0, "−3.00"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value), expected);
        }
    }

    #[test]
    fn charts_of_nothing_and_of_one_value_are_drawn() {
        for values in [vec![], vec![(1.0, 2.0)]] {
            let chart = LineChart { values, smoothing: Some(2), colour: 1, ..LineChart::default() };
            assert!(!chart.draw(340.0, 200.0).file("x").contains("NaN"));
        }
    }
}
