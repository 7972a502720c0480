"""`ge2e erase`: nothing of a speaker stays, everything else does, and nobody brings the speaker back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_server
from jobs import data_digests, files_in, job, metadata_of, stamps, stored_records, unlisted, write_all, write_rows
from s3_server import S3Server
from synth import speechlike, write

from ge2e_transforms import schema
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CommitError, DatasetError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.verify import verify
from pipeline import growth, publishing, storage
from pipeline.__main__ import main
from pipeline.commit import commit
from pipeline.erase import erase

HEADER = "audio_path,speaker_id,source,split,session_id"
# Ids that stand nowhere else by chance.
ANNA, BERT, CAROL, DORA, EMIL = "annaannaanna", "bertbertbert", "carolcarolcarol", "doradoradora", "emilemilemil"
GONE = "corpus/" + ANNA


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four train speakers and a test speaker; Anna also has a short and a missing recording, Dora only missing ones."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for speaker, split, count in ((ANNA, "train", 4), (BERT, "train", 3), (CAROL, "train", 3), (EMIL, "test", 2)):
        for number in range(count):
            path = f"{speaker}-{number}.wav"
            write(folder / path, speechlike(len(rows), 1.4), 16000, subtype="PCM_16")
            rows.append((path, speaker, "corpus", split, f"{speaker}-s{number % 2}"))
    write(folder / f"{ANNA}-short.wav", speechlike(99, 0.2), 16000)
    rows += [(f"{ANNA}-short.wav", ANNA, "corpus", "train", ""), (f"{ANNA}-gone.wav", ANNA, "corpus", "train", "")]
    rows += [(f"{DORA}-gone.wav", DORA, "corpus", "train", "")]
    made = write_rows(folder / "m.csv", rows, HEADER)
    with made.open("a") as file:
        file.write(f"{ANNA}-fields.wav\n")
    return made


def whole(output: Path, manifest: Path, **fields: Any) -> dict[str, Any]:
    config = job(output, manifest, max_rejected=0.5, **fields)
    made = write_all(config)
    return commit(config, made.plan, made.rejected)


@pytest.fixture(scope="module", params=["logmel", "raw"])
def base(manifest: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Anna and Bert share a shard; Carol has one; Emil is alone in his split."""
    recipe = Recipe() if request.param == "logmel" else raw()
    output = tmp_path_factory.mktemp("base") / "out"
    whole(output, manifest, plan=PlanConfig(min_shards=2), recipe=recipe)
    return output


def raw() -> Recipe:
    content = PRESETS["ge2e"].to_dict()
    content["feature"]["features"] = "raw"
    return Recipe.from_dict(content)


@pytest.fixture
def output(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "out")


def records(output: Path) -> dict[tuple[str, str], bytes]:
    """Stored records by speaker and utterance."""
    return {
        (str(fields["speaker/original_id"]), str(fields["utterance/id"])): data
        for _, fields, data in stored_records(output)
    }


def everything(output: Path) -> bytes:
    """Bytes of all files, and the text of what is compressed."""
    return b"".join(everything_of(path) for path in sorted(output.rglob("*")) if path.is_file())


def assert_nothing_is_left(output: Path, name: str, stored: list[bytes]) -> None:
    content = everything(output)
    assert name.encode() not in content
    for data in stored:
        middle = len(data) // 2
        assert data[middle : middle + 64] not in content


def test_nothing_of_the_speaker_is_left_and_all_else_is(output: Path) -> None:
    before = records(output)
    stored = [data for (speaker, _), data in before.items() if speaker == GONE]
    assert len(stored) == 4
    assert ANNA.encode() in everything(output)
    apart = [path for path in output.rglob("features-*") if ANNA.encode() not in everything_of(path)]
    kept = stamps(apart)
    assert len(apart) == 2 * 3  # of Carol and of Emil
    done = erase(str(output), [GONE])
    assert (done.shards, done.utterances, done.rows) == (1, 4, 2)
    assert_nothing_is_left(output, ANNA, stored)
    assert stamps(apart) == kept  # shards that are not concerned stay byte for byte
    assert records(output) == {key: data for key, data in before.items() if key[0] != GONE}
    assert unlisted(output) == set()
    verify(Dataset.open(output))


