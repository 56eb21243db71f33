//! Attention over packed documents: cases, and their f64 oracle.

use cpift_kernels::attention::*;
use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::{Launch, LaunchError};
use cpift_kernels::simt::Bf16;

use super::*;

/// Query heads, key/value heads, elements of a head.
pub type Heads = (u32, u32, u32);

/// Inputs of forward and backward. The scale is larger than 1/√D, so that probabilities are not uniform.
pub struct Case<E: Element> {
    pub sizes: Sizes,
    pub documents: Vec<std::ops::Range<u32>>,
    pub q: Buffer<E>,
    pub k: Buffer<E>,
    pub v: Buffer<E>,
    pub d_output: Buffer<E>,
}

/// All that forward and backward write.
pub struct Results<E: Element> {
    pub output: Buffer<E>,
    pub log_sum_exp: Buffer<f32>,
    pub d_q: Buffer<E>,
    pub d_k: Buffer<E>,
    pub d_v: Buffer<E>,
}

/// What results may be off by.
pub trait Element: AttentionElement {
    /// f32: sums of a few hundred terms, each rounded to 2^-24, of mixed sign, and exponents of a score
    /// that is rounded itself. bf16: probabilities and results are rounded by up to 2^-9 of themselves, which with
    /// values up to 1 is together 2^-8 = 4e-3 of the largest result; gradients of scores are rounded too, and
    /// see a rounded output.
    const TOLERANCE: f64;
}

impl Element for f32 {
    const TOLERANCE: f64 = 2e-6;
}

impl Element for Bf16 {
    const TOLERANCE: f64 = 6e-3;
}

/// The lists of tiles in `tiles` at these ranges.
pub fn lists(tiles: &Buffer<u32>, ranges: [std::ops::Range<usize>; 4]) -> TileLists<'_> {
    ranges.map(|range| slice(&tiles.as_slice()[range])).into()
}

impl<E: Element> Case<E> {
    pub fn new((heads, kv_heads, head_dim): Heads, lengths: &[u32]) -> Self {
        let mut documents: Vec<std::ops::Range<u32>> = Vec::new();
        for length in lengths {
            let start = documents.last().map_or(0, |document| document.end);
            documents.push(start..start + length);
        }
        let tokens: u32 = lengths.iter().sum();
        let (query, key) = ((tokens * heads * head_dim) as usize, (tokens * kv_heads * head_dim) as usize);
        let scale = 2.0 / (head_dim as f32).sqrt();
        Self {
            sizes: Sizes { tokens, heads, kv_heads, head_dim, scale, window: u32::MAX, softcap: 0.0 },
            documents,
            q: random(1, query),
            k: random(2, key),
            v: random(3, key),
            d_output: random(4, query),
        }
    }

    /// All lists of tiles, and where they are.
    pub fn tiles(&self) -> (Buffer<u32>, [std::ops::Range<usize>; 4]) {
        let tiles = Tiles::new(self.documents.iter().cloned());
        (Buffer::from_slice(&tiles.concat()), Tiles::ranges(self.documents.iter().map(|range| range.len())))
    }

    /// The forward pass alone.
    pub fn forward(&self, launcher: &dyn Launch) -> Result<(Buffer<E>, Buffer<f32>), LaunchError> {
        let (tiles, ranges) = self.tiles();
        let rows = (self.sizes.tokens * self.sizes.heads) as usize;
        let mut output = Buffer::poisoned(self.q.as_slice().len());
        let mut log_sum_exp = Buffer::poisoned(rows);
        let inputs = [self.q.read(), self.k.read(), self.v.read()];
        let tiles = lists(&tiles, ranges);
        E::forward(launcher, self.sizes, inputs, tiles, output.write(), log_sum_exp.write())?;
        Ok((output, log_sum_exp))
    }

    pub fn run(&self, launcher: &dyn Launch) -> Results<E> {
        self.try_run(launcher).expect("forward and backward run")
    }

    pub fn try_run(&self, launcher: &dyn Launch) -> Result<Results<E>, LaunchError> {
        let (tiles, ranges) = self.tiles();
        let (output, log_sum_exp) = self.forward(launcher)?;
        let (query, key) = (self.q.as_slice().len(), self.k.as_slice().len());
        let mut scratch = Buffer::poisoned(E::backward_scratch(launcher, self.sizes));
        let (mut d_q, mut d_k, mut d_v) =
            (Buffer::poisoned(query), Buffer::poisoned(key), Buffer::poisoned(key));
        let inputs = BackwardInputs {
            q: self.q.read(),
            k: self.k.read(),
            v: self.v.read(),
            output: output.read(),
            log_sum_exp: log_sum_exp.read(),
            d_output: self.d_output.read(),
        };
        let gradients = Gradients { d_q: d_q.write(), d_k: d_k.write(), d_v: d_v.write() };
        E::backward(launcher, self.sizes, inputs, lists(&tiles, ranges), scratch.write(), gradients)?;
        Ok(Results { output, log_sum_exp, d_q, d_k, d_v })
    }

