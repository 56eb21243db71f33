"""Writes configurations.json: the config.json of published models, and what the class of transformers makes of it.
Usage: python configurations.py (transformers 5.24, PyTorch).

The fields and their special values are those of the published files. Sizes are shrunk: widths, layers, vocabularies, the
ids of special tokens with them, and the lists that have an entry for each layer or each pair of a head's dimensions.
Every entry has a name, the configuration and a result: "loads", or what a refusal has to name. `values` holds what the
class computes with; `values_of` names the entry with the same ones."""

import copy
import hashlib
import json
import pathlib
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

here = pathlib.Path(__file__).parent
LOADS = "loads"
V4, V5 = {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}
ENTRIES = []


def model(name, model_type, architecture, *, result=LOADS, drop=(), **fields):
    """Adds an entry. `drop` names fields of the family's common ones that the published file does not have."""
    config = {"architectures": [architecture], "model_type": model_type, **fields}
    for field in drop:
        del config[field]
    ENTRIES.append((name, config, result))


def sizes(hidden, heads, kv_heads, layers, vocabulary=128, **further):
    return {
        "hidden_size": hidden, "intermediate_size": 2 * hidden + 8, "num_attention_heads": heads,
        "num_hidden_layers": layers, "num_key_value_heads": kv_heads, "vocab_size": vocabulary, **further,
    }


def ids(bos=None, eos=None, pad=None):
    given = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return {field: value for field, value in given.items() if value is not None}


def kinds(*pattern, layers):
    names = {"s": "sliding_attention", "f": "full_attention", "l": "linear_attention"}
    return [names[pattern[layer % len(pattern)]] for layer in range(layers)]


# llama -----------------------------------------------------------------------------------------------------------------
ACT = {"hidden_act": "silu", "initializer_range": 0.02, "use_cache": True}
NO_BIAS = {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False}
LLAMA_1 = {**ACT, "rms_norm_eps": 1e-06, "tie_word_embeddings": False}
LLAMA3_ROPE = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"}
LLAMA_31 = {**ACT, **NO_BIAS, **V4, **ids(125, [125, 126, 127]), "max_position_embeddings": 131072, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0, "tie_word_embeddings": False,
            "transformers_version": "4.42.3"}
LLAMA_32 = {**LLAMA_31, "head_dim": 16, "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}, "tie_word_embeddings": True,
            "transformers_version": "4.45.0.dev0"}
BITSANDBYTES = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None, "llm_int8_threshold": 6.0, "load_in_4bit": True,
    "load_in_8bit": False, "quant_method": "bitsandbytes",
}


def llama(name, fields, common, **further):
    model(name, "llama", "LlamaForCausalLM", **{**common, **fields, **further})


llama("decapoda-research/llama-7b-hf", sizes(32, 4, 4, 2), LLAMA_1, **ids(0, 1, -1), max_sequence_length=2048,
      torch_dtype="float16", transformers_version="4.27.0.dev0", architectures=["LLaMAForCausalLM"],
      drop=("num_key_value_heads", "tie_word_embeddings"))
llama("huggyllama/llama-7b", sizes(32, 4, 4, 2), LLAMA_1, **ids(1, 2, 0), max_position_embeddings=2048,
      max_sequence_length=2048, torch_dtype="float16", transformers_version="4.28.0.dev0", drop=("num_key_value_heads",))
llama("meta-llama/Llama-2-7b-hf", sizes(32, 4, 4, 2), {**LLAMA_1, "rms_norm_eps": 1e-05}, **ids(1, 2),
      max_position_embeddings=4096, pretraining_tp=1, rope_scaling=None, torch_dtype="float16",
      transformers_version="4.31.0.dev0")
llama("lmsys/vicuna-7b-v1.5", sizes(32, 4, 4, 2), {**LLAMA_1, "rms_norm_eps": 1e-05}, **ids(1, 2, 0),
      _name_or_path="vicuna-7b-v1.5", max_position_embeddings=4096, pretraining_tp=1, rope_scaling=None,
      torch_dtype="float16", transformers_version="4.31.0")
llama("lmsys/vicuna-7b-v1.5-16k", sizes(32, 4, 4, 2), {**LLAMA_1, "rms_norm_eps": 1e-05}, **ids(1, 2, 0),
      _name_or_path="vicuna-7b-v1.5-16k", max_position_embeddings=4096, max_sequence_length=16384, pretraining_tp=1,
      rope_scaling={"factor": 4.0, "type": "linear"}, torch_dtype="float16", transformers_version="4.31.0")
