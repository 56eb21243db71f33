//! Embedding against a plain loop: the forward copies, so its bits must be the table's.

use cpift_engine::ops::embedding::{self, Shape};
use cpift_engine::{Buffer, Indices};
use cpift_tests::devices::devices;
use cpift_tests::numeric::{assert_close, random, random_below, widen};

const SHAPES: [Shape; 4] = [
    Shape { tokens: 1, vocabulary: 1, hidden: 1 },
    Shape { tokens: 37, vocabulary: 11, hidden: 13 },
    Shape { tokens: 300, vocabulary: 203, hidden: 96 },
    Shape { tokens: 5, vocabulary: 40, hidden: 20_000 },
];

#[test]
fn forward_copies_the_rows() {
    for device in devices() {
        for (seed, shape) in (0..).zip(&SHAPES) {
            let table = random(seed, shape.vocabulary * shape.hidden);
            let tokens = random_below(seed + 100, shape.tokens, shape.vocabulary as u32);
            let mut output =
                Buffer::from_slice(&device, &vec![f32::NAN; shape.tokens * shape.hidden]).unwrap();
            let table_buffer = Buffer::from_slice(&device, &table).unwrap();
            let token_buffer = Indices::from_slice(&device, &tokens).unwrap();
            embedding::forward(&device, shape, table_buffer.view(), token_buffer.view(), output.view_mut())
                .unwrap();
            let expected: Vec<f32> = tokens
                .iter()
                .flat_map(|&token| &table[token as usize * shape.hidden..][..shape.hidden])
                .copied()
                .collect();
            assert_eq!(output.to_vec().unwrap(), expected);
        }
    }
}

#[test]
fn backward_adds_every_token_to_its_row() {
    for device in devices() {
        for (seed, shape) in (0..).zip(&SHAPES) {
            let tokens = random_below(seed + 100, shape.tokens, shape.vocabulary as u32);
            let d_output = random(seed + 200, shape.tokens * shape.hidden);
            let before = random(seed + 300, shape.vocabulary * shape.hidden);
            let mut d_table = Buffer::from_slice(&device, &before).unwrap();
            let token_buffer = Indices::from_slice(&device, &tokens).unwrap();
            let d_output_buffer = Buffer::from_slice(&device, &d_output).unwrap();
            embedding::backward(
                &device,
                shape,
                token_buffer.view(),
                d_output_buffer.view(),
                d_table.view_mut(),
            )
            .unwrap();
            let mut expected = widen(&before);
            for (&token, d_row) in tokens.iter().zip(d_output.chunks(shape.hidden)) {
                for (sum, &value) in expected[token as usize * shape.hidden..].iter_mut().zip(d_row) {
                    *sum += f64::from(value);
                }
            }
            assert_close("d_table", &d_table.to_vec().unwrap(), &expected, 1e-6);
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error_that_names_it() {
    for device in devices() {
        let shape = Shape { tokens: 2, vocabulary: 3, hidden: 2 };
        let table = Buffer::from_slice(&device, &[0.5; 6]).unwrap();
        let tokens = Indices::from_slice(&device, &[1, 3]).unwrap();
        let mut output = Buffer::zeros(&device, 4).unwrap();
        let error = embedding::forward(&device, &shape, table.view(), tokens.view(), output.view_mut());
        assert!(error.unwrap_err().to_string().contains("token 3 at position 1"));
    }
}
