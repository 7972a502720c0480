"""`run(argv)`: what it returns, what a second, another and a failing job do to a folder."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import synth
from apache_beam.runners.runner import PipelineState
from jobs import (
    counters,
    data_digests,
    digests,
    done_files,
    files_in,
    job,
    metadata_of,
    run_here,
    stamps,
    unlisted,
    write_rows,
)
from memory_store import MemoryStore

from ge2e_transforms import BatchLoader
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import CommitError, ConfigError, ManifestError, PlanError, StorageError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.verify import verify
from pipeline import flags, main, metrics
from pipeline.assembly import listed_files
from pipeline.main import RunResult


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.small_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=3, seconds=1.5)


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One job, run once for the tests that only look."""
    return run_here(corpus, tmp_path_factory.mktemp("finished") / "out", "--test_speakers=1")


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    """A copy of the finished dataset, to run more jobs on."""
    shutil.copytree(finished.output, tmp_path / "out")
    return tmp_path / "out"


def rows_of(manifest: Path) -> tuple[str, list[str]]:
    header, *rows = manifest.read_text().splitlines(keepends=True)
    return header, rows


def other_manifest(corpus: Path, name: str, rows: Sequence[str]) -> Path:
    """Beside the first one, so that the same relative paths hold."""
    path = corpus.with_name(name)
    content = (rows_of(corpus)[0] + "".join(rows)).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return path


def test_result(finished: RunResult) -> None:
    root = Path(finished.output)
    assert finished.metadata == metadata_of(root)
    assert finished.wall_seconds > 0
    assert counters(finished.pipeline_result) == {
        metrics.MANIFESTS_READ: 1,
        metrics.ROWS_READ: 12,
        metrics.ROWS_REJECTED: 0,
        metrics.SHARDS_WRITTEN: 4,
        metrics.UTTERANCES_WRITTEN: 12,
        metrics.UTTERANCES_FILTERED: 0,
        metrics.UTTERANCES_REJECTED: 0,
        metrics.RECORDS_WRITTEN: 12,
    }
    assert {split: counts["speakers"] for split, counts in metadata_of(root)["splits"].items()} == {
        "train": 3,
        "test": 1,
    }
    assert unlisted(root) == set()
    verify(Dataset.open(root))


def test_arguments_are_cut_at_the_dashes() -> None:
    assert flags.split_arguments(["--a", "1", "--", "--b", "--", "c"]) == (["--a", "1"], ["--b", "--", "c"])
    assert flags.split_arguments(["--a"]) == (["--a"], [])
    assert flags.split_arguments(["--"]) == ([], [])


def test_the_same_command_again_adopts_everything(corpus: Path, copied: Path) -> None:
    before, stamped = digests(copied), stamps(copied.glob("*/features-*"))
    result = run_here(corpus, copied, "--test_speakers=1")
    found = counters(result.pipeline_result)
    assert (found[metrics.SHARDS_ADOPTED], metrics.SHARDS_WRITTEN in found) == (4, False)
    assert digests(copied) == before
    assert stamps(copied.glob("*/features-*")) == stamped
    assert len(stamped) == 12


def test_other_options_are_refused_and_change_nothing(corpus: Path, copied: Path) -> None:
    before = digests(copied)
    with pytest.raises(PlanError, match=r"already holds a complete dataset .* give --overwrite to replace it"):
        run_here(corpus, copied, "--test_speakers=1", "--set", "n_mels=64")
    with pytest.raises(PlanError, match="already holds a complete dataset"):
        run_here(other_manifest(corpus, "fewer.csv", rows_of(corpus)[1][:9]), copied, "--test_speakers=1")
    assert digests(copied) == before


def test_overwrite_replaces_another_dataset_and_removes_its_files(corpus: Path, copied: Path) -> None:
    old = listed_files(metadata_of(copied))
    result = run_here(corpus, copied, "--set", "n_mels=64", "--overwrite")
    assert result.metadata is not None
    assert result.metadata["feature_shape"] == [64, 121]
    assert list(result.metadata["splits"]) == ["train"]
    assert not old & files_in(copied)
    assert unlisted(copied) == set()
    verify(Dataset.open(copied))