llama("TinyLlama/TinyLlama-1.1B-Chat-v1.0", sizes(64, 8, 1, 2), {**LLAMA_1, "rms_norm_eps": 1e-05}, **ids(1, 2),
      attention_bias=False, max_position_embeddings=2048, pretraining_tp=1, rope_scaling=None, rope_theta=10000.0, **V4,
      transformers_version="4.35.0")
llama("meta-llama/Meta-Llama-3-8B-Instruct", sizes(32, 4, 1, 2), LLAMA_31, **ids(126, 127),
      max_position_embeddings=8192, rope_scaling=None, transformers_version="4.40.0.dev0", drop=("mlp_bias",))
llama("meta-llama/Llama-3.1-8B-Instruct", sizes(32, 4, 1, 2), LLAMA_31)
llama("meta-llama/Llama-3.2-1B-Instruct", sizes(64, 4, 1, 2), LLAMA_32)
llama("unsloth/Llama-3.2-1B-Instruct", sizes(64, 4, 1, 2), LLAMA_32, **ids(pad=124), unsloth_fixed=True,
      _name_or_path="meta-llama/Llama-3.2-1B-Instruct", transformers_version="4.52.0.dev0")
llama("a tune of Llama-3.2-3B-Instruct, merged by unsloth", sizes(48, 3, 1, 2), LLAMA_32, **ids(pad=124), **V5,
      head_dim=16, eos_token_id=127, model_name="unsloth/llama-3.2-3b-instruct-unsloth-bnb-4bit", unk_token_id=None,
      unsloth_fixed=True, unsloth_version="2026.1.4", transformers_version="4.57.3", drop=("torch_dtype",))
llama("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", sizes(64, 4, 1, 2), LLAMA_32, **ids(pad=124), unsloth_fixed=True,
      quantization_config=BITSANDBYTES, result="quantization_config")
llama("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", sizes(32, 4, 1, 2), LLAMA_31, **ids(126, 127),
      transformers_version="4.43.0.dev0")
llama("HuggingFaceTB/SmolLM2-135M-Instruct", sizes(36, 9, 3, 3), {**LLAMA_1, "rms_norm_eps": 1e-05}, **ids(1, 2, 2),
      attention_bias=False, attention_dropout=0.0, initializer_range=0.041666666666666664, is_llama_config=True,
      max_position_embeddings=8192, mlp_bias=False, pretraining_tp=1, rope_interleaved=False, rope_scaling=None,
      rope_theta=100000, tie_word_embeddings=True, **V4, transformers_version="4.42.3",
      **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}})
llama("01-ai/Yi-1.5-6B-Chat", sizes(64, 8, 1, 2), LLAMA_1, **ids(1, 2, 0), attention_bias=False, attention_dropout=0.0,
      max_position_embeddings=4096, pretraining_tp=1, rope_scaling=None, rope_theta=5000000.0, **V4,
      transformers_version="4.40.0")
llama("tiiuae/Falcon3-1B-Base", sizes(32, 2, 1, 2), {**LLAMA_1, **NO_BIAS}, **ids(eos=11), activation="swiglu",
      head_dim=16, max_position_embeddings=8192, pretraining_tp=1, rope_scaling=None, rope_theta=1000042, **V4,
      transformers_version="4.46.1")
llama("tiiuae/Falcon3-7B-Instruct", sizes(48, 3, 1, 2), {**LLAMA_1, **NO_BIAS}, **ids(11, 11), activation="swiglu",
      head_dim=16, max_position_embeddings=32768, pretraining_tp=1, rope_scaling=None, rope_theta=1000042, **V4,
      transformers_version="4.46.1")

# qwen2, qwen3 ----------------------------------------------------------------------------------------------------------
QWEN2 = {**ACT, **V4, "attention_dropout": 0.0, "max_position_embeddings": 32768, "max_window_layers": 28,
         "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
         "transformers_version": "4.43.1", "use_sliding_window": False}
QWEN3 = {**ACT, **V4, **ids(126, 127), "attention_bias": False, "attention_dropout": 0.0, "head_dim": 16,
         "max_position_embeddings": 40960, "max_window_layers": 28, "rms_norm_eps": 1e-06, "rope_scaling": None,
         "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "transformers_version": "4.51.0",
         "use_sliding_window": False}


