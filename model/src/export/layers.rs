//! What PEFT can do with a tensor of a model, by names and shapes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::pair::{Pair, Tensor};
use crate::adapter::stores_by_inputs;
use crate::checkpoint::{WeightType, is_embedding, is_head};

/// Names that classes have inside of the one with the head, where it is not `model`.
const INNER_NAMES: [(&str, &[&str]); 5] = [
    (
        "transformer",
        &[
            "gpt2",
            "gptj",
            "gpt_neo",
            "gpt_bigcode",
            "bloom",
            "falcon",
            "codegen",
            "mpt",
            "openai-gpt",
            "ctrl",
            "dbrx",
        ],
    ),
    ("gpt_neox", &["gpt_neox"]),
    ("backbone", &["mamba", "mamba2", "falcon_mamba"]),
    ("bert", &["bert"]),
    ("roberta", &["roberta", "xlm-roberta", "camembert"]),
];

/// First parts of the names of what stands beside the class inside: heads.
const HEAD_NAMES: [&str; 3] = ["lm_head", "embed_out", "cls"];

/// Modules of tied heads, which are not stored, where they are not `lm_head`, by the type of the model.
const TIED_HEADS: [(&str, &str); 5] = [
    ("gpt_neox", "embed_out"),
    ("bert", "cls.predictions.decoder"),
    ("roberta", "lm_head.decoder"),
    ("xlm-roberta", "lm_head.decoder"),
    ("camembert", "lm_head.decoder"),
];

/// Families of encoders and decoders of text, by the beginnings of their classes' names.
const ENCODER_DECODERS: [&str; 8] =
    ["T5", "MT5", "UMT5", "LongT5", "SwitchTransformers", "Bart", "MBart", "Pegasus"];

/// What can be done with a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layer {
    /// It is the weight of a linear layer, `[outputs, inputs]` or, where that is turned round, `[inputs, outputs]`.
    Linear { module: String, by_inputs: bool },
    /// It belongs to a module that can be stored as a whole, and so can the module's other tensors.
    Module(String),
    /// Neither, and why.
    Other(&'static str),
}

/// The tensors of a model, as PEFT sees its modules.
pub(super) struct Layers<'a> {
    model_type: &'a str,
    /// The class that the weights are of; empty where the configuration does not say.
    class: &'a str,
    /// What the stored names lack in front of them.
    missing: Option<&'static str>,
    tensors: BTreeMap<&'a str, &'a Tensor>,
    has_experts: bool,
}

impl<'a> Layers<'a> {
    pub fn of(pair: &'a Pair) -> Self {
        let config = pair.model().config();
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        Self::new(text("/model_type"), text("/architectures/0"), &pair.tensors)
    }

    fn new(model_type: &'a str, class: &'a str, tensors: &'a [Tensor]) -> Self {
        let tensors: BTreeMap<&str, &Tensor> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let has_experts = tensors.keys().any(|name| is_expert(name));
        let missing = missing_name(class, model_type, tensors.keys().copied());
        Self { model_type, class, missing, tensors, has_experts }
    }

    /// What can be done with a tensor.
    pub fn layer(&self, tensor: &Tensor) -> Layer {
        let name = tensor.name.as_str();
        if WeightType::of(tensor.dtype).is_none() {
            return Layer::Other("it holds no floats");
        }
        let Some((module, part)) = name.rsplit_once('.') else {
            return Layer::Other("it belongs to no module");
        };
        if is_expert(name) {
            return Layer::Other("PEFT has no linear layer for one expert of many");
        }
        if last_part(module) == "shared" {
            return Layer::Other("encoder and decoder share it, and PEFT would change it in neither");
        }
        if self.is_linear(module) {
            return match part {
                "weight" => Layer::Linear {
                    module: self.peft_name(module),
                    by_inputs: stores_by_inputs(self.model_type, module),
                },
                _ => Layer::Other("it is the bias of a layer that is changed by a product"),
            };
        }
        let inside = format!("{module}.");
        let mut own =
            self.tensors.range(inside.as_str()..).take_while(|(other, _)| other.starts_with(&inside));
        let can_be_saved = own.all(|(other, tensor)| {
            matches!(&other[inside.len()..], "weight" | "bias") && WeightType::of(tensor.dtype).is_some()
        });
        match can_be_saved {
            true => Layer::Module(self.peft_name(module)),
            false => Layer::Other("its module holds more than a weight and a bias"),
        }
    }

    /// The modules of a class with the head, also those which only hold others.
    pub fn modules(&self) -> BTreeSet<String> {
        let of_tensor = |name: &&str| {
            let name = self.peft_name(name);
            let ends: Vec<usize> = name.match_indices('.').map(|(end, _)| end).collect();
            ends.into_iter().map(|end| name[..end].to_owned()).collect::<Vec<_>>()
        };
        self.tensors.keys().flat_map(of_tensor).collect()
    }

