"""The decoded recordings of a shard, row by row: each is decoded once, however many rows are pieces of it.

Recordings that later rows need again stay in memory up to a limit. Beyond it the one used longest ago is cut into the
pieces that are still wanted, which go to a file that has no name: at most some times what the shard itself takes.
Samples are mono, float32 `[n]`, at the rate of the config. It must not know what becomes of them.
"""

from __future__ import annotations

import functools
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

import numpy as np

from ge2e_transforms import audio
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import DataError, DiskError
from ge2e_transforms.utterance import Utterance

# Where encoded audio comes from: a location to a local path, or to the bytes of an object.
AudioSource = Callable[[str], "str | bytes"]
# What decodes: `audio.load`, or what does the same elsewhere.
AudioLoader = Callable[["str | bytes", AudioConfig, "str | int | None", str], Samples]
_T = TypeVar("_T")
# Location and channel; offset and duration in seconds.
_Key: TypeAlias = tuple[str, "str | int"]
_Piece: TypeAlias = tuple["float | None", "float | None"]

# Samples kept in memory (256 MiB of float32).
_KEPT_SAMPLES = 1 << 26
KEPT_BYTES = 4 * _KEPT_SAMPLES
# Waits before a read that failed is tried again; then the shard fails, and the runner may try it elsewhere.
_RETRY_WAITS_S = (0.5, 1.0, 2.0, 5.0)


class Recordings:
    """Decoded recordings by row; close it to let go of the file.

    Args:
        rows: all that will be taken, in this order.
        config: of the recipe.
        open_audio: where encoded audio comes from.
        load: what decodes it.
        folder: where the file for pieces is made, once one is needed.
    """

    def __init__(
        self, rows: Iterable[Utterance], config: AudioConfig, open_audio: AudioSource, load: AudioLoader, folder: Path
    ) -> None:
        self._config = config
        self._open_audio = open_audio
        self._decode = load
        self._folder = folder
        self._left: dict[_Key, Counter[_Piece]] = {}
        for row in rows:
            self._left.setdefault(self._key(row), Counter())[row.offset_s, row.duration_s] += 1
        self._kept: dict[_Key, Samples | DataError] = {}
        # Of recordings put away: first byte and number of samples of each piece.
        self._pieces: dict[_Key, dict[_Piece, tuple[int, int] | DataError]] = {}

    def __enter__(self) -> Recordings:
        return self

    def __exit__(self, *_: object) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    @functools.cached_property
    def _file(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self._folder)

    def _key(self, row: Utterance) -> _Key:
        return row.location, self._config.channel if row.channel is None else row.channel

    def take(self, row: Utterance) -> Samples:
        """Mono samples `[n]` of a row's segment at the recipe's rate; raises the DataError of its recording."""
        key, piece, left = self._one_less(row)
        if key in self._pieces:
            return self._read(self._pieces[key][piece])
        samples = self._kept.pop(key, None)
        if samples is None:
            samples = self._load(key)
        if left:
            self._keep(key, samples)
        return self._cut(_raised(samples), key, piece)

    def pass_over(self, row: Utterance) -> None:
        """Of a row that was to be taken and need not be: its recording is kept no longer than others need it."""
        key, _, left = self._one_less(row)
        if not left:
            self._kept.pop(key, None)

    def _one_less(self, row: Utterance) -> tuple[_Key, _Piece, Counter[_Piece]]:
        """Recording and piece of a row, and the pieces of the recording that other rows will take."""
        key, piece = self._key(row), (row.offset_s, row.duration_s)
        left = self._left[key]
        left[piece] -= 1
        if not left[piece]:
            del left[piece]
        return key, piece, left

    def _cut(self, samples: Samples, key: _Key, piece: _Piece) -> Samples:
        if piece[0] is None:
            return samples
        return audio.cut(samples, self._config.sample_rate_hz, *piece, key[0])

    def _load(self, key: _Key) -> Samples | DataError:
        location, channel = key
        try:
            return patiently(
                location, lambda: self._decode(self._open_audio(location), self._config, channel, location)
            )
        except DataError as error:
            return error

    def _keep(self, key: _Key, samples: Samples | DataError) -> None:
        self._kept[key] = samples
        # The one used longest ago goes first: each use takes a recording out and puts it back at the end.
        for old in self._over_limit():
            self._put_away(old, _raised(self._kept.pop(old)))

    def _over_limit(self) -> Iterator[_Key]:
        sizes = {key: len(kept) for key, kept in self._kept.items() if not isinstance(kept, DataError)}
        total = sum(sizes.values())
        for key in list(sizes)[:-1]:
            if total <= _KEPT_SAMPLES:
                return
            total -= sizes[key]
            yield key

    def _put_away(self, key: _Key, samples: Samples) -> None:
        pieces: dict[_Piece, tuple[int, int] | DataError] = {}
        try:
            for piece in self._left[key]:
                try:
                    pieces[piece] = self._write(self._cut(samples, key, piece))
                except DataError as error:
                    pieces[piece] = error
        except OSError:  # no room for it: it is decoded again
            return
        self._pieces[key] = pieces

    def _write(self, samples: Samples) -> tuple[int, int]:
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(np.ascontiguousarray(samples).data)
        return start, len(samples)

    def _read(self, place: tuple[int, int] | DataError) -> Samples:
        start, count = _raised(place)
        self._file.seek(start)
        return np.frombuffer(self._file.read(4 * count), dtype=np.float32)


def patiently(location: str, load: Callable[[], _T]) -> _T:
    """What `load` gives of a recording; trouble of the disk or the network, which may pass, is waited out for a while.

    Raises:
        DataError: of the recording.
        OSError: the trouble did not pass.
    """
    waits = iter(_RETRY_WAITS_S)
    while True:
        try:
            return load()
        except OSError as error:
            wait_s = next(waits, None)
            if wait_s is None:
                if error.errno is None:  # ours, or of a store: it has a name
                    raise
                raise DiskError(
                    f"{location} cannot be read ({error.strerror}), when tried again too: check the disk, or the "
                    "network it is on, and run the same command again; finished shards are kept"
                ) from error
            time.sleep(wait_s)


def _raised(found: _T | DataError) -> _T:
    if isinstance(found, DataError):
        raise type(found)(str(found))
    return found