def qwen2(name, fields, **further):
    model(name, "qwen2", "Qwen2ForCausalLM", **{**QWEN2, **fields, **further})


def qwen3(name, fields, **further):
    model(name, "qwen3", "Qwen3ForCausalLM", **{**QWEN3, **fields, **further})


qwen2("Qwen/Qwen2-0.5B-Instruct", sizes(56, 7, 1, 3), **ids(126, 127), max_window_layers=24, sliding_window=32768,
      tie_word_embeddings=True, transformers_version="4.40.1")
# The ids as published, above the shrunk vocabulary: no text has these tokens.
qwen2("Qwen/Qwen2.5-0.5B, its ids kept", sizes(56, 7, 1, 3), **ids(151643, 151643), max_window_layers=24,
      sliding_window=32768, tie_word_embeddings=True, transformers_version="4.40.1", use_mrope=False)
qwen2("Qwen/Qwen2.5-7B-Instruct", sizes(56, 7, 1, 3), **ids(126, 127))
qwen2("Qwen/Qwen2.5-7B-Instruct, for long texts as its card says", sizes(56, 7, 1, 3), **ids(126, 127),
      rope_scaling={"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"})
qwen2("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", sizes(48, 6, 1, 3), **ids(126, 126), max_position_embeddings=131072,
      max_window_layers=21, rope_theta=10000, sliding_window=4096, transformers_version="4.44.0", use_mrope=False)
qwen2("Qwen/Qwen2.5-7B-Instruct-AWQ", sizes(56, 7, 1, 3), **ids(126, 127), torch_dtype="float16",
      quantization_config={"bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq",
                           "version": "gemm", "zero_point": True}, result="quantization_config")
qwen3("Qwen/Qwen3-0.6B", sizes(32, 4, 2, 3))
qwen3("Qwen/Qwen3-8B", sizes(64, 8, 2, 3), tie_word_embeddings=False)
qwen3("Qwen/Qwen3-4B-Instruct-2507", sizes(40, 4, 1, 3), max_position_embeddings=262144, max_window_layers=36,
      rope_theta=5000000)
# `attn_factor` is not read: the class reads `attention_factor`.
qwen3("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", sizes(64, 8, 2, 3), max_position_embeddings=131072,
      rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
                    "attn_factor": 0.8782488562869419}, tie_word_embeddings=False)
qwen3("Skywork/Skywork-Reward-V2-Qwen3-0.6B", sizes(32, 4, 2, 3), architectures=["Qwen3ForSequenceClassification"],
      id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}, result="architectures")
