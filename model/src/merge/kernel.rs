//! How a tensor is merged: looks at all of it for what a method must know, then one pass that combines.

use cpift_engine::ops::merge::tile as sums;
use cpift_engine::ops::slerp::tile as spherical;
use cpift_engine::ops::slerp::{Factors, Fallback, Sums};

use super::della::Drawn;
use super::gram::Gram;
use super::method::How;
use super::plan::TensorPlan;
use super::sce::Sce;
use super::tile::{Scratch, Tile};
use super::updates::UpdatesKernel;
use crate::error::Reasoned;

/// What one look saw in one tile.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    Nothing,
    Sums(Sums),
    /// How many scores of every source equal its threshold.
    Equal(Vec<u64>),
    /// Sums of products of pairs, or of squares.
    Products(Vec<f64>),
    /// Sums of magnitudes of every source's update: of all coordinates, and of those kept.
    Magnitudes(Vec<(f64, f64)>),
}

/// Merges one tensor.
pub(super) trait Kernel: Sync {
    /// Looks at a tile, as often as [`How::looks`] says.
    fn look(&self, _look: usize, _tile: &Tile<'_>, _scratch: &mut Scratch) -> Seen {
        Seen::Nothing
    }

    /// Takes what a look saw, in the order of the tiles.
    fn learn(&mut self, _look: usize, _seen: Vec<Seen>) -> Reasoned<()> {
        Ok(())
    }

    /// Combines a tile's sources.
    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]);

    /// How many interpolations there were, and how many of them were linear.
    fn interpolations(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// The kernel of a method; none where bytes are copied as they are.
///
/// `drawn` is what was drawn of each update, where that is by rank.
pub(super) fn kernel(tensor: &TensorPlan, drawn: Vec<Option<Drawn>>) -> Option<Box<dyn Kernel>> {
    let (sources, elements) = (tensor.sources.len(), tensor.elements());
    match &tensor.how {
        How::Same | How::Cpift { .. } => None,
        How::Scaled { factor } => Some(Box::new(Scaled(*factor))),
        How::Linear { weights, normalize } => {
            let scale = if *normalize { 1.0 / weights.iter().sum::<f64>() } else { 1.0 };
            Some(Box::new(Linear { weights: weights.clone(), scale }))
        }
        How::Updates(updates) => Some(Box::new(UpdatesKernel::new(updates, elements, drawn))),
        How::Slerp { t, dot_threshold } => Some(Box::new(Slerp {
            t: *t,
            straight: Straight::Above(*dot_threshold),
            delta: false,
            factors: None,
        })),
        How::Nuslerp { t, delta } => {
            Some(Box::new(Slerp { t: *t, straight: Straight::Collinear, delta: *delta, factors: None }))
        }
        How::Gram(rule) => Some(Box::new(Gram::new(*rule, sources))),
        How::Sce { share } => Some(Box::new(Sce::new(sources - 1, *share, elements))),
        How::Fold { delta, weights, epsilon } => Some(Box::new(Fold {
            delta: *delta,
            weights: weights.clone(),
            epsilon: *epsilon,
            factors: Vec::new(),
            linear: 0,
        })),
    }
}

/// The first source times a factor.
struct Scaled(f64);

impl Kernel for Scaled {
    fn combine(&self, tile: &Tile<'_>, _: &mut Scratch, out: &mut [f32]) {
        let out = tile.load(0, &(0..tile.length), out);
        if self.0 != 1.0 {
            sums::scale(out, self.0);
        }
    }
}

/// A weighted sum of all sources.
pub(super) struct Linear {
    pub weights: Vec<f64>,
    pub scale: f64,
}

impl Kernel for Linear {
    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        for part in tile.parts() {
            let sum = &mut out[part.clone()];
            sum.fill(0.0);
            for (source, weight) in self.weights.iter().enumerate() {
                sums::add_weighted(sum, tile.load(source, &part, &mut scratch.sum), *weight);
            }
            if self.scale != 1.0 {
                sums::scale(sum, self.scale);
            }
        }
    }
}

/// When two vectors are interpolated along a straight line.
#[derive(Debug, Clone, Copy)]
enum Straight {
    /// Where the magnitude of their cosine is above this. Norms up to [`SMALLEST_NORM`] count as 1.
    Above(f64),
    /// Where they are collinear as far as f64 tells. Norms count as 1e-7 at least.
    Collinear,
}

const SMALLEST_NORM: f64 = 1e-8;

/// Vectors closer than this to opposite, in radians, are interpolated along a straight line, as in training.
const OPPOSITE: f64 = spherical::ANTIPODAL_MARGIN;

