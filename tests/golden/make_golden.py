"""Writes the golden files that tests/tests/model compares with: tiny random models, and what PyTorch and
transformers compute with them in f32 on a CPU.

    pip install torch transformers safetensors
    python tests/golden/make_golden.py [NAME...]

The six models down to qwen3 were made with transformers 5.23, the others with 5.24, all with torch 2.15; without
names all are made anew. Every feature that a model is there for is switched off once to see that it changes the
logits, and weights are drawn again until the ten steps and the greedy continuations do not hang on rounding.

Per model a folder with config.json and model.safetensors, as transformers writes them, and golden.safetensors:

    tokens, supervised, document_starts      several documents, one after the other
    logits                                   [tokens, vocabulary], every document computed by itself
    losses                                   negative log-likelihood of every position's target, 0 where it has none
    gradient.<name>                          of the losses' sum over the number of supervised tokens
    step_losses, step_norms                  of ten AdamW steps on all documents (norms before clipping)
    after.<name>                             the weights after them
    prompts, prompt_starts                   several prompts
    generated, generated_starts              greedy continuations, without the token that ended them
    stop                                     that token
"""

import os
import shutil
import sys
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import GemmaConfig, GemmaForCausalLM
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers import GraniteConfig, GraniteForCausalLM
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import Ministral3Config, Ministral3ForCausalLM
from transformers import MistralConfig, MistralForCausalLM
from transformers import Olmo2Config, Olmo2ForCausalLM
from transformers import Olmo3Config, Olmo3ForCausalLM
from transformers import Phi3Config, Phi3ForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
from transformers import SmolLM3Config, SmolLM3ForCausalLM

FOLDER = os.path.dirname(os.path.abspath(__file__))
SIZES = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=51,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)

# AdamW as the test repeats it.
STEPS, RATE, BETAS, EPSILON, DECAY, CLIP = 10, 1e-3, (0.9, 0.95), 1e-8, 0.1, 0.5
NEW_TOKENS = 16
MOST_DRAWS = 200


class Model(NamedTuple):
    """A golden model: its class, its configuration, the documents' lengths, and per feature what switches it off."""

    kind: type
    config: Any
    lengths: list[int]
    without: dict = {}


def identity(*paths):
    """Replaces submodules of every layer by nothing."""

    def change(model):
        for layer in model.model.layers:
            for path in paths:
                parent, _, name = path.rpartition(".")
                setattr(layer.get_submodule(parent), name, torch.nn.Identity())

    return change


def unscaled_embedding(model):
    model.model.embed_tokens.embed_scale.fill_(1.0)


def zero(suffix):
    """Zeroes the parameters whose name ends so."""

    def change(model):
        for name, weight in model.named_parameters():
            if name.endswith(suffix):
                weight.data.zero_()

    return change


def ungated_attention(model):
    """Halves attention's output, as gates of 0 do."""
    for layer in model.model.layers:
        if hasattr(layer, "self_attn"):
            heads = layer.self_attn.q_proj.weight.data.view(-1, 2, layer.self_attn.head_dim, model.config.hidden_size)
            heads[:, 1] = 0.0


def only_newest_tap(model):
    for layer in model.model.layers:
        if hasattr(layer, "linear_attn"):
            layer.linear_attn.conv1d.weight.data[..., :-1] = 0.0


# Sizes for classes whose heads are hidden_size // num_attention_heads wide.
WIDE = SIZES | dict(hidden_size=32)
WINDOW = 8
# With heads of 16 elements the ramp has frequencies below, on and above it.
YARN = dict(
    rope_type="yarn",
    rope_theta=100.0,
    factor=4.0,
    original_max_position_embeddings=32,
    beta_fast=4.0,
    beta_slow=1.0,
    truncate=False,
)
MINISTRAL = dict(
    rope_type="yarn",
    rope_theta=100.0,
    factor=8.0,
    original_max_position_embeddings=16,
    beta_fast=2.0,
    beta_slow=1.0,
    mscale=1.2,
    mscale_all_dim=0.6,
    llama_4_scaling_beta=0.5,
)
# 0.75 of a head of 8 elements is rotated: 3 frequencies.
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=100.0,
    partial_rotary_factor=0.75,
    short_factor=[1.0, 1.3, 1.7],
    long_factor=[1.5, 2.5, 4.0],
)
OLMO3_ROPES = dict(
    full_attention=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16),
    sliding_attention=dict(rope_type="default", rope_theta=100.0),
)
GEMMA3_ROPES = dict(
    full_attention=dict(rope_type="linear", rope_theta=500.0, factor=4.0),
    sliding_attention=dict(rope_type="default", rope_theta=20.0),
)
NO_WINDOW = dict(sliding_window=1000)
LINEAR_HEADS = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=6,
    linear_conv_kernel_dim=4,
)
# A document's first token reads (q·k) v: with a tiny epsilon its norm is nearly the sign of q·k, and steps hang on
# rounding.
LINEAR_EPSILON = 1e-2

