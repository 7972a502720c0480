"""Real speech from files to batches: the same bytes whatever runs the job, faults in a ledger, a kill survived."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import synth
from apache_beam.runners.portability import portable_runner
from jobs import (
    LIMIT_S,
    ROOT,
    command,
    content_of,
    counters,
    data_digests,
    done_files,
    metadata_of,
    pids,
    run_command,
    run_here,
    stamps,
    unlisted,
)

from ge2e_transforms import BatchLoader, FeatureExtractor
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.records import decode_example, read_records
from ge2e_transforms.schema import KEY_SPEAKER, KEY_START, KEY_UTTERANCE
from ge2e_transforms.verify import verify
from pipeline import metrics
from pipeline.__main__ import main

FORMS = [("ge2e", "utterance"), ("ge2e", "windows"), ("seed", "utterance"), ("seed", "windows")]
SHARDS = 16 + 6  # of train and of test: at least 16, or one a speaker


@pytest.fixture(scope="module")
def manifest(librispeech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "librispeech.csv"
    assert main(["manifest", "librispeech", str(librispeech), "-o", str(path)]) == 0
    return path


Made = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The dataset of a preset and a form, by one worker in this process, made when it is first asked for."""

    @functools.cache
    def make(preset: str, segments: str) -> Path:
        out = tmp_path_factory.mktemp(f"{preset}-{segments}") / "out"
        run_here(manifest, out, "--preset", preset, "--segments", segments)
        return out

    return make


@pytest.fixture(scope="module")
def baseline(made: Made) -> Path:
    """The default preset and form."""
    return made("ge2e", "utterance")


def check_same(out: Path, baseline: Path) -> None:
    """Shards, indexes, speakers and ledger are equal to the byte, and so is what metadata says of them."""
    assert data_digests(out) == data_digests(baseline)
    assert len([name for name in data_digests(out) if name.endswith(".tfrecord")]) == SHARDS
    assert content_of(out) == content_of(baseline)
    assert unlisted(out) == set()


def check_batches(folder: Path) -> None:
    dataset = Dataset.open(folder)
    people = {row["label"]: row for row in dataset.speakers.to_pylist()}
    for split, n, m in (("train", 8, 4), ("test", 6, 4), ("train", 32, 3)):
        loader = BatchLoader(folder, speakers_per_batch=n, utterances_per_speaker=m)
        batches = list(loader.batches(split))
        assert len(batches) == loader.batches_per_epoch(split) > 0
        for examples, labels in batches:
            assert (examples.shape, examples.dtype) == ((n * m, 40, 121), np.float32)
            assert np.isfinite(examples).all()
            runs = labels.reshape(n, m)
            assert (runs == runs[:, :1]).all()
            assert len(set(runs[:, 0].tolist())) == n
            assert {people[label]["split"] for label in labels.tolist()} == {split}


def records_of(folder: Path) -> dict[tuple[str, str, int], np.ndarray]:
    """Values of every record by speaker, utterance and start."""
    dataset = Dataset.open(folder)
    found = {}
    for split in dataset.splits:
        for path, entry in zip(dataset.shard_paths(split), dataset.shards(split), strict=True):
            if entry["records"]:
                with path.open("rb") as stream:
                    for _, data in read_records(stream, path.name):
                        values, fields = decode_example(data, path.name)
                        found[(str(fields[KEY_SPEAKER]), str(fields[KEY_UTTERANCE]), int(fields[KEY_START]))] = values
    return found


def test_counts_of_the_real_speech(baseline: Path) -> None:
    metadata = metadata_of(baseline)
    assert metadata["counts"] == {"rows": 311, "written": 311, "filtered": {}, "rejected": {}}
    splits = metadata["splits"]
    assert {name: (split["speakers"], split["utterances"], split["shards"]) for name, split in splits.items()} == {
        "train": (251, 251, 16),
        "test": (6, 60, 6),
    }
    assert 2500 < splits["train"]["seconds"] < 3100
    assert metadata["datasets"] == ["librispeech"]
    speakers = Dataset.open(baseline).speakers
    assert speakers["speaker_id"].to_pylist()[:3] == ["libri/103", "libri/1034", "libri/1040"]
    assert speakers["label"].to_pylist() == list(range(257))