    /// The largest rank that a product for a linear layer can have; none where there is no linear layer.
    pub fn largest_rank(&self) -> Option<usize> {
        let linear =
            self.tensors.values().filter(|tensor| matches!(self.layer(tensor), Layer::Linear { .. }));
        linear.filter_map(|tensor| tensor.shape.iter().min().copied()).max()
    }

    /// The module of a head which is the embedding; none where the head is stored, or the class has none.
    pub fn tied_head(&self) -> Option<String> {
        let ends = ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM"];
        let has_head = self.class.is_empty() || ends.iter().any(|end| self.class.ends_with(end));
        if !has_head || self.tensors.keys().any(|name| is_head(name)) {
            return None;
        }
        let of_type = TIED_HEADS.iter().find(|(model_type, _)| *model_type == self.model_type);
        let is_inside = || {
            let embedding = self.tensors.keys().find(|name| is_embedding(name));
            embedding.is_some_and(|name| name.starts_with("language_model."))
        };
        Some(match of_type {
            Some((_, module)) => (*module).to_owned(),
            None if is_inside() => "language_model.lm_head".to_owned(),
            None => "lm_head".to_owned(),
        })
    }

    /// PEFT's name for what the model is for; none where it has no class of its own for that.
    pub fn task_type(&self) -> Option<&'static str> {
        let is_of = |family: &&str| {
            self.class.strip_prefix(*family).is_some_and(|rest| rest == "ForConditionalGeneration")
        };
        match self.class {
            class if is_causal(class) => Some("CAUSAL_LM"),
            _ if ENCODER_DECODERS.iter().any(is_of) => Some("SEQ_2_SEQ_LM"),
            _ => None,
        }
    }

    fn is_linear(&self, module: &str) -> bool {
        let name = format!("{module}.weight");
        let last = last_part(module);
        let is_table = is_embedding(&name)
            || last.contains("embed")
            || matches!(last, "wte" | "wpe" | "relative_attention_bias");
        let is_router = self.has_experts && matches!(last, "gate" | "router");
        self.tensors.get(name.as_str()).is_some_and(|weight| weight.shape.len() == 2)
            && !is_table
            && !is_router
            && !is_norm(last)
    }

    /// The name that a module or tensor has in the class with the head.
    fn peft_name(&self, name: &str) -> String {
        match self.missing.filter(|_| !is_beside(name)) {
            Some(missing) => format!("{missing}.{name}"),
            None => name.to_owned(),
        }
    }
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn is_expert(name: &str) -> bool {
    name.contains(".experts.")
}

fn is_norm(module: &str) -> bool {
    module.to_lowercase().contains("norm") || module.starts_with("ln_")
}

fn is_causal(class: &str) -> bool {
    class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel")
}

/// Whether a name is that of a head, or of something in it.
fn is_beside(name: &str) -> bool {
    HEAD_NAMES.contains(&first_part(name))
}

