//! `config.json`: the architecture of a model, read before anything is allocated.
//!
//! Read as `transformers` 4 and 5 write it. What this version cannot compute is an error that names the
//! field: an unsupported `model_type`, or a field with an unsupported value. A field that the family's class
//! in `transformers` does not read is ignored, as it is there.

mod fields;
mod rope;
mod supported;
mod window;

use std::path::Path;

use cpift_engine::Layout;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::read_input_text;
use fields::{Fields, shortened};
pub use rope::{Rope, RopeScaling};

/// Most layers a model may have: the names of all tensors are made before anything is allocated.
const MOST_LAYERS: usize = 10_000;

/// Families of models, by `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `llama`: Llama 1 to 3.
    Llama,
    /// `qwen2`: Qwen2 and Qwen2.5, with biases on queries, keys and values.
    Qwen2,
    /// `qwen3`: with RMSNorm on every head's queries and keys.
    Qwen3,
}

/// What a decoder-only transformer is made of. Sizes are above zero, `heads` is a multiple of
/// `kv_heads`, `head_dim` is even.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
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
    /// The query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub output_bias: bool,
    /// Queries and keys pass an RMSNorm per head before the rotation.
    pub qk_norm: bool,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Longest context the model was made for, or the window of its layers where that is shorter: up to
    /// there a layer with a window computes what one without does.
    pub max_positions: usize,
    /// Standard deviation of random weights.
    pub initializer_range: f32,
    /// Id of the beginning-of-text token.
    pub bos: Option<u32>,
    /// Ids of the tokens that end a text.
    pub eos: Vec<u32>,
    /// What a person should know about the file, each with its name.
    notices: Vec<String>,
    /// The file's own fields, for writing them again.
    json: Map<String, Value>,
}

impl ModelConfig {
    /// Reads a `config.json`, or the one in a folder.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, lacks a field, or describes a model that is not supported;
    /// the message names field and value.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { &path.join("config.json") } else { path };
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
        let mut fields = Fields::new(path, "", &json);
        let architecture = read_architecture(&mut fields)?;
        supported::require(&mut fields, architecture)?;

