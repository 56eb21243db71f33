//! The families of models: what of a `config.json` decides how each is computed.
//!
//! A family is one entry of [`FAMILIES`]. Names of tensors, forward, backward, memory plan and FLOP count follow from
//! the [`Block`](super::Block) that its entry describes; nothing outside of this folder asks for a family's name.
//! `docs/adding-a-family.md` goes through one.

use cpift_engine::ops::gated_mlp::Activation;

use super::block::{DeltaNet, NormNames, NormWidth};

/// A family of models, by `model_type`.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` of its configurations.
    pub model_type: &'static str,
    /// Class of `transformers` for its language models.
    pub class: &'static str,
    /// `model_type` of a larger model whose language model is of this family where it does not say.
    pub(super) inside: Option<&'static str>,
    /// Sizes that published files leave out.
    pub(super) default_sizes: &'static [(&'static str, usize)],
    /// Norms of a layer.
    pub(super) norms: NormNames,
    /// Added to the weights of all norms.
    pub(super) norm_weight_offset: f32,
    /// Norms of queries and keys.
    pub(super) query_key_norm: Option<NormWidth>,
    /// Queries, keys and values are one tensor, gate and up another.
    pub(super) fused_projections: bool,
    /// Biases of the query, key and value projections.
    pub(super) qkv_bias: Bias,
    /// Bias of attention's output projection.
    pub(super) output_bias: Bias,
    /// Queries come with a gate of attention's output.
    pub(super) output_gate: bool,
    /// Biases of the MLP.
    pub(super) mlp_bias: Bias,
    /// Field of the activation, and the one where it is missing.
    pub(super) activation: (&'static str, Activation),
    /// Width of a head where `head_dim` is missing.
    pub(super) head_dim: HeadDim,
    /// `num_key_value_heads` may be missing: as many as query heads.
    pub(super) kv_heads_as_heads: bool,
    /// Where `rms_norm_eps` is missing.
    pub(super) rms_norm_epsilon: f64,
    /// Where `tie_word_embeddings` is missing.
    pub(super) tied: bool,
    /// Where `max_position_embeddings` is missing.
    pub(super) max_positions: usize,
    /// Where `pad_token_id` is missing.
    pub(super) padding: Option<u32>,
    /// Where `original_max_position_embeddings` is missing, in families whose class has that field.
    pub(super) original_max_positions: Option<usize>,
    /// Base of the rotary frequencies where none is given.
    pub(super) rope_theta: f64,
    /// Which layers share a rotary embedding.
    pub(super) rope: RopeForm,
    /// `partial_rotary_factor` is read: only the first part of a head is turned, this share where the field is missing.
    pub(super) partial_rotary: Option<f64>,
    /// Older names of kinds of rotary embeddings: name and what it means.
    pub(super) rope_aliases: &'static [(&'static str, &'static str)],
    /// Queries are scaled by their position (`llama_4_scaling_beta`), which must be given.
    pub(super) scales_queries: bool,
    /// Which layers have a window.
    pub(super) pattern: LayerPattern,
    /// Factor of attention's scores.
    pub(super) attention_scale: AttentionScale,
    /// Field of the bound of attention's scores, and the bound where it is missing.
    pub(super) attention_softcap: Option<(&'static str, Option<f64>)>,
    /// The same of the logits.
    pub(super) logit_softcap: Option<(&'static str, Option<f64>)>,
    /// Factor of the embedding's output.
    pub(super) embedding_scale: EmbeddingScale,
    /// Field of the factor of what attention and MLP add to the residual stream.
    pub(super) residual_scale: Option<&'static str>,
    /// Field of what the logits are divided by.
    pub(super) logit_divisor: Option<&'static str>,
    /// Fields that transformers' class reads and of which only the given value is supported.
    pub(super) only: &'static [Only],
    /// Shares of activations that the class drops while training.
    pub(super) dropouts: &'static [&'static str],
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// Never.
    Never,
    /// Always.
    Always,
    /// As the field says; without it none.
    Field(&'static str),
}

/// Width of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadDim {
    /// `head_dim`, or `hidden_size / num_attention_heads`.
    FieldOrShare,
    /// `head_dim`, or this width.
    FieldOr(usize),
}

/// Which layers share a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RopeForm {
    /// All.
    Shared,
    /// Those with a window have one, the others another: bases where none is given, and the older field of the former.
    ByLayerType { full_theta: f64, sliding: (Option<&'static str>, f64) },
}

/// Which layers have a window, or a gated DeltaNet in place of attention, and what fields say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerPattern {
    /// None has.
    None,
    /// All have `sliding_window`, or with `by_types` those in `layer_types`.
    EveryLayer { default: Option<usize>, by_types: bool },
    /// Where `use_sliding_window` is on, those from `max_window_layers` on, or those in `layer_types`.
    Switched,
    /// Those in `layer_types`; else those without a rotary embedding, where `use_sliding_window` is on.
    WithoutRope,
    /// All but every so many-th, or those in `layer_types`.
    Periodic { period: Period },
    /// None; all but every so many-th, or those in `layer_types`, have a gated DeltaNet in place of attention, of these
    /// sizes where the fields are missing.
    DeltaNets { period: Period, sizes: DeltaNet },
}

/// Which layers of a pattern have neither window nor gated DeltaNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Period {
    /// Every so many-th.
    Every(usize),
    /// As the field says, or the number where it is missing.
    Field(&'static str, usize),
}

/// Factor of attention's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AttentionScale {
    /// 1/√(head's width).
    HeadDim,
    /// 1/√ of the field, or of the number where it is missing.
    InverseRootOf(&'static str, f64),
    /// The field, or the number where it is missing.
    Field(&'static str, f64),
}

/// Factor of the embedding's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmbeddingScale {
    /// 1.
    One,
    /// √C.
    RootOfHidden,
    /// The field, 1 where it is missing.
    Field(&'static str),
}

/// A field of which one kind of value is supported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Only {
    pub key: &'static str,
    /// The value, in words.
    pub value: &'static str,
    pub allows: fn(&serde_json::Value) -> bool,
}

const fn only_false(key: &'static str) -> Only {
    Only { key, value: "false", allows: |value| *value == serde_json::Value::Bool(false) }
}

/// Llama 1 to 3, and what is made like it; the others say in what they differ.
const LLAMA: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    inside: None,
    default_sizes: &[],
    norms: NormNames {
        attention_input: Some("input_layernorm"),
        attention_output: None,
        mlp_input: Some("post_attention_layernorm"),
        mlp_output: None,
    },
    norm_weight_offset: 0.0,
    query_key_norm: None,
    fused_projections: false,
    qkv_bias: Bias::Field("attention_bias"),
    output_bias: Bias::Field("attention_bias"),
    output_gate: false,
    mlp_bias: Bias::Field("mlp_bias"),
    activation: ("hidden_act", Activation::Silu),
    head_dim: HeadDim::FieldOrShare,
    kv_heads_as_heads: true,
    rms_norm_epsilon: 1e-6,
    tied: false,
    max_positions: 2048,
    padding: None,
    original_max_positions: None,
    rope_theta: 10_000.0,
    rope: RopeForm::Shared,
    partial_rotary: None,
    rope_aliases: &[],
    scales_queries: false,
    pattern: LayerPattern::None,
    attention_scale: AttentionScale::HeadDim,
    attention_softcap: None,
    logit_softcap: None,
    embedding_scale: EmbeddingScale::One,
    residual_scale: None,
    logit_divisor: None,
    only: &[],
    dropouts: &["attention_dropout"],
};

