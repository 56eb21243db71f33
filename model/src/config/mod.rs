//! `config.json`: the architecture of a model, read before anything is allocated.
//!
//! Read as `transformers` 4 and 5 write it. What this version cannot compute is an error that names the
//! field: an unsupported `model_type`, or a field with an unsupported value. A field that the family's class
//! in `transformers` does not read is ignored, as it is there.

mod block;
mod family;
mod fields;
mod layers;
mod nested;
mod rope;
mod rope_fields;
mod supported;
mod tensors;

use std::path::Path;

use cpift_engine::ops::gated_mlp::Activation;
use serde_json::{Map, Value};

use crate::adapter::model_file;
use crate::error::{Error, Result};
use crate::files::read_input_text;
pub use block::{Block, DeltaNet, LinearRole, NormNames, NormRole, NormWidth, Part, VectorRole};
pub use family::Family;
use family::{AttentionScale, Bias, EmbeddingScale, FAMILIES, HeadDim};
use fields::{Fields, shortened};
pub use layers::LayerAttention;
pub use rope::{Context, QueryScaling, Rope, RopeScaling};
pub use tensors::InitialValues;

/// Most layers a model may have: the names of all tensors are made before anything is allocated.
const MOST_LAYERS: usize = 10_000;

/// Largest width of a head: above any model, and its rotary angles are made before the weights are looked at.
const MOST_HEAD_DIM: usize = 1 << 16;

/// Largest width of all heads of a kind together: above any model, and small enough that what is made of it fits 64 bits.
const MOST_HEADS_WIDTH: usize = 1 << 24;

/// What a decoder-only transformer is made of. Sizes are above zero, `heads` is a multiple of
/// `kv_heads`, `head_dim` is even.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: &'static Family,
    /// Width of the residual stream (C).
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Number of token ids (V).
    pub vocabulary: usize,
    /// ε of every RMSNorm.
    pub rms_norm_epsilon: f32,
    /// The head shares the embedding's weights.
    pub tied: bool,
    /// What every layer is made of.
    pub block: Block,
    /// How every layer mixes tokens.
    pub attention: Vec<LayerAttention>,
    /// The rotary embeddings of the layers.
    pub ropes: Vec<Rope>,
    /// Factors between the parts.
    pub scales: Scales,
    /// Bound of attention's scores: they become bound · tanh(score / bound).
    pub attention_softcap: Option<f32>,
    /// Bound of the logits, likewise.
    pub logit_softcap: Option<f32>,
    /// Longest context the model was made for.
    pub max_positions: usize,
    /// Standard deviation of random weights.
    pub initializer_range: f32,
    /// Id of the beginning-of-text token.
    pub bos: Option<u32>,
    /// Ids of the tokens that end a text.
    pub eos: Vec<u32>,
    /// Id of the padding token, whose row of the embedding gets no gradient by look-up, as in `transformers`.
    pub padding: Option<u32>,
    /// What a person should know about the file, each with its name.
    notices: Vec<String>,
    /// Fields that the family does not read.
    ignored: Vec<String>,
    /// The file's own fields, for writing them again.
    json: Map<String, Value>,
}

/// Factors between the parts of a model; 1 where a family has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Of the embedding's output.
    pub embedding: f32,
    /// Of attention's scores.
    pub attention: f32,
    /// Of what attention and MLP add to the residual stream.
    pub residual: f32,
    /// Of the logits.
    pub logits: f32,
}

