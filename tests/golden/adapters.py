"""Writes adapters of the tiny models beside it, as PEFT saves them, and the weights that PEFT adds them up to.

    pip install torch transformers safetensors peft
    python tests/golden/adapters.py

Made with peft 0.21, transformers 5.24 and torch 2.15. Per adapter a folder in adapters/ with adapter_config.json and
adapter_model.safetensors, whose base is the golden model that it names, and expected.safetensors: every tensor of the
model that the adapter changes, in f32. That these are the model's is checked here: with them in the base the logits are
those of PEFT's model.
"""

import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FOLDER = os.path.dirname(os.path.abspath(__file__))
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "linear": ("llama", dict(target_modules=LINEAR, r=3, lora_alpha=5)),
    # Ranks and factors of some modules, by regular expressions.
    "patterns": (
        "qwen2",
        dict(
            target_modules=["q_proj", "v_proj", "down_proj"],
            r=2,
            lora_alpha=6,
            rank_pattern={"layers.1.self_attn.q_proj": 4, ".*v_proj": 1},
            alpha_pattern={r"^model\.layers\.0\.mlp\.down_proj": 1, "q_proj": 3},
        ),
    ),
    # Fused projections, and whole tensors beside the products.
    "fused": (
        "phi3",
        dict(
            target_modules=["qkv_proj", "gate_up_proj", "o_proj"],
            r=4,
            lora_alpha=4,
            use_rslora=True,
            modules_to_save=["lm_head", "norm"],
        ),
    ),
    # Of a tied model the embedding alone, the head alone, and both as one.
    "tied_embedding": ("llama_tied", dict(target_modules=["embed_tokens", "o_proj"], r=2, lora_alpha=2)),
    "tied_head": ("llama_tied", dict(target_modules=["lm_head"], r=2, lora_alpha=2)),
    "tied_both": (
        "llama_tied",
        dict(target_modules=["embed_tokens"], r=2, lora_alpha=2, ensure_weight_tying=True),
    ),
    "tied_saved": (
        "llama_tied",
        dict(target_modules=["q_proj"], r=2, modules_to_save=["embed_tokens"]),
    ),
    # Gated DeltaNet, and queries with their gates in one projection.
    "delta_net": (
        "qwen3_5",
        dict(
            target_modules=["q_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"],
            r=2,
            lora_alpha=3,
        ),
    ),
}


def weights_of(model):
    """The tensors that PEFT's model computes with and that are not the base's, by the model's names."""
    weights = {}
    for name, module in model.named_modules():
        name = name.removeprefix("base_model.model.")
        if isinstance(module, LoraLayer):
            weights[name + ".weight"] = module.get_base_layer().weight + module.get_delta_weight("default")
        if isinstance(module, ModulesToSaveWrapper):
            for key, value in module.modules_to_save["default"].named_parameters():
                weights[f"{name}.{key}"] = value
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}


def write(name, base, settings):
    folder = os.path.join(FOLDER, "adapters", name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(len(name))
    base_folder = os.path.join(FOLDER, base)
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Not equal to anything by chance, B not zero.
            parameter.data += 0.1 * torch.randn_like(parameter)
    weights = weights_of(model)
    tokens = torch.arange(1, 12)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        embedding = plain.get_input_embeddings().weight
        plain.config.tie_word_embeddings = False
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
        own = plain.state_dict()
        if settings.get("ensure_weight_tying"):
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"].clone())
        for key, value in weights.items():
            own[key].copy_(value)
        assert embedding is plain.get_input_embeddings().weight
        difference = (plain(tokens).logits - expected).abs().max().item()
    assert difference < 1e-5, difference
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as file:
        config = json.load(file)
    config["base_model_name_or_path"] = f"../../{base}"
    for key in ["target_modules", "modules_to_save"]:
        # A set in PEFT, in another order every time.
        config[key] = sorted(config[key]) if config[key] else config[key]
    with open(path, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    save_file(weights, os.path.join(folder, "expected.safetensors"))
    print(name, f"{difference:.1e}", sorted(load_file(os.path.join(folder, "adapter_model.safetensors"))))


for name in sys.argv[1:] or ADAPTERS:
    write(name, *ADAPTERS[name])