    pub fn check(&self, results: &Results<E>) {
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
    pub fn bits(&self) -> [Vec<u32>; 5] {
        [
            to_bits(self.output.as_slice()),
            to_bits(self.log_sum_exp.as_slice()),
            to_bits(self.d_q.as_slice()),
            to_bits(self.d_k.as_slice()),
            to_bits(self.d_v.as_slice()),
        ]
    }
}

pub struct Expected {
    pub output: Vec<f64>,
    pub log_sum_exp: Vec<f64>,
    pub d_q: Vec<f64>,
    pub d_k: Vec<f64>,
    pub d_v: Vec<f64>,
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn add(sum: &mut [f64], factor: f64, values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// Probabilities and log-sum-exp of the scores.
pub fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    (scores.iter().map(|score| (score - log_sum_exp).exp()).collect(), log_sum_exp)
}

/// A product under a soft cap, 0 for none, and the derivative.
pub fn capped(product: f64, softcap: f32) -> (f64, f64) {
    let cap = f64::from(softcap);
    let tanh = (product / cap).tanh();
    if softcap == 0.0 { (product, 1.0) } else { (cap * tanh, 1.0 - tanh * tanh) }
}

/// The definition, and its derivative by hand: p, d_p = d_output·v, d_score = p·(d_p − Σ p·d_p).
pub fn oracle<E: Element>(case: &Case<E>) -> Expected {
    let Sizes { tokens, heads, kv_heads, head_dim, scale, window, softcap } = case.sizes;
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
                let products = seen.clone().map(|s| dot(&q[query.clone()], &k[key(s)]));
                let (capped, slopes): (Vec<f64>, Vec<f64>) =
                    products.map(|product| capped(product, softcap)).unzip();
                let scores: Vec<f64> = capped.iter().map(|product| scale * product).collect();
                let (probabilities, log_sum_exp) = softmax(&scores);
                expected.log_sum_exp[row] = log_sum_exp;
                let d_p: Vec<f64> = seen.clone().map(|s| dot(&d_output[query.clone()], &v[key(s)])).collect();
                let mean = dot(&probabilities, &d_p);
                for (((s, p), d_p), slope) in seen.zip(probabilities).zip(d_p).zip(slopes) {
                    let d_score = scale * p * (d_p - mean) * slope;
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
pub fn check<E: Element>(heads: Heads, lengths: &[u32]) {
    check_window::<E>(heads, lengths, u32::MAX);
}

pub fn check_window<E: Element>(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<E>::new(heads, lengths);
    case.sizes.window = window;
    let [results, others @ ..] = SCHEDULES.map(|schedule| case.run(&Emulator::new(schedule)));
    case.check(&results);
    for other in others {
        assert_eq!(other.bits(), results.bits(), "{:?} {:?}", case.sizes, case.documents);
    }
}

/// With a soft cap that bends most products and keeps the largest at their bound.
pub fn check_softcap<E: Element>(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<E>::new(heads, lengths);
    (case.sizes.window, case.sizes.softcap) = (window, 0.5 * (heads.2 as f32).sqrt());
    let [results, others @ ..] = SCHEDULES.map(|schedule| case.run(&Emulator::new(schedule)));
    case.check(&results);
    for other in others {
        assert_eq!(other.bits(), results.bits(), "{:?} {:?}", case.sizes, case.documents);
    }
}

/// Some documents of `all` alone have the bits that they have beside the others.
pub fn check_neighbours<E: Element>(all: &Case<E>) {
    check_neighbours_on(&Emulator::new(SCHEDULES[0]), all);
}

pub fn check_neighbours_on<E: Element>(emulator: &Emulator, all: &Case<E>) {
    let together = all.run(emulator);
    let Sizes { heads, kv_heads, head_dim, .. } = all.sizes;
    let range = |document: &std::ops::Range<u32>, heads: u32| {
        let width = (heads * head_dim) as usize;
        document.start as usize * width..document.end as usize * width
    };
    for document in &all.documents {
        let mut alone = Case::<E>::new((heads, kv_heads, head_dim), &[document.end - document.start]);
        alone.sizes.window = all.sizes.window;
        let (query, key) = (range(document, heads), range(document, kv_heads));
        alone.q = Buffer::from_slice(&all.q.as_slice()[query.clone()]);
        alone.k = Buffer::from_slice(&all.k.as_slice()[key.clone()]);
        alone.v = Buffer::from_slice(&all.v.as_slice()[key.clone()]);
        alone.d_output = Buffer::from_slice(&all.d_output.as_slice()[query.clone()]);
        let alone = alone.run(emulator);
        let same = |alone: &Buffer<E>, together: &Buffer<E>, range: std::ops::Range<usize>| {
            assert_eq!(to_bits(alone.as_slice()), to_bits(&together.as_slice()[range]), "{document:?}");
        };
        same(&alone.output, &together.output, query.clone());
        same(&alone.d_q, &together.d_q, query);
        same(&alone.d_k, &together.d_k, key.clone());
        same(&alone.d_v, &together.d_v, key);
    }
}
