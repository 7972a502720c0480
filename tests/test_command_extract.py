"""`ge2e extract` and `ge2e presets`: what they print, write and refuse; values are held in `test_inference.py`."""

from __future__ import annotations

import errno
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3_server
import synth
from jobs import ge2e
from s3_server import BUCKET, S3Server
from small_dataset import write_dataset, write_metadata

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.inference import features_of_file
from pipeline.commands.presets import differences


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "in" / name for name in ("one.flac", "two.wav")]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        synth.write(path, synth.speechlike(number, 2.0), 16000)
    return list(map(str, paths))


def test_one_file_is_written_for_each(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "features"
    assert ge2e(capsys, "extract", *files, "-o", out) == (0, f"wrote 2 of 2 to {out}\n", "")
    assert sorted(path.name for path in out.iterdir()) == ["one.npy", "two.npy"]
    for file in files:
        expected = features_of_file(file, FeatureExtractor(PRESETS["ge2e"]))
        assert np.array_equal(np.load(out / f"{Path(file).stem}.npy", allow_pickle=False), expected)
    assert (out / "one.npy").stat().st_mode & 0o044 == (tmp_path / "in" / "one.flac").stat().st_mode & 0o044


def test_an_npz_says_where_the_values_lie(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--preset", "seed", "--set", "voice=none", "--set", "n_mels=20")
    assert ge2e(capsys, "extract", files[0], *changes, "-o", tmp_path, "--npz")[0] == 0
    recipe = PRESETS["seed"].replace(voice="none", n_mels=20)
    with np.load(tmp_path / "one.npz", allow_pickle=False) as found:
        assert found["features"].shape == (1, 121, 20)
        assert [found[name].tolist() for name in ("starts", "samples", "rows", "flags")] == [[0], [19200], [121], [0]]
        assert (found["voiced_fraction"], found["gain_db"], found["sample_rate_hz"]) == (1, 0, 16000)
        assert str(found["fingerprint"]) == recipe.fingerprint()


def test_without_a_folder_a_summary_is_printed(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, "extract", *files, "--preset", "librosa")
    assert (status, errors) == (0, "")
    # 2 s and hops of 32 ms; centred frames end on the last whole hop.
    assert text.count("63 x 128") == 2
    assert text.count("  1.98 ") == 2
    assert text.endswith("nothing was written: -o FOLDER writes the features\n")


def test_what_fails_is_named_and_the_others_go_on(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "in" / "no\x1b[31m.wav"
    text.write_text("no audio at all, however long one looks at it")
    out = tmp_path / "out"
    status, said, errors = ge2e(capsys, "extract", files[0], tmp_path / "gone.wav", text, files[1], "-o", out)
    assert (status, said) == (1, f"wrote 2 of 4 to {out}\n")
    first, second = errors.splitlines()
    assert first.startswith(f"ge2e: MissingAudioError: {tmp_path}/gone.wav: no such file")
    assert second.startswith(f"ge2e: NotAudioError: {tmp_path}/in/no\\x1b[31m.wav: ")
    assert sorted(path.name for path in out.iterdir()) == ["one.npy", "two.npy"]


def test_names_that_collide_are_refused_before_anything_is_computed(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "one.wav"
    status, said, errors = ge2e(capsys, "extract", *files, other, "-o", tmp_path / "out")
    assert (status, said) == (1, "")
    assert f"{files[0]} and {other} would both become one.npy" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["s3://bucket/features", ""])
def test_the_output_is_a_local_folder(output: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, "extract", files[0], "-o", output)
    assert status == 1
    assert "expected a local folder" in errors


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_is_no_folder(below: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, "extract", files[0], "-o", files[1] + below)
    assert status == 1
    assert f"ConfigError: --output={files[1]}{below} cannot be used (" in errors
    assert Path(files[1]).is_file()


def test_a_dataset_and_a_preset_are_not_given_together(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, "extract", files[0], "--dataset", "somewhere", "--preset", "seed")
    assert status == 2
    assert "not allowed with argument" in errors


def test_a_recording_in_an_archive_is_read(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "speech.tar", "w") as archive:
        archive.add(files[0], "spk/inside.flac")
    member = f"{tmp_path}/speech.tar#spk/inside.flac"
    assert ge2e(capsys, "extract", member, "-o", tmp_path)[0] == 0
    expected = features_of_file(files[0], FeatureExtractor(PRESETS["ge2e"]))
    assert np.array_equal(np.load(tmp_path / "inside.npy"), expected)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server.s3_server() as server:
        yield from s3_server.in_environment(server, monkeypatch)


def test_dataset_and_recording_may_lie_on_a_store(
    s3: S3Server, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = PRESETS["kaldi"].replace(n_mels=20)
    made = write_dataset(tmp_path / "made", {"train": {"test/a": [[np.zeros((300, 20), np.float32)]]}}, recipe)
    write_metadata(made, {**json.loads((made / "metadata.json").read_text()), "fingerprint": "0" * 64})
    for path in filter(Path.is_file, made.rglob("*")):
        s3.put(f"made/{path.relative_to(made)}", path.read_bytes())
    s3.put("speech/one.flac", Path(files[0]).read_bytes())
    speech = f"s3://{BUCKET}/speech"
    arguments = (f"{speech}/one.flac", f"{speech}/gone.flac", "--dataset", f"s3://{BUCKET}/made", "-o", tmp_path)
    status, text, errors = ge2e(capsys, "extract", *arguments)
    assert (status, text) == (1, f"wrote 1 of 2 to {tmp_path}\n")
    warning, missing = errors.splitlines()
    assert "another version of the recipe" in warning
    assert f"MissingAudioError: {speech}/gone.flac: no such object" in missing
    assert np.array_equal(np.load(tmp_path / "one.npy"), features_of_file(files[0], FeatureExtractor(recipe)))


def test_presets_are_listed_with_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, "presets")
    assert (status, errors) == (0, "")
    lines = {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}
    assert lines["ge2e"] == ["seed", "librosa", "kaldi", "rtvc", "wespeaker"]
    assert lines["unit"] == ["log10", "log10", "dB", "ln", "power", "ln"]
    assert " ".join(lines["bins"]) == "x frames 40 x 121 40 x 121 128 x 38 80 x 200 40 x 160 80 x 200"
    assert lines["window"] == ["hann", "hann", "hann", "povey", "hann", "hamming"]
    assert lines["level_dbfs"] == ["-30", "-", "-", "-", "-30", "-"]
    assert "sample_rate_hz" not in lines and "dither" not in lines
    assert set(differences()) <= set(lines)


def test_presets_as_json_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ge2e(capsys, "presets", "--json")
    found = json.loads(text)
    assert status == 0
    assert list(found) == list(PRESETS)
    for name, recipe in PRESETS.items():
        assert Recipe.from_dict(found[name]["recipe"]) == recipe
        assert found[name]["fingerprint"] == recipe.fingerprint()
        assert found[name]["feature_shape"] == recipe.feature_shape
    assert found["seed"]["form"] == "windows"


def test_what_cannot_be_written_leaves_nothing_behind(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    status, _, errors = ge2e(capsys, "extract", files[0], "-o", tmp_path / "out")
    assert status == 1
    assert "cannot be written (No space left on device)" in errors
    assert list((tmp_path / "out").iterdir()) == []
