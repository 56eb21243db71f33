//! Attention kernels against an f64 oracle.

mod common;

use common::*;
use cpift_kernels::attention::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::{Bf16, Real};

/// Query heads, key/value heads, elements of a head.
type Heads = (u32, u32, u32);

/// Inputs of forward and backward. The scale is larger than 1/√D, so that probabilities are not uniform.
struct Case<E: Element> {
    sizes: Sizes,
    documents: Vec<std::ops::Range<u32>>,
    q: Buffer<E>,
    k: Buffer<E>,
    v: Buffer<E>,
    d_output: Buffer<E>,
}

/// All that forward and backward write.
struct Results<E: Element> {
    output: Buffer<E>,
    log_sum_exp: Buffer<f32>,
    delta: Buffer<f32>,
    d_q: Buffer<E>,
    d_k: Buffer<E>,
    d_v: Buffer<E>,
}

/// The type-dependent: the row kernel, and what results may be off by.
trait Element: AttentionElement + Real {
    /// f32: sums of a few hundred terms, each rounded to 2^-24, of mixed sign, and exponents of a score
    /// that is rounded itself. bf16: results are rounded to 2^-8 of themselves, and the gradients see a rounded output.
    const TOLERANCE: f64;

    fn delta(emulator: &Emulator, case: &Case<Self>, output: &Buffer<Self>, delta: &mut Buffer<f32>);

    fn decode(emulator: &Emulator, case: &DecodeCase<Self>) -> Buffer<Self>;
}

macro_rules! element {
    ($E:ident, $tolerance:literal, $delta:ident, $decode:ident, $combine:ident) => {
        impl Element for $E {
            const TOLERANCE: f64 = $tolerance;

            fn delta(emulator: &Emulator, case: &Case<Self>, output: &Buffer<Self>, delta: &mut Buffer<f32>) {
                let Sizes { tokens, heads, head_dim, .. } = case.sizes;
                $delta(
                    emulator,
                    case.d_output.read(),
                    output.read(),
                    delta.write(),
                    tokens * heads,
                    head_dim,
                )
                .expect("delta runs");
            }

            fn decode(emulator: &Emulator, case: &DecodeCase<Self>) -> Buffer<Self> {
                let (heads, kv_heads, head_dim) = case.heads;
                let rows = case.slots.len() as u32;
                let longest = *case.lengths.iter().max().expect("rows");
                let parts = longest.min(case.window).div_ceil(SPLIT);
                let count = rows as usize * heads as usize * parts as usize;
                let mut sums = Buffer::poisoned(count * head_dim as usize);
                let mut statistics = Buffer::poisoned(2 * count);
                let (slots, lengths) = (slice(&case.slots), slice(&case.lengths));
                $decode(
                    emulator,
                    case.q.read(),
                    case.k.read(),
                    case.v.read(),
                    slots,
                    lengths,
                    sums.write(),
                    statistics.write(),
                    rows,
                    parts,
                    case.slot_count,
                    case.capacity,
                    heads,
                    kv_heads,
                    head_dim,
                    case.window,
                    case.scale,
                )
                .expect("decode runs");
                let mut output = Buffer::poisoned(case.q.as_slice().len());
                $combine(
                    emulator,
                    sums.read(),
                    statistics.read(),
                    lengths,
                    output.write(),
                    rows,
                    parts,
                    heads,
                    head_dim,
                    case.window,
                )
                .expect("combine runs");
                output
            }
        }
    };
}
element!(f32, 2e-6, attention_delta_f32, attention_decode_f32, attention_combine_f32);
element!(Bf16, 6e-3, attention_delta_bf16, attention_decode_bf16, attention_combine_bf16);

