"""Writes the golden files that tests/tests/golden.rs compares with: tiny random models, and what PyTorch and
transformers compute with them in f32 on a CPU.

    pip install torch transformers safetensors      (made with torch 2.15, transformers 5.23)
    python tests/golden/make_golden.py

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

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import Qwen3Config, Qwen3ForCausalLM

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

# Heads of 6 elements are for the CPU alone, those of 8 and 16 for GPUs too.
# With a head of 16 and base 100 the wavelengths lie on both sides of, and between, the bounds of the llama3 scaling.
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=False), [9, 1, 17, 2]),
    "llama_tied": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True), [14, 23]),
    "llama_llama3": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=False, rope_parameters=LLAMA3),
        [100, 13],
    ),
    "llama_linear": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LINEAR), [40, 7]),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, head_dim=8, tie_word_embeddings=True), [11, 30, 7]),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=False), [21, 4, 12]),
}


def randomise(model):
    """No weight is left at a value that would hide its part in the result."""
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if name.endswith("norm.weight"):
            weight.data = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            weight.data = 0.3 * noise
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
    results = []
    for prompt in prompts:
        output = model.generate(
            prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
        results.append(output[0, len(prompt) :])
    return results


def make(name, index):
    kind, config, lengths = MODELS[name]
    torch.manual_seed(1000 + index)
    config._attn_implementation = "eager"
    model = kind(config)
    randomise(model)
    model = model.float().eval()
    folder = os.path.join(FOLDER, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for extra in os.listdir(folder):
        if extra not in ("config.json", "model.safetensors"):
            os.remove(os.path.join(folder, extra))

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
    stop = int(generate(model, prompts, None)[0][5])
    continued = generate(model, prompts, stop)
    continued = [tokens[:-1] if tokens[-1] == stop else tokens for tokens in continued]
    golden["generated"], golden["generated_starts"] = joined(continued)
    golden["stop"] = torch.tensor([stop], dtype=torch.int32)

    logits, losses = run(model, documents, supervised)
    golden["logits"], golden["losses"] = logits.detach(), losses.detach()
    (losses.sum() / count).backward()
    for parameter, weight in model.named_parameters():
        golden["gradient." + parameter] = weight.grad.clone()

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    step_losses, step_norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = run(model, documents, supervised)[1].sum() / count
        loss.backward()
        step_losses.append(loss.item())
        step_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
    golden["step_losses"], golden["step_norms"] = torch.tensor(step_losses), torch.tensor(step_norms)
    for parameter, weight in model.named_parameters():
        golden["after." + parameter] = weight.detach()
    golden = {key: value.contiguous().clone() for key, value in golden.items()}
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    print(name, "loss", step_losses[0], "to", step_losses[-1], "norm", step_norms[0], [len(c) for c in continued])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for index, name in enumerate(MODELS):
        make(name, index)