impl ModelConfig {
    /// Reads a `config.json`, or the one in a folder.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, lacks a field, or describes a model that is not supported;
    /// the message names field and value.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { &model_file(path, "config.json")? } else { path };
        let text = read_input_text(path)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a `config.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let json: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Error::format(path, format!("not a JSON object: {error}")))?;
        let (json, nested) = nested::language_model(path, json)?;
        let mut fields = nested.fields(path, &json);
        nested.notice(&mut fields);
        let family = read_family(&mut fields)?;
        supported::require(&mut fields, family)?;

        let heads = fields.size_or_default("num_attention_heads", family)?;
        let hidden = fields.required_size("hidden_size")?;
        let vocabulary = fields.size_or_default("vocab_size", family)?;
        let layers = fields.size_or_default("num_hidden_layers", family)?;
        if layers > MOST_LAYERS {
            let prefix = fields.prefix();
            let reason = format!("`{prefix}num_hidden_layers` = {layers} must be at most {MOST_LAYERS}");
            return Err(fields.error(reason));
        }
        let head_dim = read_head_dim(&mut fields, family, hidden, heads)?;
        let max_positions = fields.size("max_position_embeddings")?.unwrap_or(family.max_positions);
        let sizes = rope_fields::Sizes { head_dim, max_positions };
        let ropes = rope_fields::read(&mut fields, family, sizes)?;
        let windows = layers::read_windows(&mut fields, family, layers)?;
        let turned = layers::read_rotary(&mut fields, family, layers)?;
        let delta_nets = layers::read_delta_nets(&mut fields, family, layers)?;
        let rope_of = |is_sliding: bool| usize::from(is_sliding && ropes.sliding.is_some());
        let layer_fields = windows.iter().zip(turned).zip(delta_nets);
        let attention = layer_fields.map(|((&window, turned), delta_net)| LayerAttention {
            window: window.filter(|window| window.get() < max_positions),
            rope: (turned && delta_net.is_none()).then(|| rope_of(window.is_some())),
            delta_net,
        });
        let mut config = Self {
            family,
            hidden,
            intermediate: fields.required_size("intermediate_size")?,
            layers,
            heads,
            kv_heads: read_kv_heads(&mut fields, family, heads)?,
            head_dim,
            vocabulary,
            rms_norm_epsilon: fields.positive("rms_norm_eps")?.unwrap_or(family.rms_norm_epsilon) as f32,
            tied: fields.flag("tie_word_embeddings", family.tied)?,
            block: read_block(&mut fields, family)?,
            attention: attention.collect(),
            scales: read_scales(&mut fields, family, hidden, head_dim)?,
            attention_softcap: read_softcap(&mut fields, family.attention_softcap)?,
            logit_softcap: read_softcap(&mut fields, family.logit_softcap)?,
            max_positions,
            ropes: std::iter::once(ropes.full).chain(ropes.sliding).collect(),
            initializer_range: read_initializer_range(&mut fields)?,
            bos: fields.token_ids("bos_token_id", vocabulary)?.first().copied(),
            eos: fields.token_ids("eos_token_id", vocabulary)?,
            padding: read_padding(&mut fields, family, vocabulary)?,
            notices: Vec::new(),
            ignored: Vec::new(),
            json: Map::new(),
        };
        config.check(&fields)?;
        fields.notice_misspelt();
        config.ignored = fields.unread();
        config.notices = fields.into_notices();
        config.json = json;
        Ok(config)
    }

    /// Fails when sizes do not fit each other.
    fn check(&self, fields: &Fields<'_>) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            let prefix = fields.prefix();
            return Err(fields.error(format!(
                "`{prefix}num_attention_heads` = {} must be a multiple of `{prefix}num_key_value_heads` = {}",
                self.heads, self.kv_heads
            )));
        }
        if self.attention_width() > MOST_HEADS_WIDTH {
            let prefix = fields.prefix();
            return Err(fields.error(format!(
                "`{prefix}num_attention_heads` = {} heads of {} elements are not supported; supported: up to \
                 {MOST_HEADS_WIDTH} elements together",
                self.heads, self.head_dim
            )));
        }
        self.layout().map(drop).map_err(|error| fields.error(error.to_string()))
    }

    /// The same model with the head tied to the embedding, or with one of its own.
    pub fn with_tied(mut self, tied: bool) -> Self {
        self.tied = tied;
        self.json.insert("tie_word_embeddings".to_owned(), Value::Bool(tied));
        self
    }

    /// What a person should know about the file, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Names of the fields that stand in the file and are not read, as the family's class does not read them.
    pub fn ignored_fields(&self) -> &[String] {
        &self.ignored
    }

    /// Width of all query heads together, `heads · head_dim`: the input of the output projection.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, `kv_heads · head_dim`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Most tokens of a text whose rotary angles are those of the first context, where longer texts have others.
    pub fn first_context(&self) -> Option<usize> {
        let first = self.ropes.iter().filter_map(|rope| rope.scaling.first_context()).min();
        first.filter(|&first| first < self.max_positions)
    }

    /// Which angles a text of so many tokens has.
    pub fn context_of(&self, tokens: usize) -> Context {
        match self.first_context() {
            Some(first) if tokens > first => Context::Extended,
            _ => Context::First,
        }
    }

    /// The first field in which two models differ so that their weights cannot be combined, as
    /// `field: ours against theirs`; `None` when they fit.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let facts = |config: &Self| {
            [
                ("model_type", config.family.model_type.to_owned()),
                ("hidden_size", config.hidden.to_string()),
                ("intermediate_size", config.intermediate.to_string()),
                ("num_hidden_layers", config.layers.to_string()),
                ("num_attention_heads", config.heads.to_string()),
                ("num_key_value_heads", config.kv_heads.to_string()),
                ("head_dim", config.head_dim.to_string()),
                ("vocab_size", config.vocabulary.to_string()),
                ("tie_word_embeddings", config.tied.to_string()),
                ("attention_bias", config.block.output_bias.to_string()),
                ("rms_norm_eps", config.rms_norm_epsilon.to_string()),
                ("rope", format!("{:?}", config.ropes)),
                ("block", format!("{:?}", config.block)),
                ("multipliers", format!("{:?}", config.scales)),
                ("softcaps", format!("{:?}", (config.attention_softcap, config.logit_softcap))),
            ]
        };
        if let Some((name, ours, theirs)) = layers::first_difference(facts(self), facts(other)) {
            return Some(format!("{name}: {ours} against {theirs}"));
        }
        let mut layers = self.attention.iter().zip(&other.attention).enumerate();
        layers.find_map(|(index, (ours, theirs))| {
            let (name, ours, theirs) = ours.mismatch(theirs)?;
            Some(format!("{name} of layer {index}: {ours} against {theirs}"))
        })
    }

    /// The text of a `config.json` for this model with weights of type `dtype` (`float32`, `bfloat16`,
    /// `float16`): the fields it was read from, with `dtype` or `torch_dtype`, whichever it had, set, and without those
    /// that speak of the folder it was read from.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut json = self.json.clone();
        for key in ABOUT_THE_FOLDER {
            json.shift_remove(key);
        }
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        json.insert(key.to_owned(), Value::from(dtype));
        format!("{:#}\n", Value::Object(json))
    }
}

/// Fields about the folder of a model, not about the model: `auto_map` names Python files, which are not copied to
/// another folder and which `transformers` then looks for in vain; `_name_or_path` says where the model once lay.
const ABOUT_THE_FOLDER: [&str; 2] = ["auto_map", "_name_or_path"];

fn read_family(fields: &mut Fields<'_>) -> Result<&'static Family> {
    let model_type = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
    let family = Family::find(model_type);
    let family = family.ok_or_else(|| fields.error(not_supported(fields.prefix(), model_type)))?;
    fields.only("architectures", "a language model (…ForCausalLM)", |names| {
        names.as_array().is_some_and(|names| names.iter().all(can_be_language_model))
    })?;
    if fields.object("auto_map")?.is_some() {
        fields.notice(
            "`auto_map` names code that comes with the model; it is not run, the model is computed as its \
             `model_type` says",
        );
    }
    Ok(family)
}

/// What is said of a `model_type` that no family has.
fn not_supported(prefix: &str, model_type: &str) -> String {
    let given = shortened(&Value::from(model_type));
    let known: Vec<String> = FAMILIES.iter().map(|family| format!("\"{}\"", family.model_type)).collect();
    format!("`{prefix}model_type` = {given} is not supported; supported: {}", known.join(", "))
}

/// False for the names of classes with another head: `…ForSequenceClassification`. The plain model (`…Model`)
/// is that of a language model.
fn can_be_language_model(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.ends_with("ForCausalLM") || !name.contains("For"))
}

/// 0 counts as missing, as in `transformers`.
fn read_initializer_range(fields: &mut Fields<'_>) -> Result<f32> {
    let given = fields.not_negative("initializer_range")?.filter(|&deviation| deviation != 0.0);
    Ok(given.unwrap_or(0.02) as f32)
}

fn read_block(fields: &mut Fields<'_>, family: &Family) -> Result<Block> {
    let mut has_bias = |bias| match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Field(key) => fields.flag(key, false),
    };
    let (qkv_bias, output_bias) = (has_bias(family.qkv_bias)?, has_bias(family.output_bias)?);
    let mlp_bias = has_bias(family.mlp_bias)?;
    let (key, default) = family.activation;
    let activation = match fields.text(key)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Activation::GeluTanh,
        Some(other) => {
            return Err(fields.error(format!(
                "`{}{key}` = {} is not supported; supported: \"silu\", \"gelu_pytorch_tanh\"",
                fields.prefix(),
                shortened(&Value::from(other))
            )));
        }
    };
    Ok(Block {
        norms: family.norms,
        norm_weight_offset: family.norm_weight_offset,
        query_key_norm: family.query_key_norm,
        fused_projections: family.fused_projections,
        qkv_bias,
        output_bias,
        output_gate: family.output_gate,
        mlp_bias,
        activation,
    })
}

fn read_scales(fields: &mut Fields<'_>, family: &Family, hidden: usize, head_dim: usize) -> Result<Scales> {
    let attention = match family.attention_scale {
        // As in f32, which is what the families without a field of their own compute in.
        AttentionScale::HeadDim => 1.0 / (head_dim as f32).sqrt(),
        AttentionScale::InverseRootOf(key, default) => {
            fields.positive(key)?.unwrap_or(default).powf(-0.5) as f32
        }
        AttentionScale::Field(key, default) => fields.positive(key)?.unwrap_or(default) as f32,
    };
    let embedding = match family.embedding_scale {
        EmbeddingScale::One => 1.0,
        EmbeddingScale::RootOfHidden => (hidden as f64).sqrt(),
        EmbeddingScale::Field(key) => fields.positive(key)?.unwrap_or(1.0),
    };
    let mut field = |key: Option<&'static str>| match key {
        Some(key) => Ok::<_, Error>(fields.positive(key)?.unwrap_or(1.0)),
        None => Ok(1.0),
    };
    let (residual, divisor) = (field(family.residual_scale)?, field(family.logit_divisor)?);
    Ok(Scales {
        embedding: embedding as f32,
        attention,
        residual: residual as f32,
        logits: (1.0 / divisor) as f32,
    })
}

/// A bound: `null` is none, a missing field the default one.
fn read_softcap(fields: &mut Fields<'_>, field: Option<(&'static str, Option<f64>)>) -> Result<Option<f32>> {
    let Some((key, default)) = field else { return Ok(None) };
    let is_missing = fields.json_value(key).is_none();
    let bound = match fields.positive(key)? {
        None if is_missing => default,
        given => given,
    };
    Ok(bound.map(|bound| bound as f32))
}

/// `null` is none, a missing field the family's; a negative one is counted from the end of the vocabulary.
fn read_padding(fields: &mut Fields<'_>, family: &Family, vocabulary: usize) -> Result<Option<u32>> {
    let is_missing = fields.json_value("pad_token_id").is_none();
    // Most often absent, and not what another field was meant to be.
    let Some(value) = fields.known_value("pad_token_id") else {
        let default = family.padding.filter(|&id| is_missing && (id as usize) < vocabulary);
        return Ok(default);
    };
    let id = value.as_i64().ok_or_else(|| fields.invalid("pad_token_id", value, "a token id"))?;
    let row = if id < 0 { id.saturating_add(vocabulary as i64) } else { id };
    // No text has a token outside of the vocabulary.
    Ok(u32::try_from(row).ok().filter(|&row| (row as usize) < vocabulary))
}

fn read_kv_heads(fields: &mut Fields<'_>, family: &Family, heads: usize) -> Result<usize> {
    let must_be_given = !family.kv_heads_as_heads && fields.json_value("num_key_value_heads").is_none();
    match fields.size("num_key_value_heads")?.or(family.default_size("num_key_value_heads")) {
        Some(kv_heads) => Ok(kv_heads),
        None if must_be_given => Err(fields.missing("num_key_value_heads")),
        None => Ok(heads),
    }
}

fn read_head_dim(fields: &mut Fields<'_>, family: &Family, hidden: usize, heads: usize) -> Result<usize> {
    let given = fields.size("head_dim")?;
    let prefix = fields.prefix();
    let head_dim = match (given, family.head_dim) {
        (Some(head_dim), _) | (None, HeadDim::FieldOr(head_dim)) => head_dim,
        (None, HeadDim::FieldOrShare) if hidden.is_multiple_of(heads) => hidden / heads,
        (None, HeadDim::FieldOrShare) => return Err(fields.error(format!(
            "`{prefix}hidden_size` = {hidden} must be a multiple of `{prefix}num_attention_heads` = {heads} where \
             `{prefix}head_dim` is not given"
        ))),
    };
    if !head_dim.is_multiple_of(2) || head_dim > MOST_HEAD_DIM {
        return Err(fields.error(format!(
            "`{prefix}head_dim` = {head_dim}, the width of a head, is not supported; supported: even numbers up to \
             {MOST_HEAD_DIM}"
        )));
    }
    Ok(head_dim)
}