impl<E: Element> Case<E> {
    fn new((heads, kv_heads, head_dim): Heads, lengths: &[u32]) -> Self {
        let mut documents: Vec<std::ops::Range<u32>> = Vec::new();
        for length in lengths {
            let start = documents.last().map_or(0, |document| document.end);
            documents.push(start..start + length);
        }
        let tokens: u32 = lengths.iter().sum();
        let (query, key) = ((tokens * heads * head_dim) as usize, (tokens * kv_heads * head_dim) as usize);
        let scale = 2.0 / (head_dim as f32).sqrt();
        Self {
            sizes: Sizes { tokens, heads, kv_heads, head_dim, scale, window: u32::MAX },
            documents,
            q: random(1, query),
            k: random(2, key),
            v: random(3, key),
            d_output: random(4, query),
        }
    }

    fn tiles(&self) -> (Buffer<u32>, Buffer<u32>) {
        let tiles = Tiles::new(self.documents.iter().cloned());
        (Buffer::from_slice(&tiles.by_queries), Buffer::from_slice(&tiles.by_keys))
    }

    fn run(&self, emulator: &Emulator) -> Results<E> {
        let (by_queries, by_keys) = self.tiles();
        let rows = (self.sizes.tokens * self.sizes.heads) as usize;
        let (query, key) = (self.q.as_slice().len(), self.k.as_slice().len());
        let mut results = Results {
            output: Buffer::poisoned(query),
            log_sum_exp: Buffer::poisoned(rows),
            delta: Buffer::poisoned(rows),
            d_q: Buffer::poisoned(query),
            d_k: Buffer::poisoned(key),
            d_v: Buffer::poisoned(key),
        };
        let inputs = [self.q.read(), self.k.read(), self.v.read()];
        let (output, log_sum_exp) = (results.output.write(), results.log_sum_exp.write());
        E::forward(emulator, self.sizes, inputs, by_queries.read(), output, log_sum_exp)
            .expect("forward runs");
        E::delta(emulator, self, &results.output, &mut results.delta);
        let inputs = BackwardInputs {
            q: self.q.read(),
            k: self.k.read(),
            v: self.v.read(),
            d_output: self.d_output.read(),
            log_sum_exp: results.log_sum_exp.read(),
            delta: results.delta.read(),
        };
        E::backward_queries(emulator, self.sizes, inputs, by_queries.read(), results.d_q.write())
            .expect("d_q runs");
        let (d_k, d_v) = (results.d_k.write(), results.d_v.write());
        E::backward_keys(emulator, self.sizes, inputs, by_keys.read(), d_k, d_v).expect("d_k and d_v run");
        results
    }

    fn check(&self, results: &Results<E>) {
        let expected = oracle(self);
        let check = |name: &str, actual: &[E], expected: &[f64], tolerance| {
            let what = format!("{name} of {:?} {:?}", self.sizes, self.documents);
            assert_close(&what, actual, expected, tolerance);
        };
        check("output", results.output.as_slice(), &expected.output, E::TOLERANCE);
        let what = format!("log-sum-exp of {:?} {:?}", self.sizes, self.documents);
        assert_close(&what, results.log_sum_exp.as_slice(), &expected.log_sum_exp, 1e-6);
        check("d_q", results.d_q.as_slice(), &expected.d_q, 2.0 * E::TOLERANCE);
        check("d_k", results.d_k.as_slice(), &expected.d_k, 2.0 * E::TOLERANCE);
        check("d_v", results.d_v.as_slice(), &expected.d_v, E::TOLERANCE);
    }
}

impl<E: Element> Results<E> {
    fn bits(&self) -> [Vec<u32>; 6] {
        [
            to_bits(self.output.as_slice()),
            to_bits(self.log_sum_exp.as_slice()),
            to_bits(self.delta.as_slice()),
            to_bits(self.d_q.as_slice()),
            to_bits(self.d_k.as_slice()),
            to_bits(self.d_v.as_slice()),
        ]
    }
}

struct Expected {
    output: Vec<f64>,
    log_sum_exp: Vec<f64>,
    d_q: Vec<f64>,
    d_k: Vec<f64>,
    d_v: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], factor: f64, values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// Probabilities and log-sum-exp of the scores.
fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    (scores.iter().map(|score| (score - log_sum_exp).exp()).collect(), log_sum_exp)
}

