//! The causal convolution against an f64 oracle, its backward against the derivative written out in f64.

use std::ops::Range;

use crate::common::*;
use cpift_kernels::causal_conv1d::*;
use cpift_kernels::chunks::Chunks;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::rms_norm::rms_norm_weight_gradient;
use cpift_kernels::simt::{Bf16, Real};

/// Channels, taps, lengths of documents: shorter than the taps, around strips of 32 and chunks of 64 tokens; channels
/// by vectors and one by one, below a block's and more; more chunks than blocks leave partial sums.
const CASES: [(u32, u32, &[u32]); 6] = [
    (1, 1, &[1]),
    (3, 4, &[2, 1, 6]),
    (136, 4, &[33, 64, 3]),
    (24, 2, &[65, 31]),
    (37, 32, &[70]),
    (8, 3, &[64 * 66, 5]),
];

struct Case<E: Real> {
    channels: usize,
    taps: usize,
    documents: Vec<Range<usize>>,
    input: Buffer<E>,
    weight: Buffer<E>,
    d_output: Buffer<E>,
}

/// Output, d_input, and the gradient of the weight, of the oracle.
type Expected = (Vec<f64>, Vec<f64>, Vec<f64>);
/// The same of the kernels.
type Results<E> = (Buffer<E>, Buffer<E>, Buffer<f32>);

fn silu(z: f64) -> (f64, f64) {
    let sigma = 1.0 / (1.0 + (-z).exp());
    (z * sigma, sigma * (1.0 + z * (1.0 - sigma)))
}

impl<E: Real> Case<E> {
    fn new((channels, taps, lengths): (u32, u32, &[u32])) -> Self {
        let (channels, taps) = (channels as usize, taps as usize);
        let mut documents: Vec<Range<usize>> = Vec::new();
        for &length in lengths {
            let start = documents.last().map_or(0, |document| document.end);
            documents.push(start..start + length as usize);
        }
        let tokens = documents.last().expect("a document").end;
        let (input, d_output) = (random(1, tokens * channels), random(3, tokens * channels));
        Self { channels, taps, documents, input, weight: random(2, channels * taps), d_output }
    }

    fn oracle(&self) -> Expected {
        let (channels, taps) = (self.channels, self.taps);
        let (input, weight) = (widen(self.input.as_slice()), widen(self.weight.as_slice()));
        let d_output = widen(self.d_output.as_slice());
        let (mut output, mut d_input) = (vec![0.0; input.len()], vec![0.0; input.len()]);
        let mut d_weight = vec![0.0; weight.len()];
        for document in &self.documents {
            for (token, channel) in document.clone().flat_map(|token| (0..channels).map(move |c| (token, c)))
            {
                let seen = || (0..taps).filter(|tap| token + tap + 1 >= document.start + taps);
                let place = |tap: usize| (token + tap + 1 - taps) * channels + channel;
                let z = seen().map(|tap| input[place(tap)] * weight[channel * taps + tap]).sum();
                let (value, slope) = silu(z);
                let own = token * channels + channel;
                output[own] = value;
                for tap in seen() {
                    d_input[place(tap)] += d_output[own] * slope * weight[channel * taps + tap];
                    d_weight[channel * taps + tap] += d_output[own] * slope * input[place(tap)];
                }
            }
        }
        (output, d_input, d_weight)
    }

