//! Measures of how much a parameter matters to a task, from what a probe leaves behind: the paper's, and others to compare
//! with it.

use serde::{Deserialize, Serialize};

/// How a parameter has moved in a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// θ − θ0.
    pub movement: f32,
    /// Σ |Δθ| over the steps: the length of the way.
    pub path: f32,
    /// AdamW's first moment: the mean of the last gradients.
    pub gradient: f32,
    /// AdamW's second moment: the mean of their squares.
    pub square: f32,
}

/// A measure of importance. Only its order among the parameters counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saliency {
    /// |θ − θ0|, the paper's.
    Net,
    /// Σ |Δθ|.
    Path,
    /// The second moment, which is the empirical Fisher information of the last 1/(1−β2) steps.
    Fisher,
    /// |θ − θ0| · |first moment|: the change of the loss to first order (as in arXiv 1810.02340).
    NetGradient,
    /// |θ − θ0| / Σ |Δθ|: movement beside its noise. Steps of one size in random directions come to a share of 1/√steps.
    NetPath,
    /// |θ − θ0| · √(second moment), the movement weighted by the Fisher information: the root of the change of the loss to
    /// second order. AdamW divides every movement by that root, which is undone here.
    FisherNet,
    /// |θ − θ0| / √(second moment): movement relative to the gradients.
    NetPerRoot,
}

impl Saliency {
    /// All, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Net,
        Self::Path,
        Self::Fisher,
        Self::NetGradient,
        Self::NetPath,
        Self::FisherNet,
        Self::NetPerRoot,
    ];

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Path => "path",
            Self::Fisher => "fisher",
            Self::NetGradient => "net-gradient",
            Self::NetPath => "net-path",
            Self::FisherNet => "fisher-net",
            Self::NetPerRoot => "net-per-root",
        }
    }

    /// What it is, as a formula: Δ is the movement, m and v are AdamW's moments.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Net => "|Δ|",
            Self::Path => "Σ |step|",
            Self::Fisher => "v",
            Self::NetGradient => "|Δ| · |m|",
            Self::NetPath => "|Δ| / Σ |step|",
            Self::FisherNet => "|Δ| · √v",
            Self::NetPerRoot => "|Δ| / √v",
        }
    }

    /// The importance of a parameter, not negative; 0 where it has not moved.
    pub fn of(self, moved: Moved) -> f32 {
        let Moved { movement, path, gradient, square } = moved;
        let net = movement.abs();
        let ratio =
            |divisor: f32| if net > 0.0 && divisor > 0.0 { (net / divisor).min(f32::MAX) } else { 0.0 };
        match self {
            Self::Net => net,
            Self::Path => path,
            Self::Fisher => square,
            Self::NetGradient => net * gradient.abs(),
            Self::NetPath => ratio(path),
            Self::FisherNet => fisher_net(movement, square),
            Self::NetPerRoot => ratio(square.sqrt()),
        }
    }
}

/// [`Saliency::FisherNet`] of a movement and the second moment.
pub fn fisher_net(movement: f32, square: f32) -> f32 {
    movement.abs() * square.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_their_formulas_and_never_nan() {
        let moved = Moved { movement: -3.0, path: 12.0, gradient: -0.5, square: 4.0 };
        let values = Saliency::ALL.map(|saliency| saliency.of(moved));
        assert_eq!(values, [3.0, 12.0, 4.0, 1.5, 0.25, 6.0, 1.5]);
        let still = Moved { movement: 0.0, path: 0.0, gradient: 0.0, square: 0.0 };
        assert_eq!(Saliency::ALL.map(|saliency| saliency.of(still)), [0.0; 7]);
        let extreme = Moved { movement: 3e38, path: 1e-45, gradient: 0.0, square: 1e-45 };
        assert!(Saliency::ALL.iter().all(|saliency| saliency.of(extreme).is_finite()));
    }

    #[test]
    fn names_are_those_of_the_files() {
        for saliency in Saliency::ALL {
            assert_eq!(serde_json::to_string(&saliency).unwrap(), format!("{:?}", saliency.name()));
        }
    }
}
