"""Writes conversations.json beside this file: conversations over tokenizers of several kinds, as transformers' ids,
and which of them the assistant writes.

    python conversations.py        needs transformers 5.24; reads schemes.json

A case is a base tokenizer of schemes.json, top-level parts of tokenizer.json that replace the base's,
tokenizer_config.json, a chat template, and messages. `template` marks what the assistant writes; `whole`, `mask` and
`prompt` (of all messages but the last) are made with it.
"""

import json
import pathlib
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
BASES = json.loads((HERE / "schemes.json").read_text())["bases"]
START, END = "{% generation %}", "{% endgeneration %}"

INST = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}" + START + "{{ ' ' + m.content + ' ' + eos_token }}" + END + "{% endif %}{% endfor %}")
TURNS = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|end|>user\n' + m.content + '</s>\n' }}"
         "{% else %}{{ '<|end|>model\n' }}" + START + "{{ m.content + '</s>' }}" + END + "{{ '\n' }}{% endif %}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|end|>model\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
         "{{ '<start_of_turn>user\n' + m.content | trim + '<end_of_turn>\n' }}{% else %}{{ '<start_of_turn>model\n' }}"
         + START + "{{ m.content | trim + '<end_of_turn>' }}" + END + "{{ '\n' }}{% endif %}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
MESSAGES = [
    [("user", "why?"), ("assistant", "five")],
    [("user", " the  fox "), ("assistant", "jumps\n\nover  a dog é🙂"), ("user", "日本\n"), ("assistant", "  lazy <tool> 17\n")],
    [("user", "a<tool>b"), ("assistant", "it's <tool>"), ("user", "hello \t"), ("assistant", "it ends: x<")],
]


def flags(base, **changes):
    """The base's added tokens, with these flags."""
    return {"added_tokens": [{**token, **(changes.get(token["content"]) or {})} for token in BASES[base]["added_tokens"]]}


def renamed(base, names):
    """The base's added tokens under other names, and further ones."""
    tokens = [{**token, "content": names.get(token["content"], token["content"])} for token in BASES[base]["added_tokens"]]
    for text in names["more"]:
        tokens.append({**tokens[-1], "id": tokens[-1]["id"] + 1, "content": text, "special": True})
    return {"added_tokens": tokens}


def bos_first(text, id):
    return {"post_processor": {
        "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}}}}


def cases():
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    llama = {**names, "tokenizer_class": "LlamaTokenizer"}
    bos = next(token["id"] for token in BASES["pieces"]["added_tokens"] if token["content"] == "<s>")
    for settings in ({"legacy": True}, {"legacy": False}, {"legacy": False, "add_prefix_space": False}):
        for name, template in (("INST", INST), ("turns", TURNS)):
            yield f"llama {settings}, {name}", "pieces", bos_first("<s>", bos), {**llama, **settings}, template
    yield "code llama", "pieces", {}, {**names, "tokenizer_class": "CodeLlamaTokenizer"}, INST
    stripping = {"<|end|>": {"lstrip": True}, "</s>": {"rstrip": True}, "<tool>": {"lstrip": True, "rstrip": True}}
    words = {"<tool>": {"single_word": True, "normalized": True}, "</s>": {"normalized": True}}
    for base, settings in (("pieces", llama), ("byte_level", {**names, "tokenizer_class": "GPT2Tokenizer", "unk_token": None})):
        yield f"{base}, stripping tokens", base, flags(base, **stripping), settings, TURNS
        yield f"{base}, words and normalized tokens", base, flags(base, **words), settings, TURNS
    fast = {**names, "tokenizer_class": "PreTrainedTokenizerFast"}
    nfc = {"normalizer": {"type": "NFC"}, **flags("byte_level", **words)}
    yield "as in the file, normalized tokens", "byte_level", nfc, {**fast, "unk_token": None}, TURNS
    yield "special tokens split", "byte_level", {}, {**fast, "unk_token": None, "split_special_tokens": True}, TURNS
    gemma = renamed("pieces", {"<s>": "<bos>", "</s>": "<eos>", "<|end|>": "<end_of_turn>",
                               "more": ["<start_of_turn>", "<pad>", "<mask>"]})
    names = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>"}
    yield "gemma", "pieces", {**gemma, **bos_first("<bos>", bos)}, names, GEMMA
    yield "gemma, class tokens", "pieces", gemma, {"tokenizer_class": "GemmaTokenizer"}, GEMMA


def main():
    lines = []
    for name, base, parts, config, template in cases():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tokenizer.json").write_text(json.dumps({**BASES[base], **parts}))
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            loaded = AutoTokenizer.from_pretrained(folder)
        chats = []
        for turns in MESSAGES:
            messages = [{"role": role, "content": content} for role, content in turns]
            whole = loaded.apply_chat_template(messages, chat_template=template, return_assistant_tokens_mask=True)
            prompt = loaded.apply_chat_template(messages[:-1], chat_template=template, add_generation_prompt=True)
            chats.append({"messages": messages, "whole": whole["input_ids"], "mask": whole["assistant_masks"],
                          "prompt": prompt["input_ids"]})
        lines.append(json.dumps({"name": name, "base": base, "parts": parts, "config": config, "template": template,
                                 "chats": chats}, separators=(",", ":")))
    (HERE / "conversations.json").write_text("[" + ",\n".join(lines) + "]\n")


main()
