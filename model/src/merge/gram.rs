//! Methods whose result is a weighted sum of the sources, with weights that follow from the products of all pairs: what one
//! look at the tensor tells.

use cpift_engine::ops::slerp::tile as spherical;

use super::kernel::{Kernel, Linear, Seen};
use super::tile::{PART, Scratch, Tile};
use crate::error::Reasoned;

/// How weights follow from the products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GramRule {
    /// Between the base, the first source, and the mean of the others, as far as their updates agree.
    ModelStock,
    /// The point on the sphere whose distances from the sources, squared, have the least sum; the first guess is improved so
    /// many times at most.
    Karcher {
        /// How many times.
        iterations: usize,
    },
}

/// Angles and lengths below this are nothing to the mean on the sphere.
const TOLERANCE: f64 = 1e-5;

/// Products of norms of updates count as this at least.
const SMALLEST_PRODUCT: f64 = 1e-6;

pub(super) struct Gram {
    rule: GramRule,
    sources: usize,
    combined: Linear,
}

impl Gram {
    pub fn new(rule: GramRule, sources: usize) -> Self {
        Self { rule, sources, combined: Linear { weights: vec![0.0; sources], scale: 1.0 } }
    }

    /// Number of the first source whose products are wanted: after the base, where there is one.
    fn first(&self) -> usize {
        usize::from(self.rule == GramRule::ModelStock)
    }

    fn count(&self) -> usize {
        self.sources - self.first()
    }
}

impl Kernel for Gram {
    fn look(&self, _: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let (first, count) = (self.first(), self.count());
        let mut products = vec![0.0; count * count];
        for part in tile.parts() {
            for (source, values) in scratch.parts.chunks_mut(PART).enumerate().take(self.sources) {
                tile.load(source, &part, values);
            }
            let values = |source: usize| &scratch.parts[source * PART..][..part.len()];
            let base = (first == 1).then(|| values(0));
            for one in 0..count {
                for other in one..count {
                    let sums = spherical::sums(values(first + one), values(first + other), base);
                    products[one * count + other] += sums.product;
                }
            }
        }
        Seen::Products(products)
    }

    fn learn(&mut self, _: usize, seen: Vec<Seen>) -> Reasoned<()> {
        let count = self.count();
        let mut products = vec![0.0; count * count];
        for seen in seen {
            if let Seen::Products(part) = seen {
                products.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        if products.iter().any(|product| !product.is_finite()) {
            return Err("has values whose products are too large to be added up".to_owned());
        }
        let product = |one: usize, other: usize| products[one.min(other) * count + one.max(other)];
        self.combined.weights = match self.rule {
            GramRule::ModelStock => model_stock(count, product),
            GramRule::Karcher { iterations } => karcher(count, iterations, product),
        };
        Ok(())
    }

    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        self.combined.combine(tile, scratch, out);
    }
}

/// Weights of the base and of the models: t of their mean, where t follows from the mean cosine of their updates.
fn model_stock(count: usize, product: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let norm = |index: usize| product(index, index).sqrt();
    let (mut sum, mut pairs) = (0.0, 0.0);
    for one in 0..count {
        for other in one + 1..count {
            let norms = (norm(one) * norm(other)).max(SMALLEST_PRODUCT);
            sum += (product(one, other) / norms).clamp(-1.0, 1.0);
            pairs += 1.0;
        }
    }
    let cosine = if pairs > 0.0 { sum / pairs } else { 0.0 };
    let models = count as f64;
    let denominator = 1.0 + (models - 1.0) * cosine;
    // Where there is no finite estimate the base stays.
    let t = if denominator.abs() < 1e-6 { 0.0 } else { models * cosine / denominator };
    std::iter::once(1.0 - t).chain(std::iter::repeat_n(t / models, count)).collect()
}

/// Weights of the models: the mean on the sphere is a sum of them, so that all its products follow from theirs.
fn karcher(count: usize, iterations: usize, product: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let norms: Vec<f64> = (0..count).map(|index| product(index, index).sqrt()).collect();
    let valid: Vec<usize> = (0..count).filter(|&index| norms[index] > TOLERANCE).collect();
    if count == 1 || valid.is_empty() {
        return vec![if count == 1 { 1.0 } else { 0.0 }; count];
    }
    let share = 1.0 / valid.len() as f64;
    let unit = |one: usize, other: usize| product(one, other) / (norms[one] * norms[other]);
    // Of the sum of units with these weights: its product with a unit, and its length.
    let with_unit = |weights: &[f64], index: usize| -> f64 {
        valid.iter().map(|&other| weights[other] * unit(other, index)).sum()
    };
    let length = |weights: &[f64]| -> f64 {
        let squared: f64 = valid.iter().map(|&index| weights[index] * with_unit(weights, index)).sum();
        squared.max(0.0).sqrt()
    };
    let scale = |weights: &mut [f64], factor: f64| weights.iter_mut().for_each(|weight| *weight *= factor);
    let mut mean = vec![0.0; count];
    valid.iter().for_each(|&index| mean[index] = share);
    let first = length(&mean);
    if first < TOLERANCE {
        mean.fill(0.0);
        mean[valid[0]] = 1.0;
    } else {
        scale(&mut mean, 1.0 / first);
    }
    for _ in 0..iterations {
        let mut tangent = vec![0.0; count];
        for &index in &valid {
            let cosine = with_unit(&mean, index).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle < TOLERANCE {
                continue;
            }
            let factor = share * angle / angle.sin();
            tangent[index] += factor;
            tangent.iter_mut().zip(&mean).for_each(|(tangent, mean)| *tangent -= factor * cosine * mean);
        }
        let step = length(&tangent);
        if step < TOLERANCE {
            break;
        }
        mean.iter_mut()
            .zip(&tangent)
            .for_each(|(mean, tangent)| *mean = step.cos() * *mean + step.sin() / step * tangent);
        let now = length(&mean);
        if now > TOLERANCE {
            scale(&mut mean, 1.0 / now);
        }
    }
    let size = norms.iter().sum::<f64>() / count as f64;
    let weight = |index: usize| match norms[index] > TOLERANCE {
        true => size * mean[index] / norms[index],
        false => 0.0,
    };
    (0..count).map(weight).collect()
}
