//! Several curves over one axis, told apart by markers.

use super::dots::{Marker, legend_height, legend_rows};
use super::scale::{Scale, range};
use super::{Anchor, Drawing, LINE, fitting};

/// What is drawn.
#[derive(Debug, Clone)]
pub struct CurveChart {
    /// Above the chart.
    pub title: String,
    /// Above the vertical axis.
    pub y_label: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// The curves; later ones over earlier ones.
    pub curves: Vec<Curve>,
    /// A value of the vertical axis with a line of its own, and what it is.
    pub mark: Option<(f64, String)>,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// What it is, in the legend.
    pub name: String,
    /// How its points look.
    pub marker: Marker,
    /// Class of its line.
    pub line: &'static str,
    /// Its points, by ascending position.
    pub points: Vec<(f64, f64)>,
}

impl CurveChart {
    /// Draws the chart.
    pub fn draw(&self, width: f64, height: f64) -> Drawing {
        let names: Vec<(Marker, &str)> =
            self.curves.iter().map(|curve| (curve.marker, curve.name.as_str())).collect();
        let legend = legend_rows(&names, width);
        let top = 2.0 * LINE + 6.0 + legend_height(&legend);
        let mut drawing = Drawing::new(width, height + legend_height(&legend));
        let (left, right, bottom) = (46.0, width - 10.0, height + legend_height(&legend) - 2.0 * LINE - 4.0);
        drawing.text((0.0, 12.0), Anchor::Start, "title", &fitting(&self.title, 12.5, width));
        super::dots::draw_legend(&mut drawing, &names, &legend);
        drawing.text((0.0, top - 6.0), Anchor::Start, "soft small", &self.y_label);
        drawing.text(
            ((left + right) / 2.0, bottom + 2.0 * LINE),
            Anchor::Middle,
            "soft small",
            &self.x_label,
        );
        let points =
            || self.curves.iter().flat_map(|curve| &curve.points).filter(|point| point.1.is_finite());
        let marked = self.mark.iter().map(|(value, _)| *value);
        let y = Scale::for_values(points().map(|point| point.1).chain(marked), (bottom, top), 4);
        let (first, last) = range(points().map(|point| point.0));
        let x = match first > 0.0 && last > 4.0 * first {
            true => Scale::logarithmic((first, last), (left, right)),
            false => Scale::exact((first, last), (left, right), 5),
        };
        for (value, name) in y.marks() {
            drawing.line((left, y.place(value)), (right, y.place(value)), "grid");
            drawing.text((left - 6.0, y.place(value) + 3.5), Anchor::End, "soft", &name);
        }
        drawing.line((left, bottom), (right, bottom), "axis");
        for (value, name) in x.marks() {
            drawing.line((x.place(value), bottom), (x.place(value), bottom + 4.0), "axis");
            drawing.text((x.place(value), bottom + LINE), Anchor::Middle, "soft", &name);
        }
        if let Some((value, name)) = &self.mark {
            drawing.line((left, y.place(*value)), (right, y.place(*value)), "mark");
            drawing.text((right, y.place(*value) - 4.0), Anchor::End, "soft small", name);
        }
        for curve in &self.curves {
            let finite = curve.points.iter().filter(|point| point.1.is_finite());
            let places: Vec<_> = finite.clone().map(|&(at, value)| (x.place(at), y.place(value))).collect();
            drawing.polyline(&places, curve.line);
            for (&(at, value), place) in finite.zip(places) {
                let tip =
                    format!("{}, {} {at}: {}", curve.name, self.x_label, super::lines::significant(value));
                drawing.marker(curve.marker.shape, place, curve.marker.class, Some(&tip));
            }
        }
        drawing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::Shape;

    #[test]
    fn every_point_of_every_curve_is_drawn() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve {
            name: name.to_owned(),
            marker: Marker { shape: Shape::Circle, class: "f1" },
            line: "s1",
            points: points.to_vec(),
        };
        let chart = CurveChart {
            title: "t".to_owned(),
            y_label: "y".to_owned(),
            x_label: "steps".to_owned(),
            curves: vec![
                curve("net", &[(1.0, 0.2), (10.0, f64::NAN), (100.0, 0.4)]),
                curve("path", &[(1.0, 0.1)]),
            ],
            mark: Some((0.005, "chance".to_owned())),
        };
        let drawn = chart.draw(340.0, 220.0).inline("label", "");
        assert_eq!(drawn.matches("<title>").count(), 3, "{drawn}");
        assert!(drawn.contains("net, steps 100: 0.4") && drawn.contains(">chance<"), "{drawn}");
        assert!(!drawn.contains("NaN"), "{drawn}");
        let empty = CurveChart { curves: Vec::new(), mark: None, ..chart };
        assert!(!empty.draw(340.0, 220.0).inline("label", "").contains("NaN"));
    }
}
