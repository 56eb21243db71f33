//! Elementary functions without branches or calls, so that loops over them become vector code.
//!
//! Use them inside `vectorize!`: `mul_add` is only fast there.

/// Adding this to a small f32 rounds it to an integer, which then sits in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: the first has few enough bits that its small multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x to within 2e-7 relative. Results under 2.4e-38 are 0, those over the largest f32 are infinite,
/// NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // e^x = 2^n · e^r with |r| ≤ ln 2 / 2, and e^r = 1 + r + r²·p(r), p fitted at Chebyshev nodes.
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 0.001_393_373_2_f32;
    let p = p.mul_add(r, 0.008_363_235);
    let p = p.mul_add(r, 0.041_666_463);
    let p = p.mul_add(r, 0.166_665_77);
    let p = p.mul_add(r, 0.5);
    let fraction = (r * r).mul_add(p, r) + 1.0;
    // 2^(n-1), doubled below: 2^n itself would overflow for the largest finite results.
    let half_power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(126 << 23));
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
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    rest.iter().copied().fold(largest, larger)
}

/// Σ a[i]·b[i] in f32, over fixed lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    let mut lanes = [0.0f32; 32];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..32 {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum));
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
