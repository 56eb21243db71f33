"""SLERP of one f32 tensor on the CPU: this engine in place, against mergekit's function.

Needs torch and mergekit (pip install --no-deps mergekit is enough).
Build first: cargo build --release -p cpift-benches --bin compare
Run: python benches/compare/slerp.py [--rows 4096] [--columns 11008] [--rounds 15] [--threads 2]
"""

import argparse
import importlib.metadata
import time

import torch
from mergekit.merge_methods.slerp import slerp

from engine import Engine, alternate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=4096)
parser.add_argument("--columns", type=int, default=11008)
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(1)

# mergekit batches tensors along a leading axis; here the batch is one tensor.
shape = (1, arguments.rows, arguments.columns)
first, second, weight = torch.randn(shape), torch.randn(shape), torch.tensor([0.3])


def mergekit():
    start = time.perf_counter()
    with torch.inference_mode():
        slerp(weight, first, second)
    return time.perf_counter() - start


pair = (arguments.rows, arguments.columns)
weights = Engine("slerp", *pair, threads=arguments.threads)
delta = Engine("delta-slerp", *pair, threads=arguments.threads)
runs = {"mergekit": mergekit, "engine, weight space": weights, "engine, delta space": delta}
medians = alternate(runs, arguments.rounds)
print(f"mergekit {importlib.metadata.version('mergekit')}, torch {torch.__version__}")
for name, seconds in medians.items():
    nanoseconds = 1e9 * seconds / (arguments.rows * arguments.columns)
    print(f"{name:24} {1e3 * seconds:8.1f} ms  {nanoseconds:6.2f} ns/parameter")
print(f"mergekit / engine        {medians['mergekit'] / medians['engine, weight space']:.2f}   (at least 4)")
weights.close()
delta.close()
