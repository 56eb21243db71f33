//! Elementary functions without branches or calls, so that loops over them become vector code.
//!
//! Use them inside `vectorize!`: `mul_add` is only fast there.

use crate::float::Float;

/// Adding this to a small f32 rounds it to an integer, which then sits in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: the first has few enough bits that its small multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x = 2^n · (1 + fraction) with a fraction from -0.3 to 0.42: 2^(n-1), since 2^n itself would overflow for the
/// largest finite results, and the fraction.
#[inline(always)]
fn split_exp(x: f32) -> (f32, f32) {
    // e^x = 2^n · e^r with |r| ≤ ln 2 / 2, and e^r = 1 + r + r²·p(r), p fitted at Chebyshev nodes.
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 0.001_393_373_2_f32;
    let p = p.mul_add(r, 0.008_363_235);
    let p = p.mul_add(r, 0.041_666_463);
    let p = p.mul_add(r, 0.166_665_77);
    let p = p.mul_add(r, 0.5);
    let half_power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(126 << 23));
    (half_power, (r * r).mul_add(p, r))
}

/// e^x to within 2e-7 relative. Results under 2.4e-38 are 0, those over the largest f32 are infinite,
/// NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (half_power, fraction) = split_exp(x);
    let fraction = fraction + 1.0;
    let result = (fraction + fraction) * half_power;
    // Written so that NaN falls through both comparisons.
    let result = if x < -86.6 { 0.0 } else { result };
    if x > 88.722_84 { f32::INFINITY } else { result }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// gelu_pytorch_tanh, 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), as x · sigmoid of twice what tanh is taken of: the
/// same number without the cancellation for x below 0.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(gelu_argument(x))
}

/// [`gelu_tanh`] and its derivative.
#[inline(always)]
pub fn gelu_tanh_with_derivative(x: f32) -> (f32, f32) {
    let sigma = sigmoid(gelu_argument(x));
    let value = x * sigma;
    // Finite: beyond this, 1 − σ or σ is 0.
    let square = if x * x > 1e30 { 1e30 } else { x * x };
    let slope = square.mul_add(3.0 * GELU_CUBIC, GELU_LINEAR);
    // (x σ(z))' = σ + x σ (1 − σ) z'
    (value, value.mul_add((1.0 - sigma) * slope, sigma))
}

/// 2 √(2/π), and times 0.044715.
const GELU_LINEAR: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.071_354_814;

#[inline(always)]
fn gelu_argument(x: f32) -> f32 {
    x * (x * x).mul_add(GELU_CUBIC, GELU_LINEAR)
}

/// tanh x to within 3e-7 relative; NaN stays NaN.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // tanh |x| = (1 − e^y) / (1 + e^y) with y = −2|x|, and e^y − 1 without cancellation where y is near 0.
    let y = -2.0 * x.abs();
    // Written so that NaN falls through. From here on tanh is 1.
    let y = if y < -40.0 { -40.0 } else { y };
    let (half_power, fraction) = split_exp(y);
    let power = half_power + half_power;
    let minus_one = power.mul_add(fraction, power - 1.0);
    (minus_one / (-2.0 - minus_one)).copysign(x)
}

/// cap · tanh(x / cap): what bounds scores and logits.
#[inline(always)]
pub fn softcap(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The largest of `values`; -∞ for none. NaN is passed over: what is computed from the values shows it.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    // In halves: one after the other, each comparison would wait for the one before.
    let mut width = lanes.len();
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = larger(lanes[lane], lanes[lane + width]);
        }
    }
    let largest = lanes[0];
    rest.iter().copied().fold(largest, larger)
}

/// Σ a[i]·b[i] in f32, over fixed lanes.
#[inline(always)]
pub fn dot<A: Float, B: Float>(a: &[A], b: &[B]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    let mut lanes = [0.0f32; 32];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..32 {
            lanes[lane] = a[lane].to_f32().mul_add(b[lane].to_f32(), lanes[lane]);
        }
    }
    // A loop: the closure of a fold can become a function of its own, without the caller's instructions.
    let mut rest = 0.0f32;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest = a.to_f32().mul_add(b.to_f32(), rest);
    }
    sum_lanes(lanes) + rest
}

