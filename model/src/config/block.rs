//! What a layer is made of, and the tensors that follow.

use cpift_engine::ops::gated_mlp::Activation;
use serde::Serialize;

/// What every layer of a model is made of: attention and a gated MLP, each of which adds to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Its norms, by name.
    pub norms: NormNames,
    /// Added to the weight of every norm of the model: output = x · r · (offset + weight).
    pub norm_weight_offset: f32,
    /// What a norm of queries and keys goes over, where they pass one before the rotation.
    pub query_key_norm: Option<NormWidth>,
    /// Queries, keys and values are one tensor, gate and up another.
    pub fused_projections: bool,
    /// The query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Attention's output projection has a bias.
    pub output_bias: bool,
    /// The query projection makes a gate of attention's output besides: each head's query and gate, one behind the
    /// other.
    pub output_gate: bool,
    /// The MLP's projections have biases.
    pub mlp_bias: bool,
    /// What the MLP's gate passes.
    pub activation: Activation,
}

/// Norms of a layer, by the name of their tensor; `None` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormNames {
    /// Of what attention reads.
    pub attention_input: Option<&'static str>,
    /// Of what attention adds.
    pub attention_output: Option<&'static str>,
    /// Of what the MLP reads.
    pub mlp_input: Option<&'static str>,
    /// Of what the MLP adds.
    pub mlp_output: Option<&'static str>,
}

/// Elements that a norm of queries or keys goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWidth {
    /// One head's.
    Head,
    /// All heads' of a token.
    AllHeads,
}

/// Sizes of a gated DeltaNet: what some layers have in place of attention.
///
/// Each value head has a state that decays by a gate, which takes the place of keys and values of earlier tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeltaNet {
    /// Heads of queries and keys (HK), a divisor of `value_heads`.
    pub key_heads: usize,
    /// Heads of values, gates and states (HV).
    pub value_heads: usize,
    /// Elements of a query or key (DK).
    pub key_dim: usize,
    /// Elements of a value (DV).
    pub value_dim: usize,
    /// Tokens that its convolution sees, the newest included.
    pub taps: usize,
}

impl DeltaNet {
    /// Queries, keys and values of a token: what the convolution goes over.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_width()
    }

    /// Values of a token, HV·DV.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Elements of a sequence's states, HV·DK·DV.
    pub fn state_length(&self) -> usize {
        self.value_width() * self.key_dim
    }
}

/// Widths that the shapes of a layer's tensors follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Residual stream (C).
    pub hidden: usize,
    /// Inside the MLP.
    pub intermediate: usize,
    /// All query heads, H·D.
    pub queries: usize,
    /// All key heads, KV·D.
    pub keys: usize,
    /// One head (D).
    pub head_dim: usize,
}

/// The norms of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRole {
    /// Of what attention reads.
    AttentionInput,
    /// Of queries.
    Query,
    /// Of keys.
    Key,
    /// Of what attention adds.
    AttentionOutput,
    /// Of what the MLP reads.
    MlpInput,
    /// Of what the MLP adds.
    MlpOutput,
    /// Of what a gated DeltaNet's heads read, before their gate.
    DeltaNet,
}

impl NormRole {
    /// Added to the weights of the norm in a model whose other norms have `offset`.
    pub fn weight_offset(self, offset: f32) -> f32 {
        if self == Self::DeltaNet { 0.0 } else { offset }
    }
}

/// The linear layers of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearRole {
    /// C → H·D.
    Query,
    /// C → KV·D.
    Key,
    /// C → KV·D.
    Value,
    /// H·D → C.
    Output,
    /// C → intermediate.
    Gate,
    /// C → intermediate.
    Up,
    /// intermediate → C.
    Down,
    /// Queries, keys and values of a gated DeltaNet.
    DeltaNetQkv,
    /// Gate of a gated DeltaNet's output.
    DeltaNetGate,
    /// β of a gated DeltaNet's heads, before its sigmoid.
    DeltaNetBeta,
    /// Decay of a gated DeltaNet's heads, before its gate.
    DeltaNetDecay,
}

/// Parameters of the heads of a gated DeltaNet, one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorRole {
    /// Added to the decay's input.
    DtBias,
    /// ln of the decay's rate.
    ALog,
}

/// A part of a layer with weights, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A norm over `width` elements, with the weight `tensor`.weight.
    Norm {
        /// Which.
        role: NormRole,
        /// Name of the tensor inside the layer, without `.weight`.
        tensor: &'static str,
        /// Its elements.
        width: usize,
    },
    /// Rows of `tensor`.weight, and of `tensor`.bias.
    Linear {
        /// Which.
        role: LinearRole,
        /// Name of the tensor inside the layer, without `.weight`.
        tensor: &'static str,
        /// The first row of the tensor that is this layer's.
        first_row: usize,
        /// Rows of the tensor.
        tensor_rows: usize,
        /// Rows of this layer.
        outputs: usize,
        /// Columns.
        inputs: usize,
        /// Whether there is a bias.
        bias: bool,
    },
    /// A convolution of every channel by itself, with the weight `tensor`.weight `[channels, 1, taps]`.
    Convolution {
        /// Name of the tensor inside the layer, without `.weight`.
        tensor: &'static str,
        /// Channels.
        channels: usize,
        /// Tokens that an output depends on.
        taps: usize,
    },
    /// A parameter of every head, `tensor`.
    Vector {
        /// Which.
        role: VectorRole,
        /// Name of the tensor inside the layer.
        tensor: &'static str,
        /// Its elements.
        width: usize,
    },
}

