//! Rotary embedding against a f64 oracle, in f32 and bf16; its backward is its inverse and its transpose.

use cpift_engine::ops::rope::{self, Shape, Tables};
use cpift_engine::{Buffer, Indices, Real};
use cpift_tests::devices::{devices, on_each};
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, dot, random_below, widen};
use cpift_tests::precision::{download, random_in, tolerance, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(forward_matches_the_oracle_and_backward_central_differences);

const POSITIONS: usize = 23;
const SHAPES: [Shape; 7] = [
    Shape { tokens: 1, heads: 1, head_dim: 2, rotary_dim: 2 },
    Shape { tokens: 9, heads: 3, head_dim: 10, rotary_dim: 10 },
    Shape { tokens: 4, heads: 2, head_dim: 64, rotary_dim: 64 },
    Shape { tokens: 41, heads: 8, head_dim: 128, rotary_dim: 128 },
    Shape { tokens: 3, heads: 2, head_dim: 128, rotary_dim: 96 },
    Shape { tokens: 5, heads: 3, head_dim: 20, rotary_dim: 16 },
    Shape { tokens: 4, heads: 1, head_dim: 7, rotary_dim: 2 },
];

/// Angles that differ for every position and pair.
fn angle(position: usize, pair: usize) -> f64 {
    0.37 * position as f64 / (1.0 + pair as f64)
}

fn table(rotary_dim: usize, function: impl Fn(f64) -> f64) -> Vec<f32> {
    (0..POSITIONS)
        .flat_map(|position| (0..rotary_dim / 2).map(move |pair| angle(position, pair)))
        .map(|angle| function(angle) as f32)
        .collect()
}

fn oracle(shape: &Shape, positions: &[u32], x: &[f64]) -> Vec<f64> {
    let half = shape.rotary_dim / 2;
    let mut y = x.to_vec();
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..shape.heads {
            let start = (token * shape.heads + head) * shape.head_dim;
            for pair in 0..half {
                let (sin, cos) = angle(position as usize, pair).sin_cos();
                let (x1, x2) = (x[start + pair], x[start + half + pair]);
                y[start + pair] = x1 * cos - x2 * sin;
                y[start + half + pair] = x2 * cos + x1 * sin;
            }
        }
    }
    y
}

fn forward_matches_the_oracle_and_backward_central_differences<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        check::<T>(seed, shape);
    }
}

fn check<T: Real>(seed: u64, shape: &Shape) {
    let elements = shape.tokens * shape.heads * shape.head_dim;
    let positions = random_below(seed, shape.tokens, POSITIONS as u32);
    let (x, d_y) = (random_in::<T>(seed + 100, elements), random_in::<T>(seed + 200, elements));
    let results = on_each(|device| {
        let positions = Indices::from_slice(device, &positions).unwrap();
        let cos = Buffer::from_slice(device, &table(shape.rotary_dim, f64::cos)).unwrap();
        let sin = Buffer::from_slice(device, &table(shape.rotary_dim, f64::sin)).unwrap();
        let tables = Tables { cos: cos.view(), sin: sin.view() };
        let (mut y, mut d_x) = (upload::<T>(device, &x), upload::<T>(device, &d_y));
        rope::forward(device, shape, tables, positions.view(), y.view_mut()).unwrap();
        rope::backward(device, shape, tables, positions.view(), d_x.view_mut()).unwrap();
        let rotated = download(&y);
        rope::backward(device, shape, tables, positions.view(), y.view_mut()).unwrap();
        [rotated, download(&d_x), download(&y)]
    });
    let (expected_y, loss) = (oracle(shape, &positions, &widen(&x)), widen(&d_y));
    let expected_d_x = if elements < 1000 {
        central_differences(&widen(&x), |x| dot(&oracle(shape, &positions, x), &loss))
    } else {
        Vec::new()
    };
    for (_, [y, d_x, back]) in results {
        assert_close("y", &y, &expected_y, tolerance::<T>(1e-6, 1.0));
        if elements < 1000 {
            assert_close("d_x", &d_x, &expected_d_x, tolerance::<T>(1e-6, 1.0));
        }
        // A rounding of each of a pair, turned by up to 45°, and one at the end.
        assert_close("there and back", &back, &widen(&x), tolerance::<T>(1e-6, 2.5));
    }
}

#[test]
fn a_position_outside_the_tables_and_a_part_of_a_head_that_cannot_be_rotated_are_errors() {
    for device in devices() {
        let table = Buffer::from_slice(&device, &[0.5; 6]).unwrap();
        let tables = Tables { cos: table.view(), sin: table.view() };
        let positions = Indices::from_slice(&device, &[3]).unwrap();
        let mut x = Buffer::from_slice(&device, &[0.25; 4]).unwrap();
        let shape = Shape { tokens: 1, heads: 1, head_dim: 4, rotary_dim: 4 };
        let error = rope::forward(&device, &shape, tables, positions.view(), x.view_mut()).unwrap_err();
        assert!(error.to_string().contains("position 3"), "{error}");
        for (rotary_dim, expected) in [
            (3, "rotary dimension 3 is not a positive even number"),
            (0, "rotary dimension 0 is not"),
            (6, "rotary dimension 6 is larger than a head of 4 elements"),
        ] {
            let shape = Shape { tokens: 1, heads: 1, head_dim: 4, rotary_dim };
            let error = rope::forward(&device, &shape, tables, positions.view(), x.view_mut()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