/// The definition, and its derivative by hand: p, d_p = d_output·v, d_score = p·(d_p − Σ p·d_p).
fn oracle<E: Element>(case: &Case<E>) -> Expected {
    let Sizes { tokens, heads, kv_heads, head_dim, scale, window } = case.sizes;
    let (heads, group, width) = (heads as usize, (heads / kv_heads) as usize, head_dim as usize);
    let scale = f64::from(scale);
    let [q, k, v, d_output] = [&case.q, &case.k, &case.v, &case.d_output].map(|x| widen(x.as_slice()));
    let mut expected = Expected {
        output: vec![0.0; q.len()],
        log_sum_exp: vec![0.0; tokens as usize * heads],
        d_q: vec![0.0; q.len()],
        d_k: vec![0.0; k.len()],
        d_v: vec![0.0; v.len()],
    };
    for document in &case.documents {
        for token in document.clone() {
            for head in 0..heads {
                let row = token as usize * heads + head;
                let query = row * width..(row + 1) * width;
                let key = |s: u32| {
                    let row = s as usize * kv_heads as usize + head / group;
                    row * width..(row + 1) * width
                };
                let seen = document.start.max((token + 1).saturating_sub(window))..token + 1;
                let scores: Vec<f64> =
                    seen.clone().map(|s| scale * dot(&q[query.clone()], &k[key(s)])).collect();
                let (probabilities, log_sum_exp) = softmax(&scores);
                expected.log_sum_exp[row] = log_sum_exp;
                let d_p: Vec<f64> = seen.clone().map(|s| dot(&d_output[query.clone()], &v[key(s)])).collect();
                let mean = dot(&probabilities, &d_p);
                for ((s, p), d_p) in seen.zip(probabilities).zip(d_p) {
                    let d_score = scale * p * (d_p - mean);
                    add(&mut expected.output[query.clone()], p, &v[key(s)]);
                    add(&mut expected.d_v[key(s)], p, &d_output[query.clone()]);
                    add(&mut expected.d_q[query.clone()], d_score, &k[key(s)]);
                    add(&mut expected.d_k[key(s)], d_score, &q[query.clone()]);
                }
            }
        }
    }
    expected
}

/// Against the oracle in one schedule, and the same bits in the others.
fn check<E: Element>(heads: Heads, lengths: &[u32]) {
    check_window::<E>(heads, lengths, u32::MAX);
}

fn check_window<E: Element>(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<E>::new(heads, lengths);
    case.sizes.window = window;
    let [results, others @ ..] = SCHEDULES.map(|schedule| case.run(&Emulator::new(schedule)));
    case.check(&results);
    for other in others {
        assert_eq!(other.bits(), results.bits(), "{:?} {:?}", case.sizes, case.documents);
    }
}

#[test]
fn small_heads_match_the_oracle_in_every_schedule() {
    check::<f32>((1, 1, 8), &[1]);
    check::<f32>((2, 1, 16), &[1, 66, 3]);
    check::<Bf16>((2, 2, 8), &[5, 64]);
    check::<Bf16>((3, 1, 24), &[70]);
}

#[test]
fn large_heads_match_the_oracle_in_every_schedule() {
    check::<f32>((1, 1, 64), &[65]);
    check::<f32>((2, 1, 80), &[9, 2]);
    check::<Bf16>((2, 1, 128), &[3, 20]);
    check::<Bf16>((1, 1, 64), &[7]);
}

#[test]
fn the_largest_heads_match_the_oracle() {
    let emulator = Emulator::new(SCHEDULES[2]);
    let case = Case::<f32>::new((1, 1, 256), &[17]);
    case.check(&case.run(&emulator));
    let case = Case::<Bf16>::new((1, 1, 200), &[11]);
    case.check(&case.run(&emulator));
}

#[test]
fn eight_heads_share_keys() {
    let case = Case::<f32>::new((16, 2, 8), &[13]);
    case.check(&case.run(&Emulator::new(SCHEDULES[0])));
}

