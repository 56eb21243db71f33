//! What can be made of the same tensor of several models.

pub use super::gram::GramRule;
use super::updates;

/// How one tensor is made, with all its numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// The first source, which all others must equal: what is no float.
    Same,
    /// The only source, times a factor.
    Scaled {
        /// The factor.
        factor: f64,
    },
    /// Σ wi·θi, over Σ wi where it is normalised.
    Linear {
        /// A weight for every source.
        weights: Vec<f64>,
        /// Whether the sum is divided by that of the weights.
        normalize: bool,
    },
    /// θ0 + λ · what is made of the updates θi − θ0; the first source is the base, θ0.
    Updates(Updates),
    /// Stage 3 of training with its defaults; the first source is the base.
    Cpift {
        /// Share of all parameters that are in a core.
        fraction: f64,
    },
    /// Spherical interpolation between two sources.
    Slerp {
        /// Share of the second.
        t: f64,
        /// Cosines of a larger magnitude are interpolated linearly.
        dot_threshold: f64,
    },
    /// The same of two sources, or of what they add to the first of three, linear only where they are collinear.
    Nuslerp {
        /// Share of the second.
        t: f64,
        /// The updates are interpolated, and the first source is the base.
        delta: bool,
    },
    /// A weighted sum of the sources, by their products.
    Gram(GramRule),
    /// The share of the coordinates whose updates vary most, weighted by the models' energies, those of the elected sign;
    /// the first source is the base.
    Sce {
        /// The share.
        share: f64,
    },
    /// B ← slerp(B, θi; wi/Σ w) over the sources, one after the other.
    Fold {
        /// The updates are folded, and the first source is the base.
        delta: bool,
        /// A weight for every source but the base.
        weights: Vec<f64>,
        /// Angles below this, in radians, are interpolated linearly.
        epsilon: f64,
    },
}

/// A sum of updates.
#[derive(Debug, Clone, PartialEq)]
pub struct Updates {
    /// What is taken of each model's update.
    pub terms: Vec<Term>,
    /// What becomes of an update that lost coordinates.
    pub rescale: Rescale,
    /// Where signs differ, only those with the sign of the sum are added up; zero counts as positive.
    pub elect: bool,
    /// Whether the sum is divided by that of the weights that took part.
    pub normalize: bool,
    /// λ.
    pub scale: f64,
}

/// One model's part of a sum of updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Its weight.
    pub weight: f64,
    /// Which coordinates take part.
    pub keep: Keep,
}

/// Which coordinates of an update take part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// All.
    All,
    /// None.
    None,
    /// This share with the largest magnitude, at least one, ties to the lower index.
    Largest(f64),
    /// This share, behind the share of largest magnitude that is dropped, or a smaller one where less is left.
    Band {
        /// What is kept.
        share: f64,
        /// What is dropped.
        dropped: f64,
    },
    /// Each with a probability by the rank of its magnitude in its row.
    Ranked {
        /// The mean probability.
        share: f64,
        /// How far that of the largest is above it, and that of the smallest below.
        spread: f64,
        /// Says which.
        seed: u64,
    },
    /// Each with this probability.
    Random {
        /// The probability.
        share: f64,
        /// Says which.
        seed: u64,
    },
}

/// What an update is multiplied by whose coordinates do not all take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescale {
    /// Nothing.
    None,
    /// The sum of magnitudes before over that after.
    Norm,
    /// One over the share that takes part.
    Density,
}

impl Rescale {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Norm, Self::Density];

    /// The name that a person gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Norm => "norm",
            Self::Density => "density",
        }
    }
}

impl Updates {
    /// Whether anything is drawn by rank.
    pub(super) fn ranks(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.keep, Keep::Ranked { .. }))
    }
}

