"""Tokens per second of making rows from a file, beside `tokenizers` on the same texts.

    python prepare.py ENGINE MODEL SOURCE [--rows 200000] [--threads 2]

ENGINE is the binary, MODEL a folder with tokenizer and chat template, SOURCE a JSON Lines file of `question` and `answer`
(GSM8K). The rows are those of SOURCE over and over, each with a number of its own. The engine reads the file, renders
every row by the chat template, tokenizes prompt and whole, and marks what is learnt; `tokenizers` reads the same file and
encodes question and answer as one text each with `encode_batch`, without a template. Both start without a cache.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    from tokenizers import Tokenizer

    source = [json.loads(line) for line in open(arguments.source)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.jsonl")
        with open(path, "w") as file:
            for index in range(arguments.rows):
                row = source[index % len(source)]
                file.write(json.dumps({"question": f"{index}. {row['question']}", "answer": row["answer"]}) + "\n")
        size = os.path.getsize(path)

        started = time.perf_counter()
        tokenizer = Tokenizer.from_file(os.path.join(arguments.model, "tokenizer.json"))
        tokens, batch = 0, []
        with open(path) as file:
            for line in file:
                row = json.loads(line)
                batch.append(row["question"] + "\n" + row["answer"])
                if len(batch) == 2048:
                    tokens += sum(len(encoding) for encoding in tokenizer.encode_batch(batch))
                    batch = []
        tokens += sum(len(encoding) for encoding in tokenizer.encode_batch(batch)) if batch else 0
        python = time.perf_counter() - started

        command = [arguments.engine, "data", path, "--model", arguments.model, "--rows", "0", "--json"]
        command += ["--threads", str(arguments.threads)]
        environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
        started = time.perf_counter()
        output = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
        engine = time.perf_counter() - started
        summary = json.loads(output)["data"][0]["summary"]

    print(f"{arguments.rows} rows, {size / 2**20:.0f} MiB, {arguments.threads} threads")
    print(f"tokenizers   {tokens / 1e6:8.1f}M tokens in {python:6.1f} s: {tokens / python / 1e6:.2f}M tokens/s")
    made = summary["tokens"]
    print(f"cpift-engine {made / 1e6:8.1f}M tokens in {engine:6.1f} s: {made / engine / 1e6:.2f}M tokens/s")
    print(f"ratio of rows per second {python / engine:.2f}")


if __name__ == "__main__":
    main()