def test_overwriting_the_same_dataset_takes_files_that_were_mended(corpus: Path, tmp_path: Path) -> None:
    """The same command, with or without --overwrite, adopted the rejections for ever."""
    folder = shutil.copytree(corpus.parent, tmp_path / "corpus")
    manifest, out = folder / corpus.name, tmp_path / "out"
    lost = min(folder.rglob("*.wav"))
    lost.rename(lost.with_suffix(".away"))
    first = run_here(manifest, out, "--max_rejected=0.5").metadata
    assert first["counts"]["rejected"] == {"missing": 1}
    lost.with_suffix(".away").rename(lost)
    assert run_here(manifest, out, "--max_rejected=0.5").metadata == first
    again = run_here(manifest, out, "--max_rejected=0.5", "--overwrite").metadata
    assert again["counts"]["rejected"] == {}
    assert again["counts"]["written"] == first["counts"]["written"] + 1
    assert unlisted(out) == set()


def test_a_dataset_is_not_harmed_by_a_later_job_that_fails(corpus: Path, copied: Path) -> None:
    before = digests(copied)
    broken = other_manifest(corpus, "broken.csv", ["gone/a.wav,spk00,synth,s0\n", "gone/b.wav,spk01,synth,s0\n"])
    with pytest.raises(CommitError, match="none of the 2 rows could be written"):
        run_here(broken, copied, "--overwrite")
    assert {name: digest for name, digest in digests(copied).items() if name in before} == before
    verify(Dataset.open(copied))
    assert counters(run_here(corpus, copied, "--test_speakers=1").pipeline_result)[metrics.SHARDS_ADOPTED] == 4


def test_several_manifests_globs_and_gzip_make_the_same_dataset(
    corpus: Path, finished: RunResult, tmp_path: Path
) -> None:
    rows = rows_of(corpus)[1]
    other_manifest(corpus, "part-1.csv", rows[7:])
    other_manifest(corpus, "part-2.csv.gz", rows[:4])
    third = other_manifest(corpus, "third.csv", rows[4:7])
    result = run_here(f"{corpus.parent}/part-*", tmp_path / "out", "--manifest", str(third), "--test_speakers=1")
    assert result.metadata is not None
    assert [Path(entry["path"]).name for entry in result.metadata["manifests"]] == [
        *("part-1.csv", "part-2.csv.gz", "third.csv")
    ]
    assert counters(result.pipeline_result)[metrics.MANIFESTS_READ] == 3
    assert digest(Dataset.open(tmp_path / "out")) == digest(Dataset.open(finished.output))


def test_doubled_utterances_keep_the_first(corpus: Path, finished: RunResult, tmp_path: Path) -> None:
    again = other_manifest(corpus, "z-again.csv", rows_of(corpus)[1][2:3])
    result = run_here(corpus, tmp_path / "out", "--manifest", str(again), "--test_speakers=1", "--max_rejected=0.1")
    assert result.metadata is not None
    assert result.metadata["counts"] == {
        **{"rows": 13, "written": 12, "filtered": {}},
        "rejected": {"doubled_utterance": 1},
    }
    (row,) = Dataset.open(tmp_path / "out").ledger().to_pylist()
    assert (row["manifest"], row["reason"]) == (str(again), "doubled_utterance")
    shards = [
        {
            name.replace(metadata["generation"], ""): value
            for name, value in data_digests(folder).items()
            if "/f" in name
        }
        for folder in (tmp_path / "out", Path(finished.output))
        for metadata in [metadata_of(folder)]
    ]
    assert shards[0] == shards[1]


