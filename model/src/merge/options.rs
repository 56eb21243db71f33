//! What a person asks for, and what it means for each tensor.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use super::layers::LayerName;
use super::matching::Matched;
use super::method::{GramRule, How, Keep, Method, Rescale, Term, Updates};
use super::settings::{Interpolate, Parameters, Position, Setting, first};
use super::vocabulary::Vocabulary;
use crate::checkpoint::WeightType;
use crate::error::{Error, Result};

/// Angles below this, in radians, are interpolated linearly where the models are folded: docs/algorithm.md, stage 3.
const SMALLEST_ANGLE: f64 = 1e-6;

/// A merge of models by one method.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// The folders of all models. The merged model has the configuration and the licences of the first.
    pub models: Vec<PathBuf>,
    /// What is merged: of whole models one slice, else the merged model's layers from the first on.
    pub slices: Vec<OutputSlice>,
    /// The method.
    pub method: Method,
    /// Its numbers, where neither a source nor a slice says otherwise.
    pub parameters: Parameters,
    /// What random choices follow from.
    pub seed: u64,
    /// What becomes of tokens that not all models have, or that have other numbers.
    pub vocabulary: Vocabulary,
    /// A chat template in the place of the first model's.
    pub chat_template: Option<String>,
    /// The type of the merged floats; that of the inputs when not given.
    pub dtype: Option<WeightType>,
    /// Bytes above which the weights are split into several files.
    pub shard_bytes: u64,
    /// The configuration of mergekit that asks for it, if one does: every number that has no default is then said.
    pub configuration: Option<PathBuf>,
    /// For every model, the line of the configuration that first names it, and its key there; empty without one.
    pub places: Vec<(usize, String)>,
    /// The line and the key of the configuration that says whose tokenizer the merged model has.
    pub tokenizer_place: Option<(usize, String)>,
    /// What a person should know about what was asked for, a line each.
    pub notices: Vec<String>,
}

/// A part of the merged model, from the same tensors or as many layers of every source.
#[derive(Debug, Clone, Default)]
pub struct OutputSlice {
    /// What it is made of.
    pub sources: Vec<InputSlice>,
    /// Number of the source that updates are differences from, where there is one.
    pub base: Option<usize>,
    /// Number of the model whose rows tokens have that another model lacks.
    pub preferred: Option<usize>,
    /// Numbers of the method for this slice.
    pub parameters: Parameters,
}

/// What a slice takes of one model.
#[derive(Debug, Clone, Default)]
pub struct InputSlice {
    /// Number of the model among those of the request.
    pub model: usize,
    /// Its layers; all of it where none are named.
    pub layers: Option<Range<usize>>,
    /// Numbers of the method for this model.
    pub parameters: Parameters,
}

impl MergeRequest {
    /// A merge of whole models, each with its weight. The base is what updates are differences from, and whose configuration
    /// and tokenizer the merged model has; without one that is the first model.
    pub fn of_models(
        method: Method,
        base: Option<PathBuf>,
        models: Vec<(PathBuf, f64)>,
        parameters: Parameters,
    ) -> Self {
        // Of a method that knows no updates, the base takes part as one of two, or not at all.
        let takes_part = base.is_some()
            && match method {
                Method::Average | Method::Passthrough => false,
                Method::Slerp => models.len() == 1,
                _ => true,
            };
        let first = usize::from(base.is_some());
        let source = |(index, (_, weight)): (usize, &(PathBuf, f64))| InputSlice {
            model: first + index,
            parameters: Parameters { weight: Some((*weight).into()), ..Parameters::default() },
            ..InputSlice::default()
        };
        let base_source = takes_part.then(InputSlice::default);
        let slice = OutputSlice {
            sources: base_source.into_iter().chain(models.iter().enumerate().map(source)).collect(),
            base: takes_part.then_some(0),
            preferred: base.is_some().then_some(0),
            parameters: Parameters::default(),
        };
        Self {
            models: base.into_iter().chain(models.into_iter().map(|(folder, _)| folder)).collect(),
            slices: vec![slice],
            method,
            parameters,
            seed: 0,
            vocabulary: Vocabulary::default(),
            chat_template: None,
            dtype: None,
            shard_bytes: super::DEFAULT_SHARD_BYTES,
            configuration: None,
            places: Vec::new(),
            tokenizer_place: None,
            notices: Vec::new(),
        }
    }
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
    /// An error of a setting, with the configuration that has it.
    pub(super) fn locate(&self, error: Error) -> Error {
        match (error, &self.configuration) {
            (Error::Setting { key, reason }, Some(file)) => Error::format(file, format!("`{key}`: {reason}")),
            (error, _) => error,
        }
    }

