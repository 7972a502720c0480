"""What docs/format.md says of a dataset beside its records, held to by a reader that knows the page alone.

The checksums of metadata and files, and the index of a split; `foreign_reader` reads the records.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow
from foreign_reader import TYPES, Record, crc32c, read, require


def read_and_check(folder: Path) -> dict[str, list[Record]]:
    """As `read`, with every file held to its checksum, and each index of a split to the records."""
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    rest = {name: value for name, value in metadata.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    require(hashlib.sha256(text.encode("ascii")).hexdigest() == metadata["checksum"], "metadata.json")
    for shard in (shard for shards in metadata["shards"].values() for shard in shards if shard["records"]):
        for kind, ending in (("records", "tfrecord"), ("index", "index.parquet")):
            data = (folder / f"{shard['base']}.{ending}").read_bytes()
            size_and_sum = (len(data), hashlib.sha256(data).hexdigest())
            require(size_and_sum == (shard[f"{kind}_bytes"], shard[f"{kind}_sha256"]), f"{kind} of {shard['base']}")
    found = read(folder)
    for split, described in metadata["splits"].items():
        check_split_index(folder, described["index"], metadata["shards"][split], found[split])
    return found


def check_split_index(folder: Path, index: dict[str, Any], shards: list[dict[str, Any]], found: list[Record]) -> None:
    """The index of a split leads to the same bytes as those of its shards, by the page's rule."""
    content = (folder / index["path"]).read_bytes()
    require((len(content), crc32c(content)) == (index["bytes"], index["crc32c"]), index["path"])
    rows = pyarrow.ipc.open_file(pyarrow.BufferReader(content)).read_all().to_pylist()
    require(len(rows) == index["rows"] == len(found), "rows of a split")
    ends = []
    for shard in shards:
        own = rows[len(ends) : len(ends) + shard["records"]]
        ends += [*(row["offset"] for row in own[1:]), shard["records_bytes"]][: len(own)]
    for row, end, (of_shard, fields, shape, values) in zip(rows, ends, found, strict=True):
        require(row["offset"] == of_shard["offset"] and end == row["offset"] + of_shard["length"], "a record's place")
        begin = end - 4 - struct.calcsize(TYPES[fields["spectrogram/dtype"].decode()]) * len(values)
        require((row["frames"], begin) == (shape[0], of_shard["payload_offset"]), "a record's values")
        require(all(row[name] == of_shard[name] for name in ("label", "source_index", "flags")), "a record's row")
