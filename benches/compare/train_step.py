#!/usr/bin/env python3
"""Whole train steps of PyTorch and of cpift-engine, alternately, on the same shapes.

    python benches/compare/train_step.py --engine target/release/cpift-engine [--threads 2] [--rounds 5] [--steps 3]

Needs torch and transformers; the engine needs neither. Each round times the median of --steps steps of every side
(forward, backward, clipping to norm 1, AdamW; random weights, random tokens, every token supervised). PyTorch is
measured in f32, in bf16 by autocast over f32 weights, and with all weights in bf16, each in a process that stays warm;
the engine in f32 and bf16 by `bench step`. --precisions leaves some out.

Printed are tokens/s round by round, the peak memory of each process, and ratios as medians over the rounds: the engine
in f32 over torch in f32, the engine in bf16 over the faster of torch's two in bf16.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

SHAPES = pathlib.Path(__file__).resolve().parent.parent / "shapes"
CASES = [("llama-32m", 4, 256), ("llama-134m", 2, 512), ("smollm2-135m", 2, 512)]
TORCH = ["f32", "bf16 autocast", "bf16 weights"]
ENGINE = ["f32", "bf16"]

WORKER = r"""
import contextlib, json, resource, sys, time
import torch
from transformers import AutoConfig, AutoModelForCausalLM

config_path, precision = sys.argv[1:3]
batch, length, steps, threads = map(int, sys.argv[3:7])
torch.set_num_threads(threads)
torch.manual_seed(17)
config = AutoConfig.from_pretrained(config_path)
config.use_cache = False
dtype = torch.bfloat16 if precision == "bf16 weights" else torch.float32
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def autocast():
    if precision == "bf16 autocast":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def step():
    tokens = torch.randint(config.vocab_size, (batch, length))
    optimizer.zero_grad(set_to_none=False)
    with autocast():
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


for _ in range(2):
    step()
for line in sys.stdin:
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    times.sort()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_ms": 1e3 * times[len(times) // 2], "peak_memory_bytes": peak}), flush=True)
"""


class Torch:
    """A process that trains by PyTorch; calling it runs a round."""

    def __init__(self, arguments, config, precision, batch, length):
        command = [sys.executable, "-c", WORKER, config, precision, batch, length, arguments.steps, arguments.threads]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True)

    def __call__(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("PyTorch's process ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Engine:
    """`bench step`; calling it runs a round in a process of its own."""

    def __init__(self, arguments, config, precision, batch, length):
        self.command = [arguments.engine, "--threads", str(arguments.threads), "bench", "step", "--device", "cpu"]
        self.command += ["--config", str(config), "--precision", precision, "--batch", str(batch)]
        self.command += ["--length", str(length), "--steps", str(arguments.steps), "--json"]

    def __call__(self):
        return json.loads(subprocess.run(self.command, check=True, stdout=subprocess.PIPE).stdout)

    def close(self):
        pass


def compare(arguments, name, batch, length):
    config = SHAPES / f"{name}.json"
    sides = {f"torch {precision}": Torch for precision in TORCH} | {f"engine {precision}": Engine for precision in ENGINE}
    sides = {
        side: make(arguments, config, side.split(" ", 1)[1], batch, length)
        for side, make in sides.items()
        if side.split(" ")[1] in arguments.precisions
    }
    rates = {side: [] for side in sides}
    for round_number in range(arguments.rounds):
        peaks = []
        for side, run in sides.items():
            result = run()
            rates[side].append(batch * length * 1e3 / result["step_ms"])
            peaks.append(f"{result['peak_memory_bytes'] / 2**20:.0f}")
        line = ", ".join(f"{side} {values[-1]:.0f}" for side, values in rates.items())
        print(f"{name} {batch}x{length} round {round_number + 1}: {line} tok/s; peak MiB {', '.join(peaks)}", flush=True)
    for run in sides.values():
        run.close()
    for precision in arguments.precisions:
        peers = [values for side, values in rates.items() if side.startswith(f"torch {precision}")]
        ratios = [own / max(others) for own, *others in zip(rates[f"engine {precision}"], *peers)]
        print(
            f"{name} {batch}x{length}: engine over torch in {precision}:"
            f" median {statistics.median(ratios):.3f}, least {min(ratios):.3f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="target/release/cpift-engine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    arguments = parser.parse_args()
    for name, batch, length in CASES:
        compare(arguments, name, batch, length)


if __name__ == "__main__":
    main()