    /// An error of opening a model, with the line and the key of the configuration that names it.
    pub fn locate_model(&self, model: usize, error: Error) -> Error {
        self.locate_at(self.places.get(model), error)
    }

    /// An error of the tokenizer that the merged model is to have, in the same way.
    pub fn locate_tokenizer(&self, error: Error) -> Error {
        self.locate_at(self.tokenizer_place.as_ref(), error)
    }

    fn locate_at(&self, place: Option<&(usize, String)>, error: Error) -> Error {
        match (&self.configuration, place) {
            (Some(file), Some((line, key))) if error.is_input() => {
                Error::line(file, *line, format!("`{key}`: {error}"))
            }
            _ => error,
        }
    }

    /// Fails where method, models and options do not fit together. A configuration was checked where it was read.
    pub(super) fn check(&self) -> Result<()> {
        let ([slice], None) = (self.slices.as_slice(), &self.configuration) else { return Ok(()) };
        let (method, all) = (self.method, slice.sources.len());
        let name = method.name();
        let refuse = |key: &str, reason: String| Err(Error::setting(key, reason));
        if method.needs_base() && slice.base.is_none() {
            return refuse("--base", format!("{name} merges updates, differences from a base: name it"));
        }
        let models = all - usize::from(slice.base.is_some());
        let (count, least) = match method {
            Method::Slerp | Method::Karcher => (all, 2),
            Method::DeltaSlerp | Method::ModelStock | Method::Nuslerp => (models, 2),
            _ => (models, 1),
        };
        if method == Method::Nuslerp && count > 2 {
            return refuse("MODEL", format!("{name} interpolates two models, {count} given"));
        }
        if method == Method::Passthrough && count > 1 {
            return refuse("MODEL", format!("{name} takes one model, {count} given"));
        }
        if count < least {
            return refuse("MODEL", format!("{name} needs at least {least}, {count} given"));
        }
        let is_pair = method == Method::Slerp && self.is_pair(slice);
        let unused = [
            ("--t", self.parameters.t.is_some() && !is_pair),
            ("--dot-threshold", self.parameters.dot_threshold.is_some() && !is_pair),
        ];
        if let Some((key, _)) = unused.iter().find(|(_, unused)| *unused) {
            let reason = "is for --method slerp with two models, the base being one of them";
            return refuse(key, reason.to_owned());
        }
        let is_weighted =
            |source: &InputSlice| source.parameters.weight.as_ref().is_some_and(|w| *w != 1.0.into());
        let is_weighted = slice.sources.iter().any(is_weighted);
        if is_pair && is_weighted {
            return refuse("MODEL", "has a weight, but two models are interpolated by --t".to_owned());
        }
        let is_sparse = method.is_sparse();
        let is_sum = is_sparse || method == Method::Arithmetic;
        let unused = [
            ("--scale", self.parameters.scale.is_some() && !is_sum),
            ("--density", self.parameters.density.is_some() && !is_sparse && method != Method::Sce),
            ("--epsilon", self.parameters.epsilon.is_some() && !method.is_della()),
            ("--gamma", self.parameters.gamma.is_some() && !method.is_breadcrumbs()),
            ("--fraction", self.parameters.fraction.is_some() && method != Method::Cpift),
            ("--rescale", self.parameters.rescale.is_some() && !is_sparse),
            ("--normalize", self.parameters.normalize.is_some() && !is_sum && method != Method::Average),
        ];
        if let Some((key, _)) = unused.iter().find(|(_, unused)| *unused) {
            return refuse(key, format!("is not used by --method {name}: leave it out"));
        }
        let is_unweighted =
            matches!(method, Method::Cpift | Method::Sce | Method::ModelStock | Method::Karcher);
        let is_ordered = !matches!(self.vocabulary, Vocabulary::Strict | Vocabulary::ByNumber);
        if method == Method::Cpift && is_ordered {
            return refuse("--vocabulary", format!("{name} fuses models with one tokenizer: leave it out"));
        }
        if is_unweighted && is_weighted {
            return refuse("MODEL", format!("has a weight, but {name} knows none: leave it out"));
        }
        Ok(())
    }