# Heads of 6 elements are for the CPU alone, those of 8 and 16 for GPUs too.
# With a head of 16 and base 100 the wavelengths lie on both sides of, and between, the bounds of the llama3 scaling.
MODELS = {
    "llama": Model(LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=False), [9, 1, 17, 2]),
    "llama_tied": Model(LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True), [14, 23]),
    "llama_llama3": Model(
        LlamaForCausalLM,
        LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=False, rope_parameters=LLAMA3),
        [100, 13],
    ),
    "llama_linear": Model(
        LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LINEAR), [40, 7]
    ),
    "qwen2": Model(Qwen2ForCausalLM, Qwen2Config(**SIZES, head_dim=8, tie_word_embeddings=True), [11, 30, 7]),
    "qwen3": Model(Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=False), [21, 4, 12]),
    "llama_yarn": Model(
        LlamaForCausalLM,
        LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=YARN),
        [45, 13],
        {
            "yarn": dict(rope_parameters=dict(rope_type="default", rope_theta=100.0)),
            "attention factor": dict(rope_parameters=YARN | dict(attention_factor=1.0)),
            "no truncation": dict(rope_parameters=YARN | dict(truncate=True)),
            "beta_fast": dict(rope_parameters=YARN | dict(beta_fast=None)),
        },
    ),
    "llama_mlp_bias": Model(
        LlamaForCausalLM,
        LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
        [18, 1, 11],
        {name: zero(f".{name}_proj.bias") for name in ("q", "k", "v", "o", "gate", "up", "down")},
    ),
    # The padding token occurs in the documents: its row of the embedding gets no gradient.
    "llama_padding": Model(
        LlamaForCausalLM, LlamaConfig(**SIZES | dict(pad_token_id=7), head_dim=8, tie_word_embeddings=False), [40, 31]
    ),
    "qwen2_window": Model(
        Qwen2ForCausalLM,
        Qwen2Config(
            **SIZES,
            head_dim=8,
            tie_word_embeddings=False,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
        ),
        [26, 5, 12],
        {"window": NO_WINDOW, "layer without window": dict(layer_types=["sliding_attention"] * 2)},
    ),
    "mistral": Model(
        MistralForCausalLM,
        MistralConfig(**SIZES, head_dim=16, sliding_window=WINDOW, tie_word_embeddings=False),
        [25, 3, 12],
        {"window": dict(sliding_window=None), "window's length": dict(sliding_window=WINDOW + 1)},
    ),
    "ministral3": Model(
        Ministral3ForCausalLM,
        Ministral3Config(**SIZES, head_dim=16, tie_word_embeddings=False, rope_parameters=MINISTRAL),
        [40, 3, 17],
        {
            "query scaling": dict(rope_parameters=MINISTRAL | dict(llama_4_scaling_beta=0.0)),
            "yarn": dict(rope_parameters=MINISTRAL | dict(rope_type="default")),
            "mscale": dict(rope_parameters=MINISTRAL | dict(mscale=0.6)),
        },
    ),
    "gemma": Model(
        GemmaForCausalLM,
        GemmaConfig(**SIZES, head_dim=8, tie_word_embeddings=True),
        [21, 2, 13],
        {"scaled embedding": unscaled_embedding, "norm before the MLP": identity("post_attention_layernorm")},
    ),
    "gemma2": Model(
        Gemma2ForCausalLM,
        Gemma2Config(
            **SIZES,
            head_dim=8,
            query_pre_attn_scalar=5,
            sliding_window=WINDOW,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0,
            tie_word_embeddings=True,
        ),
        [24, 2, 13],
        {
            "window": NO_WINDOW,
            "layer without window": dict(layer_types=["sliding_attention"] * 2),
            "scale": dict(query_pre_attn_scalar=8),
            "cap of scores": dict(attn_logit_softcapping=None),
            "cap of logits": dict(final_logit_softcapping=None),
            "scaled embedding": unscaled_embedding,
            "norm after attention": identity("post_attention_layernorm"),
            "norm before the MLP": identity("pre_feedforward_layernorm"),
            "norm after the MLP": identity("post_feedforward_layernorm"),
        },
    ),
    "gemma3": Model(
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **SIZES | dict(num_hidden_layers=3),
            head_dim=8,
            query_pre_attn_scalar=5,
            sliding_window=WINDOW,
            sliding_window_pattern=2,
            tie_word_embeddings=True,
            rope_parameters=GEMMA3_ROPES,
        ),
        [23, 1, 12],
        {
            "window": NO_WINDOW,
            "layer without window": dict(layer_types=["sliding_attention"] * 3),
            "scale": dict(query_pre_attn_scalar=8),
            "base of layers with windows": dict(
                rope_parameters=GEMMA3_ROPES | dict(sliding_attention=dict(rope_type="default", rope_theta=500.0))
            ),
            "linear scaling": dict(
                rope_parameters=GEMMA3_ROPES | dict(full_attention=dict(rope_type="default", rope_theta=500.0))
            ),
            "scaled embedding": unscaled_embedding,
            "norms of queries and keys": identity("self_attn.q_norm", "self_attn.k_norm"),
        },
    ),
    "phi3": Model(
        Phi3ForCausalLM,
        Phi3Config(
            **WIDE,
            original_max_position_embeddings=32,
            tie_word_embeddings=False,
            rope_parameters=LONGROPE,
        ),
        [30, 1, 14],
        {
            "short factors": dict(rope_parameters=LONGROPE | dict(short_factor=[1.0] * 3)),
            "attention factor": dict(rope_parameters=LONGROPE | dict(attention_factor=1.0)),
            "partial rotation": dict(
                rope_parameters=LONGROPE
                | dict(partial_rotary_factor=1.0, short_factor=[1.0, 1.3, 1.7, 2.0], long_factor=[1.0] * 4)
            ),
        },
    ),
    "phi3_window": Model(
        Phi3ForCausalLM,
        Phi3Config(
            **WIDE,
            sliding_window=WINDOW,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5),
        ),
        [22, 3, 12],
        {
            "window": dict(sliding_window=None),
            "partial rotation": dict(
                rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=1.0)
            ),
        },
    ),
    "olmo2": Model(
        Olmo2ForCausalLM,
        Olmo2Config(**WIDE, tie_word_embeddings=False),
        [19, 1, 12],
        {
            "norm of queries": identity("self_attn.q_norm"),
            "norm of keys": identity("self_attn.k_norm"),
            "norm after attention": identity("post_attention_layernorm"),
            "norm after the MLP": identity("post_feedforward_layernorm"),
        },
    ),
    "olmo3": Model(
        Olmo3ForCausalLM,
        Olmo3Config(
            **WIDE,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=False,
            rope_parameters=OLMO3_ROPES,
        ),
        [23, 1, 14],
        {
            "window": NO_WINDOW,
            "layer without window": dict(layer_types=["sliding_attention"] * 2),
            "yarn": dict(rope_parameters=OLMO3_ROPES | dict(full_attention=dict(rope_type="default", rope_theta=100.0))),
        },
    ),
    "smollm3": Model(
        SmolLM3ForCausalLM,
        SmolLM3Config(**WIDE, no_rope_layers=[1, 0], tie_word_embeddings=True),
        [20, 1, 13],
        {
            "layer without rotation": dict(no_rope_layers=[1, 1]),
            "layer with rotation": dict(no_rope_layers=[0, 0]),
        },
    ),
    "granite": Model(
        GraniteForCausalLM,
        GraniteConfig(
            **WIDE,
            embedding_multiplier=2.0,
            attention_multiplier=0.2,
            residual_multiplier=0.6,
            logits_scaling=1.5,
            tie_word_embeddings=True,
        ),
        [18, 2, 13],
        {
            "embedding_multiplier": dict(embedding_multiplier=1.0),
            "attention_multiplier": dict(attention_multiplier=8**-0.5),
            "residual_multiplier": dict(residual_multiplier=1.0),
            "logits_scaling": dict(logits_scaling=1.0),
        },
    ),
    # The first document is longer than the first context, the others are not; one continuation grows beyond it.
    "phi3_long": Model(
        Phi3ForCausalLM,
        Phi3Config(
            **WIDE,
            original_max_position_embeddings=20,
            tie_word_embeddings=False,
            rope_parameters=LONGROPE,
        ),
        [33, 1, 11],
        {
            "short factors": dict(rope_parameters=LONGROPE | dict(short_factor=[1.0] * 3)),
            "long factors": dict(rope_parameters=LONGROPE | dict(long_factor=LONGROPE["short_factor"])),
            "attention factor": dict(rope_parameters=LONGROPE | dict(attention_factor=1.0)),
        },
    ),
    # The first document is longer than a chunk of the gated delta rule, the second shorter than the convolution.
    "qwen3_5": Model(
        Qwen3_5ForCausalLM,
        Qwen3_5TextConfig(
            **SIZES,
            **LINEAR_HEADS,
            head_dim=16,
            full_attention_interval=2,
            rms_norm_eps=LINEAR_EPSILON,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5),
        ),
        [70, 2, 13],
        {
            "gate of attention": ungated_attention,
            "partial rotation": dict(
                rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.25)
            ),
            "convolution": only_newest_tap,
            "rate of decay": zero("A_log"),
            "bias of decay": zero("dt_bias"),
            "decay by token": zero("in_proj_a.weight"),
            "beta by token": zero("in_proj_b.weight"),
            "gate": zero("in_proj_z.weight"),
        },
    ),
    "qwen3_5_tied": Model(
        Qwen3_5ForCausalLM,
        Qwen3_5TextConfig(
            **SIZES,
            **LINEAR_HEADS | dict(linear_num_key_heads=3, linear_num_value_heads=3, linear_conv_kernel_dim=2),
            head_dim=16,
            attention_bias=True,
            rms_norm_eps=LINEAR_EPSILON,
            layer_types=["full_attention", "linear_attention"],
            tie_word_embeddings=True,
        ),
        [33, 1, 12],
        {"gate of attention": ungated_attention, "convolution": only_newest_tap},
    ),
}


