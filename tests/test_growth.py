"""Datasets that grow: what `ge2e add` and `ge2e retry` add, what stays as it was, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import s3_server
from jobs import data_digests, files_in, metadata_of, run_command, sha256, stamps, unlisted, write_all, write_rows
from synth import small_corpus, speechlike, write

from ge2e_transforms import BatchLoader
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import compare
from ge2e_transforms.errors import CommitError, DatasetError, PlanError
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.verify import verify
from pipeline import growth, publishing
from pipeline.__main__ import main
from pipeline.clean import clean
from pipeline.commit import commit
from pipeline.erase import erase
from pipeline.options import JobConfig
from pipeline.plan import plan_job

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Six train and two test speakers with four utterances in two sessions each."""
    manifest = small_corpus(tmp_path_factory.mktemp("corpus"), speakers=8, utterances=4, test_speakers=2, seconds=1.4)
    with manifest.open(newline="") as file:
        made = list(csv.DictReader(file))
    return [{**row, "audio_path": str(manifest.parent / row["audio_path"])} for row in made]


_TOKENS = map(str, itertools.count())


def job(output: Path | str, *manifests: Path | str, **fields: Any) -> JobConfig:
    """A submission of its own."""
    return jobs.job(output, *manifests, **{"token": next(_TOKENS), **fields})


def of(rows: Sequence[Row], speakers: str, utterances: str) -> list[Row]:
    """Rows of some speakers ('0123') with some of their utterances."""
    return [
        row for number, row in enumerate(rows) if row["speaker_id"][-1] in speakers and str(number % 4) in utterances
    ]


def listed(path: Path, rows: Sequence[Row]) -> Path:
    return write_rows(path, [list(row.values()) for row in rows], ",".join(rows[0]))


def made(config: JobConfig) -> dict[str, Any]:
    """A whole job, without Beam."""
    written = write_all(config)
    return commit(config, written.plan, written.rejected)


def labels(output: Path) -> dict[str, tuple[str, int]]:
    table = Dataset.open(output).speakers
    columns = (table[name].to_pylist() for name in ("speaker_id", "split", "label"))
    return {speaker: (split, label) for speaker, split, label in zip(*columns, strict=True)}


