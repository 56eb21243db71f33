//! From values to pixels, and round values to mark on an axis.

/// Largest value an axis reaches: sums and differences of such are still numbers.
const LARGEST: f64 = 1e300;
/// Least range of an axis, in parts of its largest value.
const NARROWEST: f64 = 1e-9;
/// Most marks that an axis is asked for.
const MOST_MARKS: usize = 50;

/// How values become positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Equal differences, equal lengths.
    Linear,
    /// Equal ratios, equal lengths; values are positive.
    Logarithmic,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    step: f64,
    /// Pixels of `low` and `high`.
    pixels: (f64, f64),
}

impl Scale {
    /// A linear axis over `low..high` rounded outwards to its marks, about `marks` of them.
    pub fn linear(range: (f64, f64), pixels: (f64, f64), marks: usize) -> Self {
        let exact = Self::exact(range, pixels, marks);
        let step = exact.step;
        let (low, high) =
            ((exact.low / step + 1e-9).floor() * step, (exact.high / step - 1e-9).ceil() * step);
        // Rounding outwards never makes a range a point, but the largest values have no round one beyond them.
        let is_drawable = low < high && low.is_finite() && high.is_finite();
        if is_drawable { Self { low, high, ..exact } } else { exact }
    }

    /// A linear axis over exactly `low..high`, with marks inside it.
    pub fn exact((low, high): (f64, f64), pixels: (f64, f64), marks: usize) -> Self {
        let (low, high) = widened(drawable(low), drawable(high));
        let step = round_step((high - low) / marks.clamp(1, MOST_MARKS) as f64);
        Self { kind: Kind::Linear, low, high, step, pixels }
    }

    /// A logarithmic axis over `low..high`, both positive.
    pub fn logarithmic((low, high): (f64, f64), pixels: (f64, f64)) -> Self {
        let low = drawable(low).max(1.0 / LARGEST);
        let high = drawable(high).max(low);
        // A tenth of a decade of air.
        let (low, high) = (low / 1.26, high * 1.26);
        Self { kind: Kind::Logarithmic, low, high, step: 1.0, pixels }
    }

    /// Logarithmic where positive values span more than a factor of 30, else linear.
    pub fn for_values(values: impl Iterator<Item = f64>, pixels: (f64, f64), marks: usize) -> Self {
        let (low, high) = range(values);
        if low > 0.0 && high / low > 30.0 {
            Self::logarithmic((low, high), pixels)
        } else {
            Self::linear((low, high), pixels, marks)
        }
    }

    /// Position of a value in pixels; values outside the axis are at its ends.
    pub fn place(&self, value: f64) -> f64 {
        let value = drawable(value).clamp(self.low, self.high);
        let share = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            // Not the logarithm of a ratio, which may be larger than any number.
            Kind::Logarithmic => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        };
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Values to mark, with their names.
    pub fn marks(&self) -> Vec<(f64, String)> {
        let values = match self.kind {
            Kind::Linear => self.linear_marks(),
            Kind::Logarithmic => self.logarithmic_marks(),
        };
        values.into_iter().map(|value| (value, name(value, self.kind, self.step, self.high))).collect()
    }

    fn linear_marks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let last = (self.high / self.step + 1e-9).floor();
        // As many as fit: the least distance of an axis makes it a few more than were asked for.
        let count = (last - first + 1.0).clamp(0.0, 2.0 * MOST_MARKS as f64) as usize;
        (0..count).map(|index| (first + index as f64) * self.step).collect()
    }

    /// Powers of ten, thinned to at most seven; with 2 and 5 between them where there are fewer than three.
    fn logarithmic_marks(&self) -> Vec<f64> {
        let inside = |value: &f64| (self.low..=self.high).contains(value);
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let decades: Vec<f64> = (first..=last).map(|power| 10f64.powi(power)).filter(inside).collect();
        if decades.len() >= 3 {
            return decades.iter().copied().step_by(decades.len().div_ceil(7)).collect();
        }
        let between = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        between.filter(inside).collect()
    }
}

/// A value that can be drawn: one beyond the largest is at the axis's end.
fn drawable(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(-LARGEST, LARGEST) }
}