/// The sum of the lanes, pairwise.
#[inline(always)]
pub fn sum_lanes<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut width = N;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::vectorize;

    #[test]
    fn exp_is_within_2e_7() {
        let inputs: Vec<f32> = (0..400_000).map(|i| (i as f32).mul_add(4.38e-4, -86.59)).collect();
        let outputs: Vec<f32> = vectorize!(|| inputs.iter().map(|&x| exp(x)).collect());
        for (&x, &y) in inputs.iter().zip(&outputs) {
            let expected = f64::from(x).exp();
            assert!((f64::from(y) / expected - 1.0).abs() < 2e-7, "exp({x}) = {y}, expected {expected}");
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!((f64::from(exp(88.72)) / 88.72_f32.to_f64_exp() - 1.0).abs() < 2e-7);
        assert!(exp(f32::NAN).is_nan());
    }

    trait ToF64Exp {
        fn to_f64_exp(self) -> f64;
    }

    impl ToF64Exp for f32 {
        fn to_f64_exp(self) -> f64 {
            f64::from(self).exp()
        }
    }

    #[test]
    fn silu_is_exact_and_bounded() {
        for step in -2000..2000 {
            let x = step as f32 * 0.05;
            let expected = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(silu(x)) - expected).abs();
            assert!(error <= 4e-7 * expected.abs() + 1e-36, "silu({x}) = {}, expected {expected}", silu(x));
        }
    }

    /// Largest |error| relative to the value, or to 1e-30.
    fn relative_error(name: &str, got: impl Fn(f32) -> f32, expected: impl Fn(f64) -> f64) -> f64 {
        let inputs = (-40_000..40_000).map(|step| step as f32 * 5e-4).chain([1e-20, -3e-6, 0.0]);
        let mut largest = 0.0f64;
        for x in inputs {
            let (got, expected) = (f64::from(got(x)), expected(f64::from(x)));
            let error = (got - expected).abs() / expected.abs().max(1e-30);
            assert!(error < 1e-3, "{name}({x}) = {got}, expected {expected}");
            largest = largest.max(error);
        }
        largest
    }

    #[test]
    fn tanh_is_within_3e_7() {
        let error = relative_error("tanh", tanh, f64::tanh);
        assert!(error < 3e-7, "{error}");
        assert_eq!(tanh(0.0), 0.0);
        assert_eq!([tanh(f32::INFINITY), tanh(-1e30)], [1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn softcap_is_within_4e_7() {
        let error = relative_error("softcap", |x| softcap(x, 30.0), |x| 30.0 * (x / 30.0).tanh());
        assert!(error < 4e-7, "{error}");
    }

    #[test]
    fn gelu_is_exact_and_bounded() {
        let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        for step in -4000..4000 {
            let x = step as f32 * 2.5e-3;
            let wide = f64::from(x);
            let (value, derivative) = gelu_tanh_with_derivative(x);
            assert_eq!(value, gelu_tanh(x));
            let expected = 0.5 * wide * (1.0 + inner(wide).tanh());
            assert!(
                (f64::from(value) - expected).abs() < 1e-6 * wide.abs().max(0.1),
                "gelu({x}) = {value}, {expected}"
            );
            let tanh = inner(wide).tanh();
            let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * wide * wide);
            let expected = 0.5 * (1.0 + tanh) + 0.5 * wide * (1.0 - tanh * tanh) * slope;
            assert!((f64::from(derivative) - expected).abs() < 2e-6, "gelu'({x}) = {derivative}, {expected}");
        }
        assert_eq!(gelu_tanh_with_derivative(1e30), (1e30, 1.0));
        assert_eq!(gelu_tanh_with_derivative(-1e30), (0.0, 0.0));
        assert!(gelu_tanh(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_match_plain_loops() {
        for length in [0, 1, 31, 32, 33, 100, 257] {
            let a: Vec<f32> = (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
            let b: Vec<f32> = (0..length).map(|i| ((i * 53 % 97) as f32 - 48.0) / 16.0).collect();
            let expected: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum();
            assert!((f64::from(dot(&a, &b)) - expected).abs() < 1e-3);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