#[test]
fn windows_match_the_oracle_in_every_schedule() {
    check_window::<f32>((2, 1, 8), &[2, 70], 1);
    check_window::<f32>((1, 1, 8), &[130], 17);
    check_window::<f32>((1, 1, 8), &[131], 64);
    check_window::<f32>((1, 1, 16), &[3, 140], 66);
    check_window::<f32>((1, 1, 8), &[66], 67);
}

#[test]
fn neighbours_do_not_show_in_a_documents_bits() {
    let emulator = Emulator::new(SCHEDULES[0]);
    let lengths = [13, 70, 7];
    let all = Case::<f32>::new((2, 1, 8), &lengths);
    let together = all.run(&emulator);
    for (document, length) in all.documents.iter().zip(lengths) {
        let mut alone = Case::<f32>::new((2, 1, 8), &[length]);
        let query = document.start as usize * 16..document.end as usize * 16;
        let key = document.start as usize * 8..document.end as usize * 8;
        alone.q = Buffer::from_slice(&all.q.as_slice()[query.clone()]);
        alone.k = Buffer::from_slice(&all.k.as_slice()[key.clone()]);
        alone.v = Buffer::from_slice(&all.v.as_slice()[key.clone()]);
        alone.d_output = Buffer::from_slice(&all.d_output.as_slice()[query.clone()]);
        let alone = alone.run(&emulator);
        assert_eq!(alone.output.as_slice(), &together.output.as_slice()[query.clone()]);
        assert_eq!(alone.d_q.as_slice(), &together.d_q.as_slice()[query]);
        assert_eq!(alone.d_k.as_slice(), &together.d_k.as_slice()[key.clone()]);
        assert_eq!(alone.d_v.as_slice(), &together.d_v.as_slice()[key]);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::<f32>::new((1, 1, 16), &[40]);
    case.sizes.scale = 100.0;
    let results = case.run(&Emulator::new(SCHEDULES[0]));
    // Scores of some hundreds are rounded to 2^-16 of 1, and so are their probabilities.
    assert_close("output", results.output.as_slice(), &oracle(&case).output, 1e-4);
}

#[test]
fn heads_that_no_kernel_is_for_are_refused() {
    for (head_dim, kernel) in [(264, "attention_forward_256_f32"), (12, "attention_forward_64_f32")] {
        let case = Case::<f32>::new((1, 1, head_dim), &[1]);
        let (mut output, mut log_sum_exp) = (Buffer::poisoned(head_dim as usize), Buffer::poisoned(1));
        let error = f32::forward(
            &Emulator::new(SCHEDULES[0]),
            case.sizes,
            [case.q.read(), case.k.read(), case.v.read()],
            case.tiles().0.read(),
            output.write(),
            log_sum_exp.write(),
        );
        let message = match error {
            Err(error @ LaunchError::Requirement { .. }) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        };
        assert!(message.starts_with(&format!("kernel {kernel} requires fits(head_dim, ")), "{message}");
        assert!(message.contains(&format!("head_dim = {head_dim}")), "{message}");
    }
}

#[test]
fn tiles_begin_with_documents_and_the_longest_come_first() {
    let tiles = Tiles::new([0..1, 1..130, 130..194].into_iter());
    let by_queries = [[129, 1, 130, 0], [65, 1, 130, 0], [0, 0, 1, 0], [1, 1, 130, 0], [130, 130, 194, 0]];
    assert_eq!(tiles.by_queries, by_queries.concat());
    let by_keys = [[1, 1, 130, 0], [65, 1, 130, 0], [130, 130, 194, 0], [0, 0, 1, 0], [129, 1, 130, 0]];
    assert_eq!(tiles.by_keys, by_keys.concat());
    assert_eq!(tiles.count(), 5);
}

/// A cache, and one new token in some of its slots.
struct DecodeCase<E: Element> {
    heads: Heads,
    scale: f32,
    window: u32,
    slot_count: u32,
    capacity: u32,
    slots: Vec<u32>,
    lengths: Vec<u32>,
    q: Buffer<E>,
    k: Buffer<E>,
    v: Buffer<E>,
}

impl<E: Element> DecodeCase<E> {
    /// What lies behind a sequence's length is NaN, and must not matter.
    fn new(heads: Heads, capacity: u32, rows: &[(u32, u32)]) -> Self {
        let slot_count = 3;
        let width = (heads.1 * heads.2) as usize;
        let (slots, lengths): (Vec<u32>, Vec<u32>) = rows.iter().copied().unzip();
        let mut caches = [2, 3].map(|seed| random::<E>(seed, (slot_count * capacity) as usize * width));
        for cache in &mut caches {
            for (&slot, &length) in slots.iter().zip(&lengths) {
                let (first, end) = (slot * capacity + length, (slot + 1) * capacity);
                cache.as_mut_slice()[first as usize * width..end as usize * width]
                    .fill(E::from_f32(f32::NAN));
            }
        }
        let [k, v] = caches;
        let q = random(1, rows.len() * (heads.0 * heads.2) as usize);
        Self { heads, scale: 0.5, window: u32::MAX, slot_count, capacity, slots, lengths, q, k, v }
    }

    fn oracle(&self) -> Vec<f64> {
        let (heads, kv_heads, width) = self.heads;
        let width = width as usize;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| widen(x.as_slice()));
        let mut output = vec![0.0; q.len()];
        for (index, output) in output.chunks_exact_mut(width).enumerate() {
            let (row, head) = (index / heads as usize, index % heads as usize);
            let kv_head = head / (heads / kv_heads) as usize;
            let key = |s: u32| {
                let token = (self.slots[row] * self.capacity + s) as usize;
                let row = token * kv_heads as usize + kv_head;
                row * width..(row + 1) * width
            };
            let query = &q[index * width..(index + 1) * width];
            let seen = self.lengths[row].saturating_sub(self.window)..self.lengths[row];
            let scores: Vec<f64> =
                seen.clone().map(|s| f64::from(self.scale) * dot(query, &k[key(s)])).collect();
            for (s, probability) in seen.zip(softmax(&scores).0) {
                add(output, probability, &v[key(s)]);
            }
        }
        output
    }
}