def test_too_many_rejected_rows_then_mended_files(tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", speakers=4, utterances=3, seconds=1.5)
    hidden = tmp_path / "corpus" / "spk01" / "utt01.wav"
    hidden.rename(tmp_path / "aside.wav")
    out = tmp_path / "out"
    with pytest.raises(CommitError, match=r"1 of 12 rows were rejected, more than --max_rejected=0\.05 .*utt01\.wav"):
        run_here(manifest, out)
    assert not (out / "metadata.json").exists()
    assert not list(out.glob("failed-*"))
    assert len(done_files(out)) == 4

    (tmp_path / "aside.wav").rename(hidden)
    found = counters(run_here(manifest, out).pipeline_result)
    assert (found[metrics.SHARDS_ADOPTED], found[metrics.SHARDS_WRITTEN]) == (3, 1)
    assert metadata_of(out)["counts"] == {"rows": 12, "written": 12, "filtered": {}, "rejected": {}}
    assert unlisted(out) == set()
    verify(Dataset.open(out))


def test_a_limit_that_allows_it_publishes_with_the_rows_in_the_ledger(tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", speakers=4, utterances=3, seconds=1.5)
    (tmp_path / "corpus" / "spk01" / "utt01.wav").unlink()
    out = tmp_path / "out"
    run_here(manifest, out, "--max_rejected=0.1")
    assert metadata_of(out)["counts"]["rejected"] == {"missing": 1}
    assert Dataset.open(out).ledger()["audio_path"].to_pylist() == ["spk01/utt01.wav"]


def test_a_bug_fails_the_job_and_the_same_command_goes_on_when_it_is_mended(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = FeatureExtractor.extract

    def broken(self: FeatureExtractor, samples: Any, *, utterance_id: str = "", **named: Any) -> Any:
        if utterance_id == "spk02/utt01.wav":
            raise RuntimeError("a bug in the extractor")
        return extract(self, samples, utterance_id=utterance_id, **named)

    monkeypatch.setattr(FeatureExtractor, "extract", broken)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="a bug in the extractor"):
        run_here(corpus, out)
    assert not (out / "metadata.json").exists()
    assert all(json.loads(path.read_text())["ledger"] == [] for path in done_files(out))
    assert {name for name in files_in(out) if not name.startswith("train/features-")} == set()

    monkeypatch.undo()
    already = len(done_files(out))
    found = counters(run_here(corpus, out).pipeline_result)
    assert found.get(metrics.SHARDS_ADOPTED, 0) == already < 4
    assert metadata_of(out)["counts"]["written"] == 12
    assert unlisted(out) == set()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("audio_path,speaker_id\n", PlanError, r"no usable row .* 0 rows read, 0 rejected.*`ge2e manifest` writes"),
        ("audio_path,speaker_id\na.wav,\n", PlanError, "no usable row .* 1 rows read, 1 rejected"),
        ("path,speaker\n", ManifestError, "expected the columns audio_path and speaker_id"),
        (None, ManifestError, r"no manifest at .*m\.csv: expected a file or a glob"),
    ],
)
def test_errors_of_workers_arrive_as_they_were_raised(
    tmp_path: Path, content: str | None, error: type[Exception], message: str
) -> None:
    """Not as what the runner makes of them, and without a verdict that would be left behind."""
    if content is not None:
        (tmp_path / "m.csv").write_text(content)
    with pytest.raises(error, match=message) as caught:
        run_here(tmp_path / "m.csv", tmp_path / "out")
    assert type(caught.value) is error
    assert "while running" not in str(caught.value)
    assert files_in(tmp_path / "out") == set()


