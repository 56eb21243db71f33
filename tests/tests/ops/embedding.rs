//! Embedding against a plain loop: the forward copies, so its bits must be the table's.

use cpift_engine::ops::embedding::{self, Shape};
use cpift_engine::{Buffer, Indices, Real};
use cpift_tests::devices::{devices, on_each};
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, random, random_below, widen};
use cpift_tests::precision::{download, poisoned, random_in, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(forward_copies_the_rows, backward_adds_every_token_but_padding_to_its_row);

const SHAPES: [Shape; 5] = [
    Shape { tokens: 1, vocabulary: 1, hidden: 1, padding: None },
    Shape { tokens: 37, vocabulary: 11, hidden: 13, padding: Some(3) },
    Shape { tokens: 300, vocabulary: 203, hidden: 96, padding: None },
    Shape { tokens: 5, vocabulary: 40, hidden: 20_000, padding: None },
    Shape { tokens: 9, vocabulary: 1, hidden: 24, padding: Some(0) },
];

fn forward_copies_the_rows<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let table = random_in::<T>(seed, shape.vocabulary * shape.hidden);
        let tokens = random_below(seed + 100, shape.tokens, shape.vocabulary as u32);
        let results = on_each(|device| {
            let (table, mut output) =
                (upload::<T>(device, &table), poisoned(device, shape.tokens * shape.hidden));
            let tokens = Indices::from_slice(device, &tokens).unwrap();
            embedding::forward(device, shape, table.view(), tokens.view(), output.view_mut()).unwrap();
            download(&output)
        });
        let row = |&token: &u32| &table[token as usize * shape.hidden..][..shape.hidden];
        let expected: Vec<f32> = tokens.iter().flat_map(row).copied().collect();
        assert!(results.iter().all(|(_, output)| *output == expected), "{shape:?}");
    }
}

fn backward_adds_every_token_but_padding_to_its_row<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let tokens = random_below(seed + 100, shape.tokens, shape.vocabulary as u32);
        assert!(shape.padding.is_none_or(|padding| tokens.contains(&padding)), "padding occurs");
        let d_output = random_in::<T>(seed + 200, shape.tokens * shape.hidden);
        let before = random(seed + 300, shape.vocabulary * shape.hidden);
        let mut expected = widen(&before);
        for (&token, d_row) in tokens.iter().zip(d_output.chunks(shape.hidden)) {
            if shape.padding == Some(token) {
                continue;
            }
            for (sum, &value) in expected[token as usize * shape.hidden..].iter_mut().zip(d_row) {
                *sum += f64::from(value);
            }
        }
        let results = on_each(|device| {
            let mut d_table = upload(device, &before);
            let (tokens, d_output) =
                (Indices::from_slice(device, &tokens).unwrap(), upload::<T>(device, &d_output));
            embedding::backward(device, shape, tokens.view(), d_output.view(), d_table.view_mut()).unwrap();
            download(&d_table)
        });
        for (_, d_table) in results {
            // The table's gradient is f32.
            assert_close("d_table", &d_table, &expected, 1e-6);
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error_that_names_it() {
    for device in devices() {
        let shape = Shape { tokens: 2, vocabulary: 3, hidden: 2, padding: None };
        let table = Buffer::from_slice(&device, &[0.5; 6]).unwrap();
        let tokens = Indices::from_slice(&device, &[1, 3]).unwrap();
        let mut output = Buffer::zeros(&device, 4).unwrap();
        let error = embedding::forward(&device, &shape, table.view(), tokens.view(), output.view_mut());
        assert!(error.unwrap_err().to_string().contains("token 3 at position 1"));
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