fn check_decode<E: Element>(heads: Heads, capacity: u32, rows: &[(u32, u32)], window: u32) {
    let case = DecodeCase::<E> { window, ..DecodeCase::new(heads, capacity, rows) };
    let [output, others @ ..] = SCHEDULES.map(|schedule| E::decode(&Emulator::new(schedule), &case));
    let what = format!("decode of {heads:?} {rows:?} window {window}");
    assert_close(&what, output.as_slice(), &case.oracle(), E::TOLERANCE);
    for other in others {
        assert_eq!(to_bits(other.as_slice()), to_bits(output.as_slice()), "{what}");
    }
}

#[test]
fn decode_matches_the_oracle_in_every_schedule() {
    check_decode::<f32>((1, 1, 8), 70, &[(2, 70), (0, 1), (1, 33)], u32::MAX);
    check_decode::<f32>((2, 1, 80), 300, &[(1, 300), (2, 2)], u32::MAX);
    check_decode::<f32>((4, 4, 64), 40, &[(0, 40)], u32::MAX);
    check_decode::<f32>((1, 1, 256), 30, &[(1, 19)], u32::MAX);
    check_decode::<Bf16>((8, 1, 128), 70, &[(2, 65)], u32::MAX);
    check_decode::<Bf16>((20, 2, 16), 20, &[(2, 17), (0, 5)], u32::MAX);
    check_decode::<Bf16>((2, 2, 80), 600, &[(0, 512), (1, 257), (2, 12)], u32::MAX);
    check_decode::<f32>((2, 1, 16), 600, &[(0, 600), (1, 300), (2, 12)], 280);
    check_decode::<f32>((2, 1, 8), 30, &[(0, 30), (1, 1)], 1);
    check_decode::<Bf16>((2, 1, 8), 300, &[(0, 299), (1, 257)], 256);
}
