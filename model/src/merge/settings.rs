//! Numbers of methods, which may differ from tensor to tensor.

use super::method::Rescale;

/// What a number or a switch is, for every tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting<T> {
    /// The same for all.
    Same(T),
    /// Values from the first layer to the last, and between them what is between two of these. A switch is the one before.
    Gradient(Vec<T>),
    /// The first of these whose filter a tensor's name contains.
    Conditions(Vec<Condition<T>>),
}

/// A value for tensors whose name contains something.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition<T> {
    /// What; without one it is for all tensors.
    pub filter: Option<String>,
    /// One value, or a gradient.
    pub values: Vec<T>,
}

/// A tensor that is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position<'a> {
    pub name: &'a str,
    /// Where its layer is: 0 the first, 1 the last; 0 for tensors outside layers.
    pub depth: f64,
}

/// What may stand between two values of a gradient.
pub trait Interpolate: Copy {
    /// The value behind `self` by this share of the way to the next.
    fn between(self, next: Self, share: f64) -> Self;
}

impl Interpolate for f64 {
    fn between(self, next: Self, share: f64) -> Self {
        (1.0 - share) * self + share * next
    }
}

impl Interpolate for bool {
    fn between(self, _: Self, _: f64) -> Self {
        self
    }
}

impl Interpolate for Rescale {
    fn between(self, _: Self, _: f64) -> Self {
        self
    }
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self::Same(value)
    }
}

impl<T: Interpolate> Setting<T> {
    /// What it is for a tensor, where it says so.
    pub(super) fn at(&self, position: Position<'_>) -> Option<T> {
        match self {
            Self::Same(value) => Some(*value),
            Self::Gradient(values) => gradient(values, position.depth),
            Self::Conditions(conditions) => {
                let holds = |condition: &&Condition<T>| match condition.filter.as_deref() {
                    None | Some("*") => true,
                    Some(filter) => position.name.contains(filter),
                };
                gradient(&conditions.iter().find(holds)?.values, position.depth)
            }
        }
    }

    /// The same, and for tensors that it says nothing of this value.
    pub(super) fn or(self, value: T) -> Self {
        match self {
            Self::Gradient(values) if values.is_empty() => Self::Same(value),
            Self::Conditions(mut conditions) => {
                conditions.push(Condition { filter: None, values: vec![value] });
                Self::Conditions(conditions)
            }
            other => other,
        }
    }

    /// All values that are named.
    pub(super) fn values(&self) -> Vec<T> {
        match self {
            Self::Same(value) => vec![*value],
            Self::Gradient(values) => values.clone(),
            Self::Conditions(conditions) => {
                conditions.iter().flat_map(|condition| condition.values.iter().copied()).collect()
            }
        }
    }
}

/// What is at a depth from 0 to 1, the values being at equal distances.
fn gradient<T: Interpolate>(values: &[T], depth: f64) -> Option<T> {
    let last = values.len().checked_sub(1)?;
    let place = depth * last as f64;
    let index = (place as usize).min(last);
    Some(values[index].between(values[last.min(index + 1)], place - index as f64))
}

/// Numbers of methods at one level of a request; what no level says has the method's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// Weight of a model.
    pub weight: Option<Setting<f64>>,
    /// Share of the model in a spherical interpolation with the base.
    pub t: Option<Setting<f64>>,
    /// Cosines of a larger magnitude are interpolated linearly.
    pub dot_threshold: Option<Setting<f64>>,
    /// λ.
    pub scale: Option<Setting<f64>>,
    /// Share of each update that takes part.
    pub density: Option<Setting<f64>>,
    /// Share of each update, its largest magnitudes, that is dropped.
    pub gamma: Option<Setting<f64>>,
    /// How far the probability of the largest coordinates of a row is above the density.
    pub epsilon: Option<Setting<f64>>,
    /// Share of all parameters that are in a core.
    pub fraction: Option<Setting<f64>>,
    /// How often the mean on the sphere is improved at most.
    pub iterations: Option<Setting<f64>>,
    /// What becomes of an update that lost coordinates.
    pub rescale: Option<Setting<Rescale>>,
    /// Whether sums are divided by those of the weights.
    pub normalize: Option<Setting<bool>>,
}

/// What the first of several levels says that says something of a tensor.
pub(super) fn first<T: Interpolate>(
    levels: &[&Parameters],
    field: impl Fn(&Parameters) -> &Option<Setting<T>>,
    position: Position<'_>,
) -> Option<T> {
    levels.iter().find_map(|level| field(level).as_ref()?.at(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<T: Interpolate>(setting: &Setting<T>, name: &str, depth: f64) -> Option<T> {
        setting.at(Position { name, depth })
    }

    #[test]
    fn gradients_reach_from_the_first_layer_to_the_last() {
        let setting = Setting::Gradient(vec![0.0, 0.5, 0.3]);
        let values: Vec<f64> =
            [0.0, 0.25, 0.5, 0.75, 1.0].map(|depth| at(&setting, "", depth).unwrap()).to_vec();
        for (value, expected) in values.iter().zip([0.0, 0.25, 0.5, 0.4, 0.3]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
        assert_eq!(at(&Setting::Gradient(vec![true, false]), "", 0.9), Some(true));
        assert_eq!(at(&Setting::Gradient(vec![true, false]), "", 1.0), Some(false));
        assert_eq!(at(&Setting::<f64>::Gradient(Vec::new()), "", 0.5), None);
        assert_eq!(at(&Setting::Gradient(vec![2.0]), "", 0.5), Some(2.0));
    }

    #[test]
    fn the_first_filter_that_holds_decides() {
        let condition = |filter: Option<&str>, values: &[f64]| Condition {
            filter: filter.map(str::to_owned),
            values: values.to_vec(),
        };
        let setting = Setting::Conditions(vec![condition(Some("mlp"), &[0.0, 1.0])]);
        assert_eq!(at(&setting, "model.layers.3.mlp.w", 0.5), Some(0.5));
        assert_eq!(at(&setting, "model.norm.weight", 0.0), None);
        assert_eq!(at(&setting.clone().or(7.0), "model.norm.weight", 0.0), Some(7.0));
        let levels = [
            &Parameters { density: Some(setting), ..Parameters::default() },
            &Parameters { density: Some(3.0.into()), ..Parameters::default() },
        ];
        let density = |name| first(&levels, |level| &level.density, Position { name, depth: 1.0 });
        assert_eq!((density("mlp"), density("norm")), (Some(1.0), Some(3.0)));
    }
}
