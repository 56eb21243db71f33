"""Writes rows.json: rows of other forms than `messages`, with the ids that transformers makes of the messages they mean,
over the tokenizers of golden/tokenizers. Usage: python rows.py (transformers 5.24).

Every row has the conversations that are to become rows: its messages whole and, where the template changes earlier
answers once others follow, its beginnings. Of each: the ids of the whole, those up to its last answer, and where the first
learnt turn begins."""

import datetime
import json
import pathlib

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

here = pathlib.Path(__file__).parent


def message(role, content, **further):
    return {"role": role, "content": content, **further}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
WEATHER = '{"name": "weather", "arguments": {"city": "7"}}'
PART = {"type": "text", "value": "why three?"}
THOUGHTS = [
    message("user", "why?"),
    message("assistant", "seven", reasoning_content="three plus four"),
    message("user", "and then"),
    message("assistant", "eight", reasoning_content="seven plus one"),
]
LOOP = [
    message("user", "why?"),
    message("assistant", "tool", reasoning_content="ask"),
    message("tool", "7"),
    message("assistant", "seven", reasoning_content="three plus four"),
    message("user", "and then"),
    message("assistant", "eight"),
]

# name, tokenizer, recipe's keys, row, the messages it means, tools, the numbers of messages of each row, first answer
CASES = [
    ("sharegpt", "chatml", {}, {
        "system": "begin",
        "conversations": [
            {"from": "human", "value": "why?"},
            {"from": "gpt", "value": "seven"},
            {"from": "human", "value": "weather?"},
            {"from": "function_call", "value": WEATHER},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "the answer"},
        ],
        "tools": json.dumps(TOOLS),
    }, [
        message("system", "begin"), message("user", "why?"), message("assistant", "seven"), message("user", "weather?"),
        message("assistant", None, tool_calls=[call("weather", city="7")]), message("tool", "7"),
        message("assistant", "the answer"),
    ], TOOLS, [7], 2),
    ("several calls", "chatml", {}, {
        "conversation": [
            {"role": "human", "content": "weather?"},
            {"role": "function_call", "content": "[" + WEATHER + "," + WEATHER + "]"},
        ],
    }, [
        message("user", "weather?"),
        message("assistant", None, tool_calls=[call("weather", city="7"), call("weather", city="7")]),
    ], None, [2], 1),
    ("parts", "thinking", {}, {
        "messages": [
            message("user", [PART]),
            message("assistant", [{"type": "reasoning", "value": "three plus four"}, {"type": "text", "value": "seven"}]),
        ],
    }, [message("user", "why three?"), message("assistant", "seven", reasoning_content="three plus four")], None, [2], 1),
    ("prompt and completion", "chatml", {}, {
        "prompt": [message("user", "why?"), message("assistant", "seven"), message("user", "and then")],
        "completion": [message("assistant", "eight"), message("user", "so"), message("assistant", "nobody")],
    }, [
        message("user", "why?"), message("assistant", "seven"), message("user", "and then"),
        message("assistant", "eight"), message("user", "so"), message("assistant", "nobody"),
    ], None, [6], 3),
    ("alpaca", "headers", {}, {
        "instruction": "add", "input": "3 4", "output": "seven", "system": "begin", "history": [["why?", "three"], ["so", "four"]],
    }, [
        message("system", "begin"), message("user", "why?"), message("assistant", "three"), message("user", "so"),
        message("assistant", "four"), message("user", "add\n3 4"), message("assistant", "seven"),
    ], None, [7], 2),
    ("question", "inst", {}, {"question": "why?", "answer": "three 7"},
     [message("user", "why?"), message("assistant", "three 7")], None, [2], 1),
    ("columns", "chatml", {"columns": {"prompt": "task", "answer": "result", "system": "role"}},
     {"task": "why?", "result": "seven", "role": "begin", "number": 3},
     [message("system", "begin"), message("user", "why?"), message("assistant", "seven")], None, [3], 2),
    ("templates", "chatml", {"prompt": "{{ a }} plus {{ b | join(' ') }}\n", "answer": "{{ c }}", "chat": True},
     {"a": "three", "b": ["four", "five"], "c": 7},
     [message("user", "three plus four five\n"), message("assistant", "7")], None, [2], 1),
    ("reasoning", "thinking", {}, {"messages": THOUGHTS}, THOUGHTS, None, [4, 2], None),
    ("no reasoning", "thinking", {}, {"messages": [message(m["role"], m["content"]) for m in THOUGHTS]},
     [message(m["role"], m["content"]) for m in THOUGHTS], None, [4, 2], None),
    ("tool loop", "thinking", {}, {"messages": LOOP}, LOOP, None, [6, 4], None),
    ("last", "thinking", {"learn": "last"}, {"messages": THOUGHTS}, THOUGHTS, None, [4], 3),
]



class FixedDate(datetime.datetime):
    """The date that this program gives templates."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedDate
cases = []
for name, folder, task, row, messages, tools, ends, first in CASES:
    tokenizer = AutoTokenizer.from_pretrained(here / "tokenizers" / folder)

    def ids(count, prompt=False):
        rendered = tokenizer.apply_chat_template(messages[:count], tools=tools, add_generation_prompt=prompt)
        return rendered["input_ids"]

    rows = []
    for end in ends:
        expected = {"whole": ids(end), "prompt": ids(end - 1, prompt=folder != "inst")}
        if first is not None:
            expected["first"] = len(ids(first, prompt=folder != "inst"))
        rows.append(expected)
    cases.append({"name": name, "tokenizer": folder, "task": task, "row": row, "rows": rows})
(here / "rows.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