def everything_of(path: Path) -> bytes:
    text = (
        json.dumps(growth.read_table(str(path)).to_pylist(), default=str).encode() if path.suffix == ".parquet" else b""
    )
    return path.read_bytes() + text


def test_counts_and_statistics_are_those_of_a_dataset_without_the_speaker(
    output: Path, manifest: Path, tmp_path: Path
) -> None:
    erase(str(output), [GONE])
    lines = [line for line in manifest.read_text().splitlines() if ANNA not in line]
    (manifest.parent / "without.csv").write_text("\n".join(lines) + "\n")
    recipe = Recipe.from_dict(metadata_of(output)["recipe"])
    other = whole(tmp_path / "other", manifest.parent / "without.csv", plan=PlanConfig(min_shards=2), recipe=recipe)
    metadata = metadata_of(output)
    for name in ("mean", "std"):
        assert np.allclose(metadata["statistics"][name], other["statistics"][name], rtol=1e-12)
    for split, counts in metadata["splits"].items():
        names = ("speakers", "utterances", "records", "frames", "seconds")
        assert {name: counts[name] for name in names} == {name: other["splits"][split][name] for name in names}
    # All rows of the manifest are still accounted for: 4 written, 1 short and 1 missing; the unread one is nameless.
    assert metadata["counts"]["rows"] == 16
    assert metadata["counts"]["filtered"] == {"erased": 6}
    assert metadata["counts"]["rejected"] == {"bad_row": 1, "missing": 1}


def test_the_only_speaker_of_a_split_and_one_that_was_never_written(output: Path) -> None:
    done = erase(str(output), [f"corpus/{EMIL}", f"corpus/{DORA}"])
    assert (done.utterances, done.rows) == (2, 1)
    metadata = metadata_of(output)
    assert (metadata["splits"]["test"]["speakers"], metadata["splits"]["test"]["records"]) == (0, 0)
    for name in (EMIL, DORA):
        assert_nothing_is_left(output, name, [])
    verify(Dataset.open(output))


def test_a_speaker_in_several_shards_and_jobs(manifest: Path, tmp_path: Path) -> None:
    """A large speaker is cut in parts; more of it was added later."""
    output = tmp_path / "out"
    plan = PlanConfig(min_shards=1, shard_mib=0.02)
    metadata = whole(output, manifest, plan=plan)
    assert len(metadata["shards"]["train"]) > 4
    added = [
        (f"{manifest.parent}/{BERT}-0.wav", ANNA, "corpus", "train", "later"),
        (f"{manifest.parent}/{BERT}-1.wav", "new", "corpus", "", ""),
    ]
    more = job(output, write_rows(tmp_path / "a.csv", added, HEADER), kind="add", plan=plan, token="2")
    made = write_all(more)
    commit(more, made.plan, made.rejected)
    stored = [data for (speaker, _), data in records(output).items() if speaker == GONE]
    assert len(stored) == 5
    erase(str(output), [GONE])
    # The fifth is Bert's recording, too, and stays with him.
    assert_nothing_is_left(output, ANNA, stored[:4])
    verify(Dataset.open(output))


