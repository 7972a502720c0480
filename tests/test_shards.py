"""One shard: order, numbers, doubles, bad files, shared recordings, statistics, and an index that is right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from synth import encoded, speechlike, tone, write

from ge2e_transforms import schema, shards
from ge2e_transforms.audio import content_hash
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.errors import LedgerRow
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.planning import ShardTask
from ge2e_transforms.records import FOOTER_BYTES, HEADER_BYTES, decode_example, read_records
from ge2e_transforms.shards import ShardWriter, in_order
from ge2e_transforms.utterance import Utterance

RECIPE = Recipe()
RATE = 16000
TASK = ShardTask("train", 3, 8, 100, "0a1b2c3d")
TEST_TASK = TASK._replace(split="test")


class Written:
    """A shard as it was written: done content, index, and records by their offsets."""

    def __init__(self, folder, rows, task=TASK, recipe=RECIPE, open_audio=None, sources=("a", "b")):
        folder.mkdir(exist_ok=True)
        self.records_path, self.index_path = folder / "x.tfrecord", folder / "x.index.parquet"
        writer = ShardWriter(task, FeatureExtractor(recipe), sources, open_audio or str)
        self.done = writer.write(in_order(rows), self.records_path, self.index_path)
        self.records = {}
        with self.records_path.open("rb") as stream:
            for offset, data in read_records(stream, "x"):
                self.records[offset] = (*decode_example(data, "x"), len(data))
        self.index = pq.read_table(self.index_path).to_pylist() if self.index_path.stat().st_size else []

    @property
    def ids(self):
        return [(row["speaker_id"], row["utterance_id"]) for row in self.index]

    @property
    def ledger(self):
        return [LedgerRow(*entry) for entry in self.done["ledger"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("audio")


def row(folder, speaker="s", utterance="u", source="a", samples=None, **fields):
    """A row, and its file unless there is one."""
    path = folder / fields.pop("path", f"{speaker}-{utterance}.wav")
    if not path.exists():
        write(path, speechlike(len(utterance), 1.0) if samples is None else samples, RATE, subtype="PCM_16")
    values = {"manifest": "m.csv", "position": 0, **fields}
    return Utterance(str(path), speaker, source, utterance, source, **values)


def loads(monkeypatch):
    """Counts the recordings that are decoded from now on."""
    seen = []
    right = shards.audio.load
    monkeypatch.setattr(shards.audio, "load", lambda *a: seen.append(Path(a[0]).name) or right(*a))
    return seen


# Order and numbers.


def test_speakers_and_utterances_stand_in_sorted_order(folder, tmp_path):
    rows = [row(folder, speaker, utterance) for speaker in ("s2", "s10", "s1") for utterance in ("b", "a", "c")]
    written = Written(tmp_path / "1", rows)
    assert written.ids == sorted((r.speaker_key, r.utterance_id) for r in rows)
    assert [entry["label"] for entry in written.index] == [100] * 3 + [101] * 3 + [102] * 3
    assert [entry["utterance_index"] for entry in written.index] == [0, 1, 2] * 3
    assert written.ids[0] == ("a/s1", "a")
    assert written.ids[3] == ("a/s10", "a")


def test_the_order_of_rows_does_not_show(folder, tmp_path):
    rows = [row(folder, speaker, utterance) for speaker in ("s1", "s2") for utterance in ("a", "b", "c")]
    first, second = Written(tmp_path / "1", rows), Written(tmp_path / "2", rows[::-1])
    assert first.done == second.done
    for name in ("records_path", "index_path"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()


def test_sessions_are_dense_per_speaker_in_order_of_appearance(folder, tmp_path):
    rows = [
        row(folder, "s1", utterance, session_id=session)
        for utterance, session in (("a", "x9"), ("b", "x1"), ("c", "x9"), ("d", ""))
    ] + [row(folder, "s2", "a", session_id="x1")]
    index = Written(tmp_path / "1", rows).index
    assert [entry["session_index"] for entry in index] == [0, 1, 0, 2, 0]
    assert [entry["session_id"] for entry in index] == ["x9", "x1", "x9", "", "x1"]


def test_labels_go_on_after_a_speaker_who_fails(folder, tmp_path):
    missing = row(folder, "s2", "a")._replace(audio_path=str(folder / "nowhere.wav"))
    written = Written(tmp_path / "1", [row(folder, "s1", "a"), missing, row(folder, "s3", "a")])
    assert [(entry["speaker_id"], entry["label"]) for entry in written.index] == [("a/s1", 100), ("a/s3", 102)]
    assert (written.done["rows"], written.done["utterances"], written.done["speakers"]) == (3, 2, 2)


def test_sources_are_numbered_by_the_list_of_the_dataset(folder, tmp_path):
    rows = [row(folder, "s1", "a", source="b"), row(folder, "s1", "a", source="a")]
    index = Written(tmp_path / "1", rows).index
    assert [(entry["source"], entry["source_index"], entry["speaker_id"]) for entry in index] == [
        ("a", 0, "a/s1"),
        ("b", 1, "b/s1"),
    ]


# The index against the records.


def check_index(written, recipe):
    content = written.records_path.read_bytes()
    end = 0
    for entry in written.index:
        values, fields, length = written.records[entry["offset"]]
        assert entry["offset"] == end
        end += entry["length"]
        assert entry["length"] == length + HEADER_BYTES + FOOTER_BYTES
        stored = content[entry["payload_offset"] : entry["payload_offset"] + values.nbytes]
        assert stored == values.tobytes()
        assert entry["frames"] == len(values)
        assert fields == {
            schema.KEY_SPEAKER: entry["speaker_id"],
            schema.KEY_LABEL: entry["label"],
            schema.KEY_SOURCE: entry["source"],
            schema.KEY_SUBSET: entry["subset"],
            schema.KEY_UTTERANCE: entry["utterance_id"],
            schema.KEY_SESSION: entry["session_id"],
            schema.KEY_START: entry["start"],
            schema.KEY_LENGTH: entry["samples"],
        }
        scale = 32768 if recipe.feature.features == "raw" else 1
        exact = values.astype(np.float64) / scale
        np.testing.assert_allclose(entry["mean"], exact.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(entry["deviation"], exact.std(axis=0), rtol=1e-4, atol=1e-5)
    assert end == len(content) == written.done["records_bytes"]
    assert len(written.index) == len(written.records) == written.done["records"]


@pytest.mark.parametrize(
    "changes", [{}, {"features": "mfcc"}, {"features": "raw"}, {"segments": "windows", "crop_ms": 200}]
)
def test_the_index_says_what_the_records_hold(folder, tmp_path, changes):
    recipe = RECIPE.replace(**changes)
    rows = [row(folder, f"s{n % 3}", f"u{n}", subset="x", session_id=f"t{n % 2}", position=n) for n in range(7)]
    written = Written(tmp_path / "1", rows, recipe=recipe)
    check_index(written, recipe)
    table = pq.read_table(written.index_path)
    assert table.schema.equals(schema.index_schema(recipe.n_bins))
    assert written.done["frames"] == sum(entry["frames"] for entry in written.index)


def test_all_records_of_an_utterance_bear_the_hash_of_its_samples(folder, tmp_path):
    """Before the voice is found and the level set: two recipes see the same samples, two segments do not."""
    samples = np.rint(speechlike(5, 4.0) * 32768).astype(np.int16)
    rows = [row(folder, "s", "long5", samples=samples), row(folder, "t", "same", samples=samples, path="same5.flac")]
    rows += [row(folder, "s", f"part{n}", path="s-long5.wav", offset_s=n, duration_s=1.5) for n in (0, 1)]
    stored, _ = soundfile.read(folder / "s-long5.wav", dtype="float32")
    own = {"long5": stored, "same": stored, "part0": stored[:24_000], "part1": stored[16_000:40_000]}
    for number, changes in enumerate(({}, {"segments": "windows", "crop_ms": 200}, {"features": "raw"})):
        written = Written(tmp_path / str(number), rows, recipe=RECIPE.replace(**changes))
        found = {(entry["utterance_id"], entry["audio_hash"]) for entry in written.index}
        assert found == {(name, content_hash(values)) for name, values in own.items()}
    assert len(written.index) == 4


def test_a_record_is_what_the_extractor_gives(folder, tmp_path):
    samples = speechlike(3, 4.0)
    written = Written(tmp_path / "1", [row(folder, "s", "long", samples=samples)])
    stored, _ = soundfile.read(folder / "s-long.wav", dtype="float32")
    extraction = FeatureExtractor(RECIPE).extract(stored, utterance_id="long")
    (segment,) = extraction.segments
    (entry,) = written.index
    assert np.array_equal(written.records[0][0], segment.values)
    assert (entry["start"], entry["samples"], entry["flags"]) == (segment.start, segment.samples, 0)
    assert entry["voiced_fraction"] == np.float32(extraction.voiced_fraction)
    assert entry["gain_db"] == np.float32(extraction.gain_db)
    assert entry["audio_path"] == str(folder / "s-long.wav")


def test_the_done_content_is_pinned_and_plain(folder, tmp_path):
    written = Written(tmp_path / "1", [row(folder)])
    done = written.done
    assert json.loads(json.dumps(done)) == done
    assert set(done) == {
        "generation", "split", "shard", "shards", "rows", "utterances", "speakers", "copies", "sped",
        "records", "frames", "filtered", "rejected", "ledger", "statistics",
        "records_bytes", "records_sha256", "index_bytes", "index_sha256",
    }  # fmt: skip
    assert (done["generation"], done["split"], done["shard"], done["shards"]) == ("0a1b2c3d", "train", 3, 8)
    for name, path in (("records", written.records_path), ("index", written.index_path)):
        assert done[f"{name}_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert done[f"{name}_bytes"] == path.stat().st_size


def test_parts_of_a_long_utterance_are_one_utterance(folder, tmp_path):
    samples = speechlike(1, 7.0)
    rows = [row(folder, "s", "parts", samples=samples), row(folder, "s", "z")]
    written = Written(tmp_path / "1", rows, recipe=RECIPE.replace(max_part_s=2))
    parts = [entry for entry in written.index if entry["utterance_id"] == "parts"]
    assert len(parts) > 2
    assert {entry["utterance_index"] for entry in parts} == {0}
    assert {entry["flags"] for entry in parts} == {schema.FLAG_PART}
    assert written.index[-1]["utterance_index"] == 1
    assert written.done["utterances"] == 2


# Statistics.


@pytest.mark.parametrize("features", ["logmel", "raw"])
def test_statistics_are_those_of_numpy(folder, tmp_path, features):
    rows = [row(folder, f"s{n % 2}", f"u{n}") for n in range(5)]
    recipe = RECIPE.replace(features=features)
    written = Written(tmp_path / "1", rows, recipe=recipe)
    scale = 32768 if features == "raw" else 1
    frames = np.concatenate([values for values, _, _ in written.records.values()]).astype(np.float64) / scale
    statistics = written.done["statistics"]
    assert statistics["frames"] == len(frames) == written.done["frames"]
    mean = np.array(statistics["sums"]) / len(frames)
    deviation = np.sqrt(np.array(statistics["squares"]) / len(frames) - mean**2)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(deviation, frames.std(axis=0), rtol=1e-7)


# Rows that are not written.


def test_of_doubles_the_first_by_manifest_and_position_stays(folder, tmp_path):
    rows = [
        row(folder, "s", "u", manifest="m2.csv", position=5, samples=tone(200, 1.0), path="1.wav"),
        row(folder, "s", "u", manifest="m1.csv", position=90, samples=tone(300, 1.1), path="2.wav"),
        row(folder, "s", "u", manifest="m1.csv", position=10, samples=tone(400, 1.2), path="3.wav"),
        row(folder, "t", "u", manifest="m9.csv", samples=tone(500, 1.3), path="4.wav"),  # another speaker
    ]
    written = Written(tmp_path / "1", rows)
    assert [(entry["speaker_id"], Path(entry["audio_path"]).name) for entry in written.index] == [
        ("a/s", "3.wav"),
        ("a/t", "4.wav"),
    ]
    assert [(entry.manifest, entry.position, entry.kind, entry.stage, entry.reason) for entry in written.ledger] == [
        ("m1.csv", 90, "rejected", "manifest", "doubled_utterance"),
        ("m2.csv", 5, "rejected", "manifest", "doubled_utterance"),
    ]
    assert "stands before, in m1.csv at 10" in written.ledger[0].detail
    assert "in m1.csv at 10" in written.ledger[1].detail
    assert written.done["rejected"] == {"doubled_utterance": 2}


def test_the_double_of_a_bad_row_takes_its_place(folder, tmp_path):
    bad = row(folder, "s", "u", position=1)._replace(audio_path=str(folder / "nowhere.wav"))
    written = Written(tmp_path / "1", [bad, row(folder, "s", "u", position=2)])
    assert len(written.index) == 1
    assert [(entry.position, entry.reason) for entry in written.ledger] == [(1, "missing")]


def test_bad_rows_are_in_the_ledger_and_the_rest_is_unharmed(folder, tmp_path):
    good = [row(folder, "s1", f"g{n}", position=n) for n in range(3)]
    (folder / "text.flac").write_text("not audio at all, but text that goes on for a while\n" * 20)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.wav").write_bytes(encoded(speechlike(1, 1.0), RATE)[:9000])
    write(folder / "silent.wav", np.zeros(RATE), RATE)
    write(folder / "short.wav", tone(300, 0.2), RATE)
    write(folder / "nan.wav", np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    names = ["text.flac", "empty.wav", "cut.wav", "silent.wav", "short.wav", "nan.wav", "nowhere.wav"]
    bad = [row(folder, "s1", "g1")._replace(audio_path=str(folder / n), utterance_id=f"g1{n}") for n in names]
    bad += [good[0]._replace(utterance_id="g1x", channel=1), good[0]._replace(utterance_id="g1y", offset_s=50.0)]
    alone, mixed = Written(tmp_path / "1", good), Written(tmp_path / "2", good + bad)
    assert mixed.records_path.read_bytes() == alone.records_path.read_bytes()
    assert mixed.index_path.read_bytes() == alone.index_path.read_bytes()
    assert {Path(entry.audio_path).name: entry.reason for entry in mixed.ledger[:7]} == {
        "text.flac": "not_audio",
        "empty.wav": "empty",
        "cut.wav": "truncated",
        "silent.wav": "silent",
        "short.wav": "too_short",
        "nan.wav": "non_finite",
        "nowhere.wav": "missing",
    }
    assert [entry.reason for entry in mixed.ledger[7:]] == ["no_such_channel", "truncated"]
    assert mixed.done["filtered"] == {"too_short": 1}
    assert sum(mixed.done["rejected"].values()) == 8
    assert mixed.done["rows"] == mixed.done["utterances"] + 9 == 12
    first = mixed.ledger[0]
    assert (first.speaker_id, first.utterance_id, first.manifest) == ("a/s1", "g1cut.wav", "m.csv")


def test_any_other_exception_is_not_caught(folder, tmp_path):
    def broken(location):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Written(tmp_path / "1", [row(folder)], open_audio=broken)


def test_held_out_splits_keep_all(folder, tmp_path):
    rows = [row(folder, "s", "tiny", samples=tone(300, 0.1)), row(folder, "s", "zzz")]
    assert Written(tmp_path / "1", rows).ids == [("a/s", "zzz")]
    kept = Written(tmp_path / "2", rows, task=TEST_TASK)
    assert kept.ids == [("a/s", "tiny"), ("a/s", "zzz")]
    assert kept.index[0]["flags"] == schema.FLAG_SHORT | schema.FLAG_UNVOICED
    assert kept.done["filtered"] == {}
    assert kept.done["split"] == "test"


def test_an_empty_shard_is_two_empty_files(folder, tmp_path):
    nothing = Written(tmp_path / "1", [])
    only_bad = Written(tmp_path / "2", [row(folder)._replace(audio_path=str(folder / "nowhere.wav"))])
    for written in (nothing, only_bad):
        assert written.records_path.read_bytes() == b"" == written.index_path.read_bytes()
        assert (written.done["records_bytes"], written.done["index_bytes"], written.done["records"]) == (0, 0, 0)
        assert written.done["statistics"] == {"frames": 0, "sums": [], "squares": []}
    assert (only_bad.done["rows"], only_bad.done["speakers"]) == (1, 0)


# Recordings.


def segments_of(folder, name, count, speaker="s", **fields):
    """Rows that are pieces of one recording, a second each."""
    return [
        row(folder, speaker, f"{name}{n}", path=f"{name}.wav", offset_s=float(n), duration_s=1.0, position=n, **fields)
        for n in range(count)
    ]


def test_rows_that_share_a_recording_share_its_decoding(folder, tmp_path, monkeypatch):
    for name in ("talk", "walk"):
        write(folder / f"{name}.wav", speechlike(len(name), 5.0), RATE)
    rows = segments_of(folder, "talk", 5) + segments_of(folder, "walk", 4)
    # By utterance ids the two recordings alternate.
    rows = [r._replace(utterance_id=f"{r.position}{r.utterance_id}") for r in rows]
    seen = loads(monkeypatch)
    opened = []
    written = Written(tmp_path / "1", rows, open_audio=lambda location: opened.append(location) or location)
    assert seen == ["talk.wav", "walk.wav"]
    assert len(opened) == 2
    assert len(written.index) == 9


def test_pieces_are_the_pieces_of_the_recording(folder, tmp_path):
    samples = speechlike(9, 3.0)
    write(folder / "pieces.wav", samples, RATE, subtype="FLOAT")
    recipe = PRESETS["ge2e"].replace(features="raw", voice="none")
    written = Written(tmp_path / "1", segments_of(folder, "pieces", 3), recipe=recipe)
    for number, (values, _, _) in enumerate(written.records.values()):
        expected = np.rint(samples[number * RATE : (number + 1) * RATE] * 32768)
        assert values[:, 0].tolist() == expected.tolist()


def test_channels_of_a_recording_are_decoded_each(folder, tmp_path, monkeypatch):
    stereo = np.stack([tone(300, 1.0), tone(600, 1.0, level=0.1)], axis=1)
    rows = [row(folder, "s", f"c{n}", path="stereo.wav", samples=stereo, channel=n) for n in (0, 1)]
    rows.append(row(folder, "s", "mean", path="stereo.wav"))
    seen = loads(monkeypatch)
    written = Written(tmp_path / "1", rows, recipe=RECIPE.replace(features="raw", voice="none"))
    assert seen == ["stereo.wav"] * 3
    peaks = [int(np.abs(values).max()) for values, _, _ in written.records.values()]
    assert [round(peak / 32768, 1) for peak in peaks[:2]] == [0.5, 0.1]


def test_a_bad_recording_is_tried_once_and_named_in_each_row(folder, tmp_path, monkeypatch):
    (folder / "bad.wav").write_text("no audio")
    seen = loads(monkeypatch)
    written = Written(tmp_path / "1", [*segments_of(folder, "bad", 4), row(folder, "t", "u")])
    assert seen.count("bad.wav") == 1
    assert written.done["rejected"] == {"not_audio": 4}
    assert [entry.position for entry in written.ledger] == [0, 1, 2, 3]
    assert len({id(entry) for entry in written.ledger}) == 4


def test_bytes_of_an_object_serve_as_well_as_a_path(folder, tmp_path):
    rows = [row(folder, "s", "u"), row(folder, "s", "v")]
    local = Written(tmp_path / "1", rows)
    fetched = Written(tmp_path / "2", rows, open_audio=lambda location: Path(location).read_bytes())
    assert fetched.done == local.done