def randomise(model):
    """No weight is left at a value that would hide its part in the result."""
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if name.endswith("norm.weight"):
            # Gemma's norms and most of Qwen 3.5's multiply by 1 + weight.
            is_centred = "Gemma" in type(model).__name__ or "Qwen3_5" in type(model).__name__
            centre = 0.0 if is_centred and "linear_attn" not in name else 1.0
            weight.data = centre + 0.3 * noise
        elif name.endswith(".bias"):
            weight.data = 0.3 * noise
        elif name.endswith("conv1d.weight"):
            # Far from 0: what it makes is scaled to unit length.
            weight.data = noise
        else:
            weight.data = 0.2 * noise


def run(model, documents, supervised):
    """Logits and losses of all documents, each computed by itself."""
    logits, losses = [], []
    for tokens, flags in zip(documents, supervised):
        output = model(tokens[None]).logits[0]
        logits.append(output)
        loss = torch.zeros(len(tokens))
        if len(tokens) > 1:
            each = torch.nn.functional.cross_entropy(output[:-1], tokens[1:], reduction="none")
            loss = torch.cat([each * flags[1:], torch.zeros(1)])
        losses.append(loss)
    return torch.cat(logits), torch.cat(losses)


def joined(lists):
    starts = [0]
    for each in lists:
        starts.append(starts[-1] + len(each))
    return torch.cat(list(lists)).to(torch.int32), torch.tensor(starts, dtype=torch.int32)