@pytest.mark.parametrize("min_shards", [1, 2])
def test_a_speaker_in_shards_of_two_jobs_with_the_same_number(min_shards: int, manifest: Path, tmp_path: Path) -> None:
    """Both jobs had a shard 0 of as many: written anew they took one name, and one was lost.

    With one shard each, all of the split is written anew: it still is of two jobs, and speakers return.
    """
    output, sounds = tmp_path / "out", manifest.parent
    added = [
        (f"{sounds}/{BERT}-0.wav", ANNA, "corpus", "train", "later"),
        (f"{sounds}/{CAROL}-0.wav", BERT, "corpus", "train", f"{BERT}-s1"),
        (f"{sounds}/{CAROL}-1.wav", "new", "corpus", "train", ""),
        (f"{sounds}/{CAROL}-2.wav", EMIL, "corpus", "test", "later"),
    ]
    plan = PlanConfig(min_shards=min_shards)
    whole(output, manifest, plan=plan)
    more = job(output, write_rows(tmp_path / "a.csv", added, HEADER), kind="add", plan=plan, token="2")
    made = write_all(more)
    commit(more, made.plan, made.rejected)
    shards = metadata_of(output)["shards"]
    assert [len(shards[split]) for split in ("train", "test")] == [2 * min_shards, 2]
    for name in (ANNA, EMIL):
        before = records(output)
        stood = speakers_of(output)
        stored = [data for (speaker, _), data in before.items() if speaker == f"corpus/{name}"]
        done = erase(str(output), [f"corpus/{name}"])
        assert (done.shards, done.utterances) == (2, len(stored))
        assert name.encode() not in everything(output)
        assert records(output) == {key: data for key, data in before.items() if key[0] != f"corpus/{name}"}
        assert speakers_of(output) == [row for row in stood if row["speaker_id"] != f"corpus/{name}"]
        assert unlisted(output) == set()
        verify(Dataset.open(output))
    assert [
        (row["utterances"], row["sessions"]) for row in speakers_of(output) if row["speaker_id"].endswith(BERT)
    ] == [(4, 2)]


