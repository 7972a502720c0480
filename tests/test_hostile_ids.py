"""Names that would be paths, markup, formulas, or other than they look: data from the manifest to the loader."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import synth
from jobs import files_in, job, write_all, write_rows
from small_dataset import write_metadata
from test_diagnosis import GOOD

from ge2e_transforms import schema
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CommitError, DatasetError, Ge2eError, StorageError, visible
from ge2e_transforms.loader import BatchLoader
from ge2e_transforms.records import decode_example, read_records
from ge2e_transforms.trials import read_trials, verification_trials
from ge2e_transforms.verify import verify
from pipeline import __main__ as program
from pipeline.commands import doctor
from pipeline.commands.run import print_summary
from pipeline.commit import commit
from pipeline.diagnosis import Finding
from pipeline.doctor import Diagnosis
from pipeline.verdict import raise_if_any, recorded

NAMES = (
    "../../etc/passwd",
    "/absolute",
    "a/../b",
    "..",
    "CON:",
    "rtl\u202egpj.exe",
    "isolate\u2066x\u2069",
    "zero\u200bwidth\ufeff",
    "caf\u00e9",
    "cafe\u0301",
    "=HYPERLINK('x')",
    "+1",
    "-1",
    "@SUM(1)",
    "<script>alert(1)</script>",
    "[red]x[/red][link=http://h]y[/link]",
    ":warning:",
    "%s{0}${x}`x`;x|x&",
    "\U0001f600",
    "x" * 4000,
)
WITH_SPACES = ("a b", "no\u00a0break", "line\u2028end", "ideographic\u3000x")
OWN_NAMES = re.compile(rf"metadata\.json|README\.md|failed-[0-9a-f]+\.json|{schema.OWN_FILE.pattern}")


class Made(NamedTuple):
    """A dataset, and what its rows were told."""

    dataset: Dataset
    rows: list[tuple[str, str, str, str, str]]  # speaker, utterance, session, subset, source


def make(folder: Path, names: Sequence[str]) -> Made:
    """A dataset of two utterances in two sessions of each speaker, whose every text is a hostile name."""
    for number in range(4):
        synth.write(folder / f"{number}.wav", synth.speechlike(number, 1.6), 16000)
    rows = [
        (f"{number % 4}.wav", name, "ns", f"{name}.{part}", f"{name}+{part}", name, names[number % 3], name)
        for number, name in enumerate(names)
        for part in range(2)
    ]
    header = "audio_path,speaker_id,namespace,utterance_id,session_id,subset,source,gender"
    manifest = write_rows(folder / "m.csv", rows, header)
    config = job(folder / "out" / "dataset", manifest)
    planned = write_all(config)
    assert planned.rejected == []
    commit(config, planned.plan, planned.rejected)
    return Made(Dataset.open(folder / "out" / "dataset"), [(f"ns/{row[1]}", *row[3:7]) for row in rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("names"), NAMES)


def test_names_never_become_paths(made: Made) -> None:
    root = made.dataset.root
    found = files_in(root)
    assert {name for name in found if not OWN_NAMES.fullmatch(name)} == set()
    assert [path.name for path in root.parent.iterdir()] == ["dataset"]
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"train"}
    assert sorted(path.name for path in root.parent.parent.iterdir()) == [
        *(f"{n}.wav" for n in range(4)),
        "m.csv",
        "out",
    ]


def test_names_come_through_unchanged(made: Made) -> None:
    """Records, indexes of shards and the speakers table; what differs only by normalisation stays apart."""
    dataset, expected = made.dataset, sorted(made.rows)
    columns = ("speaker_id", "utterance_id", "session_id", "subset", "source")
    keys = [schema.REPEATED[name] for name in columns]
    records, indexes = [], []
    for number, name in enumerate(dataset.shard_names("train")):
        indexes += [tuple(row.values()) for row in dataset.shard_index("train", number, columns).to_pylist()]
        if not dataset.shards("train")[number]["records"]:
            continue
        with (dataset.root / name).open("rb") as stream:
            for _, data in read_records(stream, name):
                fields = decode_example(data, name)[1]
                records.append(tuple(fields[key] for key in keys))
    assert sorted(records) == expected
    assert sorted(indexes) == expected
    assert sorted(dataset.speakers["speaker_id"].to_pylist()) == sorted(f"ns/{name}" for name in NAMES)
    assert dataset.metadata["datasets"] == sorted(NAMES[:3])
    verify(dataset)


@pytest.mark.filterwarnings("ignore:an epoch of split")
def test_the_loader_and_whole_utterances_take_them(made: Made) -> None:
    loader = BatchLoader(made.dataset.root, speakers_per_batch=4, utterances_per_speaker=2)
    assert sorted(loader.speaker_ids()) == sorted(f"ns/{name}" for name in NAMES)
    assert {len(np.unique(labels)) for _, labels in loader.batches()} == {4}
    for name in NAMES:
        found = loader.utterance(f"{name}.1", f"ns/{name}")
        assert (found.speaker_id, found.utterance_id) == (f"ns/{name}", f"{name}.1")


def test_trials_are_written_and_read_again(made: Made, tmp_path: Path) -> None:
    trials = verification_trials(made.dataset, "train", per_speaker=3)
    assert {speaker for speaker, _ in trials.utterances} == {f"ns/{name}" for name in NAMES}
    trials.write(tmp_path / "trials.txt")
    again = read_trials(tmp_path / "trials.txt", made.dataset)
    pairs = [[[x.utterances[n] for n in side] for side in (x.enrol, x.test)] for x in (trials, again)]
    assert pairs[0] == pairs[1]
    assert np.array_equal(trials.same, again.same)


def test_ids_with_spaces_of_any_kind_are_refused_in_a_list_of_trials(tmp_path: Path) -> None:
    spaced = make(tmp_path, [*NAMES[:4], *WITH_SPACES])
    verify(spaced.dataset)
    trials = verification_trials(spaced.dataset, "train", per_speaker=3)
    with pytest.raises(DatasetError, match=f"{2 * len(WITH_SPACES)} ids hold spaces") as caught:
        trials.write(tmp_path / "trials.txt")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "trials.txt").exists()


# What is printed.


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert program.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    return captured.out + captured.err


def only_signs(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_commands_show_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Markup acts in none, `:warning:` is no sign, and nothing turns the direction of the text around."""
    names = ("[red]x[/red]", ":warning:", "rtl\u202egpj.exe", "ok")
    dataset = make(tmp_path, names).dataset
    text = printed(capsys, "inspect", dataset.root)
    assert only_signs(text)
    assert r"sources      :warning:, [red]x[/red], rtl\u202egpj.exe" in text
    for command in (("verify", dataset.root, "--digest"), ("verify-batches", dataset.root, "-n", 4, "-m", 2)):
        assert only_signs(printed(capsys, *command))
    print_summary(str(dataset.root), dataset.metadata, 1.0)
    assert only_signs(capsys.readouterr().out)