    /// Output, d_input, and what the gradient of the weight becomes from zeros.
    fn run(&self, emulator: &Emulator) -> Result<Results<E>, LaunchError> {
        let lists = Chunks::new(self.documents.iter().map(|range| range.start as u32..range.end as u32));
        let chunk_count = (lists.chunks.len() / 4) as u32;
        let chunks = Buffer::from_slice(&lists.chunks);
        let (channels, taps, length) = (self.channels as u32, self.taps as u32, self.input.as_slice().len());
        let tokens = (length / self.channels) as u32;
        let (mut output, mut d_input) = (Buffer::poisoned(length), Buffer::poisoned(length));
        let (chunks, input, weight) = (chunks.read(), self.input.read(), self.weight.read());
        causal_conv1d(emulator, chunks, input, weight, output.write(), tokens, chunk_count, channels, taps)?;
        let blocks = backward_blocks(chunk_count as usize);
        let mut partials = Buffer::poisoned(blocks as usize * self.channels * self.taps);
        let mut d_weight = Buffer::from_slice(&vec![0.0; self.channels * self.taps]);
        causal_conv1d_backward(
            emulator,
            chunks,
            input,
            weight,
            self.d_output.read(),
            d_input.write(),
            partials.write(),
            tokens,
            chunk_count,
            channels,
            taps,
            blocks,
        )?;
        rms_norm_weight_gradient(emulator, partials.read(), d_weight.write(), channels * taps, blocks)?;
        Ok((output, d_input, d_weight))
    }
}

fn check<E: Real>(tolerance: f64) {
    for sizes in CASES {
        let case = Case::<E>::new(sizes);
        let results = SCHEDULES.map(|schedule| case.run(&Emulator::new(schedule)).unwrap());
        let bits = |(output, d_input, d_weight): &Results<E>| {
            (to_bits(output.as_slice()), to_bits(d_input.as_slice()), to_bits(d_weight.as_slice()))
        };
        assert!(results.iter().all(|result| bits(result) == bits(&results[0])), "{sizes:?}");
        let (output, d_input, d_weight) = &results[0];
        let expected = case.oracle();
        assert_close(&format!("output of {sizes:?}"), output.as_slice(), &expected.0, tolerance);
        assert_close(&format!("d_input of {sizes:?}"), d_input.as_slice(), &expected.1, tolerance);
        // Summed in f32, and not rounded to E.
        assert_close(&format!("d_weight of {sizes:?}"), d_weight.as_slice(), &expected.2, 2e-6);
    }
}

#[test]
fn matches_the_oracle() {
    // Sums of up to 32 terms, and a few roundings.
    check::<f32>(2e-6);
    // The result's rounding is up to 2^-8 of it.
    check::<Bf16>(4e-3);
}

/// Two sequences in turn, one of them several tokens in one step: what the forward gives for them, to the bit.
fn check_decoding<E: Real>() {
    for taps in [1, 2, 4] {
        let case = Case::<E>::new((5, taps, &[6, 9]));
        let emulator = Emulator::new(SCHEDULES[2]);
        let (expected, ..) = case.run(&emulator).unwrap();
        let mut states = Buffer::from_slice(&vec![E::from_f32(0.0); 3 * (taps as usize - 1) * 5]);
        let mut taken = [0; 2];
        for rows in [&[0, 1][..], &[1, 1, 1, 0], &[0], &[1, 0], &[1, 1, 0], &[1, 0], &[1]] {
            let mut places = Vec::new();
            for &text in rows {
                places.push((case.documents[text].start + taken[text]) * 5);
                taken[text] += 1;
            }
            let of_rows = |values: &[E]| -> Vec<E> {
                places.iter().flat_map(|&place| &values[place..place + 5]).copied().collect()
            };
            let input = Buffer::from_slice(&of_rows(case.input.as_slice()));
            let slots: Vec<u32> = rows.iter().map(|&text| [2, 0][text]).collect();
            let (slots, mut output) = (Buffer::from_slice(&slots), Buffer::<E>::poisoned(rows.len() * 5));
            let (weight, outputs) = (case.weight.read(), (states.write(), output.write()));
            let count = rows.len() as u32;
            let inputs = (input.read(), slots.read());
            causal_conv1d_decode(
                &emulator, inputs.0, weight, inputs.1, outputs.0, outputs.1, count, 3, 5, taps,
            )
            .unwrap();
            assert_eq!(to_bits(output.as_slice()), to_bits(&of_rows(expected.as_slice())));
        }
    }
}

#[test]
fn decoding_goes_on_as_the_forward() {
    check_decoding::<f32>();
    check_decoding::<Bf16>();
}
