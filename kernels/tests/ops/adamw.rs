//! AdamW: every combination against f64 and, bit for bit, against the CPU's order of roundings.

use crate::common::{Buffer, SCHEDULES, bits, random, slice, to_bits};
use cpift_kernels::adamw::*;
use cpift_kernels::dither::{dither_to_bf16, lower_half, undo};
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Element, Real};
use cpift_kernels::stochastic::{random_bits, round_to_bf16, third_bits};

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
const ROUNDING_SEED: u32 = 0x1234_5678;
/// Where in the whole the elements begin: so that indices begin again among them.
const FIRST: u32 = u32::MAX - 700;

/// The index by which an element is rounded.
fn in_whole(index: usize) -> usize {
    FIRST.wrapping_add(index as u32) as usize
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    None,
    Net,
    Path,
    Fisher,
}

/// Weights in the memory that a kernel has them in.
enum Memory {
    F32(Buffer<f32>),
    Split(Buffer<Bf16>, Buffer<u16>),
}

impl Memory {
    fn of(values: Buffer<f32>, split: bool) -> Self {
        if !split {
            return Self::F32(values);
        }
        let rounded: Vec<Bf16> = values
            .as_slice()
            .iter()
            .enumerate()
            .map(|(index, &value)| dither_to_bf16(value, in_whole(index)))
            .collect();
        let lower: Vec<u16> = values.as_slice().iter().map(|&value| lower_half(value)).collect();
        Self::Split(Buffer::from_slice(&rounded), Buffer::from_slice(&lower))
    }

    /// Bits of the weights. Those that are split are rounded by dither, as both planes tell.
    fn bits(&self) -> Vec<u32> {
        match self {
            Self::F32(values) => to_bits(values.as_slice()),
            Self::Split(rounded, lower) => {
                let planes = rounded.as_slice().iter().zip(lower.as_slice()).enumerate();
                let join = |(index, (&rounded, &lower)): (usize, (&Bf16, &u16))| {
                    let value = undo(rounded, lower, in_whole(index));
                    assert_eq!(rounded, dither_to_bf16(value, in_whole(index)), "{index}");
                    value.to_bits()
                };
                planes.map(join).collect()
            }
        }
    }
}

/// First and second moments, and importance.
enum Stored {
    F32([Buffer<f32>; 3]),
    Bf16([Buffer<Bf16>; 3]),
}

/// What a step changes.
struct State {
    weights: Memory,
    stored: Stored,
}

impl State {
    fn new(count: usize, combination: Combination) -> Self {
        let (first, mut second) = (random::<f32>(2, count), random::<f32>(3, count));
        second.as_mut_slice().iter_mut().for_each(|value| *value *= *value);
        let in_bf16 = |values: Buffer<f32>| {
            let halves: Vec<Bf16> =
                values.as_slice().iter().map(|value| Bf16((value.to_bits() >> 16) as u16)).collect();
            Buffer::from_slice(&halves)
        };
        Self {
            weights: Memory::of(random(1, count), combination.split),
            stored: match combination.bf16_state {
                true => Stored::Bf16([first, second, random(4, count)].map(in_bf16)),
                false => Stored::F32([first, second, random(4, count)]),
            },
        }
    }

    /// The same as `start`, with a first moment that arithmetic would not keep at some indices.
    fn with_nan(mut self, indices: &[usize]) -> Self {
        for &index in indices {
            match &mut self.stored {
                Stored::F32([first, ..]) => first.as_mut_slice()[index] = f32::from_bits(0x7fc0_1234),
                Stored::Bf16([first, ..]) => first.as_mut_slice()[index] = Bf16(0x7fd2),
            }
        }
        self
    }

    fn bits(&self) -> [Vec<u32>; 4] {
        let [moment1, moment2, importance] = match &self.stored {
            Stored::F32(parts) => parts.each_ref().map(|part| to_bits(part.as_slice())),
            Stored::Bf16(parts) => parts.each_ref().map(|part| to_bits(part.as_slice())),
        };
        [self.weights.bits(), moment1, moment2, importance]
    }
}

/// One kernel each.
#[derive(Debug, Clone, Copy)]
struct Combination {
    kind: Kind,
    frozen: bool,
    split: bool,
    bf16_state: bool,
}

fn combinations() -> impl Iterator<Item = Combination> {
    let kinds = [Kind::None, Kind::Net, Kind::Path, Kind::Fisher].into_iter();
    kinds.flat_map(|kind| {
        (0..8).map(move |bits| Combination {
            kind,
            frozen: bits & 1 == 1,
            split: bits & 2 == 2,
            bf16_state: bits & 4 == 4,
        })
    })
}

/// A kernel on a state.
fn step(
    emulator: &Emulator,
    combination: Combination,
    state: &mut State,
    gradient: &Buffer<f32>,
    frozen: &[u32],
    [scale, factor]: [f32; 2],
) {
    let scale = [scale];
    let step = Step {
        weights: match &mut state.weights {
            Memory::F32(weights) => StoredWeights::F32(weights.write()),
            Memory::Split(rounded, lower) => StoredWeights::Split(rounded.write(), lower.write()),
        },
        frozen: combination.frozen.then(|| slice(frozen)),
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
        rounding_seed: ROUNDING_SEED,
        first: FIRST,
    };
    let rounded: Vec<Bf16> = gradient.as_slice().iter().copied().map(Bf16::from_f32).collect();
    let rounded = Buffer::from_slice(&rounded);
    let state = match &mut state.stored {
        Stored::F32(parts) => StoredState::F32(state_of(gradient, parts, combination.kind)),
        Stored::Bf16(parts) => StoredState::Bf16(state_of(&rounded, parts, combination.kind)),
    };
    adamw_step(emulator, state, step, &coefficients).expect("runs");
}

