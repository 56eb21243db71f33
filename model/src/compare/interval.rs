//! Means over seeds and how far they can be trusted.

use super::results::Interval;

/// Student's t at 97.5 % for 1 to 30 degrees of freedom.
const T_975: [f64; 30] = [
    12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004, 2.262_157,
    2.228_139, 2.200_985, 2.178_813, 2.160_369, 2.144_787, 2.131_450, 2.119_905, 2.109_816, 2.100_922,
    2.093_024, 2.085_963, 2.079_614, 2.073_873, 2.068_658, 2.063_899, 2.059_539, 2.055_529, 2.051_831,
    2.048_407, 2.045_230, 2.042_272,
];

impl Interval {
    /// Mean and 95 % confidence interval of independent values; none of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let half_width = (count > 1).then(|| {
            let freedom = count - 1;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
            t_975(freedom) * (variance / count as f64).sqrt()
        });
        Some(Self { mean, half_width, count })
    }

    /// As [`Interval::of`], when every value is there: a mean over some would pass for one over all.
    pub fn of_all(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        Self::of(&values.into_iter().collect::<Option<Vec<f64>>>()?)
    }
}

/// Student's t at 97.5 %. Beyond the table by Cornish and Fisher's expansion around the normal distribution,
/// there exact to five digits.
fn t_975(freedom: usize) -> f64 {
    const Z: f64 = 1.959_963_985;
    match T_975.get(freedom - 1) {
        Some(t) => *t,
        None => {
            let n = freedom as f64;
            let first = (Z.powi(3) + Z) / (4.0 * n);
            let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * n * n);
            let third = 3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z;
            Z + first + second + third / (384.0 * n.powi(3))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[2.5]), Some(Interval { mean: 2.5, half_width: None, count: 1 }));
        // Standard error √(1/3), t of two degrees of freedom.
        let interval = Interval::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half_width.unwrap() - 4.302_653 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Interval::of_all([Some(1.0), None]), None);
    }

    #[test]
    fn the_expansion_goes_on_where_the_table_ends() {
        // Tables say 2.0395 for 31, 2.0211 for 40 and 1.9840 for 100.
        for (freedom, expected) in [(31, 2.039_513), (40, 2.021_075), (100, 1.983_972)] {
            assert!((t_975(freedom) - expected).abs() < 2e-5, "{freedom}: {}", t_975(freedom));
        }
    }
}