@pytest.fixture(scope="module")
def base(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the utterances of speakers 0, 2, 4 and (test) 6."""
    folder = tmp_path_factory.mktemp("base")
    made(job(folder / "out", listed(folder / "m.csv", of(rows, "0246", "01")), plan=PlanConfig(min_shards=3)))
    return folder / "out"


@pytest.fixture
def output(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "out")


def test_new_utterances_of_old_and_new_speakers_are_added(output: Path, rows: list[Row], tmp_path: Path) -> None:
    old_labels, old = labels(output), [path for path in output.rglob("features-*") if path.is_file()]
    before = stamps(old)
    metadata = made(job(output, listed(tmp_path / "a.csv", of(rows, "0123456", "23")), kind="add"))
    assert stamps(old) == before  # finished shards stay byte for byte
    assert unlisted(output) == set()
    report = verify(Dataset.open(output))
    assert report.records == {"train": 6 + 12, "test": 2 + 2}
    assert metadata["counts"] == {"rows": 8 + 14, "written": 8 + 14, "filtered": {}, "rejected": {}}
    now = labels(output)
    assert old_labels.items() <= now.items()
    new = {speaker: label for speaker, (_, label) in now.items() if speaker not in old_labels}
    assert new == {"synth/spk01": 4, "synth/spk03": 5, "synth/spk05": 6}
    assert metadata["next_label"] == 7
    people = {row["speaker_id"]: row for row in Dataset.open(output).speakers.to_pylist()}
    assert (people["synth/spk00"]["utterances"], people["synth/spk00"]["sessions"]) == (4, 2)
    assert (people["synth/spk01"]["utterances"], people["synth/spk01"]["sessions"]) == (2, 2)


def test_a_grown_dataset_holds_what_one_written_at_once_holds(output: Path, rows: list[Row], tmp_path: Path) -> None:
    made(job(output, listed(tmp_path / "a.csv", of(rows, "01234567", "0123")), kind="add"))
    made(job(tmp_path / "whole", listed(tmp_path / "all.csv", rows)))
    grown, whole = Dataset.open(output), Dataset.open(tmp_path / "whole")
    for name in ("mean", "std"):
        assert np.allclose(grown.metadata["statistics"][name], whole.metadata["statistics"][name], rtol=1e-12)
    tables = [
        {(row["speaker_id"], row["utterances"], row["sessions"], row["frames"]) for row in dataset.speakers.to_pylist()}
        for dataset in (grown, whole)
    ]
    assert tables[0] == tables[1]
    assert grown.metadata["counts"]["written"] == whole.metadata["counts"]["written"] == 32
    assert grown.metadata["counts"]["filtered"] == {"already_there": 8}


def test_batches_of_a_grown_dataset_mix_old_and_new_utterances(output: Path, rows: list[Row], tmp_path: Path) -> None:
    made(job(output, listed(tmp_path / "a.csv", of(rows, "01234567", "23")), kind="add"))
    loader = BatchLoader(output, speakers_per_batch=3, utterances_per_speaker=4, seed=1, distinct="strict")
    batches = list(loader.batches("train"))
    assert batches
    assert loader.speaker_ids("train") == ["synth/spk00", "synth/spk02", "synth/spk04"]  # the others have two
    for examples, batch_labels in batches:
        assert examples.shape == (12, 40, 121)
        assert sorted(set(batch_labels.tolist())) == [0, 1, 2]


def test_adding_the_same_manifest_again_changes_nothing(output: Path, rows: list[Row], tmp_path: Path) -> None:
    manifest = listed(tmp_path / "a.csv", of(rows, "13", "01"))
    made(job(output, manifest, kind="add"))
    before = data_digests(output)
    again = job(output, manifest, kind="add")
    assert plan_job(again, [], write_all(again).plan.manifests).nothing_to_do
    made(again)
    assert data_digests(output) == before
    assert unlisted(output) == set()


def test_a_manifest_that_holds_nothing_new_adds_nothing(output: Path, rows: list[Row], tmp_path: Path) -> None:
    before = files_in(output)
    generation = metadata_of(output)["generation"]
    metadata = made(job(output, listed(tmp_path / "a.csv", of(rows, "02", "01")), kind="add"))
    assert metadata["generation"] == generation
    assert files_in(output) == before


def test_an_added_speaker_of_another_split_is_refused(output: Path, rows: list[Row], tmp_path: Path) -> None:
    moved = [{**row, "split": "test"} for row in of(rows, "0", "2")]
    with pytest.raises(PlanError, match="'synth/spk00' is in split 'train' of the dataset, but the manifests name"):
        made(job(output, listed(tmp_path / "a.csv", moved), kind="add"))


def test_rows_without_a_split_go_where_their_speaker_is(output: Path, rows: list[Row], tmp_path: Path) -> None:
    """The rule of a dataset whose manifests name the splits draws none: a test speaker's rows went to train."""
    unnamed = [{**row, "split": ""} for row in of(rows, "067", "2")]
    metadata = made(job(output, listed(tmp_path / "a.csv", unnamed), kind="add"))
    assert {split: entry["utterances"] for split, entry in metadata["splits"].items()} == {"train": 8, "test": 3}
    assert labels(output)["synth/spk07"][0] == "train"  # new: drawn by the rule
    verify(Dataset.open(output))


def test_speakers_that_are_drawn_keep_their_split(rows: list[Row], tmp_path: Path) -> None:
    unnamed = [{**row, "split": ""} for row in rows]
    plan = PlanConfig(test_speakers=2)
    made(job(tmp_path / "out", listed(tmp_path / "m.csv", of(unnamed, "01234", "01")), plan=plan))
    before = labels(tmp_path / "out")
    made(job(tmp_path / "out", listed(tmp_path / "a.csv", of(unnamed, "01234567", "23")), plan=plan, kind="add"))
    assert before.items() <= labels(tmp_path / "out").items()
    verify(Dataset.open(tmp_path / "out"))


def test_a_dataset_of_halves_grows_and_forgets(
    rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, half = tmp_path / "out", Recipe().replace(dtype="float16")
    first, second = (
        listed(tmp_path / "a.csv", of(rows, "0246", "01")),
        listed(tmp_path / "b.csv", of(rows, "135", "01")),
    )
    assert made(job(output, first, recipe=half))["dtype"] == "float16"
    with pytest.raises(PlanError, match=r"another recipe .*: they differ in feature\.dtype"):
        made(job(output, second, kind="add"))
    made(job(output, second, kind="add", recipe=half))
    erase(str(output), ["synth/spk01"])
    assert {values.dtype.name for values, *_ in jobs.stored_records(output)} == {"float16"}
    verify(Dataset.open(output))
    assert [main([name, str(output)]) for name in ("verify", "audit", "inspect")] == [0, 0, 0]
    assert "logmel [40, 121] float16, stored as utterance" in capsys.readouterr().out
    floats = tmp_path / "floats"
    made(job(floats, first))
    made(job(floats, second, kind="add"))
    erase(str(floats), ["synth/spk01"])
    for one, other in zip(jobs.stored_records(output), jobs.stored_records(floats), strict=True):
        assert np.array_equal(one[0], other[0].astype(np.float16))


def test_the_flag_of_another_type_is_refused(
    output: Path, rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = listed(tmp_path / "a.csv", of(rows, "1", "0"))
    assert main(["add", "--manifest", str(manifest), "--dtype", "float16", str(output)]) == 1
    assert "they differ in feature.dtype" in capsys.readouterr().err


def test_another_recipe_is_refused(output: Path, rows: list[Row], tmp_path: Path) -> None:
    manifest = listed(tmp_path / "a.csv", of(rows, "1", "0"))
    other = Recipe.from_dict({**Recipe().to_dict(), "feature": {**Recipe().to_dict()["feature"], "n_mels": 64}})
    with pytest.raises(PlanError, match=r"another recipe .*: they differ in feature\.n_mels"):
        made(job(output, manifest, kind="add", recipe=other))
    done = run_command("add", "--manifest", manifest, "--set", "n_mels=64", output)
    assert done.returncode == 1
    assert "they differ in feature.n_mels" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_damaged_metadata_is_not_added_to(output: Path, rows: list[Row], tmp_path: Path) -> None:
    """Another salt would draw other splits for new speakers, and only the checksum tells."""
    metadata = metadata_of(output)
    metadata["split_rule"]["salt"] += "x"
    (output / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DatasetError, match="the checksum in it is of other values"):
        made(job(output, listed(tmp_path / "a.csv", of(rows, "1", "0")), kind="add"))
    with pytest.raises(DatasetError, match="the checksum in it is of other values"):
        erase(str(output), ["synth/spk00"])


@pytest.mark.parametrize("kind", ["add", "retry"])
def test_metadata_without_a_recipe_is_one_line(
    kind: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a KeyError."""
    (output / "metadata.json").write_text(
        json.dumps({name: value for name, value in metadata_of(output).items() if name != "recipe"})
    )
    manifest = ["--manifest", str(tmp_path / "a.csv")] if kind == "add" else []
    assert main([kind, *manifest, str(output)]) == 1
    told = capsys.readouterr().err
    assert f"{output}/metadata.json: recipe missing: the file is damaged" in told
    assert len(told.strip().splitlines()) == 1


def test_there_must_be_something_to_add_to(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds no complete dataset to add to"):
        made(job(tmp_path / "none", listed(tmp_path / "a.csv", of(rows, "1", "0")), kind="add"))


def test_two_additions_at_once_collide_at_metadata(output: Path, rows: list[Row], tmp_path: Path) -> None:
    one = job(output, listed(tmp_path / "a.csv", of(rows, "1", "01")), kind="add")
    two = job(output, listed(tmp_path / "b.csv", of(rows, "3", "01")), kind="add")
    late = write_all(two)
    made(one)
    with pytest.raises(CommitError, match=r"another job has published .* since this one .* run the same command again"):
        commit(two, late.plan, late.rejected)
    made(two)
    assert {"synth/spk01", "synth/spk03"} <= labels(output).keys()
    verify(Dataset.open(output))


def test_an_addition_that_died_goes_on(output: Path, rows: list[Row], tmp_path: Path) -> None:
    """Its finished shards are adopted, and after the commit the same command finds all done."""
    config = job(output, listed(tmp_path / "a.csv", of(rows, "135", "0123")), kind="add")
    written = write_all(config)
    verify(Dataset.open(output))  # the dataset before stands
    metadata = commit(config, written.plan, written.rejected)
    assert commit(config, written.plan, written.rejected)["generation"] == metadata["generation"]
    again = write_all(config)  # a cluster starts the job again
    assert again.plan.nothing_to_do
    assert commit(config, again.plan, again.rejected) == metadata_of(output)


def test_the_command_that_made_it_finds_a_grown_dataset_complete(
    base: Path, output: Path, rows: list[Row], tmp_path: Path
) -> None:
    made(job(output, listed(tmp_path / "a.csv", of(rows, "1", "01")), kind="add"))
    before = data_digests(output)
    config = job(output, base.parent / "m.csv", plan=PlanConfig(min_shards=3))
    assert write_all(config).plan.nothing_to_do
    made(config)
    assert data_digests(output) == before
    anew = made(job(output, base.parent / "m.csv", plan=PlanConfig(min_shards=3), overwrite=True))
    assert (anew["edition"], anew["counts"]["rows"]) == (1, 8)
    assert unlisted(output) == set()
    verify(Dataset.open(output))


# Rows that were rejected.


@pytest.fixture
def faulty(rows: list[Row], tmp_path: Path) -> tuple[Path, list[Row]]:
    """A dataset with two rejected recordings (of a speaker that is there, and of one that is not) and a bad row."""
    own = [dict(row) for row in of(rows, "02", "01")]
    own += [
        {**own[0], "audio_path": str(tmp_path / name), "speaker_id": speaker}
        for name, speaker in (("late.wav", "spk00"), ("late2.wav", "spk99"))
    ]
    manifest = listed(tmp_path / "m.csv", own)
    with manifest.open("a") as file:
        file.write("no,fields\n")
    made(job(tmp_path / "out", manifest, max_rejected=0.9))
    return tmp_path / "out", own


def retry_job(output: Path, **fields: Any) -> JobConfig:
    ledger = growth.ledger_of(str(output), metadata_of(output))
    manifests = sorted({row.manifest for row in growth.retryable(ledger)})
    return job(output, *manifests, kind="retry", max_rejected=1.0, **fields)


def test_rejected_rows_are_added_once_their_files_are_mended(faulty: tuple[Path, list[Row]]) -> None:
    output, _ = faulty
    assert metadata_of(output)["counts"]["rejected"] == {"bad_row": 1, "missing": 2}
    shards = [path for path in output.rglob("features-*") if path.is_file()]
    before = stamps(shards)
    for number in (0, 1):
        write(output.parent / ("late.wav" if number == 0 else "late2.wav"), speechlike(50 + number, 1.5), 16000)
        metadata = made(retry_job(output))
        assert metadata["counts"]["rows"] == 7
        assert metadata["counts"]["written"] == 5 + number
        assert unlisted(output) == set()
        verify(Dataset.open(output))
    assert metadata["counts"]["rejected"] == {"bad_row": 1}
    assert stamps(shards) == before
    assert labels(output)["synth/spk99"] == ("train", 4)  # planned twice before, with labels that nobody has
    assert [entry["kind"] for entry in metadata["history"]] == ["run", "retry", "retry"]


def test_a_retry_in_which_nothing_can_be_read_changes_nothing(faulty: tuple[Path, list[Row]]) -> None:
    output, _ = faulty
    before, files = sha256(output / "metadata.json"), files_in(output)
    made(retry_job(output))
    assert sha256(output / "metadata.json") == before
    assert files_in(output) == files


def test_rows_that_are_no_longer_in_their_manifest_stay_in_the_ledger(faulty: tuple[Path, list[Row]]) -> None:
    output, own = faulty
    write(output.parent / "late.wav", speechlike(50, 1.5), 16000)
    listed(output.parent / "m.csv", [own[-1], *own[:-1]])  # in another order
    with pytest.raises(PlanError, match="no row that the ledger rejects stands in its place"):
        made(retry_job(output))
    assert metadata_of(output)["counts"]["rejected"] == {"bad_row": 1, "missing": 2}


def test_retry_and_add_by_their_commands(
    faulty: tuple[Path, list[Row]], rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = faulty
    write(output.parent / "late.wav", speechlike(50, 1.5), 16000)
    write(output.parent / "late2.wav", speechlike(51, 1.5), 16000)
    local = ("--direct_num_workers=1",)
    assert main(["retry", str(output), *local]) == 0
    assert "rejected   3 -> 1" in capsys.readouterr().out
    assert main(["retry", str(output), *local]) == 0
    assert "nothing to retry" in capsys.readouterr().out
    manifest = listed(output.parent / "new.csv", of(rows, "06", "0123"))
    assert main(["add", "--manifest", str(manifest), str(output), *local]) == 0
    out = capsys.readouterr().out
    assert "written    6 -> 12" in out
    assert "test       0 -> 1 speakers, 0 -> 4 utterances" in out
    assert main(["add", "--manifest", str(manifest), str(output), *local]) == 0
    assert "nothing new" in capsys.readouterr().out
    verify(Dataset.open(output))
    assert unlisted(output) == set()


# Pseudonyms.


def test_pseudonyms_leave_no_id_and_no_path(rows: list[Row], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    some = [*of(rows, "0246", "01"), {**rows[0], "audio_path": str(tmp_path / "absent-spk00.wav")}]
    config = job(tmp_path / "out", listed(tmp_path / "m.csv", some), pseudonym_key=str(key), max_rejected=0.5)
    metadata = made(config)
    assert metadata["counts"]["rejected"] == {"missing": 1}
    content = b"".join(readable(path) for path in sorted((tmp_path / "out").rglob("*")) if path.is_file())
    for text in ("spk0", "utt0", "absent", ".wav"):
        assert text.encode() not in content
    verify(Dataset.open(tmp_path / "out"))
    made(job(tmp_path / "plain", listed(tmp_path / "m.csv", some), max_rejected=0.5))
    pseudonyms, plain = Dataset.open(tmp_path / "out"), Dataset.open(tmp_path / "plain")
    counts = [sorted(row["frames"] for row in dataset.speakers.to_pylist()) for dataset in (pseudonyms, plain)]
    assert counts[0] == counts[1]
    with pytest.raises(PlanError, match="needs --pseudonymize to be by the key it was made with, got none"):
        made(job(tmp_path / "out", listed(tmp_path / "a.csv", of(rows, "1", "0")), kind="add"))
    key.write_bytes(bytes(range(1, 33)))
    with pytest.raises(PlanError, match="got another key"):
        made(job(tmp_path / "out", tmp_path / "a.csv", kind="add", pseudonym_key=str(key)))
    key.write_bytes(bytes(range(32)))
    grown = made(
        job(tmp_path / "out", listed(tmp_path / "a.csv", of(rows, "0", "2")), kind="add", pseudonym_key=str(key))
    )
    assert grown["splits"]["train"]["speakers"] == 3  # speaker 0 was known by the pseudonym


def readable(path: Path) -> bytes:
    """A file's bytes; of Parquet, which is compressed, also the text of its columns."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    table = growth.read_table(str(path))
    return path.read_bytes() + json.dumps(table.to_pylist(), default=str).encode()


def test_the_same_rows_and_key_give_the_same_pseudonyms_wherever_they_are_written(
    rows: list[Row], tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    manifest = listed(tmp_path / "m.csv", of(rows, "02", "01"))
    for name in ("a", "b"):
        made(job(tmp_path / name, manifest, pseudonym_key=str(tmp_path / "key")))
    assert compare(Dataset.open(tmp_path / "a"), Dataset.open(tmp_path / "b")) == 0
    assert data_digests(tmp_path / "a") == data_digests(tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"short", "has 5 bytes: expected 16 to 64")]
)
def test_a_key_that_is_none_is_refused_before_the_work(
    rows: list[Row], tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = listed(tmp_path / "m.csv", of(rows, "0", "0"))
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    job = ("--manifest", str(manifest), "--output", str(tmp_path / "out"), "--pseudonymize", str(tmp_path / "key"))
    assert main(["run", *job]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_server.S3Server]:
    with s3_server.s3_server() as running:
        yield from s3_server.in_environment(running, monkeypatch)


def test_on_a_store(s3: s3_server.S3Server, rows: list[Row], tmp_path: Path) -> None:
    place = f"s3://{s3_server.BUCKET}/grown"
    late = {**rows[4], "audio_path": str(tmp_path / "late.wav")}
    made(job(place, listed(tmp_path / "m.csv", [*of(rows, "02", "01"), late]), max_rejected=0.5))
    made(job(place, listed(tmp_path / "a.csv", of(rows, "01", "12")), kind="add"))
    write(tmp_path / "late.wav", speechlike(50, 1.5), 16000)
    metadata = made(job(place, tmp_path / "m.csv", kind="retry", max_rejected=1.0))
    assert metadata["counts"] == {"rows": 9, "written": 8, "filtered": {"already_there": 1}, "rejected": {}}
    assert metadata["splits"]["train"]["speakers"] == 3
    assert clean(place).names == []


def test_what_a_plan_reads_of_a_dataset_is_small(output: Path) -> None:
    """A worker gets the plan: the names of speakers stay in their table."""
    standing = growth.growth_of(str(output), "add", publishing.read(str(output)).metadata).standing
    assert "spk" not in repr(standing)
    assert [shard.lowest for shard in standing.shards["train"]] == [0, 1, 2]