fn first_part(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// The name in front of all modules but the head, where a folder stores the model without it: their names then begin
/// with several words, and none is that name.
fn missing_name<'a>(
    class: &str,
    model_type: &str,
    names: impl Iterator<Item = &'a str>,
) -> Option<&'static str> {
    if !is_causal(class) {
        return None;
    }
    let known = INNER_NAMES.iter().find(|(_, types)| types.contains(&model_type));
    let inner = known.map_or("model", |(name, _)| name);
    let first: BTreeSet<&str> = names.filter(|name| !is_beside(name)).map(first_part).collect();
    (first.len() > 1 && !first.contains(inner)).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Dtype;

    fn tensors(tensors: &[(&str, &[usize])]) -> Vec<Tensor> {
        let tensor = |(name, shape): &(&str, &[usize])| Tensor {
            name: (*name).to_owned(),
            base_name: (*name).to_owned(),
            shape: shape.to_vec(),
            dtype: Dtype::BF16,
            base_dtype: Dtype::BF16,
        };
        tensors.iter().map(tensor).collect()
    }

    /// The layers of the tensors, in their order.
    fn layers(model_type: &str, class: &str, of: &[(&str, &[usize])]) -> Vec<Layer> {
        let tensors = tensors(of);
        let layers = Layers::new(model_type, class, &tensors);
        tensors.iter().map(|tensor| layers.layer(tensor)).collect()
    }

    fn linear(module: &str, by_inputs: bool) -> Layer {
        Layer::Linear { module: module.to_owned(), by_inputs }
    }

    fn module(module: &str) -> Layer {
        Layer::Module(module.to_owned())
    }

    #[test]
    fn layers_are_known_by_names_and_shapes() {
        let llama: [(&str, &[usize]); 3] = [
            ("layers.0.mlp.up_proj.weight", &[4, 3]),
            ("embed_tokens.weight", &[9, 3]),
            ("lm_head.weight", &[9, 3]),
        ];
        assert_eq!(
            layers("llama", "LlamaForCausalLM", &llama),
            [
                linear("model.layers.0.mlp.up_proj", false),
                module("model.embed_tokens"),
                linear("lm_head", false)
            ]
        );
        assert_eq!(
            layers("llama", "LlamaModel", &llama)[0],
            linear("layers.0.mlp.up_proj", false),
            "the class inside"
        );
        let gpt: [(&str, &[usize]); 4] = [
            ("h.0.attn.c_attn.weight", &[3, 9]),
            ("wpe.weight", &[9, 3]),
            ("h.0.ln_1.weight", &[3]),
            ("h.0.ln_1.bias", &[3]),
        ];
        let of_gpt = |by_inputs| {
            [
                linear("transformer.h.0.attn.c_attn", by_inputs),
                module("transformer.wpe"),
                module("transformer.h.0.ln_1"),
                module("transformer.h.0.ln_1"),
            ]
        };
        assert_eq!(layers("gpt2", "GPT2LMHeadModel", &gpt), of_gpt(true));
        // The same names of another class, which has plain linear layers.
        assert_eq!(layers("gpt_bigcode", "GPTBigCodeForCausalLM", &gpt), of_gpt(false));
        let experts: [(&str, &[usize]); 3] = [
            ("model.layers.0.mlp.gate.weight", &[8, 3]),
            ("model.layers.0.mlp.experts.gate_up_proj", &[2, 4, 3]),
            ("model.layers.0.mlp.experts.3.up_proj.weight", &[4, 3]),
        ];
        let found = layers("any", "", &experts);
        assert_eq!(found[0], module("model.layers.0.mlp.gate"));
        assert!(found[1..].iter().all(|layer| matches!(layer, Layer::Other(_))), "{found:?}");
    }

    #[test]
    fn a_module_is_saved_with_all_of_its_tensors_or_not_at_all() {
        let whole: [(&str, &[usize]); 5] = [
            ("bert.encoder.output.LayerNorm.weight", &[3]),
            ("bert.encoder.output.LayerNorm.bias", &[3]),
            ("a.conv1d.weight", &[4, 1, 3]),
            ("a.conv1d.bias", &[4]),
            ("a.relative_attention_bias.weight", &[32, 8]),
        ];
        let found = layers("bert", "BertModel", &whole);
        assert!(found.iter().all(|layer| matches!(layer, Layer::Module(_))), "{found:?}");
        let left: [(&str, &[usize]); 5] = [
            ("a.q_proj.bias", &[4]),
            ("a.A_log", &[4]),
            ("shared.weight", &[9, 4]),
            ("scale", &[1]),
            ("a.q_proj.weight", &[4, 3]),
        ];
        let found = layers("any", "", &left);
        assert!(found[..4].iter().all(|layer| matches!(layer, Layer::Other(_))), "{found:?}");
        assert_eq!(found[4], linear("a.q_proj", false));
    }

    #[test]
    fn a_name_is_put_in_front_only_where_one_is_missing() {
        for (model_type, class, names, expected) in [
            ("mamba", "MambaForCausalLM", &["backbone.layers.0.w", "backbone.norm.w"][..], None),
            ("mamba", "MambaForCausalLM", &["layers.0.w", "norm.w"], Some("backbone")),
            ("unknown", "UnknownForCausalLM", &["inner.layers.0.w", "inner.norm.w", "lm_head.w"], None),
            ("unknown", "UnknownForCausalLM", &["layers.0.w", "norm.w", "lm_head.w"], Some("model")),
            ("bert", "BertLMHeadModel", &["bert.a.w", "bert.b.w", "cls.predictions.bias"], None),
            ("roberta", "RobertaForCausalLM", &["roberta.a.w", "lm_head.dense.weight"], None),
            ("gpt2", "GPT2LMHeadModel", &["transformer.h.0.w", "transformer.wte.w"], None),
            ("bert", "BertForMaskedLM", &["a.w", "b.w"], None),
        ] {
            assert_eq!(
                missing_name(class, model_type, names.iter().copied()),
                expected,
                "{class}: {names:?}"
            );
        }
    }

    #[test]
    fn tasks_and_tied_heads_are_known_by_the_class() {
        let of = |model_type: &str, class: &str, embedding: &str| {
            let tensors = tensors(&[(embedding, &[9, 3])]);
            let layers = Layers::new(model_type, class, &tensors);
            (layers.task_type(), layers.tied_head())
        };
        let tied = |head: &str| Some(head.to_owned());
        assert_eq!(
            of("llama", "LlamaForCausalLM", "model.embed_tokens.weight"),
            (Some("CAUSAL_LM"), tied("lm_head"))
        );
        assert_eq!(
            of("gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.embed_in.weight"),
            (Some("CAUSAL_LM"), tied("embed_out"))
        );
        assert_eq!(
            of("llava", "LlavaForConditionalGeneration", "language_model.model.embed_tokens.weight"),
            (None, tied("language_model.lm_head"))
        );
        let (task, _) = of("t5", "T5ForConditionalGeneration", "decoder.embed_tokens.weight");
        assert_eq!(task, Some("SEQ_2_SEQ_LM"));
        assert_eq!(of("bert", "BertModel", "embeddings.word_embeddings.weight"), (None, None));
        assert_eq!(of("llama", "LlamaForCausalLM", "lm_head.weight"), (Some("CAUSAL_LM"), None));
    }
}
