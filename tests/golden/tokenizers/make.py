"""Writes the small tokenizer folders beside this file, and what transformers makes of some texts and chats.

    python make.py        needs transformers, tokenizers and jinja2

Each folder holds tokenizer.json, tokenizer_config.json, generation_config.json and expected.json. The chat
templates are written in the manner of the model families that the folders are named after.
"""

import datetime
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent

CHATML = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{% else %}{{- 'You help.' }}{%- endif %}
    {{- "\n\n# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- call.name }}
            {{- '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif not (tools and loop.first and message.role == "system") %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

THINKING = r"""{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

HEADERS = r"""{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date + "\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception("unknown role " ~ message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

INST = r"""{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate, user first') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{% generation %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""

WORDS = """the quick brown fox jumps over a lazy dog and then asks why three plus four makes seven while nobody counts
begin end system user assistant helpful answer question tool name arguments weather city think today reverse string
print return value list number true false none error line file token model train loss step"""


def corpus(seed):
    words, rng = WORDS.split(), random.Random(seed)
    return [" ".join(rng.choice(words) for _ in range(12)) + "\n\n" + str(rng.randint(0, 9999)) for _ in range(400)]


def byte_level(special, ordinary):
    tokenizer = Tokenizer(models.BPE())
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(1), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in ordinary])
    return tokenizer


def sentencepiece_like():
    trainee = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trainee.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
        show_progress=False)
    trainee.train_from_iterator([word for text in corpus(2) for word in text.split()], trainer)
    state = json.loads(trainee.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


CHATS = [
    [{"role": "user", "content": "why 3 + 4?"}, {"role": "assistant", "content": "the answer makes 7"}],
    [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps\n\nover  a dog"},
     {"role": "user", "content": "  and then? é 🙂 "}, {"role": "assistant", "content": "nobody counts <b>&</b>"}],
]
SYSTEM = [[{"role": "system", "content": " return a number "}] + CHATS[0]]
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "today's <weather>", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
CALL = [{"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "n": 1.5, "ok": True}}}]},
        {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "sun & <rain>"}]
TEXTS = ["the quick brown fox", " lazy  dog\n\n42\n", "é 🙂 ﬁ a\u0301", "x"]


def write(name, tokenizer, config, eos_ids, template, chats):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096, **config}
    if name == "thinking":
        (folder / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = [{"name": "default", "template": template}] if name == "headers" else template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_ids}))

    loaded = AutoTokenizer.from_pretrained(folder)
    expected = {"texts": [], "chats": []}
    for text in TEXTS:
        expected["texts"].append({"text": text, "plain": loaded(text, add_special_tokens=False)["input_ids"],
                                  "prompt": loaded(text)["input_ids"]})
    for messages, tools in chats:
        ids = lambda part, prompt: loaded.apply_chat_template(
            part, tools=tools, tokenize=True, return_dict=False, chat_template=template, add_generation_prompt=prompt)
        expected["chats"].append({"messages": messages, "tools": tools, "whole": ids(messages, False),
                                  "prompt": ids(messages[:-1], True)})
    (folder / "expected.json").write_text(json.dumps(expected))


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def main():
    chat_template_utils.datetime = FixedDate
    plain = [(messages, None) for messages in CHATS]
    system = [(messages, None) for messages in SYSTEM]
    chatml = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "</tool_call>"])
    write("chatml", chatml, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False},
          [422, 420], CHATML, plain + system + [(CALL, TOOLS)])
    thinking = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"])
    reasoned = [{"role": "user", "content": "why?"},
                {"role": "assistant", "content": "<think>\nthree plus four\n</think>\n\nseven"}]
    write("thinking", thinking, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
          [422, 420], THINKING, plain + [(reasoned, None), (CHATS[0] + reasoned, None)])
    headers = byte_level(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], [])
    headers.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", 420)])])
    write("headers", headers, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
          [421, 424], HEADERS, plain + system)
    write("inst", sentencepiece_like(), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
          "add_bos_token": True, "add_eos_token": False}, 2, INST, plain)


if __name__ == "__main__":
    main()
