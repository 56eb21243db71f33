"""Supervised tokens of task files: this program's count beside the one of transformers' chat template and tokenizer.

Every file of the folder that is JSON Lines or a JSON array of rows in a known form is tried: `question` and `answer`,
`instruction` and `output`, `conversations`, `messages`. A conversation's supervised tokens are, of each answer, those of
the template's text from where the generation prompt ends to the end of the turn; Alpaca's are the answer and EOS. Rows
without an answer, and those that are longer than --max-length, are left out on both sides.

Build first: cargo build --release -p cpift-engine-cli
Run: python benches/compare/rows.py FOLDER --model MODEL --binary target/release/cpift-engine
Needs transformers 5.24 and jinja2.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from transformers import AutoTokenizer

INTRODUCTION = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
WITH_INPUT = ", paired with an input that provides further context"


def read(path):
    """The rows of a JSON array or of JSON Lines; None for another file."""
    text = path.read_text()
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    except json.JSONDecodeError:
        return None
    return rows if rows and all(isinstance(row, dict) for row in rows) else None


def calls(text):
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


def messages(row):
    """The messages that a row means, calls as text: a template as SmolLM2's writes contents only."""
    if "question" in row:
        return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    if "conversations" in row:
        roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool", "system": "system"}
        turns = []
        for turn in row["conversations"]:
            text = turn["value"]
            if turn["from"] == "function_call":
                text = json.dumps(json.loads(text), ensure_ascii=False)
            turns.append({"role": roles[turn["from"]], "content": text})
        return turns
    turns = []
    for turn in row["messages"]:
        content = turn["content"]
        if isinstance(content, list):
            texts = [part["value"] for part in content if part["type"] == "text"]
            called = [json.loads(part["value"]) for part in content if part["type"] == "tool_call"]
            if not texts:
                texts = [json.dumps(called[0] if len(called) == 1 else called, ensure_ascii=False)]
            content = "\n".join(texts)
        turns.append({"role": turn["role"], "content": content})
    return turns


def conversation_tokens(tokenizer, turns):
    """Length of the row and its supervised tokens, from the ids of the whole and of its beginnings."""
    last = max(index for index, turn in enumerate(turns) if turn["role"] == "assistant")
    turns = turns[: last + 1]
    ids = lambda count, prompt: tokenizer.apply_chat_template(turns[:count], add_generation_prompt=prompt)["input_ids"]
    whole = ids(len(turns), False)
    supervised = 0
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            start = len(ids(index, True))
            end = whole.index(tokenizer.eos_token_id, start) + 1
            supervised += end - start
    return end, supervised


def alpaca_tokens(tokenizer, row):
    given = f"\n\n### Input:\n{row['input']}" if row.get("input") else ""
    prompt = INTRODUCTION.format(WITH_INPUT if given else "") + f"\n\n### Instruction:\n{row['instruction']}{given}\n\n### Response:\n"
    before = tokenizer(prompt)["input_ids"]
    together = tokenizer(prompt + row["output"])["input_ids"]
    if together[: len(before)] == before:
        answer = together[len(before):]
    else:
        answer = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
    return len(before) + len(answer) + 1, len(answer) + 1


def answered(row):
    return bool(row.get("output", row.get("answer", "x")).strip())


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--binary", type=pathlib.Path, required=True)
parser.add_argument("--max-length", type=int, default=8192)
arguments = parser.parse_args()
tokenizer = AutoTokenizer.from_pretrained(arguments.model)

print("| file | form | rows | empty answers | too long | supervised, transformers | supervised, cpift-engine | |")
print("|---|---|---:|---:|---:|---:|---:|---|")
for path in sorted(arguments.folder.iterdir()):
    rows = read(path)
    if rows is None:
        continue
    used = [row for row in rows if answered(row)]
    form = next(name for name in ("question", "instruction", "conversations", "messages") if name in used[0])
    count = alpaca_tokens if form == "instruction" else lambda tokenizer, row: conversation_tokens(tokenizer, messages(row))
    counts = [count(tokenizer, row) for row in used]
    expected = sum(supervised for length, supervised in counts if length <= arguments.max_length)
    too_long = sum(length > arguments.max_length for length, _ in counts)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in used))
        (folder / "recipe.toml").write_text(
            f'[model]\nbase = "{arguments.model.absolute()}"\nmax_length = {arguments.max_length}\n'
            '[[task]]\nname = "task"\ntrain = "task.jsonl"\n'
        )
        done = subprocess.run(
            [arguments.binary, "plan", folder / "recipe.toml", "--json"], capture_output=True, text=True, check=True
        )
    task = json.loads(done.stdout)["plan"]["tasks"][0]
    same = "same" if (task["supervised_tokens"], task["long_rows"]) == (expected, too_long) else "DIFFERS"
    print(
        f"| {path.name} | {form} | {len(rows)} | {len(rows) - len(used)} | {too_long} | {expected} "
        f"| {task['supervised_tokens']} | {same} |",
        flush=True,
    )