impl Straight {
    /// The cosine of two vectors, and whether the way between them is straight.
    fn judge(self, sums: &Sums) -> (f64, bool) {
        let norm = |squared: f64| match self {
            Self::Above(_) => Some(squared.sqrt()).filter(|norm| *norm > SMALLEST_NORM).unwrap_or(1.0),
            Self::Collinear => squared.sqrt().max(1e-7),
        };
        let cosine = (sums.product / (norm(sums.backbone) * norm(sums.other))).clamp(-1.0, 1.0);
        let is_straight = match self {
            Self::Above(threshold) => cosine.abs() > threshold,
            Self::Collinear => 1.0 - cosine * cosine <= 1e-16,
        };
        let angle = cosine.acos();
        // Between opposite vectors there is no shortest arc: the factors would be 1/(π − Ω).
        (cosine, is_straight || angle.sin() == 0.0 || std::f64::consts::PI - angle < OPPOSITE)
    }
}

/// Interpolation of two sources, or of what they add to the first of three.
struct Slerp {
    t: f64,
    straight: Straight,
    delta: bool,
    /// Known after the look, and whether they are those of a straight line.
    factors: Option<(Factors, bool)>,
}

impl Kernel for Slerp {
    fn look(&self, _: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let (all, source) = (0..tile.length, usize::from(self.delta));
        let [first, second, base] = &mut scratch.tiles;
        let base = self.delta.then(|| &*tile.load(0, &all, base));
        let (first, second) = (tile.load(source, &all, first), tile.load(source + 1, &all, second));
        Seen::Sums(spherical::sums(first, second, base))
    }

    fn learn(&mut self, _: usize, seen: Vec<Seen>) -> Reasoned<()> {
        let (cosine, is_straight) = self.straight.judge(&total(seen));
        let angle = cosine.acos();
        let factors = match is_straight {
            true => Factors { backbone: 1.0 - self.t, other: self.t },
            false => Factors {
                backbone: ((1.0 - self.t) * angle).sin() / angle.sin(),
                other: (self.t * angle).sin() / angle.sin(),
            },
        };
        self.factors = Some((factors, is_straight));
        Ok(())
    }

    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let factors = self.factors.map(|(factors, _)| factors).unwrap_or_default();
        let (all, source) = (0..tile.length, usize::from(self.delta));
        let [second, base, _] = &mut scratch.tiles;
        let base = self.delta.then(|| &*tile.load(0, &all, base));
        let out = tile.load(source, &all, out);
        spherical::combine(out, tile.load(source + 1, &all, second), base, factors);
    }

    fn interpolations(&self) -> (u64, u64) {
        (1, u64::from(self.factors.is_some_and(|(_, is_straight)| is_straight)))
    }
}

/// Sums of all tiles, in their order.
fn total(seen: Vec<Seen>) -> Sums {
    let mut total = Sums::default();
    for seen in seen {
        if let Seen::Sums(sums) = seen {
            total.add(&sums);
        }
    }
    total
}

struct Fold {
    delta: bool,
    weights: Vec<f64>,
    epsilon: f64,
    /// Of the interpolations that are known.
    factors: Vec<Factors>,
    linear: u64,
}

impl Fold {
    /// The fold of the first sources into `backbone`, as far as factors are known; the base is left in the first tile.
    fn fold(&self, tile: &Tile<'_>, scratch: &mut Scratch, backbone: &mut [f32]) {
        let all = 0..tile.length;
        let [base, other, _] = &mut scratch.tiles;
        if self.delta {
            tile.load(0, &all, base);
        }
        let base = self.delta.then_some(&base[..tile.length]);
        let first = usize::from(self.delta);
        let backbone = tile.load(first, &all, backbone);
        for (source, factors) in (first + 1..).zip(&self.factors) {
            spherical::combine(backbone, tile.load(source, &all, other), base, *factors);
        }
    }
}

impl Kernel for Fold {
    fn look(&self, look: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let mut backbone = std::mem::take(&mut scratch.tiles[2]);
        self.fold(tile, scratch, &mut backbone);
        let [base, other, _] = &mut scratch.tiles;
        let other = tile.load(look + 1 + usize::from(self.delta), &(0..tile.length), other);
        let base = self.delta.then_some(&base[..tile.length]);
        let sums = spherical::sums(&backbone[..tile.length], other, base);
        scratch.tiles[2] = backbone;
        Seen::Sums(sums)
    }

    fn learn(&mut self, look: usize, seen: Vec<Seen>) -> Reasoned<()> {
        let sums = total(seen);
        if !(sums.backbone.is_finite() && sums.other.is_finite()) {
            return Err("has values whose squares are too large to be added up".to_owned());
        }
        let before: f64 = self.weights[..=look].iter().sum();
        let weight = self.weights[look + 1] / (before + self.weights[look + 1]);
        let (_, fallback, factors) = spherical::plan(&sums, weight, self.epsilon);
        self.factors.push(factors);
        self.linear += u64::from(matches!(fallback, Some(Fallback::SmallAngle | Fallback::Antipodal)));
        Ok(())
    }

    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        self.fold(tile, scratch, out);
    }

    fn interpolations(&self) -> (u64, u64) {
        (self.factors.len() as u64, self.linear)
    }
}
