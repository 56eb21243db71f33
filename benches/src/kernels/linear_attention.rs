//! Cases of what Qwen3.5's layers add on the CPU: the causal convolution, the gated delta rule, and the output gate of
//! attention. Their sizes are that family's, whatever the model of the other cases.

use cpift_engine::ops::attention::Documents;
use cpift_engine::ops::{causal_conv1d, gated_delta_rule, output_gate};
use cpift_engine::{Buffer, Device, Real, Result};

use super::case::{Case, Run};
use super::inputs::random;

const RULE: gated_delta_rule::Shape =
    gated_delta_rule::Shape { key_heads: 16, value_heads: 32, key_dim: 128, value_dim: 128 };
/// Queries, keys and values go through the convolution.
const CONVOLUTION: causal_conv1d::Shape = causal_conv1d::Shape { channels: 2 * 16 * 128 + 32 * 128, taps: 4 };
const HEADS: usize = 16;
const HEAD_DIM: usize = 256;

/// All of them: `tokens` tokens in documents of `length`.
pub fn cases<T: Real>(tokens: usize, length: usize) -> Vec<Case> {
    let starts: Vec<usize> = (0..tokens).step_by(length).chain([tokens]).collect();
    let documents = Documents::new(&starts).expect("starts ascend from 0");
    let mut cases = Vec::from(convolution_cases::<T>(&documents));
    cases.extend(rule_cases::<T>(&documents));
    cases.extend(gate_cases::<T>(tokens));
    cases
}

fn name(operation: &str) -> String {
    format!("{operation} Qwen3.5")
}

fn convolution_cases<T: Real>(documents: &Documents) -> [Case; 2] {
    let (shape, tokens) = (CONVOLUTION, documents.tokens());
    let sizes = format!("{tokens}×{}×{}", shape.channels, shape.taps);
    let (elements, weights) = (tokens * shape.channels, shape.channels * shape.taps);
    let (forward, backward) = (documents.clone(), documents.clone());
    [
        Case::new(
            name("causal_conv1d forward"),
            &sizes,
            shape.forward_work(tokens, size_of::<T>()),
            move |device: &Device| {
                let (device, documents) = (device.clone(), forward.clone());
                let (input, weight) = (random::<T>(&device, elements, 1)?, random(&device, weights, 2)?);
                let mut output = random(&device, elements, 3)?;
                Ok(move || {
                    let (input, weight) = (input.view(), weight.view());
                    causal_conv1d::forward(&device, &shape, &documents, input, weight, output.view_mut())
                })
            },
        ),
        Case::new(
            name("causal_conv1d backward"),
            &sizes,
            shape.backward_work(tokens, size_of::<T>()),
            move |device: &Device| {
                let (device, documents) = (device.clone(), backward.clone());
                let (input, weight) = (random::<T>(&device, elements, 1)?, random(&device, weights, 2)?);
                let (d_output, mut d_input) = (random(&device, elements, 3)?, random(&device, elements, 4)?);
                let mut d_weight = random(&device, weights, 5)?;
                Ok(move || {
                    causal_conv1d::backward(
                        &device,
                        &shape,
                        &documents,
                        (input.view(), weight.view()),
                        d_output.view(),
                        d_input.view_mut(),
                        d_weight.view_mut(),
                    )
                })
            },
        ),
    ]
}

/// Inputs of the gated delta rule.
struct RuleInputs<T: Real> {
    qkv: Buffer<T>,
    a: Buffer<T>,
    b: Buffer<T>,
    a_log: Buffer<T>,
    dt_bias: Buffer<T>,
}

impl<T: Real> RuleInputs<T> {
    fn new(device: &Device, tokens: usize) -> Result<Self> {
        let gates = tokens * RULE.value_heads;
        Ok(Self {
            qkv: random(device, tokens * CONVOLUTION.channels, 1)?,
            a: random(device, gates, 2)?,
            b: random(device, gates, 3)?,
            a_log: random(device, RULE.value_heads, 4)?,
            dt_bias: random(device, RULE.value_heads, 5)?,
        })
    }

    fn views(&self) -> gated_delta_rule::Inputs<'_, T> {
        gated_delta_rule::Inputs {
            qkv: self.qkv.view(),
            a: self.a.view(),
            b: self.b.view(),
            a_log: self.a_log.view(),
            dt_bias: self.dt_bias.view(),
        }
    }
}

