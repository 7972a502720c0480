"""Each check of `audit` on a dataset that was made for it, and what it must not find."""

from __future__ import annotations

import json
import shutil

import augmented
import jobs
import numpy as np
import programs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3_server
import soundfile
from small_dataset import write_dataset, write_metadata
from synth import small_corpus, speechlike, write

from ge2e_transforms import audit as module
from ge2e_transforms import schema
from ge2e_transforms.audit import CHECKS, ROWS, audit, normal_form, split_rule
from ge2e_transforms.audit_contents import codes
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.deny_list import parse_deny_list
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.planning import PlanConfig
from pipeline.commit import commit

pytestmark = pytest.mark.usefixtures("unsynced")

RECIPE = Recipe().replace(n_mels=8)
HEADER_OF_SPEECH = "audio_path,speaker_id,namespace,utterance_id,source"
HEADER = f"{HEADER_OF_SPEECH},split,offset_s,duration_s"


def made(output, manifest, recipe=RECIPE, **plan):
    """A dataset as `ge2e run` makes it, without Beam."""
    job = jobs.job(output, manifest, recipe=recipe, plan=PlanConfig(**plan))
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    return output


def voice(folder, name, seed):
    """A recording of 1.3 s; one seed is one sentence, whatever the format."""
    return write(folder / name, np.rint(speechlike(seed, 1.3) * 32768).astype(np.int16), 16000, subtype="PCM_16").name


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    manifest = small_corpus(tmp_path_factory.mktemp("corpus"), speakers=6, utterances=2, seconds=1.2)
    return made(tmp_path_factory.mktemp("clean") / "dataset", manifest, test_fraction=0.4)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """What may go wrong in manifests, once each."""
    folder = tmp_path_factory.mktemp("corpus")
    wav = {number: voice(folder, f"{number}.wav", number) for number in range(10)}
    long = write(folder / "long.wav", speechlike(99, 4.0), 16000, subtype="PCM_16").name
    rows = [
        (wav[0], "anna", "x", "a0", "x1", "train"),
        (voice(folder, "0.flac", 0), "berta", "y", "b0", "y", "train"),  # the same sentence as anna's
        (voice(folder, "again.wav", 1), "anna", "x", "a1", "x1", "train"),
        (wav[1], "anna", "x", "a2", "x1", "train"),  # the one before again
        (wav[2], "carl", "x", "c0", "x1", "train"),
        (voice(folder, "2.flac", 2), "dora", "y", "d0", "y", "test"),  # carl's, in another split
        (wav[3], "id1", "x", "e0", "x1", "train"),
        (wav[4], "id1", "x", "e1", "x2", "train"),  # one id in two sources of one namespace
        (wav[5], "P_007", "y", "f0", "y", "train"),
        (wav[6], "p-7", "y", "g0", "y", "train"),  # differs in case, separator and zeros
        (wav[7], "1001", "y", "h0", "y", "train"),
        (wav[8], "1001", "Y", "i0", "Y", "train"),  # namespaces that differ in case only
        (wav[9], "1002", "y", "j0", "y", "train"),
        (long, "paul", "y", "k0", "y", "train", 0, 2),
        (long, "paul", "y", "k1", "y", "train", 2, 2),
    ]
    manifest = jobs.write_rows(folder / "m.csv", [(*row, "", "")[:8] for row in rows], HEADER)
    return made(tmp_path_factory.mktemp("spoilt") / "dataset", manifest)


def found(root, deny=""):
    """Findings by (check, severity): groups of (split, speaker, utterance)."""
    report = audit(Dataset.open(root), parse_deny_list(deny.encode(), "list"))
    groups = {}
    for finding in report.findings:
        assert finding.rows.schema == ROWS
        own = groups.setdefault((finding.check, finding.severity), {})
        for row in finding.rows.to_pylist():
            own.setdefault(row["group"], []).append((row["split"], row["speaker_id"], row["utterance_id"]))
        assert list(own) == list(range(1, finding.count + 1))
        assert finding.text.startswith(f"{finding.count} {CHECKS[finding.check][0]}")
    assert report.failed == any(severity == "fail" for _, severity in groups)
    return {key: [sorted(rows) for rows in own.values()] for key, own in groups.items()}


def rewrite(root, pattern, change):
    """Rewrites tables, their rows as dicts, in step with metadata."""
    metadata = json.loads((root / "metadata.json").read_text())
    for path in sorted(root.glob(pattern)):
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
        for entry in (entry for entries in metadata["shards"].values() for entry in entries):
            if schema.shard_files(entry["base"])[1] == str(path.relative_to(root)):
                entry.update(index_bytes=path.stat().st_size, index_sha256=jobs.sha256(path))
        if metadata["speakers"]["path"] == path.name:
            metadata["speakers"].update(bytes=path.stat().st_size, rows=len(rows), sha256=jobs.sha256(path))
    write_metadata(root, metadata)


