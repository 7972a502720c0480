"""isolated: the same samples as here, every error as it is, and a child that crashes, hangs, bloats or is orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synth
from jobs import ROOT

from ge2e_transforms import audio, isolated
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import (
    DataError,
    DecoderCrashedError,
    DecoderHungError,
    MissingAudioError,
    NoSuchChannelError,
    NotAudioError,
    OverLimitError,
    UnreadableAudioError,
)
from ge2e_transforms.isolated import IsolatedDecoder

CONFIG = AudioConfig()
HOOKS = Path(__file__).parent / "hooks"


@pytest.fixture(scope="module")
def plain() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def shared() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as decoder:
        yield decoder


@pytest.fixture
def hooked(shared: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch) -> IsolatedDecoder:
    """Its children do what the first word of a recording says."""
    monkeypatch.setenv("PYTHONPATH", f"{HOOKS}{os.pathsep}{ROOT}")
    return shared


def pid_of(decoder: IsolatedDecoder) -> int:
    assert decoder._child is not None
    return decoder._child.pid


def ended(pid: int) -> bool:
    """Whether a process that is no child of this one has ended; waits for it."""
    for _ in range(2000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("format", "rate"), [("FLAC", 16000), ("OGG", 44100), ("MP3", 8000)])
def test_samples_are_those_of_this_process(plain: IsolatedDecoder, format: str, rate: int, tmp_path: Path) -> None:
    samples = synth.speechlike(1, 3.0, rate)
    path = synth.write(tmp_path / "a", np.stack([samples, -0.5 * samples], axis=1), rate, format)
    for channel in (None, "mean", 1):
        expected = audio.load(str(path), CONFIG, channel)
        for source in (str(path), path.read_bytes()):
            found = plain.load(source, CONFIG, channel, "a")
            assert found.dtype == np.float32
            assert found.flags.writeable
            assert found.tobytes() == expected.tobytes()


def test_one_child_serves_all_recordings(plain: IsolatedDecoder) -> None:
    wav = synth.encoded(synth.tone(440, 0.1), 16000)
    plain.load(wav, CONFIG)
    first = pid_of(plain)
    with pytest.raises(DataError):
        plain.load(b"no audio", CONFIG)
    plain.load(wav, CONFIG)
    assert pid_of(plain) == first != os.getpid()


def test_relative_paths_mean_the_folder_of_the_parent(
    plain: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.load(synth.encoded(synth.tone(440, 0.1), 16000), CONFIG)  # the child stands elsewhere
    synth.write(tmp_path / "a.wav", synth.tone(440, 0.5), 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audio, "_WHOLE_FILE", 100)  # a long file: the child opens it
    assert len(plain.load("a.wav", CONFIG)) == 8000


@pytest.mark.parametrize(
    ("source", "channel", "error"),
    [
        ("gone\udcff.wav", None, MissingAudioError),
        ("no\0name", None, MissingAudioError),
        ("/", None, UnreadableAudioError),
        (b"no audio at all", None, NotAudioError),
        (synth.encoded(np.zeros((1600, 2)), 16000), 2, NoSuchChannelError),
        (synth.encoded(np.zeros((1600, 17)), 16000), None, OverLimitError),
    ],
)
def test_faults_are_those_of_this_process(
    plain: IsolatedDecoder, source: str | bytes, channel: int | None, error: type[DataError]
) -> None:
    for name in ("", "here/a.wav"):
        with pytest.raises(error) as expected:
            audio.load(source, CONFIG, channel, name)
        with pytest.raises(error) as found:
            plain.load(source, CONFIG, channel, name)
        assert (type(found.value), str(found.value)) == (error, str(expected.value))


def test_a_disk_that_fails_stays_an_error_of_the_disk(hooked: IsolatedDecoder) -> None:
    with pytest.raises(OSError, match="Input/output error") as found:
        hooked.load(b"EIO EIO!", CONFIG)
    assert (found.value.errno, found.value.filename) == (5, "a.wav")
    assert not isinstance(found.value, DataError)


def test_a_bug_in_the_child_is_a_bug_here(hooked: IsolatedDecoder) -> None:
    with pytest.raises(RuntimeError, match="a bug in the decoder"):
        hooked.load(b"A BUG!!!", CONFIG)


@pytest.mark.parametrize(
    ("word", "error", "told"),
    [
        (b"SEGFAULT", DecoderCrashedError, "the decoder ended by SIGSEGV, twice"),
        (b"EXITING!", DecoderCrashedError, "the decoder ended with status 3, twice"),
        (b"SLEEPING", DecoderHungError, "not decoded after 0.5 s, twice"),
        (b"GIL HELD", DecoderHungError, "not decoded after 0.5 s, twice"),
        (b"BLOATED!", OverLimitError, "takes more memory than"),
        (b"PRINTING", NotAudioError, "knows the format"),
    ],
)
def test_what_a_broken_decoder_does_is_a_fault_of_the_recording_and_the_next_one_decodes(
    hooked: IsolatedDecoder,
    word: bytes,
    error: type[DataError],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch, pytest.raises(error, match=f"^b/c.flac: .*{told}") as found:
        if error is DecoderHungError:
            patch.setattr(isolated, "time_limit_s", lambda config, size: 0.5)
        hooked.load(word, CONFIG, None, "b/c.flac")
    assert type(found.value) is error
    assert (found.value.stage, found.value.kind) == ("decode", "rejected")
    wav = synth.encoded(synth.tone(440, 0.1), 16000)
    assert hooked.load(wav, CONFIG).tobytes() == audio.load(wav, CONFIG).tobytes()
    assert capfd.readouterr() == ("", "")


def test_a_child_that_somebody_ended_costs_no_recording(plain: IsolatedDecoder) -> None:
    """The system ends processes where memory is short; the recording at hand need not be the reason."""
    wav = synth.encoded(synth.tone(440, 0.1), 16000)
    plain.load(wav, CONFIG)
    os.kill(pid_of(plain), signal.SIGKILL)
    assert len(plain.load(wav, CONFIG)) == 1600


def test_a_recording_may_be_larger_than_the_memory_that_the_one_before_was_allowed(
    plain: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(isolated, "memory_limit", lambda config, size: 8 << 20)
        assert len(plain.load(synth.encoded(synth.tone(440, 0.1), 16000), CONFIG)) == 1600
        pid = pid_of(plain)
        with pytest.raises(OverLimitError, match="takes more memory than 8 MiB"):
            plain.load(synth.encoded(np.zeros(9_000_000), 16000, "FLAC"), CONFIG)
    assert len(plain.load(synth.encoded(np.zeros(9_000_000, dtype=np.int16), 16000), CONFIG)) == 9_000_000
    assert pid_of(plain) == pid


def test_ctrl_c_leaves_no_child_that_answers_late(hooked: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked.load(synth.encoded(synth.tone(440, 0.1), 16000), CONFIG)
    pid = pid_of(hooked)

    def pressed(stream: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(isolated, "_receive", pressed)
        hooked.load(b"SLEEPING", CONFIG)
    assert ended(pid)
    assert len(hooked.load(synth.encoded(synth.tone(440, 0.2), 16000), CONFIG)) == 3200


def test_the_child_ends_when_it_is_closed() -> None:
    with IsolatedDecoder() as decoder:
        decoder.load(synth.encoded(synth.tone(440, 0.1), 16000), CONFIG)
        pid = pid_of(decoder)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("word", [b"waiting", b"GIL HELD"])
def test_the_child_does_not_outlive_a_parent_that_was_killed(word: bytes) -> None:
    program = (
        "import sys\n"
        "from ge2e_transforms.isolated import IsolatedDecoder\n"
        "from ge2e_transforms.config import AudioConfig\n"
        "decoder = IsolatedDecoder()\n"
        "try:\n    decoder.load(b'', AudioConfig())\nexcept Exception:\n    pass\n"
        "print(decoder._child.pid, flush=True)\n"
        f"decoder.load({word!r}, AudioConfig()) if {word!r} == b'GIL HELD' else sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HOOKS}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert ended(child)


def test_a_child_that_cannot_start_is_no_fault_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_PROGRAM", "raise SystemExit('no such module')")
    with IsolatedDecoder() as decoder, pytest.raises(RuntimeError, match=r"did not start \(status 1\): no such module"):
        decoder.load(b"RIFF", CONFIG)


def test_the_time_limit_grows_with_the_recipe_and_the_file() -> None:
    assert isolated.time_limit_s(CONFIG, 0) == 60 + 128
    assert isolated.time_limit_s(CONFIG, 10 << 20) == 60 + 128 + 10
    assert isolated.time_limit_s(AudioConfig(max_decoded_mib=8192), 0) == 60 + 1024
