"""Recordings of noise and rooms by number: decoded once, and kept within a limit of memory. Safe in several threads.

It must not know how they are chosen or mixed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ge2e_transforms import audio
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoded import AudioLoader, AudioSource, patiently
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import EmptyAudioError
from ge2e_transforms.mixing import Room
from ge2e_transforms.utterance import Utterance

# Rooms are taken up by arrays: those of RIRS_NOISES have up to 30 microphones.
_MAX_CHANNELS = 64


class Sounds:
    """The recordings of some lists.

    Args:
        rows: of each list by its kind; those of 'room' are impulse responses.
        config: of the speech that they are mixed with.
        open_audio: where encoded audio comes from.
        cache_bytes: of decoded recordings that are kept; those used longest ago go first.
    """

    def __init__(
        self, rows: Mapping[str, Sequence[Utterance]], config: AudioConfig, open_audio: AudioSource, cache_bytes: int
    ) -> None:
        self._config = replace(config, max_channels=max(config.max_channels, _MAX_CHANNELS))
        self._rows, self._open_audio, self._limit = rows, open_audio, cache_bytes
        self._kept: OrderedDict[tuple[str, int], Samples | Room] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def room_left(self) -> int:
        """Bytes that may still be kept."""
        return max(0, self._limit - self._bytes)

    def count(self, kind: str) -> int:
        """Recordings of a list."""
        return len(self._rows[kind])

    def location(self, kind: str, number: int) -> str:
        """Where a recording is: path or URL."""
        return self._rows[kind][number].location

    def sound(self, kind: str, number: int, load: AudioLoader) -> Samples:
        """Mono samples `[n]`, n > 0, at the recipe's rate; not to be written to.

        Raises:
            DataError: the recording cannot be decoded.
            OSError: trouble that may pass, and did not.
        """
        found = self._take((kind, number), lambda: self._load(kind, number, load))
        if isinstance(found, Room):
            raise TypeError(f"{kind} is a list of rooms")
        return found

    def room(self, number: int, load: AudioLoader) -> Room:
        """As `sound`, of the list 'room'; SilentAudioError for a response without any sound."""
        found = self._take(("room", number), lambda: self._load("room", number, load))
        if not isinstance(found, Room):
            raise TypeError("room is a list of sounds")
        return found

    def _take(self, key: tuple[str, int], make: Callable[[], Samples | Room]) -> Samples | Room:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += found.nbytes
            while len(self._kept) > 1 and self._bytes > self._limit:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def _load(self, kind: str, number: int, load: AudioLoader) -> Samples | Room:
        row = self._rows[kind][number]
        # The mean of an array's channels would be another room.
        of_list = 0 if kind == "room" else self._config.channel
        channel = of_list if row.channel is None else row.channel
        samples = patiently(
            row.location, lambda: load(self._open_audio(row.location), self._config, channel, row.location)
        )
        if row.offset_s is not None:
            rate = self._config.sample_rate_hz
            samples = audio.cut(samples, rate, row.offset_s, row.duration_s, row.location).copy()
        if not len(samples):
            raise EmptyAudioError(f"{row.location} has no samples")
        if kind == "room":
            return Room(samples)
        samples.flags.writeable = False
        return samples
