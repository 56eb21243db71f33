#!/usr/bin/env python3
"""PyTorch and cpift-engine on the same shapes, alternately: operations and a whole train step.

    python benches/compare/gpu.py --engine target/release/cpift-engine [--json results.json]

Needs torch and transformers; runs on the GPU where torch sees one (cuda:0, or the environment's DEVICE), else on
the CPU. The engine's side is `bench kernels` and `bench step`. Torch's side, measured in the same way (median, the
cache flushed before each run, CUDA events on a GPU):

- linear layers: torch.matmul, which is cuBLAS on a GPU; the weight's gradient is added to by addmm_ (in bf16
  torch sums into bf16, the engine into f32);
- attention: scaled_dot_product_attention, causal, with the fused kernels that torch chooses;
- adamw: the fused AdamW alone, and for importance and frozen parameters with passes of their own, as a
  torch user writes them;
- step: a transformers model with random weights and tokens, forward, backward, clipping to norm 1, fused AdamW;
  in bf16 the model's weights are bf16 too, while the engine's optimizer has f32 weights, split into rounded bf16
  weights and 16 bits.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

SHAPES = pathlib.Path(__file__).resolve().parent.parent / "shapes"
# Of Qwen2.5: hidden, intermediate, heads, key/value heads, elements of a head.
MODELS = {"0.5B": (896, 4864, 14, 2, 64), "1.5B": (1536, 8960, 12, 2, 128), "7B": (3584, 18944, 28, 4, 128)}
FROZEN = 0.01
PARTS = ["linear", "attention", "adamw", "step"]
DEVICE = os.environ.get("DEVICE", "cuda:0")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--engine", default="target/release/cpift-engine")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS) if cuda else ["0.5B"])
    parser.add_argument("--tokens", type=int, default=8192 if cuda else 256)
    parser.add_argument("--length", type=int, default=2048 if cuda else 256)
    parser.add_argument("--parameters", type=int, default=200_000_000 if cuda else 20_000_000)
    parser.add_argument("--config", default=str(SHAPES / ("qwen2.5-0.5b.json" if cuda else "llama-32m.json")))
    parser.add_argument("--batch", type=int, default=8 if cuda else 4, help="sequences of the train step")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16" if cuda else "f32")
    parser.add_argument("--threads", type=int, help="of both sides on a CPU; all cores unless given")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each operation and round, on either side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="train steps of a round; 0 leaves the step out")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    arguments.device = "cuda" if cuda else "cpu"
    arguments.dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    if arguments.tokens % arguments.length:
        parser.error("--tokens has to be a multiple of --length")
    return arguments


class Timer:
    """Runs work until its time is up, the cache flushed before each run; the median in milliseconds."""

    def __init__(self, arguments):
        self.cuda, self.seconds = arguments.device == "cuda", arguments.seconds
        self.memory = torch.ones((256 if self.cuda else 64) << 18, device=arguments.device)

    def once(self, work):
        if not self.cuda:
            self.memory.sum()
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        self.memory.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def __call__(self, work):
        start, times = time.perf_counter(), []
        self.once(work)
        while len(times) < 3 or time.perf_counter() - start < self.seconds:
            times.append(self.once(work))
        return statistics.median(times)


def linear(arguments, timer):
    def random(*shape):
        return torch.randn(shape, device=arguments.device, dtype=arguments.dtype)

    results = {}
    for model in arguments.model:
        hidden, intermediate, heads, kv_heads, head_dim = MODELS[model]
        layers = {"q": (hidden, heads * head_dim), "kv": (hidden, kv_heads * head_dim)}
        layers |= {"gate": (hidden, intermediate), "down": (intermediate, hidden)}
        for layer, (inputs, outputs) in layers.items():
            x, y = random(arguments.tokens, inputs), random(arguments.tokens, outputs)
            weight, gradient = random(outputs, inputs), random(outputs, inputs)
            results[f"linear forward {layer} {model}"] = timer(lambda: torch.matmul(x, weight.T))
            results[f"linear d_input {layer} {model}"] = timer(lambda: torch.matmul(y, weight))
            results[f"linear d_weight {layer} {model}"] = timer(lambda: gradient.addmm_(y.T, x))
    return results


def attention(arguments, timer):
    results = {}
    for model in arguments.model:
        _, _, heads, kv_heads, head_dim = MODELS[model]

        def random(count):
            shape = (arguments.tokens // arguments.length, count, arguments.length, head_dim)
            return torch.randn(shape, device=arguments.device, dtype=arguments.dtype, requires_grad=True)

        q, k, v = random(heads), random(kv_heads), random(kv_heads)

        def forward():
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def forward_alone():
            with torch.no_grad():
                forward()

        results[f"attention forward {model}"] = timer(forward_alone)
        output, gradient = forward(), random(heads).detach()
        backward = lambda: torch.autograd.grad(output, (q, k, v), gradient, retain_graph=True)
        results[f"attention backward {model}"] = timer(backward)
    return results


def adamw(arguments, timer):
    weights = torch.nn.Parameter(torch.randn(arguments.parameters, device=arguments.device))
    weights.grad = torch.randn_like(weights)
    optimizer = torch.optim.AdamW([weights], lr=1e-3, fused=True)
    before, importance = torch.empty_like(weights.data), torch.zeros_like(weights.data)
    frozen = torch.rand(arguments.parameters, device=arguments.device) < FROZEN

    def step(net, masked):
        with torch.no_grad():
            if net or masked:
                before.copy_(weights)
            optimizer.step()
            if masked:
                torch.where(frozen, before, weights, out=weights.data)
            if net:
                importance.add_(weights).sub_(before)

    cases = {"adamw": (False, False), "adamw frozen": (False, True)}
    cases |= {"adamw net": (True, False), "adamw net frozen": (True, True)}
    return {name: timer(lambda: step(*parts)) for name, parts in cases.items()}


def train_step(arguments):
    """A model and its optimizer; gives the function that makes a step."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(arguments.config)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=arguments.dtype)
    model = model.to(arguments.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        shape = (arguments.batch, arguments.length)
        tokens = torch.randint(config.vocab_size, shape, device=arguments.device)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    return step


def engine(arguments, *command):
    """One `bench` command of the engine; its JSON."""
    device = DEVICE if arguments.device == "cuda" else "cpu"
    threads = ["--threads", str(arguments.threads)] if arguments.threads else []
    command = [arguments.engine, *threads, "bench", *command, "--device", device, "--json"]
    command += ["--precision", arguments.precision]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if output.returncode:
        raise SystemExit(f"{' '.join(command)}: {output.stderr.strip()}")
    return json.loads(output.stdout)


def engine_kernels(arguments, operation):
    sizes = ["--tokens", arguments.tokens, "--length", arguments.length, "--parameters", arguments.parameters]
    options = [*sizes, "--seconds", arguments.seconds, "--model", *arguments.model, "--filter", operation]
    report = engine(arguments, "kernels", *map(str, options))
    return {row["name"]: row["milliseconds"] for row in report["kernels"]}


def engine_step(arguments):
    sizes = ["--batch", arguments.batch, "--length", arguments.length, "--steps", arguments.steps]
    return engine(arguments, "step", "--config", arguments.config, *map(str, sizes))["step_ms"]


def measure(arguments):
    """Times of both sides by name, one per round."""
    times = {}
    timer = Timer(arguments)
    for operation, torch_side in [("linear", linear), ("attention", attention), ("adamw", adamw)]:
        if operation not in arguments.parts:
            continue
        for number in range(arguments.rounds):
            print(f"{operation}, round {number + 1} of {arguments.rounds}", flush=True)
            torch_times, engine_times = torch_side(arguments, timer), engine_kernels(arguments, operation)
            for name, milliseconds in torch_times.items():
                pair = times.setdefault(name, {"torch": [], "engine": []})
                pair["torch"].append(milliseconds)
                pair["engine"].append(engine_times[name])
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
    del timer
    if arguments.steps and "step" in arguments.parts:
        pair = times["train step"] = {"torch": [], "engine": []}
        for number in range(arguments.rounds):
            print(f"train step, round {number + 1} of {arguments.rounds}", flush=True)
            # Made anew each round, so that its memory is not in the engine's way.
            step = train_step(arguments)
            step(), step()
            pair["torch"].append(statistics.median(step() for _ in range(arguments.steps)))
            del step
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
            pair["engine"].append(engine_step(arguments))
    return times


def main():
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(17)
    if arguments.device == "cuda":
        torch.cuda.set_device(DEVICE)
    times = measure(arguments)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    sizes = f"{arguments.precision}, {arguments.tokens} tokens / {arguments.length}"
    print(f"\ntorch {torch.__version__}, {device}, {sizes}")
    print(f"{'':28} {'torch ms':>10} {'engine ms':>10} {'torch / engine':>15}  of each round")
    rows = []
    for name, pair in times.items():
        ratios = [theirs / ours for theirs, ours in zip(pair["torch"], pair["engine"])]
        theirs, ours = statistics.median(pair["torch"]), statistics.median(pair["engine"])
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:28} {theirs:10.3f} {ours:10.3f} {statistics.median(ratios):15.2f}  {each}")
        rows.append({"name": name, "torch_milliseconds": pair["torch"], "engine_milliseconds": pair["engine"]})
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items()}
        result = {"torch": torch.__version__, "device": device, "settings": settings, "rows": rows}
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
