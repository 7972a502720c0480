"""Damaged datasets against loader, `verify` and `inspect`: a named error or the right batch, and nothing else.

    python benchmarks/fuzz_dataset.py [--mutants 20000] [--seed 1] [--workers 2] [--tf]
    python benchmarks/fuzz_dataset.py --number 1234        makes one mutant again and says what each step gives

Three small datasets are made by the pipeline: utterances as float32, windows as float32, and utterances as pcm16. Each
mutant damages one file: by bytes (`fuzzing.py`), a value of metadata.json, a column of a table, or the file as such
(missing, of another dataset, a directory, a pipe, a link to a device). Where a mutant is *forged*, checksums, sizes and
rows in metadata (and the records' own checksums) are made anew, so that the damage reaches what lies behind them.

Then, in a child process: an epoch of the train split, `verify`, and one of: the test split, check_crc 'always' or
'never', two kinds of `normalize`, locality, the default options, coverage, the speakers' labels, whole utterances,
`inspect` (always where metadata.json is damaged); with --tf the batches as `tf.data`, for one mutant in twenty.

Allowed are a `Ge2eError`, or what the undamaged dataset gives, byte for byte. Other values are allowed where a mutant
is forged, where a record is damaged and check_crc='never', and for `normalize='dataset'` where the stored statistics
are damaged. `verify` must find each mutant but those that `by_design` lists. A finding is anything else, any other
exception, the end of the process, more than --seconds, or more than --mib of memory. Writes
`benchmarks/results/fuzz_dataset.json` (or --json); exit status 1 if there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import google_crc32c  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from fuzzing import Check, Limits, Tally, damaged, draw_of, run  # noqa: E402

from ge2e_transforms import records, schema  # noqa: E402
from ge2e_transforms.dataset import Dataset  # noqa: E402
from ge2e_transforms.errors import Ge2eError  # noqa: E402
from ge2e_transforms.loader import BatchLoader  # noqa: E402
from ge2e_transforms.metadata import checksum_of  # noqa: E402
from ge2e_transforms.tf_reader import GE2EDatasetLoader  # noqa: E402
from ge2e_transforms.verify import verify  # noqa: E402
from pipeline.commands import inspect  # noqa: E402

# Recipe, and rows of the crops that are read.
DATASETS: dict[str, tuple[dict[str, Any], int]] = {
    "float32": ({"n_mels": 8, "crop_ms": 300}, 31),
    "windows": ({"n_mels": 8, "crop_ms": 200, "segments": "windows"}, 21),
    "pcm16": ({"features": "raw", "sample_rate_hz": 1000, "crop_ms": 50}, 50),
}
METADATA = schema.METADATA_FILE
# Kinds of files, and how often each is damaged: what nobody reads, and what only `verify` reads, seldom.
KINDS = {"records": 6, "shard index": 6, "split index": 6, "speakers": 4, "ledger": 2, "done": 1, "metadata": 10}
# How often each way is taken with each kind of file.
WAYS = {"bytes": 4, "forged bytes": 3, "table": 2, "forged table": 3, "file": 1, "value": 4, "forged value": 8}
_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", 0, 1, -1, 1.5, -0.5, 1e308, 1e-320, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30),
    *(float("nan"), float("inf"), [], {}, [0], [[[]]], {"": 0}, "../../etc/passwd", "/etc/passwd", "train/../../x"),
    *("s3://bucket/x", "file:///etc/passwd", "a\0b", "\ud800", "x" * 10_000, "C:\\x", METADATA, "train", "float32"),
)


def make_datasets(folder: Path) -> None:
    """Written in a process of its own, since what makes them begins threads, which must not be forked."""
    maker = multiprocessing.get_context("fork").Process(target=_make_datasets, args=(folder,))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the datasets could not be made")


def _make_datasets(folder: Path) -> None:
    import jobs
    from synth import small_corpus, tone, write

    from ge2e_transforms.config import Recipe
    from pipeline.commit import commit

    os.chdir(folder)  # paths of manifests are part of a generation
    manifest = small_corpus(Path("corpus"), speakers=6, utterances=2, seconds=0.8, test_speakers=2)
    write(Path("corpus/short.wav"), tone(300, 0.2), 16000)
    with manifest.open("a") as file:
        file.write("nowhere.wav,spk00,synth,s0,train\nshort.wav,spk02a,synth,s0,train\n")
    for name, (recipe, _) in DATASETS.items():
        job = jobs.job(name, manifest, recipe=Recipe().replace(**recipe), max_rejected=1.0)
        planned = jobs.write_all(job)
        commit(job, planned.plan, planned.rejected)


# Mutants.


class Mutant(NamedTuple):
    """A damaged dataset.

    kind: of the file, one of `KINDS`.
    way: of the damage, one of `WAYS`.
    content: new content by name of the file; None where it is missing.
    place: makes of a path what is no file of bytes.
    """

    dataset: str
    kind: str
    way: str
    name: str
    what: str
    content: dict[str, bytes | None]
    place: Callable[[Path], object] | None = None

    @property
    def forged(self) -> bool:
        return self.way.startswith("forged")


class Mutants:
    """Damaged datasets by number."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.files = {name: _files(folder / name) for name in DATASETS}

    def make(self, number: int) -> Mutant:
        draw = draw_of(self.seed, number)
        dataset, kind = draw.choice(list(DATASETS)), draw.choices(list(KINDS), list(KINDS.values()))[0]
        ways = [way for way in WAYS if _fits(way, kind)]
        way = draw.choices(ways, [WAYS[way] for way in ways])[0]
        files = self.files[dataset]
        name = draw.choice([name for name in files if kind_of(name) == kind])
        if way == "file":
            return self._file(dataset, kind, name, draw)
        if way.endswith("value"):
            content, what = _with_other_value(files[name], draw)
        elif way.endswith("bytes"):
            other = self.files[draw.choice(list(DATASETS))]
            spliced = other[draw.choice(list(other))]
            content, what = damaged(files[name], spliced, draw)
        else:
            content, what = _with_other_column(name, files[name], draw)
        made: dict[str, bytes | None] = {name: content}
        if way == "forged value":
            made = {name: _with_checksum(content)}
        elif way.startswith("forged"):
            made = _forged(files, name, content)
        return Mutant(dataset, kind, way, name, what, made)

    def _file(self, dataset: str, kind: str, name: str, draw: random.Random) -> Mutant:
        files, make = self.files[dataset], functools.partial(Mutant, dataset, kind, "file", name)
        what = draw.choice(("missing", "empty", "swapped", "foreign", *_PLACES))
        if what == "missing":
            return make(what, {name: None})
        if what == "empty":
            return make(what, {name: b""})
        if what == "swapped":
            other = draw.choice(list(files))
            return make(f"swapped with {other}", {name: files[other], other: files[name]})
        if what == "foreign":
            other = draw.choice([other for other in DATASETS if other != dataset])
            some = [content for name, content in self.files[other].items() if kind_of(name) == kind]
            return make(f"one of {other}", {name: draw.choice(some)})
        return make(what, {name: None}, functools.partial(_PLACES[what], content=files[name]))