def test_nothing_is_found_in_a_clean_dataset(clean):
    report = audit(Dataset.open(clean))
    assert (report.utterances, report.speakers, report.findings, report.deny_lists) == (12, 6, [], [])
    assert not report.failed


def test_everything_that_went_wrong_is_found_and_nothing_else(spoilt):
    assert found(spoilt) == {
        ("same_audio_two_speakers", "fail"): [
            [("train", "x/anna", "a0"), ("train", "y/berta", "b0")],
            [("test", "y/dora", "d0"), ("train", "x/carl", "c0")],
        ],
        ("same_audio_twice", "warn"): [[("train", "x/anna", "a1"), ("train", "x/anna", "a2")]],
        ("id_in_two_sources", "warn"): [[("train", "x/id1", ""), ("train", "x/id1", "")]],
        ("near_equal_ids", "warn"): [
            [("train", "Y/1001", ""), ("train", "y/1001", "")],
            [("train", "y/P_007", ""), ("train", "y/p-7", "")],
        ],
    }


def test_rows_say_which_recording_and_which_source(spoilt):
    report = audit(Dataset.open(spoilt))
    two, twice, sources, _ = report.findings
    assert set(two.rows["detail"].to_pylist()) == {"0.wav", "0.flac", "2.wav", "2.flac"}
    assert two.text == "2 recording(s) under two or more speakers (1 of them in two splits)"
    assert sorted(twice.rows["detail"].to_pylist()) == ["1.wav", "again.wav"]
    assert sources.rows["source"].to_pylist() == ["x1", "x2"]
    assert sources.rows["detail"].to_pylist() == ["1 utterance(s)"] * 2


def test_a_speaker_in_two_splits_is_found_by_the_records(spoilt, tmp_path):
    """The speakers table still says that the splits are disjoint."""
    root = shutil.copytree(spoilt, tmp_path / "copy")
    rewrite(root, "test/*.index.parquet", lambda rows: [row.update(speaker_id="x/carl") for row in rows])
    changed = found(root)
    carl = [("test", "x/carl", ""), ("train", "x/carl", "")]
    assert changed["split_overlap", "fail"] == [sorted([*carl, carl[1]])]
    # It is one speaker's audio now, in two splits.
    assert changed["same_audio_twice", "fail"] == [[("test", "x/carl", "d0"), ("train", "x/carl", "c0")]]
    assert len(changed["same_audio_twice", "warn"]) == len(changed["same_audio_two_speakers", "fail"]) == 1


def test_a_speaker_in_two_splits_is_found_by_the_speakers_table(clean, tmp_path):
    root = shutil.copytree(clean, tmp_path / "copy")
    rewrite(root, "speakers-*.parquet", lambda rows: rows.append({**rows[0], "split": "test", "label": 99}))
    assert [rows[0][0] for rows in found(root)["split_overlap", "fail"]] == ["test"]


