"""Noise and rooms are decoded once, within a limit of memory, by several threads, and at the speech's rate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from synth import speechlike, tone, write

from ge2e_transforms import audio
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import DataError, EmptyAudioError, MissingAudioError, SilentAudioError
from ge2e_transforms.mixing import Room, Samples
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance

CONFIG = AudioConfig()


def rows(folder: Path, *names: str, **fields: object) -> list[Utterance]:
    return [Utterance(str(folder / name), name, "n", name, "n", **fields) for name in names]  # type: ignore[arg-type]


class Loads:
    """`audio.load`, counted."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, source: str | bytes, config: AudioConfig, channel: str | int | None, name: str) -> Samples:
        self.names.append(Path(name).name)
        return audio.load(source, config, channel, name)


def sounds(kind: str, listed: Sequence[Utterance], limit: int = 1 << 30) -> Sounds:
    return Sounds({kind: listed}, CONFIG, lambda location: location, limit)


@pytest.fixture
def five(tmp_path: Path) -> list[Utterance]:
    """Five seconds of sound in five files, 64 kB each once decoded."""
    for number in range(5):
        write(tmp_path / f"n{number}.wav", speechlike(number, 1.0), 16000, subtype="FLOAT")
    return rows(tmp_path, *(f"n{number}.wav" for number in range(5)))


def test_what_fits_is_decoded_once(five: list[Utterance]) -> None:
    made, load = sounds("noise", five), Loads()
    for _ in range(3):
        for number in range(5):
            np.testing.assert_array_equal(made.sound("noise", number, load), speechlike(number, 1.0))
    assert load.names == [f"n{number}.wav" for number in range(5)]
    assert made.count("noise") == 5 and made.location("noise", 3).endswith("n3.wav")


def test_beyond_the_limit_what_was_used_longest_ago_goes(five: list[Utterance]) -> None:
    made, load = sounds("noise", five, limit=3 * 64000), Loads()
    for number in (0, 1, 2, 0, 3, 0, 1, 4):
        made.sound("noise", number, load)
    assert load.names == ["n0.wav", "n1.wav", "n2.wav", "n3.wav", "n1.wav", "n4.wav"]


def test_one_that_is_larger_than_the_limit_is_given_all_the_same(five: list[Utterance]) -> None:
    made, load = sounds("noise", five, limit=1), Loads()
    for _ in range(2):
        assert len(made.sound("noise", 1, load)) == 16000
    assert load.names == ["n1.wav"]


def test_several_threads_get_the_same_sound(five: list[Utterance]) -> None:
    made, found = sounds("noise", five, limit=100_000), []

    def take() -> None:
        for number in range(50):
            found.append((number % 5, float(made.sound("noise", number % 5, audio.load)[500])))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200 and set(found) == {(n, float(speechlike(n, 1.0)[500])) for n in range(5)}


def test_a_sound_is_at_the_rate_of_the_speech_and_not_written_to(tmp_path: Path) -> None:
    write(tmp_path / "n.wav", tone(440, 1.0, rate=8000), 8000)
    sound = sounds("noise", rows(tmp_path, "n.wav")).sound("noise", 0, audio.load)
    assert len(sound) == 16000
    with pytest.raises(ValueError, match="read-only"):
        sound[0] = 1


def test_a_row_may_be_a_piece_of_a_recording(tmp_path: Path) -> None:
    write(tmp_path / "n.wav", speechlike(1, 3.0), 16000, subtype="FLOAT")
    listed = rows(tmp_path, "n.wav", offset_s=1.0, duration_s=0.5)
    sound = sounds("noise", listed).sound("noise", 0, audio.load)
    np.testing.assert_array_equal(sound, speechlike(1, 3.0)[16000:24000])
    assert sound.base is None  # the rest of the recording is let go


def test_a_room_is_one_channel_of_however_many(tmp_path: Path) -> None:
    channels = np.stack([np.roll(speechlike(7, 0.3), shift) for shift in range(30)], axis=1)
    write(tmp_path / "r.wav", channels, 16000, subtype="FLOAT")
    room = sounds("room", rows(tmp_path, "r.wav")).room(0, audio.load)
    expected = Room(channels[:, 0].copy())
    speech = speechlike(8, 1.0)
    np.testing.assert_array_equal(room.apply(speech), expected.apply(speech))
    other = sounds("room", rows(tmp_path, "r.wav", channel=4)).room(0, audio.load)
    np.testing.assert_array_equal(other.apply(speech), Room(channels[:, 4].copy()).apply(speech))


def test_what_is_wrong_with_a_recording_is_told_each_time(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    write(tmp_path / "silent.wav", np.zeros(100, np.float32), 16000)
    listed = rows(tmp_path, "text.wav", "nowhere.wav")
    made = sounds("noise", listed)
    for _ in range(2):
        with pytest.raises(DataError, match=r"text\.wav"):
            made.sound("noise", 0, audio.load)
        with pytest.raises(MissingAudioError, match=r"nowhere\.wav"):
            made.sound("noise", 1, audio.load)
    with pytest.raises(SilentAudioError):
        sounds("room", rows(tmp_path, "silent.wav")).room(0, audio.load)


def test_a_recording_without_samples_is_no_sound(tmp_path: Path) -> None:
    made = sounds("noise", rows(tmp_path, "n.wav"))
    with pytest.raises(EmptyAudioError, match=r"n\.wav has no samples"):
        made.sound("noise", 0, lambda *_: np.zeros(0, np.float32))


def test_what_may_still_be_kept(five: list[Utterance]) -> None:
    made, load = sounds("noise", five, limit=3 * 64000), Loads()
    left = [made.room_left]
    for number in range(5):
        made.sound("noise", number, load)
        left.append(made.room_left)
    assert left == [192_000, 128_000, 64_000, 0, 0, 0]
