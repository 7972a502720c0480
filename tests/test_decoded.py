"""Decoded recordings of a shard: one decode for each, whatever the order of its rows, in bounded memory."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest

from ge2e_transforms import decoded
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoded import Recordings
from ge2e_transforms.errors import CorruptAudioError, DataError, TruncatedAudioError
from ge2e_transforms.utterance import Utterance

RATE = 100
CONFIG = AudioConfig(sample_rate_hz=16000)


def row(name, offset_s=None, duration_s=None, **fields):
    return Utterance(
        f"/{name}", "s", "n", f"{name}-{offset_s}", "n", offset_s=offset_s, duration_s=duration_s, **fields
    )


class Decoder:
    """Recordings of whole numbers: seconds by name. Counts what it decodes."""

    def __init__(self, **seconds):
        self.seconds, self.seen = seconds, []

    def __call__(self, source, config, channel, name):
        self.seen.append(source)
        seconds = self.seconds[source.strip("/")]
        if seconds is None:
            raise CorruptAudioError(f"{name}: broken")
        count = seconds * config.sample_rate_hz
        return np.arange(count, dtype=np.float32) + np.float32(1000 * len(source))


def recordings(rows, decoder, folder):
    return Recordings(rows, CONFIG, lambda location: location, decoder, folder)


def taken(rows, decoder, folder):
    found = []
    with recordings(rows, decoder, folder) as made:
        for each in rows:
            try:
                found.append(np.array(made.take(each)).tobytes())
            except DataError as error:
                found.append(str(error))
    return found


def alternating(names, count):
    """A second of each recording in turn: a meeting of several speakers, sorted by speaker."""
    return [row(name, float(n), 1.0) for n in range(count) for name in names]


def test_what_goes_to_disk_is_what_stays_in_memory(tmp_path, monkeypatch):
    names = ["a", "bb", "ccc", "dddd"]
    rows = [*alternating(names, 3), row("bb"), row("a", 2.5), row("ccc", 1.0, 1.0), row("ccc", 1.0, 1.0)]
    wanted = taken(rows, Decoder(**dict.fromkeys(names, 3)), tmp_path)
    for limit in (0, 100, 16000 * 3, 16000 * 7):
        monkeypatch.setattr(decoded, "_KEPT_SAMPLES", limit)
        decoder = Decoder(**dict.fromkeys(names, 3))
        assert taken(rows, decoder, tmp_path) == wanted
        assert sorted(decoder.seen) == [f"/{name}" for name in names]
    assert list(tmp_path.iterdir()) == []


def test_long_recordings_of_many_pieces_are_decoded_once_in_any_order(tmp_path, monkeypatch):
    """Recordings that speakers share used to be decoded again for each speaker once two did not fit."""
    monkeypatch.setattr(decoded, "_KEPT_SAMPLES", 16000 * 60)
    names = [f"hour{n}" for n in range(5)]
    decoder = Decoder(**dict.fromkeys(names, 40))
    rows = alternating(names, 40)
    assert len(taken(rows, decoder, tmp_path)) == 200
    assert len(decoder.seen) == 5


def test_memory_stays_within_the_limit_and_the_recording_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_KEPT_SAMPLES", 16000 * 60)
    names = [f"hour{n}" for n in range(8)]
    rows = alternating(names, 2)
    tracemalloc.start()
    with recordings(rows, Decoder(**dict.fromkeys(names, 40)), tmp_path) as made:
        for each in rows:
            made.take(each)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 16000 * (60 + 3 * 40)  # kept, and one as it is decoded, in float32 and before


def test_errors_of_recordings_and_pieces_stay_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_KEPT_SAMPLES", 0)
    rows = [
        *alternating(["good", "bad"], 2),
        row("good", 30.0, 1.0),
        row("other"),
        row("bad", 7.0),
        row("good", 0.0, 1.0),
        row("good", 30.0, 1.0),
        row("other"),
    ]
    decoder = Decoder(good=3, bad=None, other=1)
    with recordings(rows, decoder, tmp_path) as made:
        for each in rows:
            wrong = (
                CorruptAudioError if "bad" in each.audio_path else TruncatedAudioError if each.offset_s == 30 else None
            )
            with pytest.raises(wrong) if wrong else contextlib.nullcontext():
                made.take(each)
    assert sorted(decoder.seen) == ["/bad", "/good", "/other"]


def test_a_disk_without_room_costs_another_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_KEPT_SAMPLES", 0)
    rows = alternating(["a", "bb"], 3)
    wanted = taken(rows, Decoder(a=3, bb=3), tmp_path)

    def full(self, samples):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recordings, "_write", full)
    decoder = Decoder(a=3, bb=3)
    assert taken(rows, decoder, tmp_path) == wanted
    assert len(decoder.seen) == 5


def test_channels_are_recordings_of_their_own(tmp_path):
    rows = [row("a", channel=0), row("a", channel=1), row("a")]
    decoder = Decoder(a=1)
    taken(rows, decoder, tmp_path)
    assert len(decoder.seen) == 3


def test_a_row_that_is_passed_over_keeps_nothing(tmp_path):
    rows = [row("a"), row("bb", 0.0, 1.0), row("bb", 1.0, 1.0)]
    decoder = Decoder(a=2, bb=2)
    with recordings(rows * 2, decoder, tmp_path) as made:
        for each in rows:
            made.take(each)
        assert sorted(key[0] for key in made._kept) == ["/a", "/bb"]
        made.pass_over(rows[0])
        made.pass_over(rows[1])
        assert [key[0] for key in made._kept] == ["/bb"]  # of which a row is still to come
        assert made.take(rows[2])[0] == 3000 + 16000
        assert not made._kept
    assert decoder.seen == ["/a", "/bb"]