impl How {
    /// How often the sources of a tensor of so many elements are looked at before they are combined.
    pub(super) fn looks(&self, elements: usize) -> usize {
        match self {
            Self::Same | Self::Scaled { .. } | Self::Linear { .. } | Self::Cpift { .. } => 0,
            Self::Slerp { .. } | Self::Nuslerp { .. } | Self::Gram(_) => 1,
            Self::Sce { share } => {
                if *share < 1.0 {
                    4
                } else {
                    1
                }
            }
            Self::Fold { weights, .. } => weights.len().saturating_sub(1),
            Self::Updates(updates) => updates::looks(updates, elements as u64),
        }
    }
}

/// What a person can ask for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Spherical interpolation: of base and model by `t`, or of several models one after the other.
    Slerp,
    /// The same of the models' updates.
    DeltaSlerp,
    /// A weighted mean of the models.
    Average,
    /// One model, times its weight.
    Passthrough,
    /// The base and a weighted sum of updates: task arithmetic.
    Arithmetic,
    /// The largest updates, joined by their signs.
    Ties,
    /// Random parts of the updates, scaled up.
    Dare,
    /// The same, joined by their signs.
    DareTies,
    /// Random parts of the updates, the larger ones more often, joined by their signs.
    Della,
    /// The same, summed.
    DellaLinear,
    /// The largest updates but for the very largest.
    Breadcrumbs,
    /// The same, joined by their signs.
    BreadcrumbsTies,
    /// The updates that vary most, weighted by their energies, joined by their signs.
    Sce,
    /// Between the base and the mean, as far as the updates agree.
    ModelStock,
    /// Two models, or their updates, along the arc by their weights.
    Nuslerp,
    /// The mean on the sphere.
    Karcher,
    /// Cores transplanted, the rest folded: the fusion of training.
    Cpift,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Slerp,
        Self::DeltaSlerp,
        Self::Average,
        Self::Passthrough,
        Self::Arithmetic,
        Self::Ties,
        Self::Dare,
        Self::DareTies,
        Self::Della,
        Self::DellaLinear,
        Self::Breadcrumbs,
        Self::BreadcrumbsTies,
        Self::Sce,
        Self::ModelStock,
        Self::Nuslerp,
        Self::Karcher,
        Self::Cpift,
    ];

    /// The name that a person gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slerp => "slerp",
            Self::DeltaSlerp => "delta-slerp",
            Self::Average => "average",
            Self::Passthrough => "passthrough",
            Self::Arithmetic => "arithmetic",
            Self::Ties => "ties",
            Self::Dare => "dare",
            Self::DareTies => "dare-ties",
            Self::Della => "della",
            Self::DellaLinear => "della-linear",
            Self::Breadcrumbs => "breadcrumbs",
            Self::BreadcrumbsTies => "breadcrumbs-ties",
            Self::Sce => "sce",
            Self::ModelStock => "model-stock",
            Self::Nuslerp => "nuslerp",
            Self::Karcher => "karcher",
            Self::Cpift => "cpift",
        }
    }

    /// Whether a base is needed, from which updates are differences.
    pub fn needs_base(self) -> bool {
        match self {
            Self::Slerp | Self::Average | Self::Passthrough | Self::Nuslerp | Self::Karcher => false,
            Self::DeltaSlerp
            | Self::Arithmetic
            | Self::Ties
            | Self::Dare
            | Self::DareTies
            | Self::Della
            | Self::DellaLinear
            | Self::Breadcrumbs
            | Self::BreadcrumbsTies
            | Self::Sce
            | Self::ModelStock
            | Self::Cpift => true,
        }
    }

    /// Whether what is kept of an update is drawn by rank.
    pub(super) fn is_della(self) -> bool {
        matches!(self, Self::Della | Self::DellaLinear)
    }

    /// Whether the largest coordinates of an update are dropped.
    pub(super) fn is_breadcrumbs(self) -> bool {
        matches!(self, Self::Breadcrumbs | Self::BreadcrumbsTies)
    }

    /// Whether parts of updates are summed.
    pub(super) fn is_sparse(self) -> bool {
        self.is_della() || self.is_breadcrumbs() || matches!(self, Self::Ties | Self::Dare | Self::DareTies)
    }
}
