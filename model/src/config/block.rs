//! What a layer is made of, and the tensors that follow.

use cpift_engine::ops::gated_mlp::Activation;

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
}

/// A norm or linear layer, and where its weights stand.
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
}

impl Block {
    /// The parts of a layer in the order in which their tensors are laid out.
    pub fn parts(&self, sizes: &BlockSizes) -> Vec<Part> {
        use LinearRole::{Down, Gate, Key, Output, Query, Up, Value};
        let BlockSizes { hidden, intermediate, queries, keys, head_dim } = *sizes;
        let mut parts = Parts(Vec::new());
        parts.norm(NormRole::AttentionInput, self.norms.attention_input, hidden);
        if self.fused_projections {
            let rows = [(Query, queries), (Key, keys), (Value, keys)];
            parts.linears("self_attn.qkv_proj", &rows, hidden, self.qkv_bias);
        } else {
            parts.linears("self_attn.q_proj", &[(Query, queries)], hidden, self.qkv_bias);
            parts.linears("self_attn.k_proj", &[(Key, keys)], hidden, self.qkv_bias);
            parts.linears("self_attn.v_proj", &[(Value, keys)], hidden, self.qkv_bias);
        }
        if let Some(width) = self.query_key_norm {
            let of = |heads: usize| if width == NormWidth::Head { head_dim } else { heads };
            parts.norm(NormRole::Query, Some("self_attn.q_norm"), of(queries));
            parts.norm(NormRole::Key, Some("self_attn.k_norm"), of(keys));
        }
        parts.linears("self_attn.o_proj", &[(Output, hidden)], queries, self.output_bias);
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
