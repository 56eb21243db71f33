//! What PEFT can do with a tensor of a model, by names and shapes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pair::{Pair, Tensor};
use crate::adapter::stores_by_inputs;
use crate::checkpoint::{WeightType, is_embedding, is_head};

/// Names that classes have inside of the one with the head, where it is not `model`.
const INNER_NAMES: [(&str, &[&str]); 2] = [
    (
        "transformer",
        &["gpt2", "gptj", "gpt_neo", "gpt_bigcode", "bloom", "falcon", "codegen", "mpt", "openai-gpt"],
    ),
    ("gpt_neox", &["gpt_neox"]),
];

/// What can be done with a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layer {
    /// It is the weight of a linear layer, `[outputs, inputs]` or, where that is turned round, `[inputs, outputs]`.
    Linear { module: String, by_inputs: bool },
    /// It belongs to a module that can be stored as a whole.
    Module(String),
    /// Neither, and why.
    Other(&'static str),
}

/// The tensors of a model, as PEFT sees its modules.
pub(super) struct Layers<'a> {
    model_type: &'a str,
    /// What the stored names lack in front of them.
    missing: Option<&'static str>,
    /// Names of all tensors.
    names: BTreeSet<&'a str>,
    has_experts: bool,
}

impl<'a> Layers<'a> {
    pub fn of(pair: &'a Pair) -> Self {
        let config = pair.model().config();
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let names: BTreeSet<&str> = pair.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let has_experts = names.iter().any(|name| is_expert(name));
        Self { model_type, missing: missing_name(config, model_type, &names), names, has_experts }
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
        let last = module.rsplit('.').next().unwrap_or(module);
        if self.is_linear(name, module, part, tensor.shape.len()) {
            let by_inputs = stores_by_inputs(self.model_type, module);
            return Layer::Linear { module: self.peft_name(name, module), by_inputs };
        }
        if self.is_linear(&format!("{module}.weight"), module, "weight", 2)
            && part == "bias"
            && !is_norm(last)
        {
            return Layer::Other("it is the bias of a layer that is changed by a product");
        }
        let inside = format!("{module}.");
        let own = self.names.range(inside.as_str()..).take_while(|other| other.starts_with(&inside));
        let is_alone = own.into_iter().all(|other| matches!(&other[inside.len()..], "weight" | "bias"));
        match is_alone && tensor.shape.len() < 4 {
            true => Layer::Module(self.peft_name(name, module)),
            false => Layer::Other("its module holds others that are changed by products"),
        }
    }

    fn is_linear(&self, name: &str, module: &str, part: &str, dimensions: usize) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        let is_table = is_embedding(name) || last.contains("embed") || matches!(last, "wte" | "wpe");
        let is_router = self.has_experts && matches!(last, "gate" | "router");
        part == "weight"
            && dimensions == 2
            && self.names.contains(name)
            && !is_table
            && !is_router
            && !is_norm(last)
    }

    /// The name that a module has in the class with the head.
    fn peft_name(&self, tensor: &str, module: &str) -> String {
        match self.missing.filter(|_| !is_head(tensor)) {
            Some(missing) => format!("{missing}.{module}"),
            None => module.to_owned(),
        }
    }
}

fn is_expert(name: &str) -> bool {
    name.contains(".experts.")
}

fn is_norm(module: &str) -> bool {
    module.contains("norm") || module.starts_with("ln_")
}

/// The name in front of all modules but the head, where a folder stores the model without it.
fn missing_name(config: &Value, model_type: &str, names: &BTreeSet<&str>) -> Option<&'static str> {
    let class = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    if !(class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel")) {
        return None;
    }
    let known = INNER_NAMES.iter().find(|(_, types)| types.contains(&model_type));
    let inner = known.map_or("model", |(name, _)| name);
    let has_it = names.iter().any(|name| name.strip_prefix(inner).is_some_and(|rest| rest.starts_with('.')));
    (!has_it).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Dtype;

    fn layer(
        model_type: &'static str,
        names: &[&'static str],
        missing: Option<&'static str>,
        of: &str,
        shape: &[usize],
    ) -> Layer {
        let tensor = Tensor {
            name: of.to_owned(),
            base_name: of.to_owned(),
            shape: shape.to_vec(),
            dtype: Dtype::BF16,
            base_dtype: Dtype::BF16,
        };
        let names: BTreeSet<&str> = names
            .iter()
            .copied()
            .chain([of])
            .map(|name| -> &'static str { String::leak(name.to_owned()) })
            .collect();
        let has_experts = names.iter().any(|name| is_expert(name));
        Layers { model_type, missing, names, has_experts }.layer(&tensor)
    }

    #[test]
    fn layers_are_known_by_names_and_shapes() {
        let linear = |module: &str, by_inputs| Layer::Linear { module: module.to_owned(), by_inputs };
        let module = |module: &str| Layer::Module(module.to_owned());
        assert_eq!(
            layer("llama", &[], None, "model.layers.0.mlp.up_proj.weight", &[4, 3]),
            linear("model.layers.0.mlp.up_proj", false)
        );
        assert_eq!(
            layer("gpt2", &[], None, "transformer.h.0.attn.c_attn.weight", &[3, 9]),
            linear("transformer.h.0.attn.c_attn", true)
        );
        // The same names of another class, which has plain linear layers.
        assert_eq!(
            layer("gpt_bigcode", &[], Some("transformer"), "h.0.attn.c_attn.weight", &[9, 3]),
            linear("transformer.h.0.attn.c_attn", false)
        );
        assert_eq!(layer("llama", &[], Some("model"), "lm_head.weight", &[9, 3]), linear("lm_head", false));
        assert_eq!(
            layer("llama", &[], None, "model.embed_tokens.weight", &[9, 3]),
            module("model.embed_tokens")
        );
        assert_eq!(layer("gpt2", &[], Some("transformer"), "wpe.weight", &[9, 3]), module("transformer.wpe"));
        assert_eq!(layer("gpt2", &["h.0.ln_1.weight"], None, "h.0.ln_1.bias", &[3]), module("h.0.ln_1"));
        let experts = ["model.layers.0.mlp.experts.gate_up_proj"];
        assert_eq!(
            layer("any", &experts, None, "model.layers.0.mlp.gate.weight", &[8, 3]),
            module("model.layers.0.mlp.gate")
        );
        for (names, name, shape) in [
            (&["a.q_proj.weight"][..], "a.q_proj.bias", &[4][..]),
            (&[][..], "model.layers.0.mlp.experts.3.up_proj.weight", &[4, 3][..]),
            (&[][..], "model.layers.0.mlp.experts.gate_up_proj", &[2, 4, 3][..]),
            (&["a.linear_attn.q_proj.weight"][..], "a.linear_attn.A_log", &[4][..]),
            (&[][..], "scale", &[1][..]),
        ] {
            assert!(matches!(layer("any", names, None, name, shape), Layer::Other(_)), "{name}");
        }
    }
}
