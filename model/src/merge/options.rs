//! What a person asks for, and what it means for each tensor.

use std::path::PathBuf;

use super::method::{GramRule, How, Keep, Method, Rescale, Term, Updates};
use crate::checkpoint::WeightType;
use crate::error::{Error, Result};

/// Angles below this, in radians, are interpolated linearly where the models are folded: docs/algorithm.md, stage 3.
const SMALLEST_ANGLE: f64 = 1e-6;

/// A merge of models by one method.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// The base: what updates are differences from, and whose configuration and tokenizer the merged model has. Without one
    /// it is the first model.
    pub base: Option<PathBuf>,
    /// The models, each with its weight.
    pub models: Vec<(PathBuf, f64)>,
    /// The method.
    pub method: Method,
    /// Its numbers.
    pub parameters: Parameters,
    /// The type of the merged floats; that of the inputs when not given.
    pub dtype: Option<WeightType>,
    /// Bytes above which the weights are split into several files.
    pub shard_bytes: u64,
}

/// Numbers of methods; what is not given has the method's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// Share of the model in a spherical interpolation with the base.
    pub t: Option<f64>,
    /// Cosines of a larger magnitude are interpolated linearly.
    pub dot_threshold: Option<f64>,
    /// λ.
    pub scale: Option<f64>,
    /// Share of each update that takes part.
    pub density: Option<f64>,
    /// Share of each update, its largest magnitudes, that is dropped.
    pub gamma: Option<f64>,
    /// How far the probability of the largest coordinates of a row is above the density.
    pub epsilon: Option<f64>,
    /// Share of all parameters that are in a core.
    pub fraction: Option<f64>,
    /// What becomes of an update that lost coordinates.
    pub rescale: Option<Rescale>,
    /// Whether sums are divided by those of the weights.
    pub normalize: Option<bool>,
    /// What random choices follow from.
    pub seed: u64,
}

/// Share of each update that takes part, as in training.
pub const DENSITY: f64 = 0.2;

/// The same of breadcrumbs, and what of the largest they drop.
pub const BREADCRUMBS: (f64, f64) = (0.9, 0.01);

/// How far the probability of della's largest coordinates is above the density, as in mergekit.
pub const EPSILON: f64 = 0.15;

/// How often the mean on the sphere is improved at most, as in mergekit.
const KARCHER_ITERATIONS: usize = 10;

/// Share of all parameters that are in a core, as in training.
pub const FRACTION: f64 = 0.01;

/// Cosine from which on a spherical interpolation is linear, as in mergekit.
pub const DOT_THRESHOLD: f64 = 0.9995;