qwen3("Qwen/Qwen3-0.6B-FP8", sizes(32, 4, 2, 3),
      quantization_config={"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                           "weight_block_size": [128, 128]}, result="quantization_config")

# mistral, ministral3 ---------------------------------------------------------------------------------------------------
MISTRAL = {**ACT, **V4, **ids(1, 2), "attention_dropout": 0.0, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05,
           "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False, "transformers_version": "4.42.0"}
PIXTRAL = {"attention_dropout": 0.0, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32, "image_size": 1540,
           "initializer_range": 0.02, "intermediate_size": 64, "model_type": "pixtral", "num_attention_heads": 4,
           "num_channels": 3, "num_hidden_layers": 2, "patch_size": 14}
MINISTRAL3_ROPE = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384, "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn",
}
MINISTRAL3 = {**ACT, "attention_dropout": 0.0, "head_dim": 16, "max_position_embeddings": 262144,
              "model_type": "ministral3", "rms_norm_eps": 1e-05, "rope_parameters": MINISTRAL3_ROPE,
              "sliding_window": None}


def mistral(name, fields, **further):
    model(name, "mistral", "MistralForCausalLM", **{**MISTRAL, **fields, **further})


def mistral3(name, text, tied, **further):
    model(name, "mistral3", "Mistral3ForConditionalGeneration", **{
        **V5, "image_token_index": 10, "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
        "spatial_merge_size": 2, "text_config": text, "tie_word_embeddings": tied,
        "transformers_version": "5.0.0.dev0", "vision_config": PIXTRAL, "vision_feature_layer": -1, **further})


mistral("mistralai/Mistral-7B-v0.1", sizes(32, 4, 1, 2), rope_theta=10000.0, sliding_window=4096,
        transformers_version="4.34.0.dev0", drop=("attention_dropout",))
mistral("HuggingFaceH4/zephyr-7b-beta", sizes(32, 4, 1, 2), **ids(pad=2), rope_theta=10000.0, sliding_window=4096,
        _name_or_path="mistralai/Mistral-7B-v0.1", transformers_version="4.35.0", drop=("attention_dropout",))
mistral("mistralai/Mistral-7B-Instruct-v0.3", sizes(32, 4, 1, 2), transformers_version="4.42.0.dev0")
mistral("mistralai/Mistral-Nemo-Instruct-2407", sizes(40, 4, 1, 2), head_dim=8, max_position_embeddings=1024000,
        transformers_version="4.43.0.dev0")
mistral("mistralai/Ministral-8B-Instruct-2410", sizes(32, 4, 1, 2), head_dim=8, rope_theta=100000000.0,
        sliding_window=32768, transformers_version="4.46.0.dev0")
mistral("a tune of Mistral-Small-24B, merged by unsloth", sizes(40, 4, 1, 2), **ids(pad=11), **V5, head_dim=8,
        max_position_embeddings=131072, rope_parameters={"rope_theta": 1000000000.0, "rope_type": "default"},
        unsloth_version="2025.12.5", use_cache=False, transformers_version="5.10.2", drop=("torch_dtype", "rope_theta"))
mistral3("mistralai/Ministral-3-3B-Base-2512",
         {**MINISTRAL3, **sizes(48, 4, 1, 2), "tie_word_embeddings": True}, True)
mistral3("mistralai/Ministral-3-8B-Base-2512", {**MINISTRAL3, **sizes(64, 4, 1, 2)}, False)
mistral3("mistralai/Ministral-3-3B-Instruct-2512",
         {**MINISTRAL3, **sizes(48, 4, 1, 2), "tie_word_embeddings": True}, True,
         quantization_config={"activation_scheme": "static", "dequantize": False, "quant_method": "fp8",
                              "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
                              "weight_block_size": None}, result="quantization_config")
# Its weights hold a head of their own.
mistral3("mistralai/Mistral-Small-3.1-24B-Instruct-2503",
         {**ACT, **sizes(40, 4, 1, 2), "attention_dropout": 0.0, "head_dim": 8, "max_position_embeddings": 131072,
          "model_type": "mistral", "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0, "sliding_window": None},
         False, **V4, transformers_version="4.50.0.dev0", drop=("dtype",))

# gemma2, gemma3 --------------------------------------------------------------------------------------------------------
GEMMA2 = {**V4, "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, **ids(2, 1, 0),
          "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 16,
          "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02,
          "max_position_embeddings": 8192, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
          "sliding_window": 4096, "transformers_version": "4.42.4", "use_cache": True}
GEMMA3 = {**V4, "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
          "cache_implementation": "hybrid", "final_logit_softcapping": None, "head_dim": 8,
          "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "max_position_embeddings": 32768,
          "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None,
          "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "transformers_version": "4.50.0.dev0",
          "use_cache": True}
GEMMA3_OUTER = {**V4, "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106],
                "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
                "transformers_version": "4.50.0.dev0"}
SIGLIP = {"hidden_size": 32, "image_size": 896, "intermediate_size": 64, "model_type": "siglip_vision_model",
          "num_attention_heads": 4, "num_hidden_layers": 2, "patch_size": 14, "vision_use_head": False}


def gemma2(name, fields, **further):
    model(name, "gemma2", "Gemma2ForCausalLM", **{**GEMMA2, **fields, **further})


def gemma3_text(name, fields, **further):
    model(name, "gemma3_text", "Gemma3ForCausalLM", **{**GEMMA3, **fields, **further})


def gemma3(name, text, **further):
    model(name, "gemma3", "Gemma3ForConditionalGeneration",
          **{**GEMMA3_OUTER, "text_config": {"model_type": "gemma3_text", **text}, "vision_config": SIGLIP, **further})


gemma2("google/gemma-2-2b-it", sizes(48, 8, 4, 4), eos_token_id=[1, 107])
gemma2("google/gemma-2-9b", sizes(64, 8, 4, 4), sliding_window_size=4096, transformers_version="4.42.0.dev0")
gemma2("google/gemma-2-27b", sizes(64, 8, 4, 4), query_pre_attn_scalar=144, _attn_implementation="eager",
       transformers_version="4.42.0.dev0")
gemma3_text("google/gemma-3-270m", sizes(40, 4, 1, 6), **ids(2, 1, 0), _sliding_window_pattern=6,
            layer_types=kinds("s", "s", "s", "s", "s", "f", layers=6), rope_local_base_freq=10000.0,
            rope_theta=1000000.0, transformers_version="4.55.0.dev0", use_bidirectional_attention=False,
            drop=("sliding_window_pattern", "cache_implementation"))
gemma3_text("google/gemma-3-1b-it", sizes(48, 4, 1, 6), **ids(2, [1, 106], 0))
# Most fields of its text part are those that the class takes where a file has none.
gemma3("google/gemma-3-4b-it", {"hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 6,
                                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024})
gemma3("unsloth/gemma-3-12b-it", {
    **GEMMA3, **sizes(64, 8, 4, 6), "max_position_embeddings": 131072,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
}, **ids(2, [1, 106], 0), unsloth_fixed=True, transformers_version="4.51.3")

# phi3 ------------------------------------------------------------------------------------------------------------------
PHI3 = {**ACT, **V4, **ids(1, 120, 120), "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}}
PHI3_ROPE = {"long_factor": [1.0700000524520874, 1.1200000047683716, 1.149999976158142, 1.4199999570846558],
             "short_factor": [1.1, 1.1, 1.1, 1.3000000000000003]}
PHI35_ROPE = {"long_factor": [1.0800000429153442, 1.1100000143051147, 1.1399999856948853, 1.340000033378601],
              "short_factor": [1.0, 1.0199999809265137, 1.0299999713897705, 1.0299999713897705], "type": "longrope"}
PHI4_ROPE = {"long_factor": [1, 1.118320672, 1.250641126], "short_factor": [1.0, 1.0, 1.0], "type": "longrope"}


def phi3(name, fields, **further):
    model(name, "phi3", "Phi3ForCausalLM", **{**PHI3, **fields, **further})


phi3("microsoft/Phi-3-mini-4k-instruct", sizes(32, 4, 4, 2), _name_or_path="Phi-3-mini-4k-instruct",
     max_position_embeddings=4096, rope_scaling=None, sliding_window=2047, transformers_version="4.40.2")
phi3("microsoft/Phi-3-mini-128k-instruct", sizes(32, 4, 4, 2), _name_or_path="Phi-3-mini-128k-instruct",
     rope_scaling={**PHI3_ROPE, "type": "longrope"}, transformers_version="4.40.2")
phi3("microsoft/Phi-3.5-mini-instruct", sizes(32, 4, 4, 2), _name_or_path="Phi-3.5-mini-instruct",
     rope_scaling=PHI35_ROPE, transformers_version="4.43.3")
phi3("microsoft/Phi-4-mini-instruct", sizes(48, 6, 2, 2), **ids(126, 127, 126), full_attn_mod=1, interpolate_factor=1,
     lm_head_bias=False, mlp_bias=False, partial_rotary_factor=0.75, rope_scaling=PHI4_ROPE, tie_word_embeddings=True,
     transformers_version="4.45.0")
phi3("microsoft/phi-4", sizes(64, 8, 2, 2), **ids(125, 126, 124), max_position_embeddings=16384,
     original_max_position_embeddings=16384, rope_scaling=None, rope_theta=250000, sliding_window=None,
     transformers_version="4.47.0", drop=("auto_map",))

# olmo2, olmo3, smollm3, granite ----------------------------------------------------------------------------------------
OLMO = {**ACT, **ids(eos=126, pad=127), "attention_bias": False, "attention_dropout": 0.0, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False}
GRANITE = {**ACT, **V4, **ids(0, 0, 0), "attention_bias": False, "embedding_multiplier": 12.0, "mlp_bias": False,
           "logits_scaling": 8.0, "max_position_embeddings": 131072, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
           "rope_scaling": None, "tie_word_embeddings": True}


def granite(name, fields, **further):
    model(name, "granite", "GraniteForCausalLM", **{**GRANITE, **fields, **further})


model("allenai/OLMo-2-0425-1B", "olmo2", "Olmo2ForCausalLM", **OLMO, **sizes(32, 4, 4, 2), torch_dtype="float32",
      transformers_version="4.47.0")
model("allenai/OLMo-2-1124-7B-Instruct", "olmo2", "Olmo2ForCausalLM", **OLMO, **sizes(64, 8, 8, 2), **V4,
      _name_or_path="allenai/OLMo-2-1124-7B-DPO", transformers_version="4.48.0")
model("allenai/Olmo-3-1025-7B", "olmo3", "Olmo3ForCausalLM", **{
    **OLMO, **sizes(64, 8, 8, 4), **V5, "layer_types": kinds("s", "s", "s", "f", layers=4), "max_position_embeddings": 65536,
    "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
                     "original_max_position_embeddings": 8192, "rope_type": "yarn"},
    "sliding_window": 4096, "transformers_version": "4.57.1"})
model("HuggingFaceTB/SmolLM3-3B", "smollm3", "SmolLM3ForCausalLM", **ACT, **NO_BIAS, **sizes(32, 4, 1, 4), **V4,
      **ids(124, 126, 125), layer_types=kinds("f", layers=4), max_position_embeddings=65536, max_window_layers=28,
      no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0], pretraining_tp=2, rms_norm_eps=1e-06, rope_scaling=None,
      rope_theta=5000000.0, sliding_window=None, tie_word_embeddings=True, transformers_version="4.54.0",
      use_sliding_window=False)
model("HuggingFaceTB/SmolLM3-3B-Base", "smollm3", "SmolLM3ForCausalLM", **ACT, **NO_BIAS, **sizes(32, 4, 1, 6), **V4,
      **ids(124, 125, 126), max_position_embeddings=65536, max_window_layers=28, no_rope_layer_interval=4,
      no_rope_layers=[1, 1, 1, 0, 1, 1], pretraining_tp=2, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=5000000.0,
      sliding_window=None, transformers_version="4.54.0", use_sliding_window=False)
# Dropout that only training has: not applied, which a notice says.
granite("ibm-granite/granite-3.1-2b-instruct", sizes(64, 8, 2, 2), attention_dropout=0.1, attention_multiplier=0.015625,
        rope_theta=5000000.0, transformers_version="4.47.0.dev0")
granite("ibm-granite/granite-3.3-2b-instruct", sizes(64, 8, 2, 2), attention_dropout=0.0, attention_multiplier=0.015625,
        rope_theta=10000000.0, transformers_version="4.49.0")
granite("ibm-granite/granite-3.3-8b-base", sizes(64, 8, 2, 2), attention_dropout=0.0, attention_multiplier=0.0078125,
        logits_scaling=16.0, rope_theta=10000000.0, transformers_version="4.49.0")

# not supported ---------------------------------------------------------------------------------------------------------
model("openai-community/gpt2", "gpt2", "GPT2LMHeadModel", activation_function="gelu_new", attn_pdrop=0.1, **ids(126, 126),
      embd_pdrop=0.1, initializer_range=0.02, layer_norm_epsilon=1e-05, n_ctx=1024, n_embd=32, n_head=4, n_layer=2,
      n_positions=1024, resid_pdrop=0.1, vocab_size=128, result="gpt2")
model("tiiuae/falcon-7b", "falcon", "FalconForCausalLM", alibi=False, **V4, apply_residual_connection_post_layernorm=False,
      attention_dropout=0.0, bias=False, **ids(11, 11), hidden_dropout=0.0, hidden_size=32, initializer_range=0.02,
      layer_norm_epsilon=1e-05, multi_query=True, new_decoder_architecture=False, num_attention_heads=4,
      num_hidden_layers=2, parallel_attn=True, use_cache=True, vocab_size=128, result="falcon")
model("microsoft/phi-2", "phi", "PhiForCausalLM", **sizes(32, 4, 4, 2), **ids(126, 126), embd_pdrop=0.0,
      hidden_act="gelu_new", layer_norm_eps=1e-05, max_position_embeddings=2048, partial_rotary_factor=0.4,
      qk_layernorm=False, resid_pdrop=0.1, rope_theta=10000.0, tie_word_embeddings=False, torch_dtype="float16",
      result="\"phi\"")
model("mistralai/Mixtral-8x7B-v0.1", "mixtral", "MixtralForCausalLM", **{**MISTRAL, **sizes(32, 4, 1, 2)},
      num_experts_per_tok=2, num_local_experts=8, output_router_logits=False, router_aux_loss_coef=0.02, result="mixtral")
model("Qwen/Qwen3-30B-A3B", "qwen3_moe", "Qwen3MoeForCausalLM", **{**QWEN3, **sizes(32, 8, 1, 2)}, decoder_sparse_step=1,
      mlp_only_layers=[], moe_intermediate_size=16, norm_topk_prob=True, num_experts=8, num_experts_per_tok=2,
      output_router_logits=False, router_aux_loss_coef=0.001, result="qwen3_moe")
model("Qwen/Qwen3.5-4B", "qwen3_5", "Qwen3_5ForConditionalGeneration", **V5, image_token_id=120, text_config={
    **sizes(40, 4, 1, 4), "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "dtype": "bfloat16",
    "eos_token_id": 126, "full_attention_interval": 4, "head_dim": 16, "hidden_act": "silu", "initializer_range": 0.02,
    "layer_types": kinds("l", "l", "l", "f", layers=4), "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8, "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_5_text", "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06,
    "rope_parameters": {"mrope_interleaved": True, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25,
                        "rope_theta": 10000000, "rope_type": "default"},
    "tie_word_embeddings": True, "use_cache": True}, tie_word_embeddings=True, video_token_id=121,
      vision_config={"depth": 2, "hidden_size": 32, "model_type": "qwen3_5", "num_heads": 4, "patch_size": 16},
      vision_end_token_id=122, vision_start_token_id=123)
model("google/gemma-2b", "gemma", "GemmaForCausalLM", **sizes(32, 4, 1, 2), **ids(2, 1, 0), attention_bias=False,
      attention_dropout=0.0, head_dim=16, hidden_act="gelu", max_position_embeddings=8192, rms_norm_eps=1e-06,
      rope_theta=10000.0, **V4, result="hidden_act")
model("openai/gpt-oss-20b", "gpt_oss", "GptOssForCausalLM", **sizes(64, 8, 1, 2), attention_bias=True, head_dim=16,
      experts_per_token=4, layer_types=kinds("s", "f", layers=2), num_local_experts=8, sliding_window=128,
      swiglu_limit=7.0, quantization_config={"quant_method": "mxfp4"}, result="gpt_oss")
model("ibm-granite/granite-4.0-micro", "granitemoehybrid", "GraniteMoeHybridForCausalLM",
      **{**GRANITE, **sizes(40, 5, 1, 2)}, attention_dropout=0.0, attention_multiplier=0.015625,
      layer_types=["attention", "attention"], num_local_experts=0, position_embedding_type="rope",
      rope_theta=10000000, shared_intermediate_size=88, result="granitemoehybrid")

# Published in the form of transformers 4; the same again as transformers 5 saves it.
SAVED_BY_5 = ["meta-llama/Llama-3.2-1B-Instruct", "Qwen/Qwen2.5-7B-Instruct, for long texts as its card says",
              "Qwen/Qwen3-0.6B", "mistralai/Mistral-7B-v0.1", "google/gemma-2-2b-it", "google/gemma-3-1b-it",
              "google/gemma-3-4b-it", "microsoft/Phi-4-mini-instruct", "allenai/OLMo-2-0425-1B", "HuggingFaceTB/SmolLM3-3B",
              "ibm-granite/granite-3.3-2b-instruct"]


def read(config):
    """The configuration as transformers reads it from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        return AutoConfig.from_pretrained(folder)


def saved(config):
    """The config.json that transformers 5 writes for a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        read(config).save_pretrained(folder)
        return json.loads(pathlib.Path(folder, "config.json").read_text())


def rounded(numbers):
    """To nine digits: single precision, in few characters."""
    return [float(f"{number:.9g}") for number in numbers]


def rope(rotary, config, kind):
    """The rotation of one kind of layer; `kind` is None where all layers have the same one."""
    parameters = config.rope_parameters[kind] if kind else config.rope_parameters
    prefix = f"{kind}_" if kind else ""
    values = {
        "type": parameters["rope_type"],
        "theta": parameters["rope_theta"],
        "scale": float(getattr(rotary, f"{prefix}attention_scaling")),
        "frequencies": rounded(getattr(rotary, f"{prefix}inv_freq").tolist()),
    }
    if parameters["rope_type"] == "longrope":
        above = parameters["original_max_position_embeddings"] + 1
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=above)
        values["long_frequencies"] = rounded(long.tolist())
        values["original_max_position_embeddings"] = above - 1
    if (beta := parameters.get("llama_4_scaling_beta")) is not None:
        values["query_scale"] = {
            "beta": beta, "original_max_position_embeddings": parameters["original_max_position_embeddings"]
        }
    return values


def values(config):
    """What the class computes with: of a composite model, its text part."""
    outer = read(config)
    dtype = outer.dtype
    text = outer.get_text_config()
    text.tie_word_embeddings = outer.tie_word_embeddings
    torch.manual_seed(0)
    built = AutoModelForCausalLM.from_config(text, attn_implementation="eager", dtype=torch.float32)
    base, layers = built.model, built.model.layers
    attending = [getattr(layer, "self_attn", None) for layer in layers]
    attention, embedding = next(filter(None, attending)), base.embed_tokens
    kinds_of_layers = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    if kinds_of_layers is None:
        # Families that know only one window read it in every layer, or (llama, olmo2, granite) never.
        windows = [window if "sliding_window" in type(text).__dataclass_fields__ else None] * len(layers)
    else:
        windows = [window if kind == "sliding_attention" else None for kind in kinds_of_layers]
    if text.model_type in ("llama", "olmo2", "granite"):
        windows = [None] * len(layers)
    nested = hasattr(base.rotary_emb, "full_attention_inv_freq")
    of_layers = kinds_of_layers if nested else [None] * len(layers)
    distinct = sorted(set(of_layers), key=str)
    rotated = [own is not None and bool(getattr(own, "use_rope", True)) for own in attending]
    rope_of_layers = [distinct.index(kind) if turns else None for kind, turns in zip(of_layers, rotated)]
    tied = bool(text.tie_word_embeddings)
    shapes = {name: list(tensor.shape) for name, tensor in built.state_dict().items()}
    if tied:
        del shapes["lm_head.weight"]
    listing = "".join(f"{name} {shape}\n" for name, shape in sorted(shapes.items()))
    scale = getattr(embedding, "scalar_embed_scale", getattr(base, "embedding_multiplier", 1.0))
    return {
        "class": type(built).__name__,
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
        "hidden": text.hidden_size, "intermediate": text.intermediate_size, "layers": len(layers),
        "heads": text.num_attention_heads, "kv_heads": text.num_key_value_heads, "head_dim": attention.head_dim,
        "vocabulary": text.vocab_size, "tied": tied, "rms_norm_epsilon": text.rms_norm_eps,
        "activation": getattr(text, "hidden_activation", getattr(text, "hidden_act", None)),
        "max_position_embeddings": text.max_position_embeddings,
        "padding_row": embedding.padding_idx,
        "windows": windows,
        "rope": [rope(base.rotary_emb, text, kind) for kind in distinct], "rope_of_layers": rope_of_layers,
        "attention_scale": float(attention.scaling),
        # The class of gemma3 keeps this field and computes without it.
        "attention_softcap": text.attn_logit_softcapping if text.model_type == "gemma2" else None,
        "logit_softcap": getattr(text, "final_logit_softcapping", None),
        "embedding_multiplier": float(scale),
        "residual_multiplier": float(getattr(text, "residual_multiplier", 1.0)),
        "logits_scaling": float(getattr(text, "logits_scaling", 1.0)),
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "tensors": {name: shape for name, shape in sorted(shapes.items())
                    if not name.startswith("model.layers.") or name.startswith("model.layers.0.")},
        "tensor_count": len(shapes),
        # Of the lines "name [shape]\n", sorted by name.
        "tensors_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def line(entry):
    return json.dumps(entry, sort_keys=True, separators=(",", ":"))


def main():
    transformers.logging.set_verbosity_error()
    lines = []
    for name, config, result in ENTRIES:
        entry = {"name": name, "config": config, "result": result}
        if result in (LOADS, "attention_dropout"):
            entry["values"] = values(copy.deepcopy(config))
        lines.append(line(entry))
        if name in SAVED_BY_5:
            again = saved(copy.deepcopy(config))
            assert values(copy.deepcopy(again)) == entry["values"], name
            lines.append(line({
                "name": f"{name}, saved by transformers 5", "config": again, "result": result, "values_of": name,
            }))
    (here / "configurations.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