fn rule_cases<T: Real>(documents: &Documents) -> [Case; 2] {
    let tokens = documents.tokens();
    let sizes = format!("{tokens}×{}/{}×{}", RULE.value_heads, RULE.key_heads, RULE.key_dim);
    let outputs = tokens * RULE.value_heads * RULE.value_dim;
    let (forward, backward) = (documents.clone(), documents.clone());
    [
        Case::new(
            name("gated_delta_rule forward"),
            &sizes,
            RULE.forward_work(documents, size_of::<T>()),
            move |device: &Device| {
                let (device, documents) = (device.clone(), forward.clone());
                let (inputs, mut output) =
                    (RuleInputs::<T>::new(&device, tokens)?, random(&device, outputs, 6)?);
                Ok(move || {
                    let output = output.view_mut();
                    gated_delta_rule::forward(&device, &RULE, &documents, inputs.views(), output, None)
                })
            },
        ),
        Case::new(
            name("gated_delta_rule backward"),
            &sizes,
            RULE.backward_work(documents, size_of::<T>()),
            move |device: &Device| {
                let (device, documents) = (device.clone(), backward.clone());
                let (inputs, d_output) =
                    (RuleInputs::<T>::new(&device, tokens)?, random(&device, outputs, 6)?);
                let mut gradients = RuleInputs::<T>::new(&device, tokens)?;
                let mut d_a_log = random(&device, RULE.value_heads, 7)?;
                let mut d_dt_bias = random(&device, RULE.value_heads, 8)?;
                Ok(move || {
                    let gradients = gated_delta_rule::Gradients {
                        d_qkv: gradients.qkv.view_mut(),
                        d_a: gradients.a.view_mut(),
                        d_b: gradients.b.view_mut(),
                        d_a_log: d_a_log.view_mut(),
                        d_dt_bias: d_dt_bias.view_mut(),
                    };
                    let (inputs, d_output) = (inputs.views(), d_output.view());
                    gated_delta_rule::backward(&device, &RULE, &documents, inputs, d_output, gradients)
                })
            },
        ),
    ]
}

fn gate_cases<T: Real>(tokens: usize) -> [Case; 2] {
    let shape = output_gate::Shape { tokens, heads: HEADS, head_dim: HEAD_DIM };
    let sizes = format!("{tokens}×{HEADS}×{HEAD_DIM}");
    let elements = tokens * HEADS * HEAD_DIM;
    [
        Case::new(
            name("output_gate forward"),
            &sizes,
            shape.forward_work(size_of::<T>()),
            move |device: &Device| {
                let device = device.clone();
                let joined = random::<T>(&device, 2 * elements, 1)?;
                let (attention, mut gated) = (random(&device, elements, 2)?, random(&device, elements, 3)?);
                Ok(move || {
                    let (joined, attention) = (joined.view(), attention.view());
                    output_gate::forward(&device, &shape, joined, attention, gated.view_mut())
                })
            },
        ),
        Case::new(
            name("output_gate backward"),
            &sizes,
            shape.backward_work(size_of::<T>()),
            move |device: &Device| {
                Ok(OutputGateBackward::<T> {
                    device: device.clone(),
                    shape,
                    joined: random(device, 2 * elements, 1)?,
                    attention: random(device, elements, 2)?,
                    before: random(device, elements, 3)?,
                    gradient: random(device, elements, 3)?,
                    d_joined: random(device, 2 * elements, 4)?,
                })
            },
        ),
    ]
}

/// Works in place, so that values shrink from run to run.
struct OutputGateBackward<T: Real> {
    device: Device,
    shape: output_gate::Shape,
    joined: Buffer<T>,
    attention: Buffer<T>,
    before: Buffer<T>,
    gradient: Buffer<T>,
    d_joined: Buffer<T>,
}

impl<T: Real> Run for OutputGateBackward<T> {
    fn run(&mut self) -> Result<()> {
        let inputs = (self.joined.view(), self.attention.view());
        let (gradient, d_joined) = (self.gradient.view_mut(), self.d_joined.view_mut());
        output_gate::backward(&self.device, &self.shape, inputs, gradient, d_joined)
    }

    fn reset(&mut self) -> Result<()> {
        self.gradient.view_mut().copy_from(self.before.view())
    }
}