impl MergeRequest {
    /// The folders to be read, that of the base first where it takes part.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let models = self.models.iter().map(|(folder, _)| folder.clone());
        self.base.clone().into_iter().chain(models).collect()
    }

    /// Fails where method, models and numbers do not fit together.
    pub(super) fn check(&self) -> Result<()> {
        let (method, count) = (self.method, self.models.len());
        let name = method.name();
        let refuse = |key: &str, reason: String| Err(Error::setting(key, reason));
        if method.needs_base() && self.base.is_none() {
            return refuse("--base", format!("{name} merges updates, differences from a base: name it"));
        }
        let least = match (method, self.base.is_some()) {
            (Method::Slerp | Method::Karcher, false) => 2,
            (Method::DeltaSlerp | Method::ModelStock | Method::Nuslerp, _) => 2,
            _ => 1,
        };
        if method == Method::Nuslerp && count > 2 {
            return refuse("MODEL", format!("{name} interpolates two models, {count} given"));
        }
        if count < least {
            return refuse("MODEL", format!("{name} needs at least {least}, {count} given"));
        }
        let is_between = count + usize::from(self.base.is_some()) == 2;
        if self.parameters.t.is_some() && !(method == Method::Slerp && is_between) {
            return refuse(
                "--t",
                "is for --method slerp with two models, the base being one of them".to_owned(),
            );
        }
        let is_pair = method == Method::Slerp && is_between;
        if self.parameters.dot_threshold.is_some() && !is_pair {
            return refuse(
                "--dot-threshold",
                "is for --method slerp with two models, the base being one of them".to_owned(),
            );
        }
        if is_pair && self.models.iter().any(|(_, weight)| *weight != 1.0) {
            return refuse("MODEL", "has a weight, but two models are interpolated by --t".to_owned());
        }
        let is_breadcrumbs = matches!(method, Method::Breadcrumbs | Method::BreadcrumbsTies);
        let is_della = matches!(method, Method::Della | Method::DellaLinear);
        let is_sparse =
            is_breadcrumbs || is_della || matches!(method, Method::Ties | Method::Dare | Method::DareTies);
        let is_sum = is_sparse || method == Method::Arithmetic;
        let unused = [
            ("--scale", self.parameters.scale.is_some() && !is_sum),
            ("--density", self.parameters.density.is_some() && !is_sparse && method != Method::Sce),
            ("--epsilon", self.parameters.epsilon.is_some() && !is_della),
            ("--gamma", self.parameters.gamma.is_some() && !is_breadcrumbs),
            ("--fraction", self.parameters.fraction.is_some() && method != Method::Cpift),
            ("--rescale", self.parameters.rescale.is_some() && !is_sparse),
            ("--normalize", self.parameters.normalize.is_some() && !is_sum && method != Method::Average),
        ];
        if let Some((key, _)) = unused.iter().find(|(_, unused)| *unused) {
            return refuse(key, format!("is not used by --method {name}: leave it out"));
        }
        let weights = self.models.iter().map(|(_, weight)| *weight);
        let is_divided = method == Method::Average && self.parameters.normalize != Some(false);
        if is_divided && weights.clone().sum::<f64>().abs() < 1e-8 {
            return refuse("MODEL", "the weights add up to 0, so there is no mean".to_owned());
        }
        let density = self.parameters.density.unwrap_or(DENSITY);
        let epsilon = self.parameters.epsilon.unwrap_or(EPSILON);
        let is_inside = density > epsilon && density + epsilon < 1.0;
        if is_della && density > 0.0 && density < 1.0 && !is_inside {
            let reason = format!("{density} ± {epsilon} is to be between 0 and 1: use a smaller one");
            return refuse("--epsilon", reason);
        }
        let is_unweighted =
            matches!(method, Method::Cpift | Method::Sce | Method::ModelStock | Method::Karcher);
        if is_unweighted && weights.clone().any(|weight| weight != 1.0) {
            return refuse("MODEL", format!("has a weight, but {name} knows none: leave it out"));
        }
        let is_folded = method == Method::DeltaSlerp || (method == Method::Slerp && !is_pair);
        if is_folded && weights.clone().any(|weight| weight <= 0.0) {
            return refuse("MODEL", format!("{name} needs weights above 0"));
        }
        Ok(())
    }

    /// How a tensor of this name is made of all folders; which of them take part, from the first on.
    pub(super) fn how(&self, tensor: &str) -> (How, Vec<usize>) {
        let Parameters {
            t,
            dot_threshold,
            scale,
            density,
            gamma,
            epsilon,
            fraction,
            rescale,
            normalize,
            seed,
        } = self.parameters.clone();
        let weights: Vec<f64> = self.models.iter().map(|(_, weight)| *weight).collect();
        let base = usize::from(self.base.is_some());
        let all: Vec<usize> = (0..base + weights.len()).collect();
        let models = all[base..].to_vec();
        let is_breadcrumbs = matches!(self.method, Method::Breadcrumbs | Method::BreadcrumbsTies);
        let default = if is_breadcrumbs { BREADCRUMBS.0 } else { DENSITY };
        let share = density.unwrap_or(if self.method == Method::Sce { 1.0 } else { default });
        let density = share;
        let keep = |model: usize| match self.method {
            _ if density <= 0.0 && self.method != Method::Arithmetic => Keep::None,
            _ if is_breadcrumbs && density < 1.0 => {
                Keep::Band { share: density, dropped: gamma.unwrap_or(BREADCRUMBS.1) }
            }
            Method::Della | Method::DellaLinear if density < 1.0 => Keep::Ranked {
                share: density,
                spread: epsilon.unwrap_or(EPSILON),
                seed: seed_of(seed, model, tensor),
            },
            Method::Ties if density < 1.0 => Keep::Largest(density),
            Method::Dare | Method::DareTies if density < 1.0 => {
                Keep::Random { share: density, seed: seed_of(seed, model, tensor) }
            }
            _ => Keep::All,
        };
        let updates = |rescale_default, elect, normalize_default| {
            let term = |(model, weight): (usize, &f64)| Term { weight: *weight, keep: keep(model) };
            How::Updates(Updates {
                terms: weights.iter().enumerate().map(term).collect(),
                rescale: rescale.unwrap_or(rescale_default),
                elect,
                normalize: normalize.unwrap_or(normalize_default),
                scale: scale.unwrap_or(1.0),
            })
        };
        match self.method {
            Method::Average => (How::Linear { weights, normalize: normalize.unwrap_or(true) }, models),
            Method::Slerp if all.len() == 2 => {
                let (t, dot_threshold) = (t.unwrap_or(0.5), dot_threshold.unwrap_or(DOT_THRESHOLD));
                (How::Slerp { t, dot_threshold }, all)
            }
            Method::Slerp => (How::Fold { delta: false, weights, epsilon: SMALLEST_ANGLE }, models),
            Method::DeltaSlerp => (How::Fold { delta: true, weights, epsilon: SMALLEST_ANGLE }, all),
            Method::Cpift => (How::Cpift { fraction: fraction.unwrap_or(FRACTION) }, all),
            Method::Della => (updates(Rescale::Norm, true, true), all),
            Method::DellaLinear => (updates(Rescale::Norm, false, false), all),
            Method::Breadcrumbs => (updates(Rescale::None, false, false), all),
            Method::BreadcrumbsTies => (updates(Rescale::None, true, false), all),
            Method::Sce => (How::Sce { share }, all),
            Method::ModelStock => (How::Gram(GramRule::ModelStock), all),
            // Also of the base, where it is named.
            Method::Karcher => (How::Gram(GramRule::Karcher { iterations: KARCHER_ITERATIONS }), all),
            Method::Nuslerp => {
                let sum: f64 = weights.iter().sum();
                let t = if sum.abs() < 1e-6 { 0.5 } else { weights[1] / sum };
                (How::Nuslerp { t, delta: base == 1 }, all)
            }
            Method::Arithmetic => (updates(Rescale::None, false, false), all),
            Method::Ties => (updates(Rescale::None, true, true), all),
            Method::Dare => (updates(Rescale::Norm, false, false), all),
            Method::DareTies => (updates(Rescale::Norm, true, false), all),
        }
    }
}

/// Seed of what is drawn for one tensor of one model.
pub(super) fn seed_of(seed: u64, model: usize, tensor: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"cpift-engine merge 1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(model as u64).to_le_bytes());
    hasher.update(tensor.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