impl Block {
    /// The parts of a layer in the order in which their tensors are laid out: with attention, or with the given gated
    /// DeltaNet in its place.
    pub fn parts(&self, sizes: &BlockSizes, delta_net: Option<&DeltaNet>) -> Vec<Part> {
        use LinearRole::{Down, Gate, Up};
        let BlockSizes { hidden, intermediate, .. } = *sizes;
        let mut parts = Parts(Vec::new());
        parts.norm(NormRole::AttentionInput, self.norms.attention_input, hidden);
        match delta_net {
            None => self.attention(sizes, &mut parts),
            Some(delta_net) => self.delta_net(hidden, delta_net, &mut parts),
        }
        parts.norm(NormRole::AttentionOutput, self.norms.attention_output, hidden);
        parts.norm(NormRole::MlpInput, self.norms.mlp_input, hidden);
        if self.fused_projections {
            let rows = [(Gate, intermediate), (Up, intermediate)];
            parts.linears("mlp.gate_up_proj", &rows, hidden, self.mlp_bias);
        } else {
            parts.linears("mlp.gate_proj", &[(Gate, intermediate)], hidden, self.mlp_bias);
            parts.linears("mlp.up_proj", &[(Up, intermediate)], hidden, self.mlp_bias);
        }
        parts.linears("mlp.down_proj", &[(Down, hidden)], intermediate, self.mlp_bias);
        parts.norm(NormRole::MlpOutput, self.norms.mlp_output, hidden);
        parts.0
    }

    fn attention(&self, sizes: &BlockSizes, parts: &mut Parts) {
        use LinearRole::{Key, Output, Query, Value};
        let BlockSizes { hidden, queries, keys, head_dim, .. } = *sizes;
        if self.fused_projections {
            let rows = [(Query, queries), (Key, keys), (Value, keys)];
            parts.linears("self_attn.qkv_proj", &rows, hidden, self.qkv_bias);
        } else {
            let projected = if self.output_gate { 2 * queries } else { queries };
            parts.linears("self_attn.q_proj", &[(Query, projected)], hidden, self.qkv_bias);
            parts.linears("self_attn.k_proj", &[(Key, keys)], hidden, self.qkv_bias);
            parts.linears("self_attn.v_proj", &[(Value, keys)], hidden, self.qkv_bias);
        }
        if let Some(width) = self.query_key_norm {
            let of = |heads: usize| if width == NormWidth::Head { head_dim } else { heads };
            parts.norm(NormRole::Query, Some("self_attn.q_norm"), of(queries));
            parts.norm(NormRole::Key, Some("self_attn.k_norm"), of(keys));
        }
        parts.linears("self_attn.o_proj", &[(Output, hidden)], queries, self.output_bias);
    }

    fn delta_net(&self, hidden: usize, sizes: &DeltaNet, parts: &mut Parts) {
        use LinearRole::{DeltaNetBeta, DeltaNetDecay, DeltaNetGate, DeltaNetQkv, Output};
        let (channels, values, heads) = (sizes.channels(), sizes.value_width(), sizes.value_heads);
        let vector = |role, tensor| Part::Vector { role, tensor, width: heads };
        parts.0.push(vector(VectorRole::DtBias, "linear_attn.dt_bias"));
        parts.0.push(vector(VectorRole::ALog, "linear_attn.A_log"));
        parts.0.push(Part::Convolution { tensor: "linear_attn.conv1d", channels, taps: sizes.taps });
        parts.norm(NormRole::DeltaNet, Some("linear_attn.norm"), sizes.value_dim);
        parts.linears("linear_attn.out_proj", &[(Output, hidden)], values, false);
        parts.linears("linear_attn.in_proj_qkv", &[(DeltaNetQkv, channels)], hidden, false);
        parts.linears("linear_attn.in_proj_z", &[(DeltaNetGate, values)], hidden, false);
        parts.linears("linear_attn.in_proj_b", &[(DeltaNetBeta, heads)], hidden, false);
        parts.linears("linear_attn.in_proj_a", &[(DeltaNetDecay, heads)], hidden, false);
    }
}

/// Parts being listed.
struct Parts(Vec<Part>);

impl Parts {
    fn norm(&mut self, role: NormRole, tensor: Option<&'static str>, width: usize) {
        self.0.extend(tensor.map(|tensor| Part::Norm { role, tensor, width }));
    }

    /// Linear layers that share a tensor, by their rows.
    fn linears(&mut self, tensor: &'static str, rows: &[(LinearRole, usize)], inputs: usize, bias: bool) {
        let tensor_rows = rows.iter().map(|(_, outputs)| outputs).sum();
        let mut first_row = 0;
        for &(role, outputs) in rows {
            self.0.push(Part::Linear { role, tensor, first_row, tensor_rows, outputs, inputs, bias });
            first_row += outputs;
        }
    }
}