@pytest.mark.filterwarnings("ignore:an epoch of split")
@pytest.mark.parametrize(("preset", "segments"), FORMS)
def test_run_verify_batches(preset: str, segments: str, made: Made) -> None:
    out = made(preset, segments)
    report = verify(Dataset.open(out))
    splits = metadata_of(out)["splits"]
    assert dict(report.records) == {name: split["records"] for name, split in splits.items()}
    assert sum(report.shards.values()) == SHARDS
    assert unlisted(out) == set()
    check_batches(out)
    if segments == "windows":
        frames = Dataset.open(out).index("train")["frames"]
        assert len(frames) > 1000
        assert set(frames.tolist()) == {121}


@pytest.mark.parametrize(("preset", "segments"), [FORMS[0], FORMS[3]])
def test_stored_values_are_those_of_the_extractor_on_the_file(
    preset: str, segments: str, made: Made, librispeech: Path
) -> None:
    out = made(preset, segments)
    extractor = FeatureExtractor.from_metadata(BatchLoader(out).get_metadata())
    stored: dict[str, list[tuple[int, np.ndarray]]] = {}
    for (_, utterance, start), values in records_of(out).items():
        stored.setdefault(utterance, []).append((start, values))
    left_out = Dataset.open(out).ledger()["utterance_id"].to_pylist()
    assert len(stored) + len(left_out) == 311
    paths = [path for path in sorted(librispeech.rglob("*.flac")) if path.stem not in left_out]
    assert len(paths) > 300
    for path in paths[::15]:
        waveform, rate = soundfile.read(path, dtype="float32")
        values = [values for _, values in sorted(stored[path.stem], key=lambda entry: entry[0])]
        whole = np.stack(values) if segments == "windows" else np.concatenate(values)
        assert np.array_equal(whole, extractor(waveform, rate))


def test_a_second_run_gives_the_same_bytes(baseline: Path, manifest: Path, tmp_path: Path) -> None:
    run_here(manifest, tmp_path)
    check_same(tmp_path, baseline)
    assert pids(tmp_path) == {os.getpid()}


def test_several_worker_processes_give_the_same_bytes(baseline: Path, manifest: Path, tmp_path: Path) -> None:
    """Three here; by two the same is held on Flink."""
    run_here(manifest, tmp_path, "--direct_num_workers=3")
    check_same(tmp_path, baseline)
    assert len(pids(tmp_path)) == 3
    assert os.getpid() not in pids(tmp_path)


def test_every_bundle_tried_twice_gives_the_same_bytes(baseline: Path, manifest: Path, tmp_path: Path) -> None:
    result = run_here(manifest, tmp_path, "--", "--direct_runner_bundle_repeat=1")
    check_same(tmp_path, baseline)
    # The second attempt at each shard met the files of the first.
    assert counters(result.pipeline_result)[metrics.SHARDS_ADOPTED] == SHARDS


def test_prism_gives_the_same_bytes(baseline: Path, manifest: Path, prism: Path, tmp_path: Path) -> None:
    result = run_here(manifest, tmp_path, "--runner=PrismRunner", "--", f"--prism_location={prism}")
    check_same(tmp_path, baseline)
    assert counters(result.pipeline_result)[metrics.UTTERANCES_WRITTEN] == 311
    # It was Prism that ran it: a job server did, and the only one of this process is there until it ends.
    assert isinstance(result.pipeline_result, portable_runner.PipelineResult)
    if sys.platform == "linux":
        children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        programs = [Path(f"/proc/{pid}/exe").resolve() for pid in itertools.chain.from_iterable(children)]
        assert prism.resolve() in programs


def _switched_off() -> str:
    """CPU features that this NumPy has faster code for and that this machine has."""
    from numpy._core import _multiarray_umath as umath

    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name])


def test_another_cpu_gives_the_same_bytes(baseline: Path, manifest: Path, tmp_path: Path) -> None:
    """Kernels of BLAS and loops of NumPy as older processors get them; more settings in test_cpus.py."""
    environment = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": _switched_off()}
    arguments = ("run", "--manifest", manifest, "--output", tmp_path, "--direct_num_workers=1")
    result = run_command(*arguments, **environment)
    assert result.returncode == 0, result.stderr
    check_same(tmp_path, baseline)


