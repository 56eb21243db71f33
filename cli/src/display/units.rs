//! Numbers as people read them.

pub use cpift_model::progress::{counted, grouped};

/// `1.05M`, `12.3k`, `999`: three significant digits.
pub fn count(value: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // From 999.5 on, rounding to three digits reaches the next unit.
    match STEPS.iter().find(|(unit, _)| value >= unit * 0.9995) {
        Some((unit, letter)) => format!("{}{letter}", three_digits(value / unit)),
        None => format!("{value:.0}"),
    }
}

/// `1.50 GiB`, `12.0 MiB`, `512 B`.
pub fn bytes(value: u64) -> String {
    const STEPS: [(f64, &str); 4] =
        [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")];
    let value = value as f64;
    match STEPS.iter().find(|(unit, _)| value >= unit * 0.9995) {
        Some((unit, name)) => format!("{} {name}", three_digits(value / unit)),
        None => format!("{value:.0} B"),
    }
}

/// `45.2 GFLOP/s`.
pub fn flops_per_second(value: f64) -> String {
    let text = count(value);
    match text.find(|letter: char| letter.is_ascii_alphabetic()) {
        Some(at) => format!("{} {}FLOP/s", &text[..at], &text[at..]),
        None => format!("{text} FLOP/s"),
    }
}

/// `0.8 s`, `42 s`, `3 min 07 s`, `2 h 05 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A share of 1 as `98.0 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// One bar per bucket of consecutive values, at most `width` bars, each the mean of its bucket, scaled
/// between the least and the largest mean. Values that are not finite are left out.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let bars = width.min(finite.len());
    let mean = |bar: usize| {
        let bucket = &finite[bar * finite.len() / bars..(bar + 1) * finite.len() / bars];
        bucket.iter().sum::<f64>() / bucket.len() as f64
    };
    let means: Vec<f64> = (0..bars).map(mean).collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    bars_between(&means, least)
}

/// One bar per value, scaled between 0 and the largest.
pub fn histogram(values: &[f64]) -> String {
    bars_between(values, 0.0)
}

fn bars_between(values: &[f64], least: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(least, f64::max);
    let height = |value: f64| if most > least { 7.0 * (value - least) / (most - least) } else { 0.0 };
    values.iter().map(|&value| BARS[height(value).round() as usize]).collect()
}

/// Three significant digits, at least two of them behind the point below 10.
pub fn three_digits(value: f64) -> String {
    match value {
        value if value < 0.0995 => format!("{value:.4}"),
        value if value < 0.9995 => format!("{value:.3}"),
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_across_unit_borders() {
        let cases =
            [(0.0, "0"), (999.0, "999"), (1000.0, "1.00k"), (12_345.0, "12.3k"), (999_949.0, "1.00M")];
        for (value, expected) in cases {
            assert_eq!(count(value), expected);
        }
        assert_eq!(count(1_048_576.0), "1.05M");
        assert_eq!(flops_per_second(45.24e9), "45.2 GFLOP/s");
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1_610_612_736, "1.50 GiB")];
        for (value, expected) in cases {
            assert_eq!(bytes(value), expected);
        }
        assert_eq!(grouped(1_048_576), "1 048 576");
        assert_eq!(grouped(100), "100");
    }

    #[test]
    fn durations_use_two_units() {
        let cases = [
            (0.04, "0.0 s"),
            (9.96, "10 s"),
            (59.6, "1 min 00 s"),
            (187.0, "3 min 07 s"),
            (7500.0, "2 h 05 min"),
            (273_600.0, "3 d 4 h"),
            (f64::INFINITY, "unknown"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn sparklines_span_their_values_and_fit_their_width() {
        assert_eq!(sparkline(&[4.0, 3.0, 2.0, 1.0], 8), "█▆▃▁");
        assert_eq!(sparkline(&[4.0, 4.0, 1.0, 1.0, f64::NAN], 2), "█▁");
        assert_eq!(sparkline(&[2.0; 5], 3), "▁▁▁");
        assert_eq!(sparkline(&[], 8), "");
        assert_eq!(histogram(&[0.0, 1.0, 2.0]), "▁▅█");
    }
}