        let heads = fields.required_size("num_attention_heads")?;
        let hidden = fields.required_size("hidden_size")?;
        let vocabulary = fields.required_size("vocab_size")?;
        let default_positions = if architecture == Architecture::Llama { 2048 } else { 32_768 };
        let made_for = fields.size("max_position_embeddings")?.unwrap_or(default_positions);
        let layers = fields.required_size("num_hidden_layers")?;
        let window = window::read(&mut fields, architecture, layers)?.filter(|window| *window < made_for);
        if let Some(window) = window {
            fields.notice(format!(
                "layers see a window of {window} tokens, so only texts up to that length are supported"
            ));
        }
        let attention_bias = match architecture {
            Architecture::Qwen2 => false,
            Architecture::Llama | Architecture::Qwen3 => fields.flag("attention_bias", false)?,
        };
        let mut config = Self {
            architecture,
            hidden,
            intermediate: fields.required_size("intermediate_size")?,
            layers,
            heads,
            kv_heads: read_kv_heads(&mut fields, architecture, heads)?,
            head_dim: read_head_dim(&mut fields, architecture, hidden, heads)?,
            vocabulary,
            rms_norm_epsilon: fields.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: fields.flag("tie_word_embeddings", false)?,
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            output_bias: attention_bias,
            qk_norm: architecture == Architecture::Qwen3,
            rope: Rope::read(&mut fields, path, made_for)?,
            max_positions: window.unwrap_or(made_for),
            initializer_range: fields.not_negative("initializer_range")?.unwrap_or(0.02) as f32,
            bos: fields.token_ids("bos_token_id", vocabulary)?.first().copied(),
            eos: fields.token_ids("eos_token_id", vocabulary)?,
            notices: Vec::new(),
            json: Map::new(),
        };
        config.check(&fields)?;
        fields.notice_misspelt();
        config.notices = fields.into_notices();
        config.json = json;
        Ok(config)
    }

    /// Fails when sizes do not fit each other.
    fn check(&self, fields: &Fields<'_>) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(fields.error(format!(
                "`num_attention_heads` = {} must be a multiple of `num_key_value_heads` = {}",
                self.heads, self.kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(fields.error(format!(
                "the width of a head, {}, must be even for rotary positions",
                self.head_dim
            )));
        }
        if self.layers > MOST_LAYERS {
            return Err(
                fields.error(format!("`num_hidden_layers` = {} must be at most {MOST_LAYERS}", self.layers))
            );
        }
        self.layout().map(drop).map_err(|error| fields.error(error.to_string()))
    }

    /// The same model with the head tied to the embedding.
    pub fn into_tied(mut self) -> Self {
        self.tied = true;
        self.json.insert("tie_word_embeddings".to_owned(), Value::Bool(true));
        self
    }

    /// What a person should know about the file, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Width of all query heads together, `heads · head_dim`: the input of the output projection.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, `kv_heads · head_dim`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Names and shapes of all tensors, as `transformers` names them, in the order they are laid out:
    /// embedding, layers, last norm, head. Tied weights occur once, as the embedding.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        let projections =
            [("q_proj", self.attention_width()), ("k_proj", self.kv_width()), ("v_proj", self.kv_width())];
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, hidden])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            push("input_layernorm.weight", &[hidden]);
            for (name, width) in projections {
                push(&format!("self_attn.{name}.weight"), &[width, hidden]);
                if self.qkv_bias {
                    push(&format!("self_attn.{name}.bias"), &[width]);
                }
            }
            if self.qk_norm {
                push("self_attn.q_norm.weight", &[self.head_dim]);
                push("self_attn.k_norm.weight", &[self.head_dim]);
            }
            push("self_attn.o_proj.weight", &[hidden, self.attention_width()]);
            if self.output_bias {
                push("self_attn.o_proj.bias", &[hidden]);
            }
            push("post_attention_layernorm.weight", &[hidden]);
            push("mlp.gate_proj.weight", &[intermediate, hidden]);
            push("mlp.up_proj.weight", &[intermediate, hidden]);
            push("mlp.down_proj.weight", &[hidden, intermediate]);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocabulary, hidden]));
        }
        tensors
    }

    /// The flat layout of all parameters: [`ModelConfig::tensors`] in their order.
    ///
    /// # Errors
    /// When the model's size overflows.
    pub fn layout(&self) -> Result<Layout> {
        Ok(Layout::new(self.tensors())?)
    }

    /// Number of parameters (D); tied weights count once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Floating-point operations of forward and backward per token, in sequences of `length` tokens:
    /// 6·N for the matrices, 6·layers·(heads·head_dim)·T for causal attention (half of T×T is
    /// computed). N leaves out the embedding of an untied model, which is looked up, not multiplied.
    pub fn flops_per_token(&self, length: usize) -> f64 {
        let looked_up = if self.tied { 0 } else { self.vocabulary * self.hidden };
        let multiplied = (self.parameters() - looked_up) as f64;
        6.0 * multiplied + 6.0 * self.layers as f64 * self.attention_width() as f64 * length as f64
    }

    /// The first field in which two models differ so that their weights cannot be combined, as
    /// `field: ours against theirs`; `None` when they fit.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let pairs = [
            ("model_type", format!("{:?}", self.architecture), format!("{:?}", other.architecture)),
            ("hidden_size", self.hidden.to_string(), other.hidden.to_string()),
            ("intermediate_size", self.intermediate.to_string(), other.intermediate.to_string()),
            ("num_hidden_layers", self.layers.to_string(), other.layers.to_string()),
            ("num_attention_heads", self.heads.to_string(), other.heads.to_string()),
            ("num_key_value_heads", self.kv_heads.to_string(), other.kv_heads.to_string()),
            ("head_dim", self.head_dim.to_string(), other.head_dim.to_string()),
            ("vocab_size", self.vocabulary.to_string(), other.vocabulary.to_string()),
            ("tie_word_embeddings", self.tied.to_string(), other.tied.to_string()),
            ("attention_bias", self.output_bias.to_string(), other.output_bias.to_string()),
            ("rms_norm_eps", self.rms_norm_epsilon.to_string(), other.rms_norm_epsilon.to_string()),
            ("rope", format!("{:?}", self.rope), format!("{:?}", other.rope)),
        ];
        let (name, ours, theirs) = pairs.into_iter().find(|(_, ours, theirs)| ours != theirs)?;
        Some(format!("{name}: {ours} against {theirs}"))
    }

    /// The text of a `config.json` for this model with weights of type `dtype` (`float32`, `bfloat16`,
    /// `float16`): the fields it was read from, with `dtype` or `torch_dtype`, whichever it had, set.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut json = self.json.clone();
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        json.insert(key.to_owned(), Value::from(dtype));
        format!("{:#}\n", Value::Object(json))
    }
}

fn read_architecture(fields: &mut Fields<'_>) -> Result<Architecture> {
    let architecture = match fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))? {
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        other => {
            let other = shortened(&Value::from(other));
            return Err(fields.error(format!(
                "`model_type` = {other} is not supported; supported: \"llama\", \"qwen2\", \"qwen3\""
            )));
        }
    };
    fields.only("architectures", "a language model (…ForCausalLM)", |names| {
        names.as_array().is_some_and(|names| names.iter().all(can_be_language_model))
    })?;
    if fields.object("auto_map")?.is_some() {
        fields.notice(
            "`auto_map` names code that comes with the model; it is not run, the model is computed as its \
             `model_type` says",
        );
    }
    Ok(architecture)
}

/// False for the names of classes with another head: `…ForSequenceClassification`. The plain model (`…Model`)
/// is that of a language model.
fn can_be_language_model(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.ends_with("ForCausalLM") || !name.contains("For"))
}

fn read_kv_heads(fields: &mut Fields<'_>, architecture: Architecture, heads: usize) -> Result<usize> {
    // For the Qwen families `transformers` takes 32 where the field is missing: too odd to guess.
    let must_be_given =
        architecture != Architecture::Llama && fields.json_value("num_key_value_heads").is_none();
    match fields.size("num_key_value_heads")? {
        Some(kv_heads) => Ok(kv_heads),
        None if must_be_given => Err(fields.missing("num_key_value_heads")),
        None => Ok(heads),
    }
}

fn read_head_dim(
    fields: &mut Fields<'_>,
    architecture: Architecture,
    hidden: usize,
    heads: usize,
) -> Result<usize> {
    match fields.size("head_dim")? {
        Some(head_dim) => Ok(head_dim),
        None if architecture == Architecture::Qwen3 => Ok(128),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(fields.error(format!(
            "`hidden_size` = {hidden} must be a multiple of `num_attention_heads` = {heads} where `head_dim` is not given"
        ))),
    }
}