fn state_of<'a, S: Element>(
    gradient: &'a Buffer<S>,
    [moment1, moment2, importance]: &'a mut [Buffer<S>; 3],
    kind: Kind,
) -> StateOf<'a, S> {
    let importance = importance.write();
    StateOf {
        gradient: gradient.read(),
        moment1: moment1.write(),
        moment2: moment2.write(),
        importance: match kind {
            Kind::None => Importance::None,
            Kind::Net => Importance::Net(importance),
            Kind::Path => Importance::Path(importance),
            Kind::Fisher => Importance::Fisher(importance),
        },
    }
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
        for combination in combinations() {
            let is_frozen = |index: usize| combination.frozen && frozen[index / 32] >> (index % 32) & 1 == 1;
            let mut gradient = random::<f32>(5, count);
            let kept: Vec<usize> = (0..count).filter(|&index| is_frozen(index)).collect();
            // What arithmetic would not keep.
            kept.iter().for_each(|&index| gradient.as_mut_slice()[index] = f32::NAN);
            let start = || State::new(count, combination).with_nan(&kept);
            let results = SCHEDULES.map(|schedule| {
                let mut state = start();
                step(&Emulator::new(schedule), combination, &mut state, &gradient, &frozen, [scale, factor]);
                state.bits()
            });
            assert!(results.iter().all(|result| *result == results[0]), "{combination:?}");
            let [weights, moment1, moment2, importance] = &results[0];
            let start = start().bits();
            for index in 0..count {
                let before = [0, 1, 2, 3].map(|part: usize| start[part][index]);
                let actual = [weights, moment1, moment2, importance].map(|part| part[index]);
                let what = format!("{combination:?} {count} [{index}]");
                if is_frozen(index) {
                    assert_eq!(actual, before, "{what}");
                } else {
                    check_element(
                        combination,
                        before,
                        gradient.as_slice()[index],
                        scale * factor,
                        index,
                        actual,
                        &what,
                    );
                }
            }
        }
    }
}

/// An element against the CPU's order of roundings, and against f64.
fn check_element(
    combination: Combination,
    before: [u32; 4],
    gradient: f32,
    scale: f32,
    index: usize,
    actual: [u32; 4],
    what: &str,
) {
    let before = before.map(f32::from_bits);
    let gradient = if combination.bf16_state { Bf16::from_f32(gradient).to_f32() } else { gradient };
    let mut expected = on_the_cpu(before, gradient * scale, combination.kind);
    if combination.bf16_state {
        let bits = random_bits(in_whole(index), ROUNDING_SEED);
        expected[1] = round_to_bf16(expected[1], bits).to_f32();
        expected[2] = round_to_bf16(expected[2], bits >> 16).to_f32();
        expected[3] = round_to_bf16(expected[3], third_bits(bits)).to_f32();
    }
    assert_eq!(actual, expected.map(f32::to_bits), "{what}");
    let exact = exactly(before, f64::from(gradient) * f64::from(scale), combination.kind);
    for (part, (actual, exact)) in actual.map(f32::from_bits).into_iter().zip(exact).enumerate() {
        let is_rounded = combination.bf16_state && part > 0;
        // About six roundings of 2^-24 each, of numbers up to 3; β as f32 is off by as much. What is stored in bf16 is off
        // by less than a unit of 2^-7.
        let tolerance = 1e-6 + if is_rounded { exact.abs() / 128.0 } else { 0.0 };
        assert!((f64::from(actual) - exact).abs() < tolerance, "{what}: {actual} {exact}");
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
        let narrow = 8 * (count("ld.global.b64") + count("st.global.b64"));
        let has = |part: &str| kernel.parameters.iter().any(|parameter| parameter.name == part);
        // The gradient is read, moments and importance are read and written.
        let numbers = if has("importance") { 1 + 2 + 2 + 2 } else { 1 + 2 + 2 };
        let [state_f32, state_bf16] = if has("rounding_seed") { [0, 2 * numbers] } else { [4 * numbers, 0] };
        let [weights_f32, weights_split] = if has("lower") { [0, 8] } else { [8, 0] };
        assert_eq!(wide, 4 * (weights_f32 + state_f32), "{}", kernel.name);
        assert_eq!(narrow, 4 * (state_bf16 + weights_split), "{}", kernel.name);
    }
}

#[test]
fn a_scale_that_is_not_finite_changes_nothing() {
    let count = 1027;
    let frozen = vec![0x5555_5555; 33];
    for (scale, factor) in [(f32::NAN, 1.0), (f32::INFINITY, 0.5), (f32::MAX, 4.0)] {
        for combination in combinations() {
            let mut state = State::new(count, combination);
            step(
                &Emulator::new(SCHEDULES[0]),
                combination,
                &mut state,
                &random(5, count),
                &frozen,
                [scale, factor],
            );
            assert_eq!(state.bits(), State::new(count, combination).bits());
        }
    }
}
