//! AdamW: every combination against f64 and, bit for bit, against the CPU's order of roundings.

use crate::common::{Buffer, SCHEDULES, bits, random, slice, to_bits};
use cpift_kernels::adamw::*;
use cpift_kernels::dither::dither_to_bf16;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::Bf16;

/// None, one word of a vector, a block and a vector more, several blocks and a ragged end.
const COUNTS: [usize; 5] = [0, 1, 32, 1028, 2547];

const BETA1: f32 = 0.9;
const GRADIENT_WEIGHT: f32 = 0.1;
const BETA2: f32 = 0.95;
const SQUARE_WEIGHT: f32 = 0.05;
const WEIGHT_FACTOR: f32 = 0.994;
const ROOT_CORRECTION: f32 = 0.31;
const EPSILON: f32 = 1e-6;
const STEP_SIZE: f32 = 0.04;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    None,
    Net,
    Path,
    Fisher,
}

/// What a step changes.
struct State {
    weights: Buffer<f32>,
    moment1: Buffer<f32>,
    moment2: Buffer<f32>,
    importance: Buffer<f32>,
    copy: Buffer<Bf16>,
}

impl State {
    fn new(count: usize) -> Self {
        let mut state = Self {
            weights: random(1, count),
            moment1: random(2, count),
            moment2: random(3, count),
            importance: random(4, count),
            copy: Buffer::poisoned(count),
        };
        state.moment2.as_mut_slice().iter_mut().for_each(|value| *value *= *value);
        state
    }

    fn bits(&self) -> [Vec<u32>; 5] {
        let [weights, moment1, moment2, importance] =
            [&self.weights, &self.moment1, &self.moment2, &self.importance].map(|b| to_bits(b.as_slice()));
        [weights, moment1, moment2, importance, to_bits(self.copy.as_slice())]
    }
}

/// Importance, whether coordinates are frozen, whether there is a copy: one kernel each.
type Combination = (Kind, bool, bool);

fn combinations() -> impl Iterator<Item = Combination> {
    [Kind::None, Kind::Net, Kind::Path, Kind::Fisher].into_iter().flat_map(|kind| {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(frozen, copy)| (kind, frozen, copy))
    })
}

/// A kernel on a state.
fn step(
    emulator: &Emulator,
    (kind, has_frozen, has_copy): Combination,
    state: &mut State,
    gradient: &Buffer<f32>,
    frozen: &[u32],
    [scale, factor]: [f32; 2],
) {
    let (importance, scale) = (state.importance.write(), [scale]);
    let step = Step {
        gradient: gradient.read(),
        weights: state.weights.write(),
        moment1: state.moment1.write(),
        moment2: state.moment2.write(),
        importance: match kind {
            Kind::None => Importance::None,
            Kind::Net => Importance::Net(importance),
            Kind::Path => Importance::Path(importance),
            Kind::Fisher => Importance::Fisher(importance),
        },
        frozen: has_frozen.then(|| slice(frozen)),
        copy: has_copy.then(|| state.copy.write()),
        scale: slice(&scale),
    };
    let coefficients = Coefficients {
        gradient_scale: factor,
        weight_factor: WEIGHT_FACTOR,
        beta1: BETA1,
        gradient_weight: GRADIENT_WEIGHT,
        beta2: BETA2,
        square_weight: SQUARE_WEIGHT,
        root_correction: ROOT_CORRECTION,
        epsilon: EPSILON,
        step_size: STEP_SIZE,
    };
    adamw_step(emulator, step, &coefficients).expect("runs");
}

/// Weight, moments and importance after the step, as the engine's CPU version rounds.
fn on_the_cpu(before: [f32; 4], gradient: f32, kind: Kind) -> [f32; 4] {
    let [weight, moment1, moment2, importance] = before;
    let moment1 = GRADIENT_WEIGHT.mul_add(gradient, BETA1 * moment1);
    let square = gradient * gradient;
    let moment2 = SQUARE_WEIGHT.mul_add(square, BETA2 * moment2);
    let denominator = moment2.sqrt() / ROOT_CORRECTION + EPSILON;
    let after = weight * WEIGHT_FACTOR - STEP_SIZE * moment1 / denominator;
    let importance = match kind {
        Kind::None => importance,
        Kind::Net => importance + (after - weight),
        Kind::Path => importance + (after - weight).abs(),
        Kind::Fisher => importance + square,
    };
    [after, moment1, moment2, importance]
}

/// The same in f64, from the definition.
fn exactly(before: [f32; 4], gradient: f64, kind: Kind) -> [f64; 4] {
    let [weight, moment1, moment2, importance] = before.map(f64::from);
    let [decay, beta1, beta2, root] = [WEIGHT_FACTOR, BETA1, BETA2, ROOT_CORRECTION].map(f64::from);
    let moment1 = beta1 * moment1 + (1.0 - beta1) * gradient;
    let moment2 = beta2 * moment2 + (1.0 - beta2) * gradient * gradient;
    let after =
        decay * weight - f64::from(STEP_SIZE) * moment1 / (moment2.sqrt() / root + f64::from(EPSILON));
    let importance = match kind {
        Kind::None => importance,
        Kind::Net => importance + after - weight,
        Kind::Path => importance + (after - weight).abs(),
        Kind::Fisher => importance + gradient * gradient,
    };
    [after, moment1, moment2, importance]
}