def generate(model, prompts, stop):
    """Greedy continuations, and the smallest gap between the two largest logits of a step."""
    results, gap = [], float("inf")
    for prompt in prompts:
        output = model.generate(
            prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        results.append(output.sequences[0, len(prompt) :])
        first, second = torch.cat(output.logits).topk(2).values.T
        gap = min(gap, (first - second).min().item())
    return results, gap


def train(model, documents, supervised, count):
    """Ten AdamW steps; losses and norms before clipping."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    step_losses, step_norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = run(model, documents, supervised)[1].sum() / count
        loss.backward()
        step_losses.append(loss.item())
        step_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
    return step_losses, step_norms


def build(kind, config, weights=None):
    config._attn_implementation = "eager"
    model = kind(config)
    if weights is not None:
        model.load_state_dict(weights)
    return model.float().eval()


def check_features(name, model, documents):
    """Fails where switching a feature off leaves the logits as they are."""
    specification = MODELS[name]
    flags = [torch.ones(len(tokens)) for tokens in documents]
    with torch.no_grad():
        expected, _ = run(model, documents, flags)
        for feature, change in specification.without.items():
            if isinstance(change, dict):
                config = type(specification.config)(**specification.config.to_dict() | change)
                other = build(specification.kind, config, model.state_dict())
            else:
                other = build(specification.kind, specification.config, model.state_dict())
                change(other)
            difference = (run(other, documents, flags)[0] - expected).abs().max().item()
            assert difference > 1e-3, f"{name}: {feature} changes the logits by {difference:.1e}"
            print(f"    {name}: {feature} changes the logits by {difference:.3f}")


def draw(name, seed):
    """All of a golden file, and why these weights should not be taken, if they should not."""
    kind, config, lengths, _ = MODELS[name]
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = kind(config)
    randomise(model)
    model = model.float().eval()
    start = {key: value.clone() for key, value in model.state_dict().items()}

    documents = [torch.randint(0, config.vocab_size, (length,)) for length in lengths]
    supervised = [torch.rand(length) < 0.7 for length in lengths]
    for flags in supervised:
        flags[0] = False
    golden = {}
    golden["tokens"], golden["document_starts"] = joined(documents)
    golden["supervised"] = torch.cat(supervised).to(torch.int32)
    count = int(golden["supervised"].sum())

    prompts = [torch.randint(0, config.vocab_size, (length,)) for length in (7, 1, 12, 4)]
    golden["prompts"], golden["prompt_starts"] = joined(prompts)
    stop = int(generate(model, prompts, None)[0][0][5])
    continued, gap = generate(model, prompts, stop)
    continued = [tokens[:-1] if tokens[-1] == stop else tokens for tokens in continued]
    golden["generated"], golden["generated_starts"] = joined(continued)
    golden["stop"] = torch.tensor([stop], dtype=torch.int32)

    logits, losses = run(model, documents, supervised)
    golden["logits"], golden["losses"] = logits.detach(), losses.detach()
    (losses.sum() / count).backward()
    for parameter, weight in model.named_parameters():
        golden["gradient." + parameter] = weight.grad.clone()

    step_losses, step_norms = train(model, documents, supervised, count)
    golden["step_losses"], golden["step_norms"] = torch.tensor(step_losses), torch.tensor(step_norms)
    for parameter, weight in model.named_parameters():
        golden["after." + parameter] = weight.detach()
    golden = {key: value.contiguous().clone() for key, value in golden.items()}

    # An update of AdamW is a quotient that magnifies the rounding of tiny gradients: other roundings must end near.
    other = build(kind, config, start).double()
    train(other, documents, supervised, count)
    apart = max((golden["after." + key] - weight).abs().max().item() for key, weight in other.named_parameters())
    smallest = min(value.norm().item() for key, value in golden.items() if key.startswith("gradient."))
    fault = None
    if gap < 1e-3:
        fault = f"two tokens are {gap:.1e} apart"
    elif len(continued[2]) < NEW_TOKENS or len(set(golden["generated"].tolist())) < 8:
        fault = "the continuations show too little"
    elif apart > 2e-6:
        fault = f"the steps hang on rounding: {apart:.1e}"
    elif smallest < 1e-3:
        fault = f"a tensor's gradient is {smallest:.1e}"
    return build(kind, config, start), documents, golden, fault


def make(name):
    # The first seeds are those of the first files; no weights were drawn again for them.
    seed = 1000 + list(MODELS).index(name)
    for attempt in range(MOST_DRAWS):
        model, documents, golden, fault = draw(name, seed + 1000 * attempt)
        if fault is None or not MODELS[name].without:
            break
    else:
        raise SystemExit(f"{name}: no weights will do; of the last, {fault}")
    check_features(name, model, documents)

    folder = os.path.join(FOLDER, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for extra in os.listdir(folder):
        if extra not in ("config.json", "model.safetensors"):
            os.remove(os.path.join(folder, extra))
    save_file(golden, os.path.join(folder, "golden.safetensors"))

    reloaded = MODELS[name].kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        again = torch.cat([reloaded(tokens[None]).logits[0] for tokens in documents])
    difference = (again - golden["logits"]).abs().max().item()
    assert difference < 1e-5, f"{name}: the folder's logits are {difference:.1e} from the model's"
    losses, starts = golden["step_losses"], golden["generated_starts"]
    size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder))
    print(
        name,
        f"draw {attempt + 1}, loss {losses[0]:.4f} to {losses[-1]:.4f}, norm {golden['step_norms'][0]:.3f},",
        f"continuations of {starts.diff().tolist()} tokens, {size} bytes",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make(name)
