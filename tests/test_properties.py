"""Whatever is read: values or a named error, never another exception, and nothing lost.

`GE2E_EXAMPLES=100` tries a hundred times as many examples as a usual run; where CI=true they are the same every time.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ge2e_transforms import lengths, schema
from ge2e_transforms.config import PRESETS, Recipe, canonical_json, parse_setting
from ge2e_transforms.errors import ConfigError, CorruptRecordError, LedgerRow, ManifestError, PlanError
from ge2e_transforms.manifest import read_rows, write_manifest
from ge2e_transforms.places import permitted
from ge2e_transforms.planning import PlanConfig, make_plan
from ge2e_transforms.records import decode_example, encode_record, frame, read_records
from ge2e_transforms.row_chunks import pack, place, unpack
from ge2e_transforms.utterance import Utterance

TIMES = float(os.environ.get("GE2E_EXAMPLES", "1"))


def examples(usual: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """How often a property is tried."""
    fixed = os.environ.get("CI", "").lower() in ("1", "true")
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=max(1, round(usual * TIMES)), derandomize=fixed, deadline=None, suppress_health_check=slow
    )


# Bytes that are nearly what they should be.


@st.composite
def edited(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes with a few of them changed, left out, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        kind = draw(st.sampled_from(["change", "cut", "double", "insert", "end"]))
        if kind == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=length))
        elif kind == "end":
            del data[at:]
    return bytes(data)


# Manifests.

ROWS = [
    {"audio_path": f"a/{n}.wav", "speaker_id": f"s{n}", "split": "", "duration_s": 1.5 * n, "session_id": 'x,"y"'}
    for n in range(4)
]


def csv_text() -> bytes:
    stream = io.BytesIO()
    write_manifest(stream, [Utterance(f"a/{n}.wav", f"s{n}", "n", f'u,"{n}"', "x", "", "", "ä") for n in range(4)])
    return stream.getvalue()


def parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, **options)
    return sink.getvalue()


JSON_TEXT = "\n".join(map(json.dumps, ROWS)).encode()
WHOLE = {
    "m.csv": csv_text(),
    "m.jsonl": JSON_TEXT,
    "m.csv.gz": gzip.compress(csv_text(), mtime=0),
    "m.jsonl.gz": gzip.compress(JSON_TEXT, mtime=0),
    "m.parquet": parquet(),
    "plain/m.parquet": parquet(use_dictionary=False, compression="none", version="1.0"),
}
SIGNS = st.text(alphabet='a",\n\r\0é\ufeff\u202e{}[]:=\\ \ud800', max_size=80).map(lambda t: t.encode(errors="replace"))
MANIFESTS = st.one_of(
    *(st.tuples(st.just(name), edited(whole)) for name, whole in WHOLE.items()),
    st.tuples(st.sampled_from(sorted(WHOLE)), st.binary(max_size=200)),
    st.tuples(st.just("m.csv"), SIGNS.map(b"audio_path,speaker_id\n".__add__)),
    st.tuples(st.just("m.jsonl"), SIGNS),
)


def read(name: str, data: bytes) -> list[Utterance | LedgerRow] | None:
    """None for a manifest that cannot be used."""
    try:
        return list(permitted(read_rows(io.BytesIO(data), name)))
    except ManifestError as error:
        assert name in str(error)
        return None


@examples(400)
@given(MANIFESTS)
def test_any_bytes_are_rows_that_lie_in_the_manifest(manifest: tuple[str, bytes]) -> None:
    name, data = manifest
    rows = read(name, data)
    if rows is None:
        return
    positions = [row.position for row in rows]
    assert positions == sorted(set(positions))
    end = len(data)
    if name.endswith(".gz"):
        end = len(gzip.decompress(data))
    elif name.endswith(".parquet"):
        assert positions == list(range(len(rows)))
    assert name.endswith(".parquet") or all(0 <= position < end for position in positions)
    for row in rows:
        "".join(value for value in row if isinstance(value, str)).encode()
        assert row.manifest == name
        if isinstance(row, Utterance):
            assert not [text for text in row[1:8] if not text.isprintable() and any(sign < " " for sign in text)]
            assert not row.audio_path.startswith("../")


@examples(150)
@given(MANIFESTS)
def test_rows_that_are_written_are_read_again(manifest: tuple[str, bytes]) -> None:
    rows = [row for row in read(*manifest) or [] if isinstance(row, Utterance)]
    stream = io.BytesIO()
    write_manifest(stream, rows)
    again = list(read_rows(io.BytesIO(stream.getvalue()), "m.csv"))
    assert [row._replace(manifest="", position=0) for row in again] == [
        row._replace(audio_path=row.location, manifest="", position=0) for row in rows
    ]


# Configs.

FIELDS = sorted(name for stage in dataclasses.asdict(Recipe()).values() for name in stage)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["logmel", "raw", "hann", "mean", "htk", "join", 16000, 512, 40, 0.5, 7600, -1, 0])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def check_recipe(recipe: Recipe) -> None:
    text = canonical_json(recipe.to_dict())
    again = Recipe.from_dict(json.loads(text))
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    assert canonical_json(again.to_dict()) == text


@examples(120)
@given(st.sampled_from(sorted(PRESETS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
def test_fields_of_any_value_give_a_recipe_or_a_config_error(preset: str, fields: dict[str, Any]) -> None:
    try:
        recipe = PRESETS[preset].replace(**fields)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    check_recipe(recipe)


@examples(100)
@given(
    st.dictionaries(st.sampled_from(sorted(Recipe().to_dict())) | st.text(max_size=3) | st.integers(), VALUES) | VALUES
)
def test_a_recipe_of_any_form_is_one_or_a_config_error(stages: Any) -> None:
    try:
        recipe = Recipe.from_dict(stages)
    except ConfigError:
        return
    check_recipe(recipe)


@examples(150)
@given(
    st.text(max_size=30)
    | st.builds(lambda name, value: f"{name}={value}", st.sampled_from(FIELDS), st.text(max_size=20))
    | st.builds(lambda name, value: f"{name}={json.dumps(value)}", st.sampled_from(FIELDS), VALUES)
    | st.builds(
        lambda sign, times: "n_mels=" + sign * times, st.sampled_from(["[", '{"a":', "9"]), st.integers(1, 50_000)
    )
)
def test_settings_of_any_text_are_a_recipe_or_a_config_error(text: str) -> None:
    try:
        recipe = Recipe().replace(**dict([parse_setting(text)]))
    except ConfigError:
        return
    check_recipe(recipe)


# Plans.

NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=6).filter(str.strip)
PLANNED = st.lists(
    st.builds(
        Utterance,
        audio_path=st.integers(0, 99).map(lambda n: f"{n}.wav"),
        speaker_id=NAMES | st.sampled_from(["s", "s/", "t", "\u00e9", "e\u0301"]),
        namespace=st.sampled_from(["n", "m", "n\U0001f600"]),
        utterance_id=NAMES,
        source=st.sampled_from(["x", "y"]),
        subset=st.just(""),
        split=st.sampled_from(["", "", "", "train", "test", "dev"]),
        session_id=st.just(""),
        channel=st.none(),
        offset_s=st.none() | st.floats(0, 100),
        bytes=st.none() | st.integers(0, 2**53),
        manifest=st.just("/m.csv"),
        position=st.integers(0, 2**40),
        duration_s=st.none() | st.floats(1e-3, 2.0**53),
    ),
    min_size=1,
    max_size=30,
)
PLANS = st.builds(
    PlanConfig,
    test_speakers=st.integers(0, 3),
    valid_fraction=st.sampled_from([0.0, 0.2, 0.9]),
    shard_mib=st.sampled_from([0.01, 0.3, 128.0]),
    min_shards=st.integers(1, 20),
    split_salt=st.text(st.characters(blacklist_categories=["Cs"]), max_size=10),
)


@examples(150)
@given(PLANNED, PLANS, st.integers(1, 4))
def test_every_row_comes_to_one_shard_of_its_speakers_split(
    rows: list[Utterance], config: PlanConfig, readers: int
) -> None:
    recipe = Recipe()
    chunks, sent = [], []
    for part in (rows[start::readers] for start in range(min(readers, len(rows)))):
        sums: lengths.Lengths = {}
        chunks.append(pack(part, recipe.audio.max_seconds, sums))
        sent += [packed for _, packed in lengths.pack(sums)]
    try:
        plan = make_plan([total for packed in sent for total in lengths.totals(packed)], [], config, recipe)
    except PlanError:
        return
    landed: dict[int, list[Utterance]] = {}
    for chunk in chunks:
        for shard, parcel in place(chunk, plan).items():
            landed.setdefault(shard, []).extend(unpack(parcel))
    assert sorted(map(repr, (row for group in landed.values() for row in group))) == sorted(map(repr, rows))
    assert set(landed) <= set(range(len(plan.tasks)))
    splits: dict[str, set[str]] = {}
    for shard, group in landed.items():
        for row in group:
            splits.setdefault(row.speaker_key, set()).add(plan.tasks[shard].split)
            assert plan.tasks[shard].split == (row.split or plan.rule.split_of(row.speaker_key))
    assert all(len(found) == 1 for found in splits.values())
    check_labels(landed, plan.tasks, len(splits))


def check_labels(landed: dict[int, list[Utterance]], tasks: list[Any], speakers: int) -> None:
    """A worker counts from the label of its shard: every speaker has one label, and no two have the same."""
    labels: dict[int, set[str]] = {}
    for shard, group in landed.items():
        for rank, speaker in enumerate(sorted({row.speaker_key for row in group})):
            labels.setdefault(tasks[shard].label + rank, set()).add(speaker)
    assert all(len(found) == 1 for found in labels.values())
    assert sorted(labels) == list(range(speakers))


# Records.

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
RECORDS = st.tuples(
    st.sampled_from(["<f4", "<f2", "<i2"]),
    st.integers(0, 5),
    st.integers(1, 4),
    st.binary(min_size=80, max_size=80),
    st.fixed_dictionaries(dict.fromkeys((schema.KEY_SPEAKER, schema.KEY_UTTERANCE, schema.KEY_SUBSET), TEXTS)),
    st.fixed_dictionaries({key: st.integers(0, 2**63 - 1) for key in (schema.KEY_LABEL, schema.KEY_START)}),
)


def made(record: tuple[Any, ...]) -> tuple[np.ndarray[Any, Any], dict[str, str | int], bytes]:
    """Values, fields, and the framed record of them."""
    kind, rows, bins, content, texts, numbers = record
    values = np.frombuffer(content, dtype=kind)[: rows * bins].reshape(rows, bins)
    fields = {**texts, **numbers}
    return values, fields, encode_record(values, fields)[0]


@examples(200)
@given(RECORDS)
def test_what_is_encoded_is_decoded(record: tuple[Any, ...]) -> None:
    values, fields, framed = made(record)
    ((_, data),) = read_records(io.BytesIO(framed), "r")
    again, found = decode_example(data, "r")
    assert found == fields
    assert again.dtype == values.dtype
    assert again.shape == values.shape
    assert again.tobytes() == values.tobytes()


@examples(150)
@given(st.data(), RECORDS)
def test_records_that_were_changed_are_found(data: st.DataObject, record: tuple[Any, ...]) -> None:
    """By their checksums, unless the change is none."""
    framed = made(record)[2]
    changed = data.draw(edited(framed))
    try:
        found = [content for _, content in read_records(io.BytesIO(changed), "r")]
    except CorruptRecordError:
        return
    # Whole records remain: none, the one that was there, or it and itself again.
    assert changed == framed * len(found)


@examples(300)
@given(st.data(), RECORDS)
def test_messages_of_any_bytes_are_values_or_a_corrupt_record(data: st.DataObject, record: tuple[Any, ...]) -> None:
    """Under a checksum that fits, as whoever makes a file can make that too."""
    ((_, whole),) = read_records(io.BytesIO(made(record)[2]), "r")
    message = data.draw(edited(whole) | st.binary(max_size=60))
    ((_, read_back),) = read_records(io.BytesIO(frame(message)), "r")
    try:
        values, fields = decode_example(read_back, "r")
    except CorruptRecordError:
        return
    assert values.ndim == 2
    assert all(isinstance(value, str | int) for value in fields.values())
