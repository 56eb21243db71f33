//! Cases of a transformer's operations at the shapes of a model, in f32 or bf16.

use cpift_engine::cublas::Product;
use cpift_engine::ops::attention::{self, Documents};
use cpift_engine::ops::gated_mlp::{self, Activation};
use cpift_engine::ops::{cross_entropy, embedding, linear, rms_norm, rope};
use cpift_engine::{Buffer, Device, Indices, Real, Result};

use super::case::{Case, Run};
use super::inputs::{random, random_tokens};
use super::scaling;
use super::shapes::ModelShape;

/// Sequences that generation works on at once.
const DECODED: usize = 8;

/// All of them: `tokens` tokens in documents of `length`, on a GPU or the CPU.
pub fn cases<T: Real>(model: &ModelShape, tokens: usize, length: usize, on_gpu: bool) -> Vec<Case> {
    let mut cases = Vec::from(embedding_cases::<T>(model, tokens));
    cases.extend(norm_cases::<T>(model, tokens, on_gpu));
    cases.extend(linear_cases::<T>(model, tokens));
    cases.extend(rope_cases::<T>(model, tokens, length));
    cases.extend(attention_cases::<T>(model, tokens, length, on_gpu));
    cases.extend(gate_cases::<T>(model, tokens));
    cases.extend(scaling::cases::<T>(model, tokens));
    cases.extend(cross_entropy_cases::<T>(model, tokens, on_gpu));
    cases
}

fn embedding_cases<T: Real>(model: &ModelShape, tokens: usize) -> [Case; 2] {
    let shape =
        embedding::Shape { tokens, vocabulary: model.vocabulary, hidden: model.hidden, padding: None };
    let sizes = format!("{tokens}×{}", shape.hidden);
    let distinct = tokens.min(shape.vocabulary);
    let ids = move |device: &Device| Indices::from_slice(device, &random_tokens(tokens, shape.vocabulary));
    [
        Case::new(
            name("embedding forward", model),
            &sizes,
            shape.forward_work(size_of::<T>()),
            move |device| {
                let table = random::<T>(device, shape.vocabulary * shape.hidden, 1)?;
                let mut output = random(device, tokens * shape.hidden, 2)?;
                let (device, ids) = (device.clone(), ids(device)?);
                Ok(move || embedding::forward(&device, &shape, table.view(), ids.view(), output.view_mut()))
            },
        ),
        Case::new(
            name("embedding backward", model),
            &sizes,
            shape.backward_work(distinct, size_of::<T>()),
            move |device| {
                let mut d_table = random(device, shape.vocabulary * shape.hidden, 1)?;
                let d_output = random::<T>(device, tokens * shape.hidden, 2)?;
                let (device, ids) = (device.clone(), ids(device)?);
                Ok(move || {
                    embedding::backward(&device, &shape, ids.view(), d_output.view(), d_table.view_mut())
                })
            },
        ),
    ]
}