def test_five_faults_are_five_ledger_rows_and_harm_no_other(
    baseline: Path, manifest: Path, librispeech: Path, tmp_path: Path
) -> None:
    flac = sorted((librispeech / "train-clean-100").rglob("*.flac"))[0]
    content = bytearray(flac.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    (tmp_path / "corrupt.flac").write_bytes(content)
    (tmp_path / "empty.flac").touch()
    (tmp_path / "text.flac").write_text("This is no recording. " * 100)
    synth.write(tmp_path / "silent.flac", np.zeros(48000), 16000)
    faults = {"corrupt": "corrupt", "empty": "empty", "missing": "missing", "silent": "silent", "text": "not_audio"}
    lines = ["audio_path,speaker_id,namespace,split"]
    lines += [
        f"{name}.flac,{speaker},libri,train"
        for name, speaker in zip(faults, ("103", "103", "19", "19", "26"), strict=True)
    ]
    (tmp_path / "faults.csv").write_text("\n".join(lines))

    out = tmp_path / "out"
    result = run_here(manifest, out, "--manifest", str(tmp_path / "faults.csv"))
    ledger = Dataset.open(out).ledger().to_pylist()
    assert {row["audio_path"].removesuffix(".flac"): row["reason"] for row in ledger} == faults
    assert [row["kind"] for row in ledger] == ["rejected"] * 5
    assert {row["reason"]: row["stage"] for row in ledger} == {
        reason: "voice" if reason == "silent" else "decode" for reason in faults.values()
    }
    text = (tmp_path / "faults.csv").read_bytes()
    for row in ledger:
        assert text[row["position"] :].startswith(row["audio_path"].encode())
        assert row["detail"]

    counts = metadata_of(out)["counts"]
    assert counts == {
        **{"rows": 316, "written": 311, "filtered": {}},
        "rejected": {"corrupt": 1, "empty": 1, "missing": 1, "not_audio": 1, "silent": 1},
    }
    found = counters(result.pipeline_result)
    assert found[metrics.UTTERANCES_WRITTEN] + found[metrics.UTTERANCES_REJECTED] == found[metrics.ROWS_READ] == 316
    verify(Dataset.open(out))
    before, after = records_of(baseline), records_of(out)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.fixture(scope="module")
def long_manifest(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real speech three times over, under other utterance ids."""
    header, *rows = manifest.read_text().splitlines()
    columns = header.split(",")
    place = columns.index("utterance_id")
    lines = [header]
    for number in range(3):
        for row in rows:
            fields = row.split(",")
            fields[place] += f"-{number}"
            lines.append(",".join(fields))
    path = tmp_path_factory.mktemp("long") / "long.csv"
    path.write_text("\n".join(lines))
    return path


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """SIGKILL to the program and all of its workers, as soon as `reached`."""
    try:
        limit = time.monotonic() + LIMIT_S
        while not reached():
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < limit, "the job came to nothing"
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_killed_in_the_middle_the_same_command_finishes(long_manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = command("run", "--manifest", long_manifest, "--output", out, "--direct_num_workers=2")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(job, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        kill_when(process, lambda: len(done_files(out)) >= 4 and any(out.glob("*/*.tfrecord.tmp-*")))
    done = done_files(out)
    assert 4 <= len(done) < SHARDS
    assert not (out / "metadata.json").exists()
    kept = [
        path.with_name(path.name.replace(".done.json", ending))
        for path in done
        for ending in (".tfrecord", ".index.parquet", ".done.json")
    ]
    before = stamps(kept)

    finished = subprocess.run(job, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert finished.returncode == 0, finished.stderr
    assert stamps(kept) == before
    assert len(done_files(out)) == SHARDS
    assert unlisted(out) == set()
    verify(Dataset.open(out))

    undisturbed = tmp_path / "undisturbed"
    run_here(long_manifest, undisturbed)
    assert digest(Dataset.open(out)) == digest(Dataset.open(undisturbed))
    assert data_digests(out) == data_digests(undisturbed)
