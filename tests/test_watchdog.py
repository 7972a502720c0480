"""Decoders that really crash and really hang, through whole jobs: the next attempt ends, with a row in the ledger."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import synth
from jobs import ROOT, data_digests, files_in, run_command, run_here, unlisted

from ge2e_transforms import isolated
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.dataset import Dataset
from pipeline import watchdog

HOOKS = Path(__file__).parent / "hooks"
WORDS = ("SEGFAULT", "SLEEPING")
FLAGS = ("--max_rejected=0.5", "--direct_num_workers=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of three speakers, with each word and with both; to a sane decoder such a file is no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    small = list(csv.reader(synth.small_corpus(folder, speakers=3, utterances=2, seconds=1.0).read_text().splitlines()))
    rows = []
    for speaker, word in enumerate(WORDS):
        # Where the hook is, eight bytes have a second.
        (folder / f"{word}.wav").write_text(word if word == "SLEEPING" else word * 10)
        rows.append([f"{word}.wav", f"spk{speaker:02d}", "synth", "s0"])
    for name, extra in zip((*WORDS, "both"), (rows[:1], rows[1:], rows), strict=True):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(small + extra)
    return folder


def environment() -> dict[str, str]:
    return {"PYTHONPATH": f"{HOOKS}{os.pathsep}{ROOT}"}


def check(out: Path, manifest: Path, undisturbed: Path, reasons: dict[str, str]) -> None:
    """All is as in a job whose decoders only say that the files are no audio, but for what the ledger says."""
    run_here(manifest, undisturbed, *FLAGS)
    assert unlisted(out) == set()
    mine, others = data_digests(out), data_digests(undisturbed)
    ledger = next(name for name in mine if name.startswith("ledger-"))
    assert mine.pop(ledger) != others.pop(ledger)
    assert mine == others
    assert len([name for name in mine if name.endswith(".tfrecord")]) == 3
    table = Dataset.open(out).ledger()
    found = dict(zip(table["audio_path"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert found == {f"{word}.wav": reason for word, reason in reasons.items()}


def marks(out: Path) -> list[Path]:
    return sorted(out.glob("*/*.started.json"))


def test_a_decoder_that_crashes_costs_one_attempt_and_one_recording(corpus: Path, tmp_path: Path) -> None:
    out, manifest = tmp_path / "out", corpus / "SEGFAULT.csv"
    command = ("run", "--manifest", manifest, "--output", out, *FLAGS)
    died = run_command(*command, **environment())
    assert died.returncode == -signal.SIGSEGV
    (mark,) = marks(out)
    assert json.loads(mark.read_text()).keys() == {"host", "pid", "time"}
    assert "metadata.json" not in files_in(out)

    ended = run_command(*command, **environment())
    assert (ended.returncode, ended.stderr) == (0, "")
    check(out, manifest, tmp_path / "undisturbed", {"SEGFAULT": "decoder_crashed"})


def test_a_decoder_that_hangs_ends_the_process_and_the_next_attempt_ends_the_job(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = tmp_path / "out", corpus / "SLEEPING.csv"
    ended = run_command("run", "--manifest", manifest, "--output", out, *FLAGS, **environment())
    assert ended.returncode == 1
    assert ended.stderr == (
        f"ge2e: DecoderHungError: {corpus}/SLEEPING.wav: not decoded after 1 s; this process ends. The next attempt "
        "decodes it in a process of its own: if nothing starts one, run the same command again\n"
    )
    assert len(marks(out)) == 1

    run_with_hooked_children(manifest, out, monkeypatch)
    check(out, manifest, tmp_path / "undisturbed", {"SLEEPING": "decoder_hung"})


def test_isolated_from_the_start_no_second_attempt_is_needed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = tmp_path / "out", corpus / "both.csv"
    run_with_hooked_children(manifest, out, monkeypatch, "--isolate_decoder")
    check(out, manifest, tmp_path / "undisturbed", {"SEGFAULT": "decoder_crashed", "SLEEPING": "decoder_hung"})
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    assert not [command for command in commands if isolated.__name__ in command]


def run_with_hooked_children(manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """A job in this process, whose own decoders are sane."""
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.setattr(isolated, "time_limit_s", lambda config, size: 0.5 if size == 8 else 600.0)
        run_here(manifest, out, *FLAGS, *flags)


def test_what_the_watchdog_passes_on_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wav = synth.encoded(synth.tone(440, 0.1), 16000)
    assert len(watchdog.load(wav, AudioConfig())) == 1600
    assert watchdog._running == {}