def test_a_hash_that_two_recordings_of_other_lengths_share_is_no_double(clean, tmp_path):
    root = shutil.copytree(clean, tmp_path / "copy")
    rewrite(root, "train/*.index.parquet", lambda rows: [row.update(audio_hash=7) for row in rows])
    lengths = [
        (row["samples"], row["speaker_id"], row["utterance_id"])
        for path in root.glob("train/*.index.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    same = {samples for samples, *_ in lengths if sum(samples == other for other, *_ in lengths) > 1}
    assert 0 < len(same) < len(lengths)
    groups = found(root)["same_audio_two_speakers", "fail"]
    assert sorted(map(len, groups)) == sorted(sum(samples == other for other, *_ in lengths) for samples in same)


@pytest.mark.parametrize("changes", [{"segments": "windows", "crop_ms": 200}, {"max_part_s": 2.0, "crop_ms": 200}])
def test_the_records_of_one_utterance_are_no_doubles(tmp_path, changes):
    write(tmp_path / "a.wav", speechlike(1, 6.0), 16000)
    manifest = jobs.write_rows(tmp_path / "m.csv", [("a.wav", "s")])
    root = made(tmp_path / "dataset", manifest, RECIPE.replace(**changes))
    report = audit(Dataset.open(root))
    assert Dataset.open(root).metadata["splits"]["train"]["records"] > 2
    assert (report.utterances, report.speakers, report.findings) == (1, 1, [])


def test_speakers_in_parts_and_empty_shards_are_counted_once(spoilt, tmp_path):
    """The same findings where a speaker lies in several shards and some shards hold nothing."""
    manifest = Dataset.open(spoilt).metadata["manifests"][0]["path"]
    root = made(tmp_path / "dataset", manifest, shard_mib=0.002)
    shards = Dataset.open(root).shards("train")
    assert len(shards) > len(Dataset.open(spoilt).shards("train"))
    assert not all(entry["records"] for entry in shards)
    assert found(root) == found(spoilt)


def test_a_split_without_records_and_no_speaker_at_all(tmp_path):
    report = audit(Dataset.open(write_dataset(tmp_path, {"train": {}})), parse_deny_list(b"a/b\n*/* u*", "list"))
    assert (report.utterances, report.speakers, report.findings) == (0, 0, [])
    assert [count[1:] for count in report.deny_lists] == [(2, 0, 0, 2)]


# Splits.


def test_the_rule_of_the_splits_is_told(clean, spoilt, tmp_path):
    assert split_rule(Dataset.open(spoilt)) == (
        "as the manifests name them; a speaker for whom they name none is in train"
    )
    drawn = "as the manifests name them; of the other speakers {} are drawn by a hash with the salt {}"
    assert audit(Dataset.open(clean)).split_rule == drawn.format("test_fraction=0.4", "'ge2e'")
    dataset = Dataset.open(clean)
    dataset.metadata["plan"] |= {"test_fraction": 0, "test_speakers": 3, "valid_fraction": 0.25, "split_salt": "\x1b["}
    told = "test_speakers=3 and valid_fraction=0.25"
    assert split_rule(dataset) == drawn.format(told, r"'\x1b['")
    del dataset.metadata["plan"]
    with pytest.raises(DatasetError, match=r"metadata.json: plan missing: the file is damaged"):
        audit(dataset)


# Ids.


@pytest.mark.parametrize(
    "same",
    [
        ("spk1", "Spk1", "SPK_1", "spk 01", "spk-001", "spk.1", "ｓｐｋ１", "s.p_k--1", "_spk1-"),  # noqa: RUF001
        ("1-12", "1_12", "01 012", "1.-012"),
        ("0", "00", "-0"),
        ("STRASSE", "straße"),
        ("é", "e\u0301", "É"),
        ("VoxCeleb/id1", "vox_celeb/ID0001"),
    ],
)
def test_near_equal_ids_have_one_normal_form(same):
    assert len(set(map(normal_form, same))) == 1


def test_ids_of_different_people_have_different_normal_forms():
    """No edit distance: neighbours among numbers are different people."""
    ids = ["1001", "1002", "101", "10", "100", "1-12", "11-2", "112", "a1", "a11", "a/1", "voxceleb1/a", "voxceleb2/a"]
    assert len(set(map(normal_form, ids))) == len(ids)


# Deny-lists.


def test_what_a_list_denies_is_found_in_train_only(spoilt):
    deny = "# list\nx/carl\ny/dora\ny/p* g*\nx/anna a9\nx/anna a1\nz/*\nx/* a1\nY/*\n"
    assert found(spoilt, deny)["denied", "fail"] == [
        [("train", "Y/1001", "")],
        [("train", "x/carl", "")],
        [("train", "x/anna", "a1")],
        [("train", "y/p-7", "g0")],
    ]
    report = audit(Dataset.open(spoilt), [*parse_deny_list(deny.encode(), "list"), *parse_deny_list(b"q/q", "other")])
    assert [tuple(count) for count in report.deny_lists] == [("list", 8, 5, 1, 2), ("other", 1, 0, 0, 1)]
    (denied,) = (finding for finding in report.findings if finding.check == "denied")
    assert denied.rows["detail"].to_pylist() == ["list:9", "list:2", "list:6", "list:4"]


def test_a_list_that_names_nobody_in_train_is_in_order(clean, spoilt):
    assert found(clean, "x/*\nsynth/spk99\nsynth/spk00 nothing\n") == {}
    assert ("denied", "fail") not in found(spoilt, "y/dora\ny/dora d0\n")


def test_utterances_are_denied_in_every_part_of_a_speaker(spoilt, tmp_path):
    manifest = Dataset.open(spoilt).metadata["manifests"][0]["path"]
    root = made(tmp_path / "dataset", manifest, shard_mib=0.002)
    assert sorted(found(root, "x/anna *\n")["denied", "fail"]) == [
        [("train", "x/anna", name)] for name in ("a0", "a1", "a2")
    ]


# Numbers.


@pytest.mark.parametrize("step", [3, 1 << 20])
def test_values_that_stand_twice_are_those_of_a_count(monkeypatch, step):
    monkeypatch.setattr(module, "_STEP", step)
    values = np.random.default_rng(0).integers(-300, 300, 400)
    names, counts = np.unique(values, return_counts=True)
    assert np.array_equal(module._doubled(values), np.flatnonzero(np.isin(values, names[counts > 1])))
    assert len(module._doubled(np.arange(10))) == len(module._doubled(values[:0])) == 0


def test_codes_go_on_from_chunk_to_chunk():
    chunks = pa.chunked_array([["b", "a"], [], ["c", "a"], ["b", "d"]])
    assert codes(chunks).tolist() == [0, 1, 2, 1, 0, 3]


# Where the data is.


def test_a_dataset_on_a_store_gives_the_same(spoilt, monkeypatch):
    deny = "x/carl\ny/p* g*\n"
    with s3_server.s3_server() as server:
        for path in spoilt.rglob("*"):
            if path.is_file() and path.suffix != ".tfrecord":  # no record is read
                server.put(f"data/{path.relative_to(spoilt)}", path.read_bytes())
        for _ in s3_server.in_environment(server, monkeypatch):
            assert found(f"s3://{s3_server.BUCKET}/data", deny) == found(spoilt, deny)


def test_real_speech_is_clean(librispeech, tmp_path):
    """311 utterances; then one of them is also there as WAV, under another speaker."""
    paths = sorted(librispeech.rglob("*.flac"))
    rows = [(path, path.name.split("-")[0], "libri", path.stem, "libri") for path in paths]
    root = made(tmp_path / "dataset", jobs.write_rows(tmp_path / "m.csv", rows, HEADER_OF_SPEECH), test_fraction=0.2)
    report = audit(Dataset.open(root))
    assert (report.utterances, report.findings) == (len(paths), [])
    samples, rate = soundfile.read(paths[7], dtype="int16")
    copy = write(tmp_path / "copy.wav", samples, rate, subtype="PCM_16")
    rows = [*rows[5:9], (copy, "somebody", "other", "copy", "other")]
    root = made(tmp_path / "doubled", jobs.write_rows(tmp_path / "m2.csv", rows, HEADER_OF_SPEECH))
    assert found(root) == {
        ("same_audio_two_speakers", "fail"): [
            [("train", f"libri/{rows[2][1]}", paths[7].stem), ("train", "other/somebody", "copy")]
        ]
    }


def test_the_benchmark_writes_what_an_audit_reads(tmp_path, monkeypatch):
    """It wrote metadata without what readers have come to ask for, and ended with an error."""
    monkeypatch.syspath_prepend(programs.FOLDER)
    program = programs.load("audit")
    program.write(tmp_path, 4000, 50, 10)
    assert program.measure(tmp_path, 50)["utterances"] == 4000


# Copies.


def test_copies_and_speeds_are_no_doubles(augmented_dataset):
    """Also where ids at two speeds have one normal form."""
    assert normal_form("s~speed1.05") == normal_form("s~speed1.5")
    report = audit(augmented_dataset)
    assert (report.findings, report.utterances, report.speakers) == ([], 24, 12)


def test_what_is_found_of_speech_is_found_once_with_copies(tmp_path):
    """Not once more for each speed: one sentence of two people, near-equal ids, an id in two sources, denied ones."""
    names = [voice(tmp_path, f"{number}.wav", number) for number in (0, 1, 2, 3)]
    names.append(voice(tmp_path, "0.flac", 0))
    people = ["anna", "id7", "ID07", "carl", "berta"]
    rows = [(name, who, "x", name, "c1") for name, who in zip(names, people, strict=True)]
    rows.append((voice(tmp_path, "4.wav", 4), "carl", "x", "other", "c2"))
    manifest = jobs.write_rows(tmp_path / "m.csv", rows, HEADER_OF_SPEECH)
    (tmp_path / "sounds").mkdir()
    augment = augmented.sounds(tmp_path / "sounds", "codec: {codecs: [telephone]}\nspeed: [1.05, 1.5]")
    dataset = augmented.write(tmp_path / "dataset", manifest, augment)
    report = audit(dataset, parse_deny_list(b"x/anna\nx/berta 0.flac\n", "deny.txt"))
    assert {finding.check: finding.count for finding in report.findings} == {
        **{"same_audio_two_speakers": 1, "id_in_two_sources": 1, "near_equal_ids": 1, "denied": 2},
    }
    assert not any("~" in row[name] for f in report.findings for row in f.rows.to_pylist() for name in IDS)


IDS = ("speaker_id", "utterance_id")
