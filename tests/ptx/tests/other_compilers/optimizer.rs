//! AdamW: elementwise arithmetic with roots and quotients, and a rounded copy.

use cpift_kernels::adamw::{Coefficients, Importance, StateOf, Step, StoredState, StoredWeights, adamw_step};
use cpift_kernels::dither::{dither_to_bf16, lower_half, undo};
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::Bf16;
use source::emulator::{Rules, Schedule};

use super::{Given, Launch, RULES, compare, float, launch, long, must_be_right, ptx_of, read, updated, word};
use crate::common::{Buffer, random, to_bits, widen};
use crate::instructions::nearest_bf16;

const CUDA: &str = ptx_of!("cuda_adamw.sm_80");
const TRITON: &str = ptx_of!("triton_adamw.sm_80");

/// Several blocks and a ragged end, of a vector, too.
const COUNT: usize = 2547;
const LEARNING_RATE: f32 = 0.03;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.95;
const EPSILON: f32 = 1e-6;
const DECAY: f32 = 0.1;
/// Gradients with a larger norm are clipped.
const MOST: f32 = 10.0;

/// What a step changes.
struct State {
    weights: Buffer<f32>,
    moment1: Buffer<f32>,
    moment2: Buffer<f32>,
    copy: Buffer<Bf16>,
}

impl State {
    /// Before the first step.
    fn new() -> Self {
        let zero = || Buffer::from_slice(&[0f32; COUNT]);
        Self { weights: random(1, COUNT), moment1: zero(), moment2: zero(), copy: Buffer::poisoned(COUNT) }
    }

    /// In the midst of a training.
    fn later() -> Self {
        let mut state = Self { moment1: random(2, COUNT), moment2: random(3, COUNT), ..Self::new() };
        state.moment2.as_mut_slice().iter_mut().for_each(|moment| *moment *= *moment);
        state
    }

    fn given(&mut self) -> [Given; 4] {
        let Self { weights, moment1, moment2, copy } = self;
        [updated(weights), updated(moment1), updated(moment2), updated(copy)]
    }

    fn bits(&self) -> [Vec<u32>; 4] {
        let [weights, moment1, moment2] =
            [&self.weights, &self.moment1, &self.moment2].map(|buffer| to_bits(buffer.as_slice()));
        [weights, moment1, moment2, to_bits(self.copy.as_slice())]
    }
}

/// Gradients of one step: every eleventh is zero.
fn gradients(step: i32) -> Buffer<f32> {
    let mut gradients = random::<f32>(10 + step as u64, COUNT);
    gradients.as_mut_slice().iter_mut().step_by(11).for_each(|gradient| *gradient = 0.0);
    gradients
}

/// Weights, first and second moments in f64, from the definition (Loshchilov and Hutter, Algorithm 2, with the learning rate
/// in the decay).
struct Exact([Vec<f64>; 3]);

impl Exact {
    fn step(&mut self, gradients: &[f64], step: i32) {
        let [rate, beta1, beta2, epsilon, decay, most] =
            [LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY, MOST].map(f64::from);
        let norm = gradients.iter().map(|gradient| gradient * gradient).sum::<f64>().sqrt();
        let clip = (most / norm).min(1.0);
        let Self([weights, moments1, moments2]) = self;
        for (place, gradient) in gradients.iter().enumerate() {
            let gradient = gradient * clip;
            moments1[place] = beta1 * moments1[place] + (1.0 - beta1) * gradient;
            moments2[place] = beta2 * moments2[place] + (1.0 - beta2) * gradient * gradient;
            let corrected1 = moments1[place] / (1.0 - beta1.powi(step));
            let corrected2 = moments2[place] / (1.0 - beta2.powi(step));
            weights[place] -= rate * (corrected1 / (corrected2.sqrt() + epsilon) + decay * weights[place]);
        }
    }
}

/// Three steps of a kernel beside the same in f64. `run` is given the gradients, their sum of squares and the step.
fn steps(run: impl Fn(&mut State, [&Buffer<f32>; 2], i32) -> Result<(), String>) -> Result<(), String> {
    let mut state = State::new();
    let mut exact =
        Exact([&state.weights, &state.moment1, &state.moment2].map(|part| widen(part.as_slice())));
    for step in 1..=3 {
        let gradients = gradients(step);
        let wide = widen(gradients.as_slice());
        let squares = wide.iter().map(|gradient| gradient * gradient).sum::<f64>() as f32;
        assert!(squares > MOST * MOST, "clips");
        run(&mut state, [&gradients, &Buffer::from_slice(&[squares])], step)?;
        exact.step(&wide, step);
        let Exact([weights, moment1, moment2]) = &exact;
        // Of the largest: about ten roundings of 2^-24 each a step.
        compare("the weights", state.weights.as_slice(), weights, 1e-6)?;
        compare("first moments", state.moment1.as_slice(), moment1, 1e-6)?;
        compare("second moments", state.moment2.as_slice(), moment2, 1e-6)?;
        let copy = |weight: &f32| Bf16(nearest_bf16(weight.to_bits()));
        let copies: Vec<Bf16> = state.weights.as_slice().iter().map(copy).collect();
        if to_bits(state.copy.as_slice()) != to_bits(&copies) {
            return Err("the copy is not what is nearest to the weights".to_owned());
        }
    }
    Ok(())
}