def test_an_output_that_cannot_be_is_told_before_the_work(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dataset can be written to .*manifest\.csv .*expected a folder"):
        run_here(corpus, corpus)


def test_a_metadata_file_of_others_is_told_before_the_work(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"name": "another tool"}')
    with pytest.raises(PlanError, match="was not written by this program"):
        run_here(corpus, tmp_path, "--overwrite")
    assert files_in(tmp_path) == {"metadata.json"}


def test_a_folder_with_brackets_in_its_name(corpus: Path, finished: RunResult, tmp_path: Path) -> None:
    """Beam's file systems take them for a glob."""
    out = tmp_path / "run[1] *"
    run_here(corpus, out, "--test_speakers=1")
    assert digest(Dataset.open(out)) == digest(Dataset.open(finished.output))
    found = counters(run_here(corpus, out, "--test_speakers=1").pipeline_result)
    assert found[metrics.SHARDS_ADOPTED] == 4
    run_here(corpus, out, "--overwrite")
    assert unlisted(out) == set()


def test_a_dataset_on_a_store_has_the_same_objects(corpus: Path, finished: RunResult, tmp_path: Path) -> None:
    """Manifest, audio and dataset on an object store: nothing is renamed there, and a missing object is one row."""
    MemoryStore.clear()
    text = corpus.read_text() + "gone.wav,spk00,synth,s0\n"
    MemoryStore.objects["memory://in/m.csv"] = text.encode()
    for path in corpus.parent.rglob("*.wav"):
        MemoryStore.objects[f"memory://in/{path.relative_to(corpus.parent)}"] = path.read_bytes()
    arguments = (
        "memory://in/m.csv",
        "memory://out/set",
        "--test_speakers=1",
        "--max_rejected=0.1",
        "--allow_scheme=memory",
    )
    metadata = run_here(*arguments).metadata
    assert metadata is not None
    assert metadata["counts"]["rejected"] == {"missing": 1}

    def objects() -> dict[str, bytes]:
        start = "memory://out/set/"
        return {name.removeprefix(start): data for name, data in MemoryStore.objects.items() if name.startswith(start)}

    made = objects()
    assert made.keys() == listed_files(metadata) | {"README.md", "metadata.json"}
    assert MemoryStore.uploads[-1] == "memory://out/set/metadata.json"
    local = metadata_of(Path(finished.output))["generation"]
    for name, content in made.items():
        if name.endswith((".tfrecord", ".index.parquet", ".arrow")):
            assert content == (Path(finished.output) / name.replace(metadata["generation"], local)).read_bytes()

    assert counters(run_here(*arguments).pipeline_result)[metrics.SHARDS_ADOPTED] == 4
    assert objects() == made
    other = run_here(*arguments, "--set", "n_mels=64", "--overwrite").metadata
    assert other is not None
    assert objects().keys() == listed_files(other) | {"README.md", "metadata.json"}


@pytest.mark.filterwarnings("ignore:an epoch of split")
def test_a_speaker_larger_than_a_shard_is_cut_in_parts_and_loads(tmp_path: Path) -> None:
    rows = []
    for speaker, utterances in (("a", 2), ("giant", 14), ("z", 2)):
        for number in range(utterances):
            path = f"{speaker}-{number}.wav"
            synth.write(tmp_path / path, synth.speechlike(number, 2.5, pitch_hz=120), 16000)
            rows.append((path, speaker, f"c{number % 3}", 2.5))
    manifest = write_rows(tmp_path / "m.csv", rows, "audio_path,speaker_id,session_id,duration_s")
    out = tmp_path / "out"
    run_here(manifest, out, "--shard_mib=0.1")
    dataset = Dataset.open(out)
    verify(dataset)
    index = dataset.index("train")
    giant = index["label"] == 1
    assert len(set(index.shard(np.flatnonzero(giant)).tolist())) > 2
    assert sorted(index["utterance_index"][giant].tolist()) == list(range(14))
    assert set(index["session_index"][giant].tolist()) == {0, 1, 2}
    people = dataset.speakers.to_pylist()
    assert [(row["label"], row["utterances"], row["sessions"]) for row in people] == [(0, 2, 2), (1, 14, 3), (2, 2, 2)]
    loader = BatchLoader(out, speakers_per_batch=3, utterances_per_speaker=2, speakers="proportional")
    batches = list(loader.batches())
    assert batches
    for examples, labels in batches:
        assert examples.shape == (6, 40, 121)
        assert sorted(set(labels.tolist())) == [0, 1, 2]


def test_a_job_that_ends_otherwise_is_not_taken_for_the_dataset_that_stands(
    corpus: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled job would else be reported with the figures of the dataset before."""

    class Cancelled:
        def wait_until_finish(self) -> str:
            return PipelineState.CANCELLED

    monkeypatch.setattr(beam.Pipeline, "run", lambda self: Cancelled())
    with pytest.raises(CommitError, match="the job ended as CANCELLED: run the same command again"):
        run_here(corpus, copied, "--test_speakers=1")


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("errors.StorageError", ""),
        ("errors.DiskError", ""),
        ("stores.StoreError", ". Run the same command again: finished shards are kept"),
    ],
)
def test_an_error_without_a_verdict_is_found_in_what_the_runner_tells(kind: str, end: str, tmp_path: Path) -> None:
    """A full disk took no verdict, and the reason ended as a traceback of the runner's."""
    text = (
        "Traceback (most recent call last):\nOSError: [Errno 28] No space left on device\n\nThe above exception was "
        f"the direct cause of this:\n\nge2e_transforms.{kind}: shard 0 of 2 of split train: /o/x cannot be written "
        "(No space left on device): make room in /o [while running 'WriteShards/WriteShard']\n"
    )
    found = main._own_error(job(tmp_path), RuntimeError(text))
    assert isinstance(found, StorageError)
    told = "shard 0 of 2 of split train: /o/x cannot be written (No space left on device): make room in /o"
    assert str(found) == told + end
    assert main._own_error(job(tmp_path), RuntimeError("ValueError: a bug")) is None
