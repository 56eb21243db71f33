"""Writes schemes.json beside this file: small tokenizers of many kinds, and what transformers makes of texts.

    python schemes.py [ROUNDS]        needs transformers 5.24 and tokenizers

A case is a base tokenizer, top-level parts of tokenizer.json that replace the base's, tokenizer_config.json and
config.json. `texts` are ids without what the post-processor adds, which is `prefix`; `pairs` are prompt and answer,
the ids of the prompt, and those of both joined.
"""

import json
import pathlib
import random
import sys
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
WORDS = "the quick brown fox jumps over a lazy dog hello five Paris".split()
PIECES = WORDS + [" ", "  ", "\n", "\n\n", " \n", ".", ":", "é", "日本", "🙂", "4", "17", "\t", "", "<", "s>", "▁", "it's"]
SPECIAL = ["<s>", "</s>", "<|end|>", "<tool>"]


def corpus():
    rng = random.Random(3)
    return [" ".join(rng.choice(WORDS) for _ in range(8)) + ".\n" for _ in range(200)]


def bases():
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    pieces = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False))
    pieces = json.loads(pieces.to_str())
    pieces["added_tokens"] = pieces["added_tokens"][:1]
    pieces = Tokenizer.from_str(json.dumps(pieces))
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(corpus() + PIECES, trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False))
    word_piece = Tokenizer(models.WordPiece(unk_token="<unk>"))
    word_piece.normalizer = normalizers.BertNormalizer(lowercase=False)
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.decoder = decoders.WordPiece()
    word_piece.train_from_iterator(corpus() + PIECES, trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["<unk>"], show_progress=False))
    for tokenizer in (byte_level, pieces, unigram, word_piece):
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL[:3]])
        tokenizer.add_tokens([AddedToken(SPECIAL[3], normalized=False, special=False)])
    return {"byte_level": byte_level, "pieces": pieces, "unigram": unigram, "word_piece": word_piece}


