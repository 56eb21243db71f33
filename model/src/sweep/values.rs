//! The number of a merge that is tried, and its values.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::merge::{Parameters, Setting};

/// Values of one sweep.
const MOST_VALUES: usize = 1000;

/// The number that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SweepKey {
    /// Factor of the merged update, λ.
    Scale,
    /// Where on the way from one model to the other.
    T,
    /// Share of each update that takes part.
    Density,
    /// Share of each update, its largest magnitudes, that is dropped.
    Gamma,
    /// How far probabilities are from the density.
    Epsilon,
    /// Share of all parameters in a core.
    Fraction,
}

/// A number and the values that it is tried at: `scale=0.2:1.2:0.1`, from, to and step, or `scale=0.3,0.5,1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The number.
    pub key: SweepKey,
    /// Its values, in the order in which they are tried.
    pub values: Vec<f64>,
}

impl SweepKey {
    const ALL: [Self; 6] = [Self::Scale, Self::T, Self::Density, Self::Gamma, Self::Epsilon, Self::Fraction];

    /// Name, as the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::T => "t",
            Self::Density => "density",
            Self::Gamma => "gamma",
            Self::Epsilon => "epsilon",
            Self::Fraction => "fraction",
        }
    }

    /// The number among those of a method.
    pub(super) fn of(self, parameters: &mut Parameters) -> &mut Option<Setting<f64>> {
        match self {
            Self::Scale => &mut parameters.scale,
            Self::T => &mut parameters.t,
            Self::Density => &mut parameters.density,
            Self::Gamma => &mut parameters.gamma,
            Self::Epsilon => &mut parameters.epsilon,
            Self::Fraction => &mut parameters.fraction,
        }
    }
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "use KEY=FROM:TO:STEP, as scale=0.2:1.2:0.1, or KEY=VALUE,VALUE,…";
        let (key, values) = text.split_once('=').ok_or(FORM)?;
        let key = SweepKey::ALL.into_iter().find(|known| known.name() == key);
        let key = key.ok_or("what can be tried is scale, t, density, gamma, epsilon or fraction")?;
        let number = |text: &str| {
            let number: Option<f64> = text.trim().parse().ok();
            number.filter(|number| number.is_finite()).ok_or_else(|| FORM.to_owned())
        };
        let values: Vec<f64> = match values.split(':').collect::<Vec<_>>()[..] {
            [from, to, step] => range(number(from)?, number(to)?, number(step)?)?,
            [list] => list.split(',').map(number).collect::<Result<_, String>>()?,
            _ => return Err(FORM.to_owned()),
        };
        if values.len() > MOST_VALUES {
            return Err(format!("at most {MOST_VALUES} values can be tried"));
        }
        if let Some(index) = (1..values.len()).find(|&index| values[..index].contains(&values[index])) {
            return Err(format!("{} is there twice", values[index]));
        }
        if key != SweepKey::Scale && !values.iter().all(|value| (0.0..=1.0).contains(value)) {
            return Err(format!("{} is from 0 to 1", key.name()));
        }
        Ok(Self { key, values })
    }
}

fn range(from: f64, to: f64, step: f64) -> Result<Vec<f64>, String> {
    // So that a last value is among them that binary fractions put a little beyond the end.
    const SLACK: f64 = 1e-9;
    let steps = ((to - from) / step + SLACK).floor();
    if !(step > 0.0 && (0.0..MOST_VALUES as f64).contains(&steps)) {
        return Err(format!(
            "a step above 0 has to lead from the first to the last of at most {MOST_VALUES} values"
        ));
    }
    // Multiples of a decimal step are the decimal numbers nearest to them: 0.3, not 0.30000000000000004.
    let digits = (12.0 - from.abs().max(to.abs()).max(step).log10().ceil()).clamp(0.0, 300.0) as usize;
    // Zero has no sign.
    let rounded = |value: f64| format!("{value:.digits$}").parse().unwrap_or(value) + 0.0;
    Ok((0..=steps as usize).map(|index| rounded(from + index as f64 * step)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_a_range_or_a_list() {
        let values = |text: &str| text.parse::<Sweep>().map(|sweep| sweep.values);
        assert_eq!(values("scale=0.2:0.6:0.1"), Ok(vec![0.2, 0.3, 0.4, 0.5, 0.6]));
        assert_eq!(values("scale=-0.2:0.1:0.1"), Ok(vec![-0.2, -0.1, 0.0, 0.1]));
        assert_eq!(values("t=0:1:0.3"), Ok(vec![0.0, 0.3, 0.6, 0.9]));
        assert_eq!(values("fraction=1e-6:3e-6:1e-6"), Ok(vec![1e-6, 2e-6, 3e-6]));
        assert_eq!(values("scale=1e-16:3e-16:1e-16"), Ok(vec![1e-16, 2e-16, 3e-16]));
        let around_zero = values("scale=-0.9:0.9:0.3").unwrap();
        assert_eq!(around_zero, [-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9]);
        assert!(around_zero[3].is_sign_positive());
        assert_eq!(values("scale=-1, 2"), Ok(vec![-1.0, 2.0]));
        assert_eq!(values("density=1:1:1"), Ok(vec![1.0]));
    }

    #[test]
    fn other_texts_are_refused() {
        let reason = |text: &str| text.parse::<Sweep>().unwrap_err();
        for text in ["scale", "scale=", "scale=1:2", "scale=a,b", "scale=nan", "scale=1:2:3:4"] {
            assert!(reason(text).starts_with("use KEY=FROM:TO:STEP"), "{text}: {}", reason(text));
        }
        for text in ["scale=1:2:0", "scale=2:1:1", "scale=0:1:1e-9", "scale=0:1e300:1e-300"] {
            assert!(reason(text).starts_with("a step above 0"), "{text}: {}", reason(text));
        }
        let long: Vec<String> = (0..1001).map(|value| value.to_string()).collect();
        assert!(reason(&format!("scale={}", long.join(","))).starts_with("at most 1000"));
        assert!(reason("weight=1").starts_with("what can be tried"));
        assert_eq!(reason("t=0:2:1"), "t is from 0 to 1");
        assert_eq!(reason("scale=1,2,1"), "1 is there twice");
    }
}