    /// Whether two models are all there is, so that one is interpolated with the other by a share and not by weights. A base
    /// that is no source is a third.
    fn is_pair(&self, slice: &OutputSlice) -> bool {
        slice.sources.len() == 2 && (self.configuration.is_some() || self.models.len() == 2)
    }

    /// How a tensor is made of a slice's sources; which of them take part, in the method's order.
    ///
    /// # Errors
    /// A number that the method cannot be computed with, or that is missing.
    pub(super) fn how(&self, slice: &OutputSlice, tensor: &Matched) -> Result<(How, Vec<usize>)> {
        let numbers = Numbers { request: self, slice, tensor };
        let is_model = |source: &usize| Some(*source) != slice.base;
        let models: Vec<usize> = (0..slice.sources.len()).filter(is_model).collect();
        let all: Vec<usize> = slice.base.into_iter().chain(models.iter().copied()).collect();
        let is_alone = match (all.as_slice(), models.as_slice()) {
            (_, []) => true,
            ([_], _) => self.method == Method::Karcher,
            _ => false,
        };
        if is_alone {
            return Ok((How::Scaled { factor: 1.0 }, all));
        }
        let how = match self.method {
            Method::Average => {
                let weights = numbers.weights(&all)?;
                let normalize = numbers.shared(|level| &level.normalize).unwrap_or(true);
                if normalize && weights.iter().sum::<f64>().abs() < 1e-8 {
                    return Err(numbers.refuse("weight", "the weights add up to 0, so there is no mean"));
                }
                How::Linear { weights, normalize }
            }
            Method::Passthrough => {
                How::Scaled { factor: numbers.of(models[0], |level| &level.weight).unwrap_or(1.0) }
            }
            Method::Slerp if self.is_pair(slice) => How::Slerp {
                t: numbers.required("t", numbers.shared(|level| &level.t), 0.5)?,
                dot_threshold: numbers.shared(|level| &level.dot_threshold).unwrap_or(DOT_THRESHOLD),
            },
            Method::Slerp | Method::DeltaSlerp => {
                let weights = numbers.weights(&models)?;
                if weights.iter().any(|weight| *weight <= 0.0) {
                    let reason = format!("{} needs weights above 0", self.method.name());
                    return Err(numbers.refuse("weight", reason));
                }
                How::Fold { delta: self.method == Method::DeltaSlerp, weights, epsilon: SMALLEST_ANGLE }
            }
            Method::Cpift => {
                How::Cpift { fraction: numbers.shared(|level| &level.fraction).unwrap_or(FRACTION) }
            }
            Method::Sce => How::Sce { share: numbers.shared(|level| &level.density).unwrap_or(1.0) },
            Method::ModelStock => How::Gram(GramRule::ModelStock),
            // Also of the base, where it is a source.
            Method::Karcher => {
                let iterations = numbers.shared(|level| &level.iterations);
                let iterations = iterations.map_or(KARCHER_ITERATIONS, |count| count.max(0.0) as usize);
                How::Gram(GramRule::Karcher { iterations })
            }
            Method::Nuslerp => {
                let weights = numbers.weights(&models)?;
                let sum: f64 = weights.iter().sum();
                let t = if sum.abs() < 1e-6 { 0.5 } else { weights[1] / sum };
                How::Nuslerp { t, delta: slice.base.is_some() }
            }
            Method::Arithmetic => numbers.updates(&models, Rescale::None, false, false)?,
            Method::Ties => numbers.updates(&models, Rescale::None, true, true)?,
            Method::Dare => numbers.updates(&models, Rescale::Norm, false, false)?,
            Method::DareTies => numbers.updates(&models, Rescale::Norm, true, false)?,
            Method::Della => numbers.updates(&models, Rescale::Norm, true, true)?,
            Method::DellaLinear => numbers.updates(&models, Rescale::Norm, false, false)?,
            Method::Breadcrumbs => numbers.updates(&models, Rescale::None, false, false)?,
            Method::BreadcrumbsTies => numbers.updates(&models, Rescale::None, true, false)?,
        };
        Ok((how, all))
    }
}

/// The numbers of one tensor.
struct Numbers<'a> {
    request: &'a MergeRequest,
    slice: &'a OutputSlice,
    tensor: &'a Matched,
}

