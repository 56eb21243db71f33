//! The arithmetic of spherical interpolation on a run of coordinates in host memory, on the calling thread: what the
//! operation above is made of, and what a program calls that streams models through memory a piece at a time.
//!
//! A tensor is [`PIECE`] coordinates at a time, [`sums`] of each added up in order, [`plan`] of the total, and
//! [`combine`] of every piece: the bits are those of [`super::slerp`].

use super::cpu::HostInputs;
use super::{Factors, Fallback, Sums};

/// Coordinates of a piece whose sums are added up apart.
pub const PIECE: usize = super::cpu::CHUNK;

/// Vectors closer than this to opposite, in radians, are interpolated linearly whatever [`super::Options::epsilon`] is.
///
/// Both factors are about 1/(π−θ) there and nearly cancel. With sums rounded to 1e-16, θ is known to 1e-16/(π−θ),
/// and the result to 1e-16/(π−θ)³: at this margin 1e-7, f32's own precision, and nothing at all at 1e-6.
pub const ANTIPODAL_MARGIN: f64 = 1e-3;

/// Sums over a piece of two vectors, or of what both add to `base`. Panics when lengths differ.
pub fn sums(backbone: &[f32], other: &[f32], base: Option<&[f32]>) -> Sums {
    inputs(backbone, other, base).sums(backbone)
}

/// Replaces a piece of `backbone` by its interpolation. Panics when lengths differ.
pub fn combine(backbone: &mut [f32], other: &[f32], base: Option<&[f32]>, factors: Factors) {
    inputs(backbone, other, base).combine(backbone, factors);
}

fn inputs<'a>(backbone: &[f32], other: &'a [f32], base: Option<&'a [f32]>) -> HostInputs<'a> {
    assert!(backbone.len() == other.len() && base.is_none_or(|base| base.len() == other.len()));
    HostInputs { other, base, skip: None }
}

/// Angle, fallback and factors of a tensor whose sums are finite, for this weight of the other vector. Angles below
/// `epsilon` are interpolated linearly.
pub fn plan(sums: &Sums, weight: f64, epsilon: f64) -> (f64, Option<Fallback>, Factors) {
    let angle = angle(sums);
    let fallback = if sums.backbone == 0.0 || sums.other == 0.0 {
        Some(Fallback::ZeroNorm)
    } else if angle == 0.0 || angle < epsilon {
        Some(Fallback::SmallAngle)
    } else if std::f64::consts::PI - angle < epsilon.max(ANTIPODAL_MARGIN) {
        Some(Fallback::Antipodal)
    } else {
        None
    };
    let factors = match fallback {
        Some(_) => Factors { backbone: 1.0 - weight, other: weight },
        None => Factors {
            backbone: ((1.0 - weight) * angle).sin() / angle.sin(),
            other: (weight * angle).sin() / angle.sin(),
        },
    };
    (angle, fallback, factors)
}

/// The angle as 2·atan2(|â−b̂|, |â+b̂|), accurate at both ends where the cosine is flat.
///
/// |â∓b̂|²·|a||b| = 2·(|a||b| ∓ a·b) loses all digits to cancellation as θ² approaches the rounding
/// of the sums. The same quantity is |a−b|² − (|a|−|b|)², exact for equal norms at any angle,
/// worse than the first only when the norms are far apart.
fn angle(sums: &Sums) -> f64 {
    let (backbone_norm, other_norm) = (sums.backbone.sqrt(), sums.other.sqrt());
    let norms = backbone_norm * other_norm;
    if norms == 0.0 {
        return 0.0;
    }
    let norm_gap = (sums.backbone - sums.other) / (backbone_norm + other_norm);
    let apart = if norm_gap * norm_gap < norms {
        sums.difference - norm_gap * norm_gap
    } else {
        2.0 * (norms - sums.product)
    };
    let together = 2.0 * (norms + sums.product);
    2.0 * apart.max(0.0).sqrt().atan2(together.max(0.0).sqrt())
}