fn norm_cases<T: Real>(model: &ModelShape, tokens: usize, on_gpu: bool) -> [Case; 3] {
    let shape = rms_norm::Shape { rows: tokens, hidden: model.hidden, epsilon: 1e-6, weight_offset: 0.0 };
    let sizes = format!("{tokens}×{}", shape.hidden);
    let elements = tokens * shape.hidden;
    [
        Case::new(
            name("rms_norm forward", model),
            &sizes,
            shape.forward_work(size_of::<T>()),
            move |device| {
                let (device, input) = (device.clone(), random::<T>(device, elements, 1)?);
                let (weight, mut output) = (random(&device, shape.hidden, 2)?, random(&device, elements, 3)?);
                let mut inverse_rms = random(&device, tokens, 4)?;
                Ok(move || {
                    let (output, inverse_rms) = (output.view_mut(), inverse_rms.view_mut());
                    rms_norm::forward(&device, &shape, input.view(), weight.view(), output, inverse_rms)
                })
            },
        ),
        Case::new(
            name("rms_norm residual", model),
            &sizes,
            shape.residual_work(size_of::<T>()),
            move |device| {
                let (device, residual) = (device.clone(), random::<T>(device, elements, 1)?);
                let (delta, weight) = (random(&device, elements, 2)?, random(&device, shape.hidden, 3)?);
                let (mut sum, mut output) = (random(&device, elements, 4)?, random(&device, elements, 5)?);
                let mut inverse_rms = random(&device, tokens, 6)?;
                Ok(move || {
                    let outputs = rms_norm::ResidualOutputs {
                        sum: sum.view_mut(),
                        output: output.view_mut(),
                        inverse_rms: inverse_rms.view_mut(),
                    };
                    let (residual, delta) = (residual.view(), delta.view());
                    rms_norm::forward_residual(&device, &shape, residual, delta, weight.view(), outputs)
                })
            },
        ),
        Case::new(
            name("rms_norm backward", model),
            &sizes,
            shape.backward_work(on_gpu, size_of::<T>()),
            move |device| {
                let (device, input) = (device.clone(), random::<T>(device, elements, 1)?);
                let (weight, d_output) = (random(&device, shape.hidden, 2)?, random(&device, elements, 3)?);
                let mut inverse_rms = Buffer::zeros(&device, tokens)?;
                inverse_rms.view_mut().fill(1.0)?;
                let (mut d_input, mut d_weight) =
                    (random(&device, elements, 4)?, random(&device, shape.hidden, 5)?);
                Ok(move || {
                    let (input, weight) = (input.view(), weight.view());
                    let saved = rms_norm::BackwardInputs { input, weight, inverse_rms: inverse_rms.view() };
                    let (d_input, d_weight) = (d_input.view_mut(), d_weight.view_mut());
                    rms_norm::backward(&device, &shape, saved, d_output.view(), d_input, d_weight)
                })
            },
        ),
    ]
}

fn linear_cases<T: Real>(model: &ModelShape, tokens: usize) -> Vec<Case> {
    let (queries, keys) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let layers = [
        ("q", model.hidden, queries),
        ("kv", model.hidden, keys),
        ("out", queries, model.hidden),
        ("gate", model.hidden, model.intermediate),
        ("down", model.intermediate, model.hidden),
    ];
    layers
        .into_iter()
        // The output projection of most models is as large as the queries': then once is enough.
        .filter(|&(layer, ..)| layer != "out" || queries != model.hidden)
        .flat_map(|(layer, inputs, outputs)| {
            linear_directions::<T>(model, layer, linear::Shape { rows: tokens, inputs, outputs })
        })
        .collect()
}

/// The three directions of one layer.
fn linear_directions<T: Real>(model: &ModelShape, layer: &str, shape: linear::Shape) -> [Case; 3] {
    let linear::Shape { rows, inputs, outputs } = shape;
    let sizes = format!("{rows}×{inputs}×{outputs}");
    let name = |direction: &str| name(&format!("linear {direction} {layer}"), model);
    let x = move |device: &Device| random::<T>(device, rows * inputs, 1);
    let y = move |device: &Device| random::<T>(device, rows * outputs, 2);
    let weight = move |device: &Device| random::<T>(device, outputs * inputs, 3);
    let product = Product {
        m: rows,
        n: outputs,
        k: inputs,
        a_transposed: false,
        b_transposed: true,
        accumulate: false,
    };
    [
        Case::new(name("forward"), &sizes, shape.forward_work(size_of::<T>()), move |device| {
            let (x, weight, mut y) = (x(device)?, weight(device)?, y(device)?);
            let device = device.clone();
            Ok(move || linear::forward(&device, &shape, x.view(), weight.view(), None, y.view_mut()))
        })
        .product(product),
        Case::new(name("d_input"), &sizes, shape.input_work(size_of::<T>()), move |device| {
            let (mut d_x, weight, d_y) = (x(device)?, weight(device)?, y(device)?);
            let device = device.clone();
            Ok(move || {
                linear::backward_input(&device, &shape, d_y.view(), weight.view(), d_x.view_mut(), false)
            })
        })
        .product(Product { n: inputs, k: outputs, b_transposed: false, ..product }),
        Case::new(name("d_weight"), &sizes, shape.weight_work(size_of::<T>()), move |device| {
            let (x, d_y) = (x(device)?, y(device)?);
            let mut d_weight = random(device, outputs * inputs, 3)?;
            let device = device.clone();
            Ok(move || {
                linear::backward_weight(&device, &shape, d_y.view(), x.view(), d_weight.view_mut(), None)
            })
        })
        .product(Product {
            m: outputs,
            n: inputs,
            k: rows,
            a_transposed: true,
            b_transposed: false,
            accumulate: true,
        }),
    ]
}