def _fits(way: str, kind: str) -> bool:
    if way.endswith("value"):
        return kind == "metadata"
    if way.startswith("forged") and kind in ("metadata", "done"):
        return False
    return not way.endswith("table") or kind in ("shard index", "split index", "speakers", "ledger")


def kind_of(name: str) -> str:
    """Of a file of a dataset by its name, one of `KINDS`."""
    for kind, pattern in (
        ("records", r".*\.tfrecord"),
        ("shard index", r".*\.index\.parquet"),
        ("split index", r".*/index-.*"),
        ("speakers", r"speakers-.*"),
        ("ledger", r"ledger-.*"),
        ("done", r".*\.done\.json"),
    ):
        if re.fullmatch(pattern, name):
            return kind
    return "metadata"


def _files(root: Path) -> dict[str, bytes]:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return {name: (root / name).read_bytes() for name in names if name == METADATA or schema.OWN_FILE.fullmatch(name)}


def _sparse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.truncate(path, 1 << 40)


def _copied_link(path: Path, content: bytes) -> None:
    target = path.with_name(f"{path.name}.target")
    target.write_bytes(content)
    path.symlink_to(target)


_PLACES: dict[str, Callable[..., object]] = {
    "directory": lambda path, content: path.mkdir(),
    "pipe": lambda path, content: os.mkfifo(path),
    "link to /dev/zero": lambda path, content: path.symlink_to("/dev/zero"),
    "link to itself": lambda path, content: path.symlink_to(path.name),
    "link to nothing": lambda path, content: path.symlink_to("nowhere"),
    "link to the same content": _copied_link,
    "1 TiB": _sparse,
}


