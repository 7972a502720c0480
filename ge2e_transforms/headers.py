"""Length, rate and channels of recordings from their headers, without decoding them; many at once.

What a header cannot be believed of is refused as decoding would refuse it: a missing end, a container that breaks off,
more samples than its bytes could hold. MP3 and Ogg are read through to their end for that, all else at its start only.
A recording whose header passes may still be damaged inside. As with decoding, a library that crashes on hostile bytes
takes the process along. It must not know of manifests, archives or stores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, TypeAlias

from ge2e_transforms.audio import named_faults
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Encoded, Header, header_of_any
from ge2e_transforms.errors import CorruptAudioError, DataError, DiskError, EmptyAudioError
from ge2e_transforms.regular_files import open_regular

__all__ = ["Header", "OpenHeader", "open_local", "read_header", "read_headers"]

# Opens a recording by its location for a `with` block: its encoded bytes, seekable. DataError is let out of it.
OpenHeader: TypeAlias = Callable[[str], AbstractContextManager[BinaryIO]]
# The densest that is found: silence in FLAC, 65,535 samples in 11 bytes; Opus and AAC are far from it.
_MAX_SAMPLES_PER_BYTE = 1 << 13
# Headers that wait in order for one that takes long, for each thread.
_AHEAD = 16


@contextmanager
def open_local(location: str) -> Iterator[BinaryIO]:
    """A local file, read piece by piece; raises as `audio.decode` for what may not be opened."""
    with named_faults():
        file = open_regular(location)
    with file:
        yield file


def read_header(location: str, config: AudioConfig | None = None, open_header: OpenHeader = open_local) -> Header:
    """What the header of one recording states.

    Args:
        location: a local path, or what `open_header` takes.
        config: the limits; `max_seconds` bounds only what has to be decoded, as its header does not say how long it is.
        open_header: where the encoded bytes come from.

    Raises:
        MissingAudioError, UnreadableAudioError, EmptyAudioError, NotAudioError, CorruptAudioError,
            TruncatedAudioError, OverLimitError: as `audio.decode`, as far as the header shows it.
        DiskError: the file could not be read, for a reason that may pass.
    """
    config = config or AudioConfig()
    try:
        with open_header(location) as raw, Encoded(raw) as stream:
            header = header_of_any(stream, config)
            _check(header, stream.size)
    except DataError as error:
        text = str(error)
        raise type(error)(text if text.startswith(location) else f"{location}: {text}") from error.__cause__
    except OSError as error:
        if error.errno is None:  # ours, or of a store: it has a name
            raise
        raise DiskError(f"{location} cannot be read ({error.strerror}): check the disk, or its network") from error
    return header


def _check(header: Header, size: int) -> None:
    if not header.seconds > 0:
        raise EmptyAudioError("the audio has no samples")
    if header.seconds * header.rate_hz > size * _MAX_SAMPLES_PER_BYTE:
        raise CorruptAudioError(
            f"the header states {header.seconds:.1f} s at {header.rate_hz} Hz, which {size} bytes cannot hold"
        )


def read_headers(
    locations: Iterable[str],
    threads: int = 16,
    config: AudioConfig | None = None,
    open_header: OpenHeader = open_local,
) -> Iterator[Header | DataError]:
    """`read_header` of each location in their order, several at once; what is wrong with one stands in its place.

    Closing the iterator lets what has begun end, and begins nothing more.

    Raises:
        DiskError, and what stores raise: trouble that is no fault of a recording.
    """

    def one(location: str) -> Header | DataError:
        try:
            return read_header(location, config, open_header)
        except DataError as error:
            return error

    waiting: deque[Future[Header | DataError]] = deque()
    pool = ThreadPoolExecutor(threads, "ge2e-header")
    try:
        for location in locations:
            waiting.append(pool.submit(one, location))
            if len(waiting) >= threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