fn rope_cases<T: Real>(model: &ModelShape, tokens: usize, length: usize) -> [Case; 2] {
    let shape =
        rope::Shape { tokens, heads: model.heads, head_dim: model.head_dim, rotary_dim: model.head_dim };
    let sizes = format!("{tokens}×{}×{}", shape.heads, shape.head_dim);
    [("rope forward", false), ("rope backward", true)].map(|(op, inverse)| {
        Case::new(name(op, model), &sizes, shape.work(length, size_of::<T>()), move |device| {
            let mut x = random::<T>(device, tokens * shape.heads * shape.head_dim, 1)?;
            // A rotation keeps values as large as they are, run after run.
            let pairs = length * shape.head_dim / 2;
            let (sin, cos): (Vec<f32>, Vec<f32>) =
                (0..pairs).map(|pair| (pair as f32 * 0.37).sin_cos()).unzip();
            let (cos, sin) = (Buffer::from_slice(device, &cos)?, Buffer::from_slice(device, &sin)?);
            let positions: Vec<u32> = (0..tokens).map(|token| (token % length) as u32).collect();
            let (device, positions) = (device.clone(), Indices::from_slice(device, &positions)?);
            Ok(move || {
                let tables = rope::Tables { cos: cos.view(), sin: sin.view() };
                let rotate = if inverse { rope::backward } else { rope::forward };
                rotate(&device, &shape, tables, positions.view(), x.view_mut())
            })
        })
    })
}

fn attention_cases<T: Real>(model: &ModelShape, tokens: usize, length: usize, on_gpu: bool) -> [Case; 3] {
    let ModelShape { heads, kv_heads, head_dim, .. } = *model;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = attention::Shape { heads, kv_heads, head_dim, scale, window: None, softcap: None };
    let starts: Vec<usize> = (0..tokens).step_by(length).chain([tokens]).collect();
    let documents = Documents::new(&starts).expect("starts ascend from 0");
    let sizes = format!("{tokens}/{length}×{heads}/{kv_heads}×{head_dim}");
    let lengths = vec![length as u32; DECODED];
    let forward = shape.forward_work(&documents, size_of::<T>());
    let backward = shape.backward_work(&documents, on_gpu, size_of::<T>());
    let for_backward = documents.clone();
    [
        Case::new(name("attention forward", model), &sizes, forward, move |device| {
            attention_forward::<T>(device, shape, documents.clone())
        }),
        Case::new(name("attention backward", model), &sizes, backward, move |device| {
            attention_backward::<T>(device, shape, for_backward.clone())
        }),
        Case::new(
            name("attention decode", model),
            format!("{DECODED}×{length}×{heads}/{kv_heads}×{head_dim}"),
            shape.decode_work(&lengths, on_gpu, size_of::<T>()),
            move |device| attention_decode::<T>(device, shape, &lengths),
        ),
    ]
}

/// Queries, keys and values.
fn attention_inputs<T: Real>(
    device: &Device,
    shape: &attention::Shape,
    tokens: usize,
) -> Result<[Buffer<T>; 3]> {
    let keys = tokens * shape.kv_heads * shape.head_dim;
    let q = random(device, tokens * shape.heads * shape.head_dim, 1)?;
    Ok([q, random(device, keys, 2)?, random(device, keys, 3)?])
}