/// Qwen2 and Qwen2.5, with biases on queries, keys and values.
const QWEN2: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    // `transformers` takes 32 where the field is missing: too odd to guess.
    kv_heads_as_heads: false,
    max_positions: 32_768,
    pattern: LayerPattern::Switched,
    ..LLAMA
};

/// Qwen3, with RMSNorm on every head's queries and keys.
const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    query_key_norm: Some(NormWidth::Head),
    qkv_bias: Bias::Field("attention_bias"),
    output_bias: Bias::Field("attention_bias"),
    head_dim: HeadDim::FieldOr(128),
    ..QWEN2
};

/// Qwen3.5's language model: three of four layers with a gated DeltaNet, the others with gated attention.
const QWEN3_5: Family = Family {
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    inside: Some("qwen3_5"),
    default_sizes: &[
        ("num_attention_heads", 16),
        ("num_key_value_heads", 4),
        ("num_hidden_layers", 32),
        ("vocab_size", 248_320),
    ],
    norm_weight_offset: 1.0,
    output_gate: true,
    head_dim: HeadDim::FieldOr(256),
    partial_rotary: Some(0.25),
    pattern: LayerPattern::DeltaNets {
        period: Period::Field("full_attention_interval", 4),
        sizes: DeltaNet { key_heads: 16, value_heads: 32, key_dim: 128, value_dim: 128, taps: 4 },
    },
    // The convolution in front of a gated DeltaNet has it too.
    only: &[Only {
        key: "hidden_act",
        value: "\"silu\"",
        allows: |value| value == "silu" || value == "swish",
    }],
    ..QWEN3
};

/// Mistral 7B, Nemo and Small: a window in all layers or in none.
const MISTRAL: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    inside: Some("mistral3"),
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    kv_heads_as_heads: false,
    max_positions: 131_072,
    // With `layer_types` `transformers` takes the class of Ministral, whose layers differ.
    pattern: LayerPattern::EveryLayer { default: Some(4096), by_types: true },
    ..LLAMA
};

/// Ministral 3: queries scaled by their position.
const MINISTRAL3: Family = Family {
    model_type: "ministral3",
    class: "Ministral3ForCausalLM",
    padding: Some(11),
    inside: None,
    head_dim: HeadDim::FieldOr(128),
    rms_norm_epsilon: 1e-5,
    max_positions: 262_144,
    rope_theta: 1e6,
    scales_queries: true,
    pattern: LayerPattern::EveryLayer { default: None, by_types: false },
    ..MISTRAL
};

