"""Writes conversations.json: rendered conversations as ids of transformers, for chat templates of several
families over the tokenizer of golden/tokenizers/chatml. Usage: python conversations.py (transformers 5.24)."""

import json
import pathlib

from transformers import AutoTokenizer

here = pathlib.Path(__file__).parent
tokenizer = AutoTokenizer.from_pretrained(here / "tokenizers" / "chatml")

PROMPT = "{% if add_generation_prompt %}"
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + PROMPT + "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "headers": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    + PROMPT + "{{ '<|im_start|>assistant\n\n' }}{% endif %}",
    "gemma": "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    + PROMPT + "{{ '<start_of_turn>model\n' }}{% endif %}",
    "inst": "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "spoken": "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}" + PROMPT + "assistant:{% endif %}",
    "thinking": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.last and m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + PROMPT + "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "once": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
    + PROMPT + "{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}",
    "marked": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}so: "
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}" + PROMPT + "{{ '<|im_start|>assistant\n' }}{% endif %}",
}
PLAIN = [
    {"role": "system", "content": "the lazy dog"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "the answer\n\nmakes 7"},
    {"role": "user", "content": " and then "},
    {"role": "assistant", "content": "nobody counts é"},
]
THOUGHT = PLAIN[:-1] + [{**PLAIN[-1], "reasoning": "three plus four"}]

cases = []
for name, template in TEMPLATES.items():
    messages = [m for m in (THOUGHT if name == "thinking" else PLAIN) if name != "inst" or m["role"] != "system"]
    def ids(messages, **settings):
        return tokenizer.apply_chat_template(messages, chat_template=template, **settings)
    whole = ids(messages, return_assistant_tokens_mask=name == "marked")
    case = {"name": name, "template": template, "messages": messages, "whole": whole["input_ids"]}
    case["prompt"] = ids(messages[:-1], add_generation_prompt=True)["input_ids"]
    if name == "marked":
        case["mask"] = whole["assistant_masks"]
    cases.append(case)
(here / "conversations.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
