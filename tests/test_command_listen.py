"""`ge2e listen`: a stored utterance as a WAV, raw ones bit for bit; what it prints and refuses."""

from __future__ import annotations

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jobs
import numpy as np
import numpy.typing as npt
import pytest
import s3_server
import soundfile
import synth
from jobs import ge2e
from s3_server import BUCKET

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.schema import KEY_SPEAKER, KEY_START, KEY_UTTERANCE
from pipeline.commit import commit

GE2E = PRESETS["ge2e"]
ODD = "u~noise1 [red]/\u00fc\u202e$(x);*"
# Utterance ids with the number of their speaker and seconds; the last is held out and too short to train on.
UTTERANCES = [("same", 0, 1.6), ("same", 1, 1.8), (ODD, 1, 1.7), ("-dash", 0, 2.0), ("short", 2, 0.25)]
RECIPES = {
    "ge2e": GE2E.replace(max_part_s=1.2),
    "float16": GE2E.replace(dtype="float16"),
    "mfcc": GE2E.replace(features="mfcc", voice="mask"),
    "raw": GE2E.replace(features="raw", max_part_s=1.2),
    "windows": PRESETS["seed"].replace(crop_ms=200.0),
    "raw windows": GE2E.replace(features="raw", segments="windows", crop_ms=200.0),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listen")
    rows = []
    for number, (name, speaker, seconds) in enumerate(UTTERANCES):
        synth.write(folder / f"{number}.wav", synth.speechlike(number, seconds), 16000, subtype="PCM_16")
        rows.append((f"{number}.wav", f"s{speaker}", name, "test" if name == "short" else "train"))
    jobs.write_rows(folder / "manifest.csv", rows, "audio_path,speaker_id,utterance_id,split")
    return folder


class Datasets(Protocol):
    """Gives a dataset by the name of its recipe."""

    def __call__(self, name: str) -> Path: ...


@pytest.fixture(scope="module")
def dataset(root: Path) -> Datasets:
    """Datasets by the names of their recipes, each made when it is first asked for."""

    @cache
    def made(name: str) -> Path:
        job = jobs.job(root / name, root / "manifest.csv", recipe=RECIPES[name], max_rejected=1.0)
        planned = jobs.write_all(job)
        commit(job, planned.plan, planned.rejected)
        return root / name

    return made


def stored(folder: Path, utterance: str, speaker: str = "") -> list[npt.NDArray[Any]]:
    """Values of the records of one utterance, in the order spoken."""
    found = [
        (int(fields[KEY_START]), values)
        for values, fields, _ in jobs.stored_records(folder)
        if fields[KEY_UTTERANCE] == utterance and str(fields[KEY_SPEAKER]).endswith(speaker)
    ]
    return [values for _, values in sorted(found, key=lambda record: record[0])]


def features(samples: npt.NDArray[np.float32], recipe: Recipe) -> npt.NDArray[np.float32]:
    as_it_is = {"remove_dc": False, "voice": "none", "level_mode": "set", "level_dbfs": None, "min_utterance_ms": 0}
    extractor = FeatureExtractor(recipe.replace(**as_it_is, segments="utterance", max_part_s=60.0))
    return np.asarray(extractor.joined(extractor.extract(samples, keep_all=True)))


def samples_of(path: Path) -> npt.NDArray[np.int16]:
    with soundfile.SoundFile(path) as file:
        assert (file.format, file.subtype, file.samplerate, file.channels) == ("WAV", "PCM_16", 16000, 1)
        return np.asarray(file.read(dtype="int16"))


# What is written.


@pytest.mark.parametrize("name", ["raw", "raw windows"])
@pytest.mark.parametrize("utterance", ["-dash", ODD, "short"])
def test_raw_samples_are_written_bit_for_bit(
    name: str, utterance: str, dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = stored(dataset(name), utterance)
    assert len(parts) > 1 or utterance != "-dash"
    assert ge2e(capsys, "listen", dataset(name), "-o", tmp_path / "a.wav", "--", utterance)[::2] == (0, "")
    assert np.array_equal(samples_of(tmp_path / "a.wav"), np.concatenate(parts)[:, 0])


@pytest.mark.parametrize(("name", "bound"), [("ge2e", 0.05), ("float16", 0.05), ("mfcc", 0.06)])
@pytest.mark.parametrize("utterance", ["-dash", ODD, "short"])
def test_features_of_the_file_are_near_the_stored_ones(
    name: str, bound: float, utterance: str, dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = stored(dataset(name), utterance)
    assert ge2e(capsys, "listen", dataset(name), "-o", tmp_path / "a.wav", "--", utterance)[::2] == (0, "")
    sound = samples_of(tmp_path / "a.wav").astype(np.float32) / np.float32(32768)
    found, expected = features(sound, RECIPES[name]), np.concatenate(parts)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < bound


def test_windows_come_one_after_the_other(
    dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = stored(dataset("windows"), ODD)
    status, text, _ = ge2e(capsys, "listen", dataset("windows"), ODD, "-o", tmp_path / "a.wav")
    assert status == 0
    assert text.endswith(f"; {len(windows)} stored windows, one after the other\n")
    pieces = samples_of(tmp_path / "a.wav").reshape(len(windows), 3200).astype(np.float32) / np.float32(32768)
    for piece, window in zip(pieces, windows, strict=True):
        assert np.abs(features(piece, RECIPES["windows"]) - window).mean() < 0.06


def test_one_line_says_what_was_written(dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.WAV"
    made = (str(dataset("ge2e")), "-dash", "40 mel bands inverted, 60 iterations of Griffin-Lim, seed 0")
    mfcc = (
        str(dataset("mfcc")),
        "-dash",
        "20 coefficients of 40 mel bands inverted, 3 iterations of Griffin-Lim, seed 7",
    )
    for folder, name, how in (made, mfcc):
        changes = ("--iterations", "3", "--seed", "7") if folder.endswith("mfcc") else ()
        status, text, errors = ge2e(capsys, "listen", folder, "-o", path, *changes, "--", name)
        voice = "mask" if changes else "join"
        found = re.fullmatch(
            rf"{re.escape(str(path))}: (\d\.\d\d) s at 16000 Hz, (-\d\d\.\d) dBFS; {how}; "
            rf"the recipe's voice={voice}, set to -30 dBFS\n",
            text,
        )
        assert (status, errors) == (0, "")
        assert found is not None, text
        samples = samples_of(path) / 32768
        assert float(found[1]) == pytest.approx(len(samples) / 16000, abs=0.006)
        assert float(found[2]) == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=0.06)
    text = ge2e(capsys, "listen", dataset("raw"), ODD, "-o", path)[1]
    assert text.endswith(" dBFS; the stored samples; the recipe's voice=join\n")


def test_seed_and_iterations_decide_the_samples(
    dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for changes in ((), (), ("--seed", "1"), ("--iterations", "9")):
        assert ge2e(capsys, "listen", dataset("float16"), ODD, "-o", tmp_path / "a.wav", *changes)[0] == 0
        written.append(jobs.sha256(tmp_path / "a.wav"))
    assert written[0] == written[1]
    assert len(set(written)) == 3


def test_gain_is_applied_and_never_clips(dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def heard(gain: str) -> tuple[npt.NDArray[np.float64], str]:
        status, text, _ = ge2e(capsys, "listen", dataset("raw"), ODD, "-o", tmp_path / "a.wav", "--gain_db", gain)
        assert status == 0
        return samples_of(tmp_path / "a.wav") / 32768, text

    plain, text = heard("0")
    assert "; gain" not in text
    softer, text = heard("-6")
    assert "; gain -6 dB\n" in text
    np.testing.assert_allclose(softer, plain * 10 ** (-6 / 20), atol=0.6 / 32768)
    loud, text = heard("40")
    told = re.search(r"; gain \+40 dB; made (\d+\.\d) dB softer, for it would clip\n", text)
    assert told is not None
    peak = np.abs(plain).max()
    np.testing.assert_allclose(loud, plain / peak, atol=1.1 / 32768)
    assert float(told[1]) == pytest.approx(40 + 20 * np.log10(peak), abs=0.06)


def test_a_dataset_on_a_store_is_heard(
    dataset: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset("raw")
    with s3_server.s3_server() as server:
        for _ in s3_server.in_environment(server, monkeypatch):
            for path in filter(Path.is_file, folder.rglob("*")):
                server.put(f"made/{path.relative_to(folder)}", path.read_bytes())
            assert ge2e(capsys, "listen", f"s3://{BUCKET}/made", ODD, "-o", tmp_path / "a.wav")[0] == 0
    assert np.array_equal(samples_of(tmp_path / "a.wav"), np.concatenate(stored(folder, ODD))[:, 0])


# Which utterance.


def test_two_speakers_with_one_id_are_told_apart(
    dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text, errors = ge2e(capsys, "listen", dataset("raw"), "same", "-o", tmp_path / "a.wav")
    assert (status, text) == (1, "")
    told = re.match(r"ge2e: DatasetError: 2 speakers have an utterance 'same': '(\S+/s0)', '(\S+/s1)'\. ", errors)
    assert told is not None
    for speaker in told.groups():
        assert ge2e(capsys, "listen", dataset("raw"), "same", "--speaker", speaker, "-o", tmp_path / "a.wav")[0] == 0
        expected = np.concatenate(stored(dataset("raw"), "same", speaker))[:, 0]
        assert np.array_equal(samples_of(tmp_path / "a.wav"), expected)


@pytest.mark.parametrize("name", ["raw", "windows"])
def test_an_unknown_utterance_or_speaker_is_named(
    name: str, dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, errors = ge2e(capsys, "listen", dataset(name), "sane", "-o", tmp_path / "a.wav")
    assert status == 1
    assert errors.startswith(f"ge2e: DatasetError: {dataset(name)} has no utterance 'sane'")
    assert "Near it: 'same'" in errors
    status, _, errors = ge2e(capsys, "listen", dataset(name), "same", "--speaker", "s9", "-o", tmp_path / "a.wav")
    assert (status, "has no speaker 's9'" in errors) == (1, True)
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_is_not_heard_and_the_file_of_before_stays(
    root: Path, dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "copy", tmp_path / "a.wav"
    shutil.copytree(dataset("raw"), folder)
    assert ge2e(capsys, "listen", folder, ODD, "-o", path)[0] == 0
    before = path.read_bytes()
    for shard in folder.glob("*/*.tfrecord"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2 :: 97] = bytes(len(content[len(content) // 2 :: 97]))
        content[: len(content) // 2 : 97] = bytes(len(content[: len(content) // 2 : 97]))
        shard.write_bytes(content)
    status, _, errors = ge2e(capsys, "listen", folder, ODD, "-o", path)
    assert status == 1
    assert errors.startswith("ge2e: CorruptRecordError: ")
    assert path.read_bytes() == before


# Where it is written.


def test_a_file_that_is_there_is_replaced(
    dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wav"
    path.write_text("of before")
    assert ge2e(capsys, "listen", dataset("raw"), ODD, "-o", path)[0] == 0
    assert len(samples_of(path)) > 1000
    assert list(tmp_path.iterdir()) == [path]


def test_where_it_is_never_written(dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset("raw")
    files = jobs.files_in(folder)
    for output, expected in (
        ("s3://bucket/a.wav", "expected a file on this machine"),
        ("", "expected a file on this machine"),
        (tmp_path, "is a folder: expected a file, such as"),
        (folder / "train" / "a.wav", "inside of the dataset: name another place by --output"),
        (tmp_path / "a.flac", "expected a name that ends in .wav"),
        (tmp_path / "none" / "a.wav", "cannot be written (No such file or directory)"),
    ):
        status, text, errors = ge2e(capsys, "listen", folder, ODD, "-o", output)
        assert (status, text) == (1, "")
        assert expected in errors
    assert jobs.files_in(folder) == files
    assert not list(tmp_path.iterdir())


def test_wrong_values_and_wrong_usage(dataset: Datasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, expected in (
        (("--iterations", "0"), "iterations=0 cannot be used"),
        (("--seed", "-1"), "seed=-1 cannot be used"),
        (("--gain_db", "nan"), "gain_db=nan cannot be used"),
        (("--gain_db", "101"), "gain_db=101.0 cannot be used"),
    ):
        status, _, errors = ge2e(capsys, "listen", dataset("ge2e"), ODD, "-o", tmp_path / "a.wav", *changes)
        assert (status, expected in errors) == (1, True)
    assert ge2e(capsys, "listen", dataset("ge2e"), ODD)[0] == 2
    assert ge2e(capsys, "listen", tmp_path, ODD, "-o", tmp_path / "a.wav")[0] == 1
    assert not list(tmp_path.iterdir())


def test_without_librosa_the_extra_is_named_and_raw_samples_are_heard(
    dataset: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    status, _, errors = ge2e(capsys, "listen", dataset("ge2e"), ODD, "-o", tmp_path / "a.wav")
    assert status == 1
    assert errors == (
        "ge2e: MissingExtraError: librosa, which `ge2e listen` needs unless features are raw, is not installed: "
        "pip install 'ge2e-features[listen]'\n"
    )
    assert not list(tmp_path.iterdir())
    assert ge2e(capsys, "listen", dataset("raw"), ODD, "-o", tmp_path / "a.wav")[0] == 0