def test_a_dataset_of_someone_else_does_not_act_on_the_terminal(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = json.loads((made.dataset.root / "metadata.json").read_text())
    evil = "\x1b]0;title\x07\x1b[2J\u202e[link=http://h]\nrows         0, written 0"
    metadata["datasets"] = [evil]
    metadata["counts"]["rejected"] = {evil: 1}
    write_metadata(tmp_path, metadata)
    text = printed(capsys, "inspect", tmp_path)
    assert only_signs(text)
    assert [line for line in text.split("\n") if line.startswith("rows ")] == ["rows         40, written 40"]


def test_the_doctor_shows_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "/x/\x1b[31m[red]\u202e.wav\n:warning:"
    report = GOOD.__class__(**{**GOOD.__dict__, "recording": evil, "temp": evil, "faults": {"output": evil}})
    doctor.print_diagnosis(Diagnosis([report], report, [Finding("fails", evil)]))
    text = capsys.readouterr().out
    assert only_signs(text)
    assert r"would fail: /x/\x1b[31m[red]\u202e.wav\n:warning:" in text


def test_refusals_show_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("gone\u202e\x1b[2J.wav", "[red]s", "u"), ("gone.wav", "s", "v")]
    manifest = write_rows(tmp_path / "m.csv", rows, "audio_path,speaker_id,utterance_id")
    config = job(tmp_path / "out", manifest)
    planned = write_all(config)
    with pytest.raises(CommitError, match=r"gone\\u202e\\x1b\[2J\.wav") as caught:
        commit(config, planned.plan, planned.rejected)
    assert str(caught.value).isprintable()
    assert program.main(["inspect", f"{tmp_path}/no\x1b[2J\u202e"]) == 1
    assert only_signs(capsys.readouterr().err)


def test_errors_are_one_line_and_stay_the_same_on_their_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError), recorded(str(tmp_path), "token"):
        raise StorageError("a\x1b\n\u2067b")
    with pytest.raises(StorageError) as caught:
        raise_if_any(str(tmp_path), "token")
    assert str(caught.value) == r"a\x1b\n\u2067b"
    assert str(Ge2eError("é 日本 \\n")) == "é 日本 \\n"
    assert visible("\ud800\U000e0001") == r"\ud800\U000e0001"


def test_logs_of_a_program_show_names_as_text() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(program.Visible())
    logger = logging.Logger("apart")
    logger.addHandler(handler)
    logger.warning("%s\nnext", "\x1b[2J\u202e")
    assert stream.getvalue() == "WARNING: \\x1b[2J\\u202e\nnext\n"
