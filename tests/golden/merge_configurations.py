"""Writes merge_configurations.json: what mergekit makes of configurations, with small models of Llama's kind.

Run: python tests/golden/merge_configurations.py   (needs torch, transformers and mergekit 0.1.5)
"""

import json
import pathlib
import tempfile

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

torch.manual_seed(29)
HIDDEN, LAYERS, VOCABULARY = 4, 3, 5
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 6,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def shapes():
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}mlp.gate_proj.weight", (6, HIDDEN)
        yield f"{prefix}mlp.up_proj.weight", (6, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, 6)
        yield f"{prefix}input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def rounded(tensor):
    """Few digits, and exactly what is read again."""
    return (tensor * 2**20).round() / 2**20


base = {name: rounded(torch.randn(shape)) for name, shape in shapes()}
MODELS = {"base": base}
for name, spread in (("a", 0.4), ("b", 0.2), ("c", 1.0)):
    MODELS[name] = {key: rounded(value + spread * torch.randn_like(value)) for key, value in base.items()}

CASES = {
    "linear": """
models:
  - model: MODELS/a
    parameters: {weight: [0.0, 1.0]}
  - model: MODELS/b
    parameters:
      weight:
        - {filter: mlp, value: [1, 0.2, 2]}
        - {filter: lm_head, value: 3}
        - value: 0.5
  - model: MODELS/c
merge_method: linear
parameters:
  weight: 1e-1
  normalize:
    - {filter: self_attn, value: false}
    - {value: true}
dtype: float32
""",
    "linear with a base": """
models: [{model: MODELS/a, parameters: {weight: 2}}]
base_model: MODELS/base
merge_method: linear
parameters: {weight: 1}
""",
    "gradient slerp": """
slices:
  - sources:
      - model: MODELS/a
        layer_range: [0, 3]
      - model: MODELS/base
        layer_range: [0, 3]
merge_method: slerp
base_model: MODELS/base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float32
""",
    "slerp of slices": """
slices:
  - sources:
      - {model: MODELS/a, layer_range: [0, 2]}
      - {model: MODELS/b, layer_range: [1, 3]}
    base_model: MODELS/b
    parameters: {t: [0.1, 0.9]}
  - sources:
      - {model: MODELS/base, layer_range: [0, 1]}
      - {model: MODELS/c, layer_range: [2, 3]}
  - sources:
      - {model: MODELS/base, layer_range: [0, 3]}
      - {model: MODELS/a, layer_range: [0, 3]}
    parameters: {t: {filter: q_proj, value: [0.2, 0.4]}}
merge_method: slerp
base_model: MODELS/base
parameters: {t: [0.6, 0.8]}
""",
    "passthrough": """
slices:
  - sources:
      - model: MODELS/a
        layer_range: [0, 2]
  - sources:
      - model: MODELS/b
        layer_range: [1, 3]
        parameters:
          scale:
            - {filter: o_proj, value: 0.0}
            - {filter: down_proj, value: [0.5, 0.25]}
  - sources:
      - model: MODELS/c
        layer_range: [2, 3]
merge_method: passthrough
""",
    "ties": """
models:
  - model: MODELS/a
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: MODELS/b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: MODELS/c
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: MODELS/base
parameters:
  normalize: true
  int8_mask: true
dtype: float32
""",
    "ties in part": """
models:
  - model: MODELS/a
    parameters: {density: {filter: mlp, value: 0.5}}
  - model: MODELS/c
base_model: MODELS/base
merge_method: ties
parameters: {weight: 1}
""",
    "task arithmetic": """
models:
  - model: MODELS/base
  - model: MODELS/a
    parameters: {weight: 0.5}
  - model: MODELS/b
merge_method: task_arithmetic
base_model: MODELS/base
parameters:
  weight: [-1, 1]
  lambda:
    - {filter: layers.1., value: 0.5}
""",
    "breadcrumbs": """
models:
  - model: MODELS/a
    parameters: {weight: 1, density: 0.6, gamma: [0.1, 0.3]}
  - model: MODELS/b
    parameters: {weight: 0.5, density: [0.5, 0.9]}
base_model: MODELS/base
merge_method: breadcrumbs_ties
parameters: {gamma: 0.2, rescale: true, normalize: [false, true]}
""",
    "nuslerp": """
slices:
  - sources:
      - {model: MODELS/b, layer_range: [0, 3], parameters: {weight: 0.3}}
      - {model: MODELS/base, layer_range: [0, 3]}
      - {model: MODELS/a, layer_range: [0, 3], parameters: {weight: [1, 2]}}
base_model: MODELS/base
merge_method: nuslerp
""",
    "sce": """
models: [{model: MODELS/a}, {model: MODELS/b}, {model: MODELS/c}]
base_model: MODELS/base
merge_method: sce
parameters: {select_topk: [{filter: mlp, value: 0.5}], density: 0.1}
""",
    "karcher": """
models: [{model: MODELS/a}, {model: MODELS/b}, {model: MODELS/c}]
merge_method: karcher
parameters: {max_iter: 3, tol: 1e-5}
""",
}


def write(folder, tensors, config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def merge(text, folder):
    """What mergekit writes for a configuration: tensors and configuration."""
    configuration = MergeConfiguration.model_validate(yaml.safe_load(text.replace("MODELS", str(folder))))
    with tempfile.TemporaryDirectory() as out:
        run_merge(configuration, out, MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))
        out = pathlib.Path(out)
        tensors = {}
        for file in out.glob("*.safetensors"):
            tensors.update(load_file(file))
        return tensors, json.loads((out / "config.json").read_text())


def numbers(tensor):
    return [float(f"{value:.8g}") for value in tensor.reshape(-1).tolist()]


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    for name, tensors in MODELS.items():
        write(folder / name, tensors, CONFIG)
    merges = {}
    for name, text in CASES.items():
        tensors, config = merge(text, folder)
        merges[name] = {
            "configuration": text,
            "layers": config["num_hidden_layers"],
            "tensors": {key: numbers(value) for key, value in sorted(tensors.items())},
        }
golden = {
    "config": CONFIG,
    "shapes": {name: list(shape) for name, shape in shapes()},
    "models": {
        name: {key: numbers(value) for key, value in tensors.items()} for name, tensors in MODELS.items()
    },
    "merges": merges,
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden, separators=(",", ":")))
