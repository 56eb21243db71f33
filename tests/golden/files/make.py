"""Writes the same rows as files of many forms, as the usual programs write them.

    python make.py        # needs pyarrow, polars and pandas

`pairs.*` have prompts and completions, `chats.*` have messages; `pairs.jsonl` and `chats.jsonl` say what is in them.
"""

import gzip
import json
from pathlib import Path

import pandas
import polars
import pyarrow
import pyarrow.parquet

HERE = Path(__file__).parent

PAIRS = [
    {"prompt": f"Question {index}, \"quoted\"\nand a second line; ümläut: ", "completion": answer}
    for index, answer in enumerate(["yes", "no, never", "a\tb", "1,5", "last"])
]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"How much is {index} + 1?"},
            {"role": "assistant", "content": str(index + 1)},
        ]
    }
    for index in range(3)
]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main():
    (HERE / "pairs.jsonl").write_text(lines(PAIRS))
    (HERE / "chats.jsonl").write_text(lines(CHATS))
    (HERE / "pairs.array.json").write_text(json.dumps(PAIRS))
    (HERE / "pairs.pretty.json").write_text("\ufeff" + json.dumps(PAIRS, indent=4))
    (HERE / "pairs.objects.json").write_text("\n".join(json.dumps(row, indent=2) for row in PAIRS))
    (HERE / "pairs.jsonl.gz").write_bytes(gzip.compress(lines(PAIRS[:2]).encode(), mtime=0) + gzip.compress(lines(PAIRS[2:]).encode(), mtime=0))
    compressor = pyarrow.CompressedOutputStream(str(HERE / "pairs.jsonl.zst"), "zstd")
    compressor.write(lines(PAIRS).encode())
    compressor.close()
    frame = pandas.DataFrame(PAIRS)
    frame.to_csv(HERE / "pairs.csv", index=False)
    frame.to_csv(HERE / "pairs.tsv", index=False, sep="\t")
    frame.to_csv(HERE / "pairs.semicolon.csv", index=False, sep=";", lineterminator="\r\n")
    table = pyarrow.Table.from_pylist(PAIRS)
    for codec in ["none", "snappy", "zstd", "gzip", "brotli", "lz4"]:
        pyarrow.parquet.write_table(table, HERE / f"pairs.{codec}.parquet", compression=codec, row_group_size=2)
    binary = pyarrow.schema([("prompt", pyarrow.binary()), ("completion", pyarrow.large_string())])
    pyarrow.parquet.write_table(table.cast(binary), HERE / "pairs.binary.parquet", data_page_version="2.0")
    polars.DataFrame(PAIRS).write_parquet(HERE / "pairs.polars.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CHATS), HERE / "chats.parquet")
    polars.DataFrame(CHATS).write_parquet(HERE / "chats.polars.parquet")


if __name__ == "__main__":
    main()
