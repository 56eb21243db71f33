"""One AdamW step on the CPU: this engine in one pass, against torch's fused AdamW alone and followed
by the separate passes over memory that importance and frozen coordinates then take.

Build first: cargo build --release -p cpift-benches --bin compare
Run: python benches/compare/optimizer.py [--parameters 50000000] [--rounds 15] [--threads 2]
"""

import argparse
import time

import torch

from engine import Engine, alternate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--parameters", type=int, default=50_000_000)
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--frozen", type=float, default=0.01, help="share of frozen coordinates")
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(1)

weights = torch.nn.Parameter(torch.randn(arguments.parameters))
weights.grad = torch.randn(arguments.parameters)
optimizer = torch.optim.AdamW([weights], lr=1e-3, fused=True)
before = torch.empty_like(weights, requires_grad=False)
importance = torch.zeros_like(before)
frozen = torch.rand(arguments.parameters) < arguments.frozen


def timed(work):
    def run():
        start = time.perf_counter()
        with torch.no_grad():
            work()
        return time.perf_counter() - start

    return run


def separate_passes():
    before.copy_(weights)
    optimizer.step()
    torch.where(frozen, before, weights, out=weights.data)
    importance.add_(weights).sub_(before)


engines = {
    "engine": Engine("adamw", arguments.parameters, "none", 0.0, threads=arguments.threads),
    "engine, net + mask": Engine(
        "adamw", arguments.parameters, "net", arguments.frozen, threads=arguments.threads
    ),
}
runs = {"torch fused": timed(optimizer.step), "torch fused + passes": timed(separate_passes), **engines}
medians = alternate(runs, arguments.rounds)
for name, seconds in medians.items():
    print(f"{name:24} {1e3 * seconds:8.1f} ms  {1e9 * seconds / arguments.parameters:6.2f} ns/parameter")
ours = medians["engine, net + mask"]
print(f"engine alone / torch fused          {medians['engine'] / medians['torch fused']:.2f}")
print(f"engine net + mask / torch fused     {ours / medians['torch fused']:.2f}   (at most 1.35)")
print(f"torch with passes / engine net+mask {medians['torch fused + passes'] / ours:.2f}   (at least 1.8)")
for engine in engines.values():
    engine.close()