fn attention_forward<T: Real>(
    device: &Device,
    shape: attention::Shape,
    documents: Documents,
) -> Result<impl Run + use<T>> {
    let (device, tokens) = (device.clone(), documents.tokens());
    let [q, k, v] = attention_inputs::<T>(&device, &shape, tokens)?;
    let mut output = random(&device, q.len(), 4)?;
    let mut log_sum_exp = random(&device, tokens * shape.heads, 5)?;
    Ok(move || {
        let inputs = attention::Inputs { q: q.view(), k: k.view(), v: v.view() };
        attention::forward(&device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut())
    })
}

fn attention_backward<T: Real>(
    device: &Device,
    shape: attention::Shape,
    documents: Documents,
) -> Result<impl Run + use<T>> {
    let (device, tokens) = (device.clone(), documents.tokens());
    let [q, k, v] = attention_inputs::<T>(&device, &shape, tokens)?;
    let (mut output, d_output) = (random(&device, q.len(), 4)?, random(&device, q.len(), 5)?);
    let mut log_sum_exp = random(&device, tokens * shape.heads, 6)?;
    // From a forward: other numbers would give probabilities above 1.
    let inputs = attention::Inputs { q: q.view(), k: k.view(), v: v.view() };
    attention::forward(&device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut())?;
    let [mut d_q, mut d_k, mut d_v] = attention_inputs::<T>(&device, &shape, tokens)?;
    Ok(move || {
        let inputs = attention::Inputs { q: q.view(), k: k.view(), v: v.view() };
        let outputs = attention::BackwardInputs {
            output: output.view(),
            log_sum_exp: log_sum_exp.view(),
            d_output: d_output.view(),
        };
        let (d_q, d_k, d_v) = (d_q.view_mut(), d_k.view_mut(), d_v.view_mut());
        let gradients = attention::Gradients { d_q, d_k, d_v };
        attention::backward(&device, &shape, &documents, inputs, outputs, gradients)
    })
}

fn attention_decode<T: Real>(
    device: &Device,
    shape: attention::Shape,
    lengths: &[u32],
) -> Result<impl Run + use<T>> {
    let (device, rows) = (device.clone(), lengths.len());
    let capacity = lengths.iter().copied().max().unwrap_or(1) as usize;
    let keys = rows * capacity * shape.kv_heads * shape.head_dim;
    let (k, v) = (random::<T>(&device, keys, 1)?, random(&device, keys, 2)?);
    let q = random(&device, rows * shape.heads * shape.head_dim, 3)?;
    let mut output = random(&device, q.len(), 4)?;
    let slots: Vec<u32> = (0..rows as u32).collect();
    let (slots, lengths) = (Indices::from_slice(&device, &slots)?, Indices::from_slice(&device, lengths)?);
    Ok(move || {
        let (slots, lengths) = (slots.view(), lengths.view());
        let cache = attention::Cache { k: k.view(), v: v.view(), capacity, slots, lengths };
        attention::decode(&device, &shape, q.view(), cache, output.view_mut())
    })
}

fn gate_cases<T: Real>(model: &ModelShape, tokens: usize) -> [Case; 2] {
    let elements = tokens * model.intermediate;
    let sizes = format!("{tokens}×{}", model.intermediate);
    [
        Case::new(
            name("gated_mlp forward", model),
            &sizes,
            gated_mlp::forward_work(elements, size_of::<T>()),
            move |device| {
                let (device, gate) = (device.clone(), random::<T>(device, elements, 1)?);
                let (up, mut activation) = (random(&device, elements, 2)?, random(&device, elements, 3)?);
                Ok(move || {
                    gated_mlp::forward(
                        &device,
                        Activation::Silu,
                        gate.view(),
                        up.view(),
                        activation.view_mut(),
                    )
                })
            },
        ),
        Case::new(
            name("gated_mlp backward", model),
            &sizes,
            gated_mlp::backward_work(elements, size_of::<T>()),
            move |device| {
                let make = || -> Result<_> {
                    Ok([
                        random::<T>(device, elements, 1)?,
                        random(device, elements, 2)?,
                        random(device, elements, 3)?,
                    ])
                };
                Ok(GateBackward { device: device.clone(), before: make()?, buffers: make()? })
            },
        ),
    ]
}

