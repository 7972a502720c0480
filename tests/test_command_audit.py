"""`ge2e audit`: exit status, tables that no id can change, JSON, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jobs
import pytest
from synth import small_corpus, speechlike, write

from ge2e_transforms.audit import CHECKS, ROWS
from ge2e_transforms.config import Recipe
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.utterance import shown
from pipeline import __main__ as program
from pipeline.commands import audit as command
from pipeline.commit import commit

pytestmark = pytest.mark.usefixtures("unsynced")

# Ids as an enemy would choose them: formulas, control and bidi characters, markup and emoji codes of the tables.
HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "＝1+1",  # noqa: RUF001
    "[bold red]x[/bold red]",
    "[/]",
    ":smile:",
    "\u202egnp.exe",
    "\u200f[31mred",
    "a;=1+1",
    'q"u,o',
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = small_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=2, seconds=1.2)
    return made(tmp_path_factory.mktemp("clean") / "dataset", manifest)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording under all hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    write(folder / "a.wav", speechlike(1, 1.2), 16000)
    rows = [("a.wav", name, name.replace("/", "|"), name, name) for name in HOSTILE]
    manifest = jobs.write_rows(folder / "m.csv", rows, "audio_path,speaker_id,namespace,utterance_id,source")
    return made(folder / "dataset", manifest)


def made(output: Path, manifest: Path) -> Path:
    job = jobs.job(output, manifest, recipe=Recipe().replace(n_mels=8), plan=PlanConfig(min_shards=2))
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    return output


def ge2e(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = program.main(["audit", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_clean_dataset_is_status_0(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generation = jobs.metadata_of(clean)["generation"]
    assert ge2e(capsys, clean) == (
        0,
        f"dataset  {clean} (generation {generation})\n"
        "holds    8 utterances of 4 speakers\n"
        "splits   as the manifests name them; a speaker for whom they name none is in train\n"
        "5 checks: 0 failed, 0 to look at, 5 in order\n",
        "",
    )
    status, text, _ = ge2e(capsys, clean, "--json")
    assert status == 0
    assert (json.loads(text)["failed"], json.loads(text)["findings"]) == (False, [])


def test_a_failure_is_status_1_and_a_warning_is_not(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deny [bold].txt").write_text("synth/spk01\nsynth/nobody\n")
    status, text, errors = ge2e(capsys, clean, "--deny", tmp_path / "deny [bold].txt")
    assert (status, errors) == (1, "")
    assert f"denied   {tmp_path}/deny [bold].txt: 2 entries: 1 in train, 0 in other splits only, 1 nowhere\n" in text
    assert "fail denied: 1 speaker(s) and utterance(s) of a deny-list in the train split\n" in text
    assert f"to do: {CHECKS['denied'][1]}\n" in text
    assert "6 checks: 1 failed, 0 to look at, 5 in order\n" in text

    write(tmp_path / "a.wav", speechlike(1, 1.2), 16000)
    warned = made(
        tmp_path / "warned",
        jobs.write_rows(
            tmp_path / "m.csv", [("a.wav", "s", "1"), ("a.wav", "s", "2")], "audio_path,speaker_id,utterance_id"
        ),
    )
    status, text, _ = ge2e(capsys, warned)
    assert status == 0
    assert "warn same_audio_twice: 1 recording(s) twice or more under one speaker\n" in text
    assert "5 checks: 0 failed, 1 to look at, 4 in order\n" in text


def test_bad_lists_and_files_are_named_errors(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deny.txt").write_text("a/b\nno speaker\n")
    status, text, errors = ge2e(capsys, clean, "--deny", tmp_path / "deny.txt")
    assert (status, text) == (1, "")
    assert errors.startswith(f"ge2e: DenyListError: {tmp_path}/deny.txt:2: 'no speaker' names no speaker: expected")
    status, _, errors = ge2e(capsys, clean, "--deny", tmp_path / "gone.txt")
    assert status == 1
    assert errors.startswith(f"ge2e: DenyListError: {tmp_path}/gone.txt cannot be read (No such file or directory)")
    status, _, errors = ge2e(capsys, clean, "--csv", tmp_path / "gone" / "x.csv")
    assert status == 1
    assert errors.startswith(f"ge2e: StorageError: {tmp_path}/gone/x.csv cannot be written (No such file")
    status, _, errors = ge2e(capsys, tmp_path / "nothing")
    assert status == 1
    assert errors.startswith("ge2e: DatasetError: no complete dataset at")


def test_no_id_acts_on_the_terminal(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(command, "_EXAMPLES", len(HOSTILE) - 1)
    status, text, errors = ge2e(capsys, hostile)
    assert (status, errors) == (1, "")
    assert "fail same_audio_two_speakers: 1 recording(s) under two or more speakers\n" in text
    assert f"{len(HOSTILE) - 1} of {len(HOSTILE)} rows: all with --json or --csv" in text
    assert [shown(name) in text for name in HOSTILE].count(True) == len(HOSTILE) - 1
    assert "\U0001f604" not in text
    # Nothing but ASCII and the lines of the table: no escape, no bidi mark.
    assert {sign for sign in text if not (sign.isascii() and sign.isprintable())} <= set("\n│┃━┏┳┓┡╇┩─└┴┘")


def test_json_holds_every_row_as_it_is(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ge2e(capsys, hostile, "--json")
    assert status == 1
    assert text.isascii()
    content = json.loads(text)
    (finding,) = content.pop("findings")
    assert content == {
        "dataset": str(hostile),
        "generation": jobs.metadata_of(hostile)["generation"],
        "utterances": len(HOSTILE),
        "speakers": len(HOSTILE),
        "split_rule": "as the manifests name them; a speaker for whom they name none is in train",
        "deny_lists": [],
        "failed": True,
    }
    assert (finding["check"], finding["severity"], finding["count"]) == ("same_audio_two_speakers", "fail", 1)
    assert sorted(row["utterance_id"] for row in finding["rows"]) == sorted(HOSTILE)
    assert {(row["group"], row["split"], row["detail"]) for row in finding["rows"]} == {(1, "train", "a.wav")}
    assert all(list(row) == ROWS.names for row in finding["rows"])


def test_no_cell_of_the_table_is_a_formula(hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.csv"
    assert ge2e(capsys, hostile, "--csv", path)[0] == 1
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["check", "severity", *ROWS.names]
    assert len(rows) == len(HOSTILE)
    for row in rows:
        assert not [value for value in row if value.startswith(("=", "+", "-", "@", "＝"))]  # noqa: RUF001
    at = header.index("utterance_id")
    assert sorted(row[at].removeprefix("'") for row in rows) == sorted(HOSTILE)
    assert sum(row[at].startswith("'") for row in rows) == 5


@pytest.mark.parametrize("sign", [*"=+-@\t\r\n", *"＝＋－＠", "﹢", "﹣", "﹦", "﹫", "−"])  # noqa: RUF001
@pytest.mark.parametrize("before", ["", " ", "\u00a0", "\u200b", "\ufeff", "\x00"])
def test_what_a_spreadsheet_would_run_is_text(sign: str, before: str) -> None:
    text = f"{before}{sign}1+1"
    if sign in "\t\r\n" and before:
        text = f"{before}{sign}=1+1"
    assert command.cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a", "a=b", "1", " ", "libri/84", "é", "'=", "train", 7, "\u200b"])
def test_what_it_would_not_run_stays_as_it_is(text: str | int) -> None:
    assert command.cell(text) == str(text)


def test_rows_are_turned_into_objects_a_few_at_a_time(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ge2e(capsys, hostile, "--json", "--csv", tmp_path / "whole.csv")
    monkeypatch.setattr(command, "_TOGETHER", 5)
    assert ge2e(capsys, hostile, "--json", "--csv", tmp_path / "parts.csv") == whole
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