fn by_nvcc(rules: Rules, schedule: Schedule) -> Result<(), String> {
    steps(|state, [gradients, squares], step| {
        let numbers = [MOST, LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY].map(float);
        let sizes = [read(squares), word(COUNT), word(step as usize)];
        let given = [&[read(gradients)], &state.given()[..], &sizes, &numbers].concat();
        let launched = Launch { kernel: "adamw", grid: [4, 1, 1], block: 128, shared: 0 };
        launch(CUDA, launched, &given, rules, schedule)
    })
}

fn by_triton(rules: Rules, schedule: Schedule) -> Result<(), String> {
    steps(|state, [gradients, squares], step| {
        let corrections = [BETA1, BETA2].map(|beta| (1.0 - f64::from(beta).powi(step)) as f32);
        let numbers = [MOST, LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY, corrections[0], corrections[1]];
        let numbers = numbers.map(float);
        let sizes = [read(squares), word(COUNT)];
        let given = [&[read(gradients)], &state.given()[..], &sizes, &numbers, &[long(0), long(0)]].concat();
        let launched =
            Launch { kernel: "adamw", grid: [COUNT.div_ceil(1024) as u32, 1, 1], block: 128, shared: 4096 };
        launch(TRITON, launched, &given, rules, schedule)
    })
}

#[test]
fn by_a_stride_of_the_grid() {
    must_be_right(by_nvcc);
}

#[test]
fn by_blocks_with_fast_roots_and_quotients() {
    must_be_right(by_triton);
}

/// What nvcc makes of the formulas that the kernel here documents gives the kernel's bits.
#[test]
fn the_kernel_here_gives_the_same_bits() {
    let coefficients = Coefficients {
        gradient_scale: 1.1,
        weight_factor: 0.997,
        beta1: BETA1,
        gradient_weight: 1.0 - BETA1,
        beta2: BETA2,
        square_weight: 1.0 - BETA2,
        root_correction: 0.31,
        epsilon: EPSILON,
        step_size: 0.04,
        rounding_seed: 0,
        first: 0,
    };
    let (gradients, scale) = (gradients(4), Buffer::from_slice(&[0.75f32]));
    let schedule = Schedule::Forward;
    let mut own = State::later();
    // Here the rounded weights and the lower halves of their bits are the weights.
    let weights = || own.weights.as_slice().iter().copied().enumerate();
    let rounded: Vec<Bf16> = weights().map(|(index, weight)| dither_to_bf16(weight, index)).collect();
    let lower: Vec<u16> = weights().map(|(_, weight)| lower_half(weight)).collect();
    let (mut rounded, mut lower) = (Buffer::from_slice(&rounded), Buffer::from_slice(&lower));
    let step = Step {
        weights: StoredWeights::Split(rounded.write(), lower.write()),
        frozen: None,
        scale: scale.read(),
    };
    let state = StoredState::F32(StateOf {
        gradient: gradients.read(),
        moment1: own.moment1.write(),
        moment2: own.moment2.write(),
        importance: Importance::None,
    });
    adamw_step(&Emulator::new(schedule), state, step, &coefficients).expect("runs");
    for (index, weight) in own.weights.as_mut_slice().iter_mut().enumerate() {
        *weight = undo(rounded.as_slice()[index], lower.as_slice()[index], index);
    }
    own.copy = rounded;

    let mut other = State::later();
    let numbers = [
        coefficients.gradient_scale,
        coefficients.weight_factor,
        coefficients.beta1,
        coefficients.gradient_weight,
        coefficients.beta2,
        coefficients.square_weight,
        coefficients.root_correction,
        coefficients.epsilon,
        coefficients.step_size,
    ];
    let numbers = numbers.map(float);
    let given = [&[read(&gradients)], &other.given()[..], &[read(&scale), long(COUNT)], &numbers].concat();
    let launched =
        Launch { kernel: "adamw_in_order", grid: [COUNT.div_ceil(1024) as u32, 1, 1], block: 256, shared: 0 };
    launch(CUDA, launched, &given, RULES, schedule).expect("runs");
    assert!(own.bits() != State::later().bits(), "something was done");
    assert!(own.bits() == other.bits(), "other bits than nvcc's");
}