impl Numbers<'_> {
    /// One for all sources.
    fn shared<T: Interpolate>(&self, field: impl Fn(&Parameters) -> &Option<Setting<T>>) -> Option<T> {
        let position = Position { name: &self.tensor.name, depth: self.tensor.depth };
        first(&[&self.slice.parameters, &self.request.parameters], field, position)
    }

    /// One source's.
    fn of<T: Interpolate>(
        &self,
        source: usize,
        field: impl Fn(&Parameters) -> &Option<Setting<T>>,
    ) -> Option<T> {
        let own = &self.slice.sources[source].parameters;
        let position = Position { name: &self.name_in(source), depth: self.tensor.depth };
        first(&[own, &self.slice.parameters, &self.request.parameters], field, position)
    }

    /// The merged model's name of a tensor with the number of the layer that a source's is in. A source may have the tensor
    /// under another name, as an embedding that is its head, and filters do not know of that.
    fn name_in(&self, source: usize) -> Cow<'_, str> {
        match (LayerName::of(&self.tensor.name), LayerName::of(&self.tensor.names[source])) {
            (Some(merged), Some(own)) => {
                Cow::Owned(format!("{}.{}.{}", merged.prefix, own.layer, merged.rest))
            }
            _ => Cow::Borrowed(&self.tensor.name),
        }
    }

    /// An error that names the option, or the key of the configuration.
    fn refuse(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        match &self.request.configuration {
            Some(file) => Error::format(file, format!("`{key}` of `{}`: {reason}", self.tensor.name)),
            None if key == "weight" => Error::setting("MODEL", reason.to_string()),
            None => Error::setting(format!("--{key}"), reason.to_string()),
        }
    }

    /// A number that has a default on the command line only.
    fn required(&self, key: &str, value: Option<f64>, default: f64) -> Result<f64> {
        match value {
            None if self.request.configuration.is_some() => Err(self.refuse(key, "no value is given")),
            value => Ok(value.unwrap_or(default)),
        }
    }

    fn weights(&self, sources: &[usize]) -> Result<Vec<f64>> {
        let weight = |source: &usize| {
            let model = self.slice.sources[*source].model;
            let value = self.of(*source, |level| &level.weight);
            self.required("weight", value, 1.0).map_err(|_| {
                let folder = self.request.models[model].display();
                self.refuse("weight", format!("no value is given for {folder}"))
            })
        };
        sources.iter().map(weight).collect()
    }

    /// A sum of updates; whether what was drawn is scaled up, signs are elected and the sum is divided, where nothing else
    /// is asked for.
    fn updates(&self, models: &[usize], rescale: Rescale, elect: bool, normalize: bool) -> Result<How> {
        let weights = self.weights(models)?;
        let term = |((number, source), weight): ((usize, &usize), f64)| {
            Ok(Term { weight, keep: self.keep(number, *source)? })
        };
        Ok(How::Updates(Updates {
            terms: models.iter().enumerate().zip(weights).map(term).collect::<Result<_>>()?,
            rescale: self.shared(|level| &level.rescale).unwrap_or(rescale),
            elect,
            normalize: self.shared(|level| &level.normalize).unwrap_or(normalize),
            scale: self.shared(|level| &level.scale).unwrap_or(1.0),
        }))
    }

    /// Which coordinates of a source's update take part, the source being the model of this number.
    fn keep(&self, number: usize, source: usize) -> Result<Keep> {
        let method = self.request.method;
        let default = if method.is_breadcrumbs() { BREADCRUMBS.0 } else { DENSITY };
        let share = self.of(source, |level| &level.density).unwrap_or(default);
        let seed = || seed_of(self.request.seed, number, &self.tensor.name);
        Ok(match method {
            Method::Arithmetic => Keep::All,
            _ if share <= 0.0 => Keep::None,
            _ if share >= 1.0 => Keep::All,
            _ if method.is_breadcrumbs() => {
                let dropped = self.of(source, |level| &level.gamma).unwrap_or(BREADCRUMBS.1);
                Keep::Band { share, dropped }
            }
            _ if method.is_della() => {
                let spread = self.of(source, |level| &level.epsilon).unwrap_or(EPSILON);
                if !(share > spread && share + spread < 1.0) {
                    let reason = format!("{share} ± {spread} is to be between 0 and 1: use a smaller one");
                    return Err(self.refuse("epsilon", reason));
                }
                Keep::Ranked { share, spread, seed: seed() }
            }
            Method::Dare | Method::DareTies => Keep::Random { share, seed: seed() },
            _ => Keep::Largest(share),
        })
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
