"""Writes the same text as files of several forms, and its paragraphs as Hugging Face's `datasets` reads them.

    python make_texts.py        # needs datasets and pyarrow

`texts.jsonl` says what is in `texts.*`. `datasets` separates paragraphs at two line breaks, so that a third one begins the
next paragraph, and the last one keeps the line break at the end of the file: both are taken away here.
"""

import gzip
import json
import tempfile
from pathlib import Path

import datasets
import pyarrow

HERE = Path(__file__).parent

TEXT = (
    "\n\n"
    "b\nAll cats purr. Tom does not.\nSo what is Tom?\nA.a cat\nB.no cat\n"
    "\n"
    "{not JSON}, \"quoted\", \tand a tab\n   \nbehind a line of spaces, which separates nothing  \n"
    "\n\n\n"
    "<tag> ümläut — 漢字\n--- no YAML\n"
    "\n"
    "one, line\n"
    "\n"
    "the last one"
)


def paragraphs(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_bytes(text.encode())
        rows = datasets.load_dataset("text", data_files=str(path), sample_by="paragraph", cache_dir=folder, split="train")
        return [text for text in (row["text"].strip("\n") for row in rows) if text]


def main():
    rows = paragraphs(TEXT)
    windows = TEXT.replace("\n", "\r\n")
    assert paragraphs(windows) == rows and paragraphs(TEXT + "\n\n\n") == rows
    (HERE / "texts.jsonl").write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows))
    (HERE / "texts.txt").write_bytes(TEXT.encode())
    (HERE / "texts.windows.TXT").write_bytes(b"\xef\xbb\xbf" + windows.encode())
    (HERE / "texts.txt.gz").write_bytes(gzip.compress((TEXT + "\n\n\n").encode(), mtime=0))
    compressor = pyarrow.CompressedOutputStream(str(HERE / "texts.txt.zst"), "zstd")
    compressor.write(windows.encode())
    compressor.close()


if __name__ == "__main__":
    main()