def cases(bases):
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    metaspace = lambda scheme, split: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoder = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    plain_decoder = {"type": "Sequence", "decoders": decoder["decoders"][:3]}
    level = lambda prefix: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}

    def flags(base, **changes):
        tokens = json.loads(bases[base].to_str())["added_tokens"]
        return {"added_tokens": [{**token, **changes} if token["content"] in SPECIAL else token for token in tokens]}

    def template(base, *parts):
        ids = {text: bases[base].token_to_id(text) for text in SPECIAL}
        piece = lambda part: {"Sequence": {"id": "A", "type_id": 0}} if part == "$A" else {"SpecialToken": {"id": part, "type_id": 0}}
        used = {part: {"id": part, "ids": [ids[part]], "tokens": [part]} for part in parts if part != "$A"}
        return {"post_processor": {"type": "TemplateProcessing", "single": [piece(part) for part in parts],
                                   "pair": [piece("$A"), {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": used}}

    yield "byte level", "byte_level", {}, fast, None
    yield "byte level, prefix space", "byte_level", {"pre_tokenizer": level(True)}, fast, None
    yield "byte level, rstrip", "byte_level", flags("byte_level", rstrip=True), fast, None
    yield "byte level, lstrip", "byte_level", flags("byte_level", lstrip=True), fast, None
    yield "byte level, single word", "byte_level", flags("byte_level", single_word=True), fast, None
    yield "byte level, normalized", "byte_level", {**flags("byte_level", normalized=True), "normalizer": {"type": "NFC"}}, fast, None
    yield "byte level, BOS and EOS", "byte_level", template("byte_level", "<s>", "$A", "</s>"), {**fast, "add_bos_token": False}, None
    yield "byte level, add_bos_token", "byte_level", {}, {**fast, "add_bos_token": True, "add_eos_token": True}, None
    yield "byte level, two specials", "byte_level", template("byte_level", "<s>", "<|end|>", "$A"), fast, None
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            parts = {"pre_tokenizer": metaspace(scheme, split), "decoder": plain_decoder if scheme == "never" else decoder,
                     **template("pieces", "<s>", "$A")}
            yield f"pieces, {scheme}, split {split}", "pieces", parts, fast, None
    yield "pieces, prepend", "pieces", {"pre_tokenizer": None, "normalizer": prepend, "decoder": decoder}, fast, None
    yield "pieces, prepend, rstrip", "pieces", {"pre_tokenizer": None, "normalizer": prepend, "decoder": decoder,
                                               **flags("pieces", rstrip=True)}, fast, None
    rebuilt = {"pre_tokenizer": None, "normalizer": prepend, "decoder": decoder, **template("pieces", "<s>", "$A")}
    for config in ({}, {"legacy": True}, {"legacy": False, "add_prefix_space": False}, {"add_bos_token": False}):
        yield f"LlamaTokenizer {config}", "pieces", rebuilt, {**fast, **config, "tokenizer_class": "LlamaTokenizerFast"}, "llama"
    yield "LlamaTokenizer, byte level", "byte_level", {}, {**fast, "tokenizer_class": "LlamaTokenizer"}, "llama"
    yield "Qwen2Tokenizer", "byte_level", {}, {**fast, "tokenizer_class": "Qwen2Tokenizer"}, "qwen2"
    yield "qwen2, undeclared", "byte_level", {}, fast, "qwen2"
    yield "qwen3, declared", "byte_level", {}, fast, "qwen3"
    yield "GPT2Tokenizer", "byte_level", {}, {**fast, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, "llama"
    for scheme in ("first", "always", "never"):
        parts = {"pre_tokenizer": metaspace(scheme, True), "decoder": metaspace(scheme, True)}
        yield f"unigram, {scheme}", "unigram", parts, fast, None
    yield "word piece", "word_piece", {}, fast, None
    size = bases["byte_level"].get_vocab_size()
    new = lambda text, **flags: {"content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True, **flags}
    decoder_tokens = {str(size + 5): new("<new>"), str(size + 2): new("fox", special=False)}
    yield "added_tokens_decoder", "byte_level", {}, {**fast, "added_tokens_decoder": decoder_tokens}, None
    decoder_tokens = {str(size - 1): new("<tool>", rstrip=True)}
    yield "added_tokens_decoder, flags", "byte_level", {}, {**fast, "added_tokens_decoder": decoder_tokens}, None
    yield "pad is text", "byte_level", {}, {**fast, "pad_token": ".", "extra_special_tokens": ["<tool>", "<more>"]}, None
    declare = lambda name, **config: {"tokenizer_class": name, "eos_token": "</s>", **config}
    yield "CodeLlamaTokenizer", "pieces", {}, declare("CodeLlamaTokenizer", legacy=True), "llama"
    yield "CodeLlamaTokenizer, no BOS", "pieces", template("pieces", "<s>", "$A"), declare("CodeLlamaTokenizer", bos_token=None, add_prefix_space=False), "llama"
    yield "GemmaTokenizer", "pieces", {**flags("pieces", normalized=True, lstrip=True), **template("pieces", "<s>", "$A")}, declare("GemmaTokenizer", bos_token="<s>"), "gemma2"
    yield "GemmaTokenizer, its own names", "pieces", {}, declare("GemmaTokenizerFast"), "llama"
    yield "GPTNeoXTokenizer", "byte_level", template("byte_level", "<s>", "$A"), declare("GPTNeoXTokenizer", bos_token="<s>"), "llama"
    yield "CohereTokenizer", "byte_level", flags("byte_level", rstrip=True), declare("CohereTokenizer", extra_special_tokens=["<tool>"]), "llama"
    yield "Qwen3_5Tokenizer", "byte_level", flags("byte_level", rstrip=True), declare("Qwen3_5Tokenizer"), "llama"
    yield "Qwen2Tokenizer, flags", "byte_level", flags("byte_level", rstrip=True), declare("Qwen2Tokenizer"), "qwen3"
    yield "CodeGenTokenizer", "byte_level", {"normalizer": {"type": "NFC"}}, declare("CodeGenTokenizer", add_prefix_space=True), "llama"
    yield "mistral, LlamaTokenizer", "pieces", {"pre_tokenizer": metaspace("never", True), "decoder": plain_decoder}, declare("LlamaTokenizer"), "mistral"
    yield "special tokens split", "byte_level", {}, {**fast, "split_special_tokens": True, "pad_token": "<|end|>"}, None


def main(rounds):
    made, rng = bases(), random.Random(11)
    result = {"bases": {}, "cases": []}
    for name, base in made.items():
        state = json.loads(base.to_str())
        if "merges" in state["model"]:
            state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
        result["bases"][name] = state
    for name, base, parts, config, model_type in cases(made):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tokenizer.json").write_text(json.dumps({**json.loads(made[base].to_str()), **parts}))
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            if model_type:
                (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
            loaded = AutoTokenizer.from_pretrained(folder)
        special = SPECIAL + [" </s>", "<s> "] + (["<new>", "<more>", "BEND</s>"] if rng.random() < 0.9 else [])
        ids = lambda text: loaded(text, add_special_tokens=False)["input_ids"]
        marked = loaded("x")["input_ids"]
        prefix = marked[:next(i for i in range(len(marked)) if marked[i:i + len(ids("x"))] == ids("x"))]
        random_text = lambda pieces: "".join(rng.choice(pieces) for _ in range(rng.randint(1, 6)))
        texts = ["<s>the fox</s>\n <|end|> five", " lazy dog\n"] + [random_text(PIECES + 3 * special) for _ in range(rounds)]
        pairs = [("hello:\n", "five"), ("hello:\n", "  five"), ("hello", "é日本"), ("the", "re lazy"), ("hello ", "five")]
        pairs += [(random_text(PIECES), random_text(PIECES)) for _ in range(rounds)]
        result["cases"].append({
            "name": name, "base": base, "parts": parts, "config": config, "model_type": model_type, "prefix": prefix,
            "texts": [[text, ids(text)] for text in texts],
            "pairs": [[prompt, answer, ids(prompt), ids(prompt + answer)] for prompt, answer in pairs if answer.strip()],
        })
    lines = [f'{{"bases":{json.dumps(result["bases"], separators=(",", ":"))},"cases":[']
    lines.append(",\n".join(json.dumps(case, separators=(",", ":")) for case in result["cases"]))
    (HERE / "schemes.json").write_text("\n".join(lines) + "\n]}\n")


main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