#[test]
fn all_combinations_match_in_all_schedules() {
    let (scale, factor) = (0.75, 1.1);
    for count in COUNTS {
        let frozen: Vec<u32> = (0..count.div_ceil(32) as u64)
            .map(|word| match bits(6, word) % 4 {
                0 => 0,
                1 => u32::MAX,
                _ => bits(7, word) as u32,
            })
            .collect();
        for combination @ (kind, has_frozen, has_copy) in combinations() {
            let is_frozen = |index: usize| has_frozen && frozen[index / 32] >> (index % 32) & 1 == 1;
            let mut gradient = random::<f32>(5, count);
            let mut start = State::new(count);
            for index in (0..count).filter(|&index| is_frozen(index)) {
                // What arithmetic would not keep.
                gradient.as_mut_slice()[index] = f32::NAN;
                start.moment1.as_mut_slice()[index] = f32::from_bits(0x7fc0_1234);
            }
            let mut results = Vec::new();
            for schedule in SCHEDULES {
                let mut state = State {
                    weights: Buffer::from_slice(start.weights.as_slice()),
                    moment1: Buffer::from_slice(start.moment1.as_slice()),
                    moment2: Buffer::from_slice(start.moment2.as_slice()),
                    importance: Buffer::from_slice(start.importance.as_slice()),
                    copy: Buffer::poisoned(count),
                };
                step(&Emulator::new(schedule), combination, &mut state, &gradient, &frozen, [scale, factor]);
                results.push(state.bits());
            }
            assert!(results.iter().all(|result| *result == results[0]), "{kind:?} {has_frozen} {has_copy}");
            let [weights, moment1, moment2, importance, copy] = &results[0];
            let start = start.bits();
            for index in 0..count {
                let before = [0, 1, 2, 3].map(|part: usize| start[part][index]);
                let actual = [weights, moment1, moment2, importance].map(|part| part[index]);
                let what = format!("{kind:?} {has_frozen} {has_copy} {count} [{index}]");
                if is_frozen(index) {
                    assert_eq!(actual, before, "{what}");
                } else {
                    let before = before.map(f32::from_bits);
                    let gradient = gradient.as_slice()[index];
                    let expected = on_the_cpu(before, gradient * (scale * factor), kind);
                    assert_eq!(actual, expected.map(f32::to_bits), "{what}");
                    let exact = exactly(before, f64::from(gradient) * f64::from(scale * factor), kind);
                    for (actual, exact) in actual.map(f32::from_bits).into_iter().zip(exact) {
                        // About six roundings of 2^-24 each, of numbers up to 3; β as f32 is off by as much.
                        assert!((f64::from(actual) - exact).abs() < 1e-6, "{what}: {actual} {exact}");
                    }
                }
                let expected_copy = if has_copy {
                    dither_to_bf16(f32::from_bits(weights[index]), index).to_f32()
                } else {
                    f32::from_bits(0xffff_0000)
                };
                assert_eq!(copy[index], expected_copy.to_bits(), "{what}");
            }
        }
    }
}

#[test]
fn traffic_is_what_the_operation_needs() {
    let ptx = cpift_kernels::modules::ptx("adamw", (8, 0)).expect("a module");
    for kernel in cpift_kernels::family("adamw") {
        let entry = ptx.split(".entry ").find(|entry| entry.starts_with(&format!("{}(", kernel.name)));
        let entry = entry.expect("an entry for every kernel");
        // What a thread with four elements moves; the ragged end and the scale go by 4 bytes and less.
        let count = |instruction: &str| entry.matches(instruction).count() as u32;
        let wide = 16 * (count("ld.global.v4") + count("st.global.v4"));
        let copied = 8 * count("st.global.b64");
        let has = |part: &str| kernel.parameters.iter().any(|parameter| parameter.name == part);
        assert_eq!(wide, 4 * if has("importance") { 36 } else { 28 }, "{}", kernel.name);
        assert_eq!(copied, 4 * if has("copy") { 2 } else { 0 }, "{}", kernel.name);
    }
}

#[test]
fn a_scale_that_is_not_finite_changes_nothing() {
    let count = 1027;
    let frozen = vec![0x5555_5555; 33];
    for (scale, factor) in [(f32::NAN, 1.0), (f32::INFINITY, 0.5), (f32::MAX, 4.0)] {
        for combination in combinations() {
            let mut state = State::new(count);
            step(
                &Emulator::new(SCHEDULES[0]),
                combination,
                &mut state,
                &random(5, count),
                &frozen,
                [scale, factor],
            );
            assert_eq!(state.bits(), State::new(count).bits());
        }
    }
}