def test_metadata_that_no_reader_takes_is_not_published(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset that stood was removed, and what took its place could not be opened."""
    before = stamps(path for path in output.rglob("*") if path.is_file())
    monkeypatch.setattr(schema, "shard_base", lambda split, **_: f"{split}/features-01234567-00000-of-00001")
    with pytest.raises(
        CommitError, match=r"metadata\.json: expected a shard in train/ that stands nowhere else.*nothing"
    ):
        erase(str(output), [GONE, f"corpus/{CAROL}"])
    assert before.items() <= stamps(path for path in output.rglob("*") if path.is_file()).items()
    verify(Dataset.open(output))


def speakers_of(output: Path) -> list[dict[str, Any]]:
    return Dataset.open(output).speakers.to_pylist()


def test_an_erased_speaker_does_not_come_back(output: Path, manifest: Path, tmp_path: Path) -> None:
    stored = [data for (speaker, _), data in records(output).items() if speaker == GONE]
    erase(str(output), [GONE])
    recipe = Recipe.from_dict(metadata_of(output)["recipe"])
    plan = PlanConfig(min_shards=2)
    before = data_digests(output)
    again = job(output, manifest, max_rejected=0.5, plan=plan, recipe=recipe, token="2")
    assert write_all(again).plan.nothing_to_do  # a resume
    assert data_digests(output) == before
    retry = job(output, manifest, max_rejected=1, plan=plan, recipe=recipe, kind="retry", token="3")
    made = write_all(retry)
    commit(retry, made.plan, made.rejected)
    assert_nothing_is_left(output, ANNA, stored)
    rows = [(f"{ANNA}-{number}.wav", ANNA, "corpus", "train", "") for number in range(4)]
    rows += [(f"{BERT}-0.wav", "new", "corpus", "train", ""), ("x.wav", ANNA)]
    added = write_rows(manifest.parent / "added.csv", rows, HEADER)
    add = job(output, added, max_rejected=0.5, plan=plan, recipe=recipe, kind="add", token="4")
    made = write_all(add)
    assert_nothing_is_left(output, ANNA, stored)  # not even while it is not published
    metadata = commit(add, made.plan, made.rejected)
    assert metadata["counts"]["filtered"] == {"erased": 6 + 4}
    assert metadata["splits"]["train"]["speakers"] == 3
    assert_nothing_is_left(output, ANNA, stored)
    anew = job(output, manifest, max_rejected=0.5, plan=plan, recipe=recipe, overwrite=True, token="5")
    made = write_all(anew)
    metadata = commit(anew, made.plan, made.rejected)
    assert metadata["counts"]["filtered"] == {"erased": 6}
    assert Tombstones.of(metadata).hide(GONE)
    assert_nothing_is_left(output, ANNA, stored)
    assert unlisted(output) == set()
    verify(Dataset.open(output))


def test_nothing_changes_unless_all_of_it_succeeds(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data_digests(output)
    for name in ("pipeline.assembly.publishing.write", "pipeline.erase.assemble", "pipeline.erase.erasing.without"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(name, interrupt)
            erase(str(output), [GONE])
        assert before.items() <= data_digests(output).items()
        verify(Dataset.open(output))
    erase(str(output), [GONE])
    assert_nothing_is_left(output, ANNA, [])


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_same_command_removes_what_one_left_that_died_after_publishing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.assembly.remove_replaced", interrupt)
        erase(str(output), [GONE])
    assert ANNA.encode() in everything(output)
    assert erase(str(output), [GONE]).already == (GONE,)
    assert_nothing_is_left(output, ANNA, [])
    assert unlisted(output) == set()


def test_a_job_that_was_planned_before_cannot_bring_the_speaker_back(output: Path, manifest: Path) -> None:
    recipe = Recipe.from_dict(metadata_of(output)["recipe"])
    late = job(
        output, manifest, max_rejected=0.5, plan=PlanConfig(min_shards=1), recipe=recipe, overwrite=True, token="2"
    )
    made = write_all(late)
    erase(str(output), [GONE])
    with pytest.raises(CommitError, match="another job has published"):
        commit(late, made.plan, made.rejected)


def test_an_unknown_speaker_is_refused_with_the_name_that_was_meant(output: Path) -> None:
    before = data_digests(output)
    with pytest.raises(DatasetError, match=f"no speaker '{ANNA}' .did you mean '{GONE}'"):
        erase(str(output), [ANNA, f"corpus/{BERT}"])
    assert data_digests(output) == before
    with pytest.raises(DatasetError, match="nothing to erase from"):
        erase(str(output.parent / "none"), [GONE])


def test_the_command_says_what_it_did_and_what_it_cannot_reach(
    output: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text(f"{GONE}\n\ncorpus/{CAROL}\n")
    orphan = output / "train" / "features-01234567-00000-of-00001.tfrecord"
    orphan.write_text(f"{ANNA} of a job that was never published")
    (output / "notes.txt").write_text("mine")
    assert main(["erase", str(output), "--speakers_file", str(tmp_path / "ids.txt")]) == 0
    out = capsys.readouterr().out
    assert "erased 2 speaker(s): 7 utterances in 2 shards, 2 rows of the ledger" in out
    for word in ("backups", "versions in a bucket", "cache_dir", "models trained"):
        assert word in out
    assert_nothing_is_left(output, ANNA, [])
    assert not orphan.exists()
    assert "notes.txt" in files_in(output)
    assert main(["erase", str(output)]) == 1
    assert "nobody to erase" in capsys.readouterr().err


def test_pseudonyms_are_erased_by_the_true_id_and_the_key(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "other").write_bytes(bytes(range(1, 33)))
    whole(tmp_path / "out", manifest, pseudonym_key=str(tmp_path / "key"))
    arguments = ["erase", str(tmp_path / "out"), "--speaker", GONE]
    for wrong in ([], ["--pseudonymize", str(tmp_path / "other")]):
        assert main([*arguments, *wrong]) == 1
        assert "true ids need --pseudonymize and the key it was made with" in capsys.readouterr().err
    assert main([*arguments, "--pseudonymize", str(tmp_path / "key")]) == 0
    assert "erased 1 speaker(s): 4 utterances" in capsys.readouterr().out
    verify(Dataset.open(tmp_path / "out"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        yield from s3_server.in_environment(running, monkeypatch)


def test_on_a_store(output: Path, s3: S3Server) -> None:
    place = f"s3://{s3_server.BUCKET}/erase/{output.parent.name}"
    for name in files_in(output):
        with storage.building(f"{place}/{name}") as (path,):
            path.write_bytes((output / name).read_bytes())
    erase(place, [GONE])
    metadata = publishing.read(place).metadata
    assert metadata["splits"]["train"]["speakers"] == 2
    assert GONE not in growth.speakers_of(place, metadata)
