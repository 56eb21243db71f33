#!/usr/bin/env python3
"""Whole train steps of PyTorch and of cpift-engine, alternately, on the same shapes.

    python benches/compare/train_step.py --engine target/release/cpift-engine [--threads 2] [--rounds 5] [--steps 3]

Needs torch and transformers; the engine needs neither. Each round times the median of --steps steps
of either side (forward, backward, clipping to norm 1, AdamW; f32; random weights, random tokens, every
token supervised), PyTorch in one process that stays warm, the engine by `bench step`. Printed is the
ratio of tokens/s round by round and the peak memory of each process.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

SHAPES = pathlib.Path(__file__).resolve().parent.parent / "shapes"
CASES = [("llama-32m", 4, 256), ("llama-134m", 2, 512)]

WORKER = r"""
import json, resource, sys, time
import torch
from transformers import AutoConfig, AutoModelForCausalLM

config_path, batch, length, steps, threads = sys.argv[1], *map(int, sys.argv[2:6])
torch.set_num_threads(threads)
torch.manual_seed(17)
config = AutoConfig.from_pretrained(config_path)
config.use_cache = False
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def step():
    tokens = torch.randint(config.vocab_size, (batch, length))
    optimizer.zero_grad(set_to_none=False)
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


def engine_step(arguments, config, batch, length):
    command = [arguments.engine, "--threads", str(arguments.threads), "bench", "step", "--config", str(config)]
    command += ["--batch", str(batch), "--length", str(length), "--steps", str(arguments.steps), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(arguments, name, batch, length):
    config = SHAPES / f"{name}.json"
    command = [sys.executable, "-c", WORKER, config, batch, length, arguments.steps, arguments.threads]
    worker = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ratios = []
    for round_number in range(arguments.rounds):
        worker.stdin.write("go\n")
        worker.stdin.flush()
        torch_side = json.loads(worker.stdout.readline())
        engine_side = engine_step(arguments, config, batch, length)
        ratios.append(torch_side["step_ms"] / engine_side["step_ms"])
        tokens = batch * length * 1e3
        print(
            f"{name} {batch}x{length} round {round_number + 1}:"
            f" torch {tokens / torch_side['step_ms']:.0f} tok/s, engine {tokens / engine_side['step_ms']:.0f} tok/s,"
            f" ratio {ratios[-1]:.3f}; peak memory torch {torch_side['peak_memory_bytes'] / 2**20:.0f} MiB,"
            f" engine {engine_side['peak_memory_bytes'] / 2**20:.0f} MiB",
            flush=True,
        )
    worker.stdin.close()
    worker.wait()
    print(f"{name} {batch}x{length}: median ratio {statistics.median(ratios):.3f} (least {min(ratios):.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="target/release/cpift-engine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    for name, batch, length in CASES:
        compare(arguments, name, batch, length)


if __name__ == "__main__":
    main()
