"""Exact selection of 1 % of the scores, against a plain parallel summing read of them.

Build first: cargo build --release -p cpift-benches --bin compare
Run: python benches/compare/selection.py [--scores 100000000] [--rounds 15] [--threads 2]
"""

import argparse

from engine import Engine, alternate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scores", type=int, default=100_000_000)
parser.add_argument("--fraction", type=float, default=0.01)
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()

runs = {
    "sum": Engine("sum", arguments.scores, threads=arguments.threads),
    "select": Engine("select", arguments.scores, arguments.fraction, threads=arguments.threads),
}
medians = alternate(runs, arguments.rounds)
for name, seconds in medians.items():
    print(f"{name:8} {1e3 * seconds:8.1f} ms  {4e-9 * arguments.scores / seconds:6.1f} GB/s of scores")
print(f"select / sum {medians['select'] / medians['sum']:.2f}   (at most 4)")
for engine in runs.values():
    engine.close()