/// Works in place, so that values shrink from run to run.
struct GateBackward<T: Real> {
    device: Device,
    before: [Buffer<T>; 3],
    buffers: [Buffer<T>; 3],
}

impl<T: Real> Run for GateBackward<T> {
    fn run(&mut self) -> Result<()> {
        let [gate, up, activation] = &mut self.buffers;
        gated_mlp::backward(
            &self.device,
            Activation::Silu,
            gate.view_mut(),
            up.view_mut(),
            activation.view_mut(),
        )
    }

    fn reset(&mut self) -> Result<()> {
        let mut buffers = self.buffers.iter_mut().zip(&self.before);
        buffers.try_for_each(|(buffer, before)| buffer.view_mut().copy_from(before.view()))
    }
}

fn cross_entropy_cases<T: Real>(model: &ModelShape, tokens: usize, on_gpu: bool) -> [Case; 2] {
    let shape = cross_entropy::Shape {
        rows: tokens,
        hidden: model.hidden,
        vocabulary: model.vocabulary,
        softcap: None,
    };
    let sizes = format!("{tokens}×{}×{}", shape.hidden, shape.vocabulary);
    let inputs = move |device: &Device| {
        let (states, head) = (tokens * shape.hidden, shape.vocabulary * shape.hidden);
        let targets = Indices::from_slice(device, &random_tokens(tokens, shape.vocabulary))?;
        let workspace = cross_entropy::Workspace::new(device, &shape)?;
        let (states, head) = (random::<T>(device, states, 1)?, random::<T>(device, head, 2)?);
        Ok::<_, cpift_engine::Error>((states, head, targets, workspace, random(device, tokens, 3)?))
    };
    [
        Case::new(
            name("cross_entropy forward", model),
            &sizes,
            shape.forward_work(on_gpu, size_of::<T>()),
            move |device| {
                let (states, head, targets, mut workspace, mut losses) = inputs(device)?;
                let device = device.clone();
                Ok(move || {
                    let (hidden, head, targets) = (states.view(), head.view(), targets.view());
                    let inputs = cross_entropy::Inputs { hidden, head, targets };
                    cross_entropy::forward(&device, &shape, inputs, &mut workspace, losses.view_mut())
                })
            },
        ),
        Case::new(
            name("cross_entropy backward", model),
            &sizes,
            shape.backward_work(on_gpu, size_of::<T>()),
            move |device| {
                let (states, head, targets, mut workspace, mut losses) = inputs(device)?;
                let (mut d_hidden, mut d_head) =
                    (random(device, states.len(), 4)?, random(device, head.len(), 5)?);
                let device = device.clone();
                Ok(move || {
                    let (hidden, head, targets) = (states.view(), head.view(), targets.view());
                    let inputs = cross_entropy::Inputs { hidden, head, targets };
                    let (d_hidden, d_head) = (d_hidden.view_mut(), d_head.view_mut());
                    let gradients = cross_entropy::Gradients { d_hidden, d_head };
                    let (scale, losses) = (1.0 / tokens as f32, losses.view_mut());
                    cross_entropy::forward_backward(
                        &device,
                        &shape,
                        inputs,
                        scale,
                        &mut workspace,
                        losses,
                        gradients,
                    )
                })
            },
        ),
    ]
}

pub fn name(operation: &str, model: &ModelShape) -> String {
    format!("{operation} {}", model.name)
}