/// Gemma: weights of norms less 1, scaled embeddings.
const GEMMA: Family = Family {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    norm_weight_offset: 1.0,
    mlp_bias: Bias::Never,
    activation: ("hidden_act", Activation::GeluTanh),
    head_dim: HeadDim::FieldOr(256),
    kv_heads_as_heads: false,
    tied: true,
    max_positions: 8192,
    padding: Some(0),
    embedding_scale: EmbeddingScale::RootOfHidden,
    only: &[only_false("use_bidirectional_attention")],
    ..LLAMA
};

/// Gemma 2: norms before and behind attention and MLP, bounded scores and logits, every other layer a window.
const GEMMA2: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    norms: NormNames {
        attention_input: Some("input_layernorm"),
        attention_output: Some("post_attention_layernorm"),
        mlp_input: Some("pre_feedforward_layernorm"),
        mlp_output: Some("post_feedforward_layernorm"),
    },
    activation: ("hidden_activation", Activation::GeluTanh),
    pattern: LayerPattern::Periodic { period: Period::Every(2) },
    attention_scale: AttentionScale::InverseRootOf("query_pre_attn_scalar", 256.0),
    attention_softcap: Some(("attn_logit_softcapping", Some(50.0))),
    logit_softcap: Some(("final_logit_softcapping", Some(30.0))),
    ..GEMMA
};

/// Gemma 3's language model: norms of queries and keys, two rotary embeddings.
const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    inside: Some("gemma3"),
    query_key_norm: Some(NormWidth::Head),
    max_positions: 131_072,
    rope: RopeForm::ByLayerType { full_theta: 1e6, sliding: (Some("rope_local_base_freq"), 1e4) },
    pattern: LayerPattern::Periodic { period: Period::Field("sliding_window_pattern", 6) },
    // Its class takes `attn_logit_softcapping` and does not read it.
    attention_softcap: None,
    logit_softcap: Some(("final_logit_softcapping", None)),
    default_sizes: &[
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("num_hidden_layers", 26),
        ("vocab_size", 262_208),
    ],
    ..GEMMA2
};

/// Phi-3, Phi-3.5 and Phi-4: one tensor for queries, keys and values, one for gate and up.
const PHI3: Family = Family {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    padding: Some(32_000),
    fused_projections: true,
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    rms_norm_epsilon: 1e-5,
    max_positions: 4096,
    original_max_positions: Some(4096),
    partial_rotary: Some(1.0),
    rope_aliases: &[("su", "longrope"), ("yarn", "longrope")],
    pattern: LayerPattern::EveryLayer { default: None, by_types: false },
    dropouts: &["attention_dropout", "embd_pdrop", "resid_pdrop"],
    ..LLAMA
};

/// OLMo 2: norms behind attention and MLP only, and of all heads' queries and keys together.
const OLMO2: Family = Family {
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    padding: Some(1),
    norms: NormNames {
        attention_input: None,
        attention_output: Some("post_attention_layernorm"),
        mlp_input: None,
        mlp_output: Some("post_feedforward_layernorm"),
    },
    query_key_norm: Some(NormWidth::AllHeads),
    mlp_bias: Bias::Never,
    rms_norm_epsilon: 1e-5,
    ..LLAMA
};

/// OLMo 3: as OLMo 2, three of four layers with a window and a rotary embedding of their own.
const OLMO3: Family = Family {
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    // No older field: the base beside `rope_parameters` is that of the layers which see everything.
    rope: RopeForm::ByLayerType { full_theta: 5e5, sliding: (None, 5e5) },
    pattern: LayerPattern::Periodic { period: Period::Every(4) },
    ..OLMO2
};

/// SmolLM3: every fourth layer without rotary positions.
const SMOLLM3: Family = Family {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    padding: Some(128_004),
    kv_heads_as_heads: false,
    tied: true,
    max_positions: 32_768,
    rope_theta: 2e6,
    pattern: LayerPattern::WithoutRope,
    ..LLAMA
};

/// Granite 3: four multipliers.
const GRANITE: Family = Family {
    model_type: "granite",
    class: "GraniteForCausalLM",
    attention_scale: AttentionScale::Field("attention_multiplier", 1.0),
    embedding_scale: EmbeddingScale::Field("embedding_multiplier"),
    residual_scale: Some("residual_multiplier"),
    logit_divisor: Some("logits_scaling"),
    ..LLAMA
};

/// All families.
pub(super) static FAMILIES: [Family; 14] = [
    LLAMA, QWEN2, QWEN3, MISTRAL, MINISTRAL3, GEMMA, GEMMA2, GEMMA3, PHI3, OLMO2, OLMO3, SMOLLM3, GRANITE,
    QWEN3_5,
];

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Family {
    /// The value of a size where it is missing.
    pub(super) fn default_size(&self, key: &str) -> Option<usize> {
        self.default_sizes.iter().find(|(name, _)| *name == key).map(|&(_, size)| size)
    }

    /// The family with this `model_type`.
    pub(super) fn find(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// What a kind of rotary embedding is called now.
    pub(super) fn rope_kind<'a>(&self, name: &'a str) -> &'a str
    where
        'static: 'a,
    {
        let alias = self.rope_aliases.iter().find(|(old, _)| *old == name);
        alias.map_or(name, |(_, new)| new)
    }
}
