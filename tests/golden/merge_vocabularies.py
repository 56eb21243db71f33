"""Writes merge_vocabularies.json: what mergekit makes of models whose tokenizers differ, row by row.

The numbers of tokens that a union adds change from run to run there, so rows stand under the texts of their tokens.

Run: python tests/golden/merge_vocabularies.py   (needs torch, transformers and mergekit 0.1.5)
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
from transformers import AutoTokenizer

torch.manual_seed(31)
HIDDEN = 2


def config(rows, tied):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": rows,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    }


def tokenizer(tokens, merges, added):
    """Pairs of letters, and added tokens, each with whether it is special."""
    names = tokens + ["".join(pair) for pair in merges]
    vocabulary = {token: number for number, token in enumerate(names)}
    entry = lambda number, token, special: {
        "id": vocabulary.get(token, number), "content": token, "single_word": False, "lstrip": False,
        "rstrip": special, "normalized": not special, "special": special,
    }
    new, entries = len(vocabulary), []
    for token, special in added:
        entries.append(entry(new, token, special))
        new += token not in vocabulary
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": [list(pair) for pair in merges],
        },
    }


# The base has a row more than tokens.
TOKENIZERS = {
    "base": (tokenizer(list("abcd"), [("a", "b")], [("<s>", True), ("<x>", False)]), 8),
    "a": (tokenizer(list("dcxy"), [("x", "y"), ("d", "c")], [("<s>", True), ("<m>", True)]), 8),
    "b": (tokenizer(list("xaze"), [("x", "a")], [("a", False), ("<m>", False), ("<n>", True)]), 7),
}


def tensors(rows, tied):
    shapes = {
        "model.embed_tokens.weight": (rows, HIDDEN),
        "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.gate_proj.weight": (2, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": (2, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, 2),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
        "model.norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["lm_head.weight"] = (rows, HIDDEN)
    return {name: (torch.randn(shape) * 1024).round() / 1024 for name, shape in shapes.items()}


CASES = {
    "linear, union": """
models: [{model: MODELS/base}, {model: MODELS/a, parameters: {weight: 0.5}}, {model: MODELS/b}]
base_model: MODELS/base
merge_method: linear
parameters: {weight: 1}
tokenizer_source: union
""",
    "linear, base": """
models: [{model: MODELS/a}, {model: MODELS/b, parameters: {weight: 3}}]
base_model: MODELS/base
merge_method: linear
parameters: {weight: 1}
tokenizer: {source: base}
""",
    "linear, of a model": """
models: [{model: MODELS/b}, {model: MODELS/base, parameters: {weight: 3}}]
base_model: MODELS/base
merge_method: linear
parameters: {weight: 1}
tokenizer_source: MODELS/b
""",
    "slerp, base": """
slices:
  - sources:
    - {model: MODELS/a, layer_range: [0, 1]}
    - {model: MODELS/base, layer_range: [0, 1]}
base_model: MODELS/base
merge_method: slerp
parameters: {t: 0.4}
tokenizer_source: base
""",
    "task arithmetic, union": """
models: [{model: MODELS/a, parameters: {weight: 0.7}}, {model: MODELS/b}]
base_model: MODELS/base
merge_method: task_arithmetic
parameters: {weight: -0.5}
tokenizer: {}
""",
    "passthrough, union": """
slices:
  - sources: [{model: MODELS/b, layer_range: [0, 1]}]
  - sources: [{model: MODELS/a, layer_range: [0, 1]}]
base_model: MODELS/base
merge_method: passthrough
tokenizer_source: union
""",
}


def numbers(tensor):
    return [float(f"{value:.8g}") for value in tensor.reshape(-1).tolist()]


def merge(text, folder):
    configuration = MergeConfiguration.model_validate(yaml.safe_load(text.replace("MODELS", str(folder))))
    with tempfile.TemporaryDirectory() as out:
        run_merge(configuration, out, MergeOptions(write_model_card=False, quiet=True))
        out = pathlib.Path(out)
        merged = {}
        for file in out.glob("*.safetensors"):
            merged.update(load_file(file))
        tokens = AutoTokenizer.from_pretrained(out).get_vocab()
        rows = json.loads((out / "config.json").read_text())["vocab_size"]
    by_token = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in merged:
            assert len(merged[name]) == rows == len(tokens)
            by_token[name] = {token: numbers(merged[name][number]) for token, number in sorted(tokens.items())}
    return {"configuration": text, "rows": rows, "tensors": by_token, "norm": numbers(merged["model.norm.weight"])}


golden = {
    "tokenizers": {name: value for name, (value, _) in TOKENIZERS.items()},
    "kinds": {},
}
for kind, tied in (("untied", False), ("tied", True)):
    with tempfile.TemporaryDirectory() as folder:
        folder, models = pathlib.Path(folder), {}
        for name, (definition, rows) in TOKENIZERS.items():
            values = tensors(rows, tied)
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config(rows, tied)))
            (folder / name / "tokenizer.json").write_text(json.dumps(definition))
            (folder / name / "tokenizer_config.json").write_text(
                json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
            )
            save_file(values, folder / name / "model.safetensors", metadata={"format": "pt"})
            models[name] = {
                "config": config(rows, tied),
                "tensors": {key: [list(value.shape), numbers(value)] for key, value in values.items()},
            }
        merges = {name: merge(text, folder) for name, text in CASES.items()}
    golden["kinds"][kind] = {"models": models, "merges": merges}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden, separators=(",", ":")))