def _with_other_value(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """metadata.json with one value, or one key, changed."""
    metadata = json.loads(content)
    nodes = list(_nodes(metadata))
    holder, key, path = draw.choice(nodes)
    value = holder[key]
    action = draw.choice(("value", "value", "value", "near", "delete", "add", "other", "text"))
    if action == "delete":
        del holder[key]
    elif action == "add":
        holder[key] = {"unknown": 1, key: value} if isinstance(holder, dict) else [value, value]
        if isinstance(holder, dict):
            holder[f"{key}_"] = draw.choice(_VALUES)
            holder[key] = value
    elif action == "near" and isinstance(value, int | float):
        holder[key] = draw.choice((value + 1, value - 1, -value, value * 2, value / 2, str(value), value * 1e300))
    elif action == "near" and isinstance(value, str):
        holder[key] = draw.choice(
            (value + "x", value[:-1], value[::-1], value.upper(), " " + value, value + "\n", [value])
        )
    elif action == "near" and isinstance(value, list):
        holder[key] = draw.choice((value[::-1], value + value, value[1:], dict(enumerate(value))))
    elif action == "other":
        other, name, _ = draw.choice(nodes)
        holder[key] = copy.deepcopy(other[name])
    elif action == "text":
        text = draw.choice(("[" * 100_000, "9" * 5000, '{"a":' * 50_000, "1e999", '"\\ud800"', "-"))
        holder[key] = "@"
        return json.dumps(metadata).replace('"@"', text, 1).encode(), f"{path} = {text[:8]}... of {len(text)}"
    else:
        holder[key] = draw.choice(_VALUES)
    told = "deleted" if action == "delete" else repr(holder.get(key) if isinstance(holder, dict) else holder)
    return json.dumps(metadata).encode(), f"{path}: {action} {told[:200]}"


def _nodes(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every value below another: what holds it, its key there, and the way to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key, f"{path}/{key}"
        yield from _nodes(inner, f"{path}/{key}")


def _with_other_column(name: str, content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A table with one column, or its rows, changed."""
    arrow = name.endswith(".arrow")
    table = pa.ipc.open_file(content).read_all() if arrow else pq.read_table(pa.BufferReader(content))
    column = draw.choice(table.column_names)
    change = draw.choice(list(_CHANGES))
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
        table = _CHANGES[change](table, column, draw)
    sink = pa.BufferOutputStream()
    if arrow:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, sink, compression=draw.choice(("zstd", "none")))
    return sink.getvalue().to_pybytes(), f"{column} {change}"


def _replaced(table: pa.Table, column: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    place, own = table.column_names.index(column), table.schema.field(column)
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, type=kind or own.type)
    nullable = array.null_count > 0
    return table.set_column(place, pa.field(column, array.type, nullable=nullable), array)


def _each(change: Callable[[Any], Any]) -> Callable[..., pa.Table]:
    """One value, or all, changed."""

    def apply(table: pa.Table, column: str, draw: random.Random) -> pa.Table:
        values = table[column].to_pylist()
        for place in range(len(values)) if draw.random() < 0.5 else [draw.randrange(len(values))]:
            values[place] = change(values[place])
        return _replaced(table, column, values)

    return apply


def _shuffled(table: pa.Table, column: str, draw: random.Random) -> pa.Table:
    values = table[column].to_pylist()
    draw.shuffle(values)
    return _replaced(table, column, values)


def _other(value: Any, number: int) -> Any:
    if isinstance(value, list):
        return [_other(inner, number) for inner in value]
    return f"{value}{number}" if isinstance(value, str) else number


_CHANGES: dict[str, Callable[..., pa.Table]] = {
    "permuted": _shuffled,
    "one more": _each(lambda value: value + 1),
    "one less": _each(lambda value: value - 1),
    "negative": _each(lambda value: -1 - value),
    "zero": _each(lambda value: _other(value, 0)),
    "2^31 - 1": _each(lambda value: _other(value, 2**31 - 1)),
    "2^63 - 1": _each(lambda value: _other(value, 2**63 - 1)),
    "-2^31": _each(lambda value: _other(value, -(2**31))),
    "none": _each(lambda value: None),
    "as text": lambda table, column, _: _replaced(table, column, table[column].cast(pa.string())),
    "as float": lambda table, column, _: _replaced(table, column, table[column].cast(pa.float64(), safe=False)),
    "wider": lambda table, column, _: _replaced(table, column, table[column].cast(pa.int64())),
    "missing": lambda table, column, _: table.drop_columns(column),
    "renamed": lambda table, column, _: table.rename_columns({column: f"{column}_"}),
    "doubled": lambda table, column, _: table.append_column(column, table[column]),
    "rows reversed": lambda table, *_: table.take(pa.array(range(len(table) - 1, -1, -1))),
    "a row less": lambda table, *_: table.slice(1),
    "a row twice": lambda table, *_: pa.concat_tables([table, table.slice(0, 1)]),
    "no rows": lambda table, *_: table.slice(0, 0),
}


def _forged(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes | None]:
    """The file, with the checksums that are its own made anew, and metadata that agrees with it."""
    if name.endswith(".tfrecord"):
        content = _reframed(files[name], content)
    metadata = json.loads(files[METADATA])
    about = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "crc32c": google_crc32c.value(content),
    }
    for entry in (metadata["speakers"], metadata["ledger"], *(part["index"] for part in metadata["splits"].values())):
        if entry["path"] == name:
            entry |= {key: value for key, value in about.items() if key in entry}
            with contextlib.suppress(pa.ArrowException, OSError, ValueError):
                entry["rows"] = _rows(name, content)
    for entry in (entry for entries in metadata["shards"].values() for entry in entries):
        for own, prefix in zip(schema.shard_files(entry["base"]), ("records", "index"), strict=False):
            if own == name:
                entry |= {f"{prefix}_bytes": about["bytes"], f"{prefix}_sha256": about["sha256"]}
    return {name: content, METADATA: _with_checksum(json.dumps(metadata).encode())}


def _with_checksum(content: bytes) -> bytes:
    """metadata.json with the checksum of what is in it, if it is JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        metadata = json.loads(content)
        if isinstance(metadata, dict) and "checksum" in metadata:
            return json.dumps({**metadata, "checksum": checksum_of(metadata)}).encode()
    return content


def _rows(name: str, content: bytes) -> int:
    if name.endswith(".arrow"):
        return len(pa.ipc.open_file(content).read_all())
    return int(pq.read_metadata(pa.BufferReader(content)).num_rows)


def _reframed(before: bytes, content: bytes) -> bytes:
    """Records with right checksums, as far as they stand where they did."""
    made = bytearray(content)
    for offset, data in records.read_records(io.BytesIO(before), "seed"):
        if offset + 16 + len(data) > len(made):
            break
        made[offset + 8 : offset + 12] = struct.pack("<I", records.masked_crc(bytes(made[offset : offset + 8])))
        end = offset + 12 + len(data)
        made[end : end + 4] = struct.pack("<I", records.masked_crc(bytes(made[offset + 12 : end])))
    return bytes(made)


# What `verify` does not look at.

# Done files belong to the job that wrote them, which checks them itself before it adopts a shard; no reader opens one.
# The rest of metadata tells where a dataset comes from or how it grows, and is not used to read it: only its checksum
# tells that it was changed, where that was not made anew.
_NOT_VERIFIED = re.compile(
    r"/(generation|edition|token|plan|versions|cpus|replaced|split_rule|history|next_label|erased|pseudonyms"
    r"|manifests/\d+/(path|sha256|rejected))(/.*)?"
)


def by_design(mutant: Mutant, files: dict[str, bytes]) -> bool:
    """Whether `verify` need not notice a mutant."""
    if mutant.place is not None:
        return mutant.kind == "done" or mutant.what == "link to the same content"
    changed = {name for name, content in mutant.content.items() if content != files[name] and kind_of(name) != "done"}
    if not changed:
        return True
    if changed == {METADATA}:
        with contextlib.suppress(ValueError, RecursionError):  # the same values may be written in other ways
            before, after = (_leaves(content) for content in (files[METADATA], mutant.content[METADATA] or b""))
            paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
            return not paths or (mutant.forged and all(_may_change(path, before, after) for path in paths))
    return False


def _may_change(path: str, before: dict[str, str], after: dict[str, str]) -> bool:
    if path == "/checksum" or _NOT_VERIFIED.fullmatch(path) is not None:
        return True
    return _is_unknown(path, before) or _is_near(path, before, after)


def _is_near(path: str, before: dict[str, str], after: dict[str, str]) -> bool:
    """Whether a path is one of the statistics and changed in its last digits, which the order of a sum decides."""
    if re.fullmatch(r"/statistics/(mean|std)/\d+", path) is None or not {path} <= before.keys() & after.keys():
        return False
    return bool(np.isclose(float(before[path]), float(after[path]), rtol=1e-6, atol=1e-9))


def _leaves(content: bytes) -> dict[str, str]:
    """What stands at each path of metadata.json."""
    return {path: _leaf(holder[key]) for holder, key, path in _nodes(json.loads(content))}


def _is_unknown(path: str, before: dict[str, str]) -> bool:
    """Whether a path belongs to a key that was added to an object: it may be one of a later version."""
    parent = path.rpartition("/")[0]
    while parent and parent not in before:
        path, parent = parent, parent.rpartition("/")[0]
    return path not in before and before.get(parent, "dict") == "dict"


def _leaf(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 53:
        value = value + 0.0  # -0.0 is 0, and 25 is 25.0
    return type(value).__name__ if isinstance(value, dict | list) else repr(value)


# What is done with a dataset.


# Taken with every mutant, beside one of the others; `inspect` always where metadata.json is damaged.
_ALWAYS = ("batches first", "verify")


def steps(root: Path, rows: int) -> dict[str, Callable[[], object]]:
    """What readers do, by name; each gives something that is equal for equal content."""

    def loader(**options: Any) -> BatchLoader:
        return BatchLoader(root, 2, 2, rows, seed=1, **{"slots_per_utterance": 1, **options})

    def batches(splits: tuple[str, ...] = ("train",), **options: Any) -> str:
        made = loader(**options)
        return _digest(array for split in splits for batch in made.batches(split) for array in batch)

    found: dict[str, Callable[[], object]] = {
        "batches first": lambda: batches(),
        "batches of test": lambda: batches(("test",)),
        "batches always": lambda: batches(check_crc="always"),
        "batches never": lambda: batches(check_crc="never"),
        "batches normalised by dataset": lambda: batches(normalize="dataset", short="pad"),
        "batches normalised by utterance": lambda: batches(normalize="utterance"),
        "batches by locality": lambda: batches(locality=2),
        "default batches": lambda: _digest(next(BatchLoader(root, seed=1, speakers="proportional").batches("train"))),
        "names": lambda: (
            loader(labels="original").speaker_ids("train"),
            loader().get_metadata()["speaker_id_mapping"],
        ),
        "coverage": lambda: loader(batch_sources="single").coverage("train"),
        "verify": lambda: vars(verify(Dataset.open(root))),
        "inspect": lambda: inspect.command(argparse.Namespace(dataset=str(root), json=False)),
        "tf.data": lambda: _digest(
            array.numpy()
            for batch in GE2EDatasetLoader(root, 2, 2, rows, seed=1).get_train_dataset()
            for array in batch
        ),
    }
    if rows != DATASETS["windows"][1]:
        found |= {
            "one utterance": lambda: _whole([loader().utterance("spk01/utt01.wav", "synth/spk01")]),
            "all utterances": lambda: _whole(loader().utterances("test", order="length")),
        }
    return found


def _digest(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _whole(utterances: Any) -> list[tuple[str, str, int, str]]:
    return [(one.speaker_id, one.utterance_id, one.label, _digest([one.values])) for one in utterances]


def given(step: Callable[[], object]) -> tuple[str, object]:
    """'' and what a step gives, or the name of its error."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return "", step()
        except Ge2eError as error:
            str(error).encode()  # as it will be printed
            return type(error).__name__, str(error)
        except Exception as error:
            # TensorFlow wraps what its readers raise in errors of its own, which name it.
            if type(error).__module__.startswith("tensorflow") and re.search(
                r"(Dataset|CorruptRecord|Config|Sampling)Error", str(error)
            ):
                return "tf", ""
            raise


class Checker:
    """Checks mutants by number, in a copy of the datasets of its own."""

    def __init__(self, mutants: Mutants, tf: bool) -> None:
        self._mutants, self._tf = mutants, tf
        self._folder = Path(tempfile.mkdtemp(dir=mutants.folder))
        tempfile.tempdir = str(self._folder)  # of plans
        pa.set_cpu_count(1)  # tables are tiny
        for name in DATASETS:
            shutil.copytree(mutants.folder / name, self._folder / name)
        self._expected = {
            name: {
                step: given(make) for step, make in steps(self._folder / name, rows).items() if tf or step != "tf.data"
            }
            for name, (_, rows) in DATASETS.items()
        }
        failed = {
            name: some for name, found in self._expected.items() if (some := [s for s in found.items() if s[1][0]])
        }
        if failed:
            raise SystemExit(f"the undamaged datasets cannot be read: {failed}")

    def __call__(self, number: int) -> tuple[str, str]:
        mutant = self._mutants.make(number)
        with self.put(mutant) as root:
            outcomes, findings = [], []
            for name, make in self._steps(root, mutant, number).items():
                try:
                    error, value = given(make)
                except Exception as unnamed:
                    outcomes.append("unnamed")
                    trace = "".join(traceback.format_exception(unnamed)[-4:])
                    findings.append(f"{name}: {type(unnamed).__name__}\n{trace}")
                    continue
                same = (error, value) == self._expected[mutant.dataset][name]
                outcomes.append(f"error in {name}" if error else "same" if same else "other")
                if not error and (told := self._wrong(mutant, name, same)):
                    findings.append(told)
        return summary(outcomes), "\n".join(findings)

    def _steps(self, root: Path, mutant: Mutant, number: int) -> dict[str, Callable[[], object]]:
        known = steps(root, DATASETS[mutant.dataset][1])
        others = [name for name in known if name not in (*_ALWAYS, "tf.data")]
        names = {*_ALWAYS, *draw_of(self._mutants.seed, -number).sample(others, 1)}
        names |= {"inspect"} if mutant.kind == "metadata" else set()
        names |= {"tf.data"} if self._tf and number % 20 == 0 else set()
        return {name: known[name] for name in names}

    def _wrong(self, mutant: Mutant, step: str, same: bool) -> str:
        """What is wrong with a step that raised nothing."""
        if step == "verify":
            design = mutant.forged or by_design(mutant, self._mutants.files[mutant.dataset])
            return "" if design else "verify: found nothing"
        if same or mutant.forged or step in ("inspect", "default batches"):
            return ""
        if (mutant.kind == "records" or ".tfrecord" in mutant.what) and step == "batches never":
            return ""
        if step == "batches normalised by dataset" and mutant.kind == "metadata":
            return ""
        return f"{step}: other values than those of the undamaged dataset"

    @contextlib.contextmanager
    def put(self, mutant: Mutant) -> Iterator[Path]:
        """The folder with the damaged files in place; mended afterwards. New files, as old ones may still be mapped."""
        root = self._folder / mutant.dataset
        try:
            for name, content in mutant.content.items():
                (root / name).unlink()
                if content is not None:
                    (root / name).write_bytes(content)
            if mutant.place is not None:
                mutant.place(root / mutant.name)
            yield root
        finally:
            for name in mutant.content:
                path = root / name
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.target").unlink(missing_ok=True)
                path.write_bytes(self._mutants.files[mutant.dataset][name])


def summary(outcomes: list[str]) -> str:
    """One word for what all steps gave."""
    if "unnamed" in outcomes:
        return "unnamed"
    errors = [outcome for outcome in outcomes if outcome.startswith("error")]
    if errors:
        only = errors == ["error in verify"]
        return (
            "verify alone"
            if only and "other" not in outcomes
            else "error and other values"
            if "other" in outcomes
            else "error"
        )
    return "other values" if "other" in outcomes else "as undamaged"


COLUMNS: list[tuple[str, Callable[[str], bool]]] = [
    ("named error of a reader", lambda outcome: outcome == "error"),
    ("named error of verify alone", lambda outcome: outcome == "verify alone"),
    ("named errors, and other values", lambda outcome: outcome == "error and other values"),
    ("other values", lambda outcome: outcome == "other values"),
    ("as undamaged", lambda outcome: outcome == "as undamaged"),
    ("anything else", lambda outcome: outcome == "unnamed" or outcome == "hang" or outcome.startswith("crash")),
]


def prepare(mutants: Mutants, tf: bool) -> Check:
    return Checker(mutants, tf)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="for one mutant")
    parser.add_argument("--mib", type=float, default=256.0, help="for one mutant, beyond what is held before")
    parser.add_argument("--tf", action="store_true", help="also tf.data, for one mutant in twenty")
    parser.add_argument("--number", type=int, help="of one mutant to try in this process")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz_dataset.json")
    args = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_datasets(Path(folder))
        mutants = Mutants(args.seed, Path(folder))
        if args.number is not None:
            return try_one(mutants, args.number, args.tf)
        limits = Limits(args.seconds, args.mib)
        for result in run(
            range(args.mutants), functools.partial(prepare, mutants, args.tf), limits, args.workers, Path(folder)
        ):
            mutant = mutants.make(result.number)
            what = f"{mutant.dataset}, {mutant.name}: {mutant.what}"
            tally.add(f"{mutant.kind}, {mutant.way}", result, what)
            if result.finding:
                print(f"number {result.number}, {mutant.way}, {what}\n{result.finding}\n", flush=True)
            if tally.tried % 1000 == 0:
                save(tally, args, began)
    print(tally.table(COLUMNS, "file, damage"))
    print(f"\n{len(tally.findings)} findings; at most {tally.peak_mib:.0f} MiB for one mutant")
    save(tally, args, began)
    return 1 if tally.findings else 0


def save(tally: Tally, args: argparse.Namespace, began: float) -> None:
    about = {"seed": args.seed, "mutants": tally.tried, "seconds": round(time.monotonic() - began, 1)}
    tally.save(args.json, about | {"pyarrow": pa.__version__, "tf": args.tf})


def try_one(mutants: Mutants, number: int, tf: bool) -> int:
    """Says of one mutant what each step gives."""
    mutant, checker = mutants.make(number), Checker(mutants, tf)
    print(mutant.dataset, mutant.kind, mutant.way, mutant.name, mutant.what, sep="\n")
    with checker.put(mutant) as root:
        for name, make in steps(root, DATASETS[mutant.dataset][1]).items():
            if name == "tf.data" and not tf:
                continue
            try:
                print(f"{name}: {given(make)}")
            except Exception:
                print(f"{name}: {traceback.format_exc()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
