#!/usr/bin/env python3
"""Greedy decoding by transformers and by cpift-engine, alternately, from the same model folder.

    python benches/compare/decoding.py --engine target/release/cpift-engine --model MODEL [--rows 8] [--tokens 128]

Needs torch and transformers; the engine needs neither. Every side continues the same --rows prompts, of different
lengths, by 1 and by 1 + --tokens tokens; the difference is what decoding takes, without loading and without the
prompts. transformers computes in f32 and in bf16, the engine in f32 and bf16 (`generate --prompts`). Printed are
tokens/s of all rows together, round by round, and the median ratio of the engine to the faster of transformers' two.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PROMPTS = [
    "Once upon a time, in a village far from the sea, there lived",
    "The history of the steam engine begins with",
    "Here is a list of one hundred words, each followed by its meaning:\n\n1.",
    "def fibonacci(n):\n",
    "A long letter from a traveller to his sister:\n\nMy dear sister,",
    "The numbers from one to one thousand, written out: one, two, three,",
    "Chapter 1\n\nIt was raining when",
    "To build a wooden boat you need",
]


class Transformers:
    def __init__(self, arguments, precision, prompts):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(arguments.threads)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self.inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        self.pad = tokenizer.pad_token_id

    def __call__(self, tokens):
        start = time.perf_counter()
        self.model.generate(
            **self.inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, pad_token_id=self.pad
        )
        return time.perf_counter() - start, True


class Engine:
    def __init__(self, arguments, precision, prompts):
        self.folder = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.folder.name) / "prompts.jsonl"
        self.file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        self.command = [arguments.engine, "--threads", str(arguments.threads), "generate", arguments.model]
        self.command += ["--device", "cpu", "--precision", precision, "--prompts", str(self.file)]
        self.command += ["--batch", str(len(prompts)), "--max-new-tokens"]

    def __call__(self, tokens):
        start = time.perf_counter()
        output = subprocess.run([*self.command, str(tokens)], check=True, stdout=subprocess.PIPE).stdout
        seconds = time.perf_counter() - start
        return seconds, all(json.loads(line)["ended"] == "length" for line in output.splitlines() if line.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="target/release/cpift-engine")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    arguments = parser.parse_args()
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(arguments.rows)]
    sides = {f"transformers {name}": Transformers(arguments, name, prompts) for name in ["f32", "bf16"]}
    sides |= {f"engine {name}": Engine(arguments, name, prompts) for name in arguments.precisions}
    rates = {side: [] for side in sides}
    for round_number in range(arguments.rounds):
        for side, run in sides.items():
            (short, _), (long, is_whole) = run(1), run(1 + arguments.tokens)
            if not is_whole:
                sys.exit(f"{side}: a text ended before its last token; take fewer --tokens")
            rates[side].append(arguments.rows * arguments.tokens / (long - short))
        line = ", ".join(f"{side} {values[-1]:.0f}" for side, values in rates.items())
        print(f"round {round_number + 1}: {line} tokens/s", flush=True)
    for name in arguments.precisions:
        peers = zip(rates["transformers f32"], rates["transformers bf16"])
        ratios = [own / max(pair) for own, pair in zip(rates[f"engine {name}"], peers)]
        print(f"engine {name} over the faster of transformers: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