/// Least and largest of the values that are numbers; 0 to 1 where there is none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// A range that is not a point, nor so narrow that no marks could be told apart.
fn widened(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    if high - low > (size * NARROWEST).max(1.0 / LARGEST) {
        return (low, high);
    }
    let half = if size <= 1.0 / LARGEST { 1.0 } else { size * 0.1 };
    if low >= 0.0 { ((low - half).max(0.0), low + half) } else { (low - half, low + half) }
}

/// The least of 1, 2 or 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= least * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

/// A mark's name, with as many decimals as the distance of marks asks for.
fn name(value: f64, kind: Kind, step: f64, high: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = if kind == Kind::Linear { high.abs().max(value.abs()) } else { value.abs() };
    if !(2e-3..1e6).contains(&size) && (size < 2e-3 || kind == Kind::Logarithmic || size >= 1e6) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    if size >= 1e4 {
        return format!("{}k", trimmed(value / 1e3, 2));
    }
    let decimals = match kind {
        Kind::Linear => (-step.log10().floor()).clamp(0.0, 9.0) as usize,
        Kind::Logarithmic => return trimmed(value, 6),
    };
    format!("{value:.decimals$}").replace('-', "−")
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: &Scale) -> String {
        scale.marks().into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn marks_are_round_and_evenly_set() {
        let names_of = |low, high| names(&Scale::linear((low, high), (0.0, 100.0), 5));
        assert_eq!(names_of(0.0, 1.0), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(names_of(0.3, 9.7), "0 2 4 6 8 10");
        assert_eq!(names_of(-1.0, 1.0), "−1.0 −0.5 0 0.5 1.0");
        assert_eq!(names_of(0.0, 1e-3), "0 2e-4 4e-4 6e-4 8e-4 1e-3");
        assert_eq!(names_of(0.0, 95_000.0), "0 20k 40k 60k 80k 100k");
        assert_eq!(names_of(7.0, 7.0), "6.0 6.5 7.0 7.5 8.0");
    }

    #[test]
    fn decades_are_marked() {
        assert_eq!(names(&Scale::logarithmic((0.002, 12.0), (0.0, 1.0))), "0.01 0.1 1 10");
        assert_eq!(names(&Scale::logarithmic((0.5, 4.0), (0.0, 1.0))), "0.5 1 2 5");
        assert_eq!(names(&Scale::logarithmic((1e-9, 1e9), (0.0, 1.0))), "1e-9 1e-6 1e-3 1 1000 1e6 1e9");
    }

    #[test]
    fn places_are_inside_the_axis_whatever_the_value() {
        for scale in
            [Scale::linear((1.0, 2.0), (10.0, 110.0), 4), Scale::logarithmic((1.0, 2.0), (10.0, 110.0))]
        {
            for value in [-1e300, 0.0, 1.0, 1.5, 2.0, 1e300] {
                assert!((10.0..=110.0).contains(&scale.place(value)), "{scale:?} {value}");
            }
        }
        assert_eq!(Scale::exact((0.0, 4.0), (0.0, 100.0), 4).place(1.0), 25.0);
        assert_eq!(range([f64::NAN, 3.0, -1.0].into_iter()), (-1.0, 3.0));
        assert_eq!(range(std::iter::empty()), (0.0, 1.0));
    }

    #[test]
    fn every_range_has_an_axis_with_a_few_marks() {
        let values = [
            f64::MIN,
            -1.7e308,
            -1e300,
            -1.0,
            -1e-320,
            -0.0,
            0.0,
            5e-324,
            1e-300,
            1.0,
            1.0 + f64::EPSILON,
            1e15,
            1e15 + 1.0,
            1e300,
            1.7e308,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        let pixels = (10.0, 110.0);
        for low in values {
            for high in values {
                let range = (low, high);
                for scale in [
                    Scale::linear(range, pixels, 4),
                    Scale::exact(range, pixels, 5),
                    Scale::exact(range, pixels, usize::MAX),
                    Scale::logarithmic(range, pixels),
                    Scale::for_values([low, high].into_iter(), pixels, 4),
                ] {
                    let marks = scale.marks();
                    assert!(marks.len() <= 2 * MOST_MARKS, "{range:?}: {} marks", marks.len());
                    for value in values.into_iter().chain(marks.into_iter().map(|(value, _)| value)) {
                        let place = scale.place(value);
                        assert!((9.9..=110.1).contains(&place), "{range:?} {value}: {place} in {scale:?}");
                    }
                }
            }
        }
    }
}
