"""Where a shard's audio comes from: local files as they are, all else read ahead.

A failure of the disk or the network stays what it is (it may pass, and is no fault of the recording); what is missing
or may not be read is the row's fault and goes to the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ge2e_transforms import stores
from ge2e_transforms.errors import MissingAudioError, StorageError, UnreadableAudioError
from ge2e_transforms.read_ahead import ReadAhead, Source
from ge2e_transforms.shards import AudioSource
from pipeline import storage

# What a store says of one object, unlike credentials that are wrong for all of them.
_DENIED = re.compile(r"ACCESS_DENIED|PERMISSION_DENIED|HTTP status 403")


@contextmanager
def reading(order: Sequence[str]) -> Iterator[AudioSource]:
    """A function from locations to paths or bytes, for recordings that are asked for in this order."""
    remote = [location for location in order if not storage.is_local(location)]
    if not remote:
        yield lambda location: location
        return
    with ReadAhead(open_source, remote) as read:
        yield lambda location: location if storage.is_local(location) else read(location)


class _Object(NamedTuple):
    opened: stores.OpenObject

    @property
    def size(self) -> int:
        return self.opened.size

    def read(self) -> bytes:
        return self.opened.read_all()


class _File(NamedTuple):
    location: str
    size: int

    def read(self) -> bytes:
        return storage.read_bytes(self.location)


def open_source(location: str) -> Source:
    """A recording that is not a local file.

    Raises:
        MissingAudioError: there is no such object.
        UnreadableAudioError: the store lets nobody with these credentials read it.
        StorageError: the store refuses for a reason that concerns more than this recording.
        OSError: trouble that may pass.
    """
    try:
        found = stores.locate(location)
        if found is not None:
            store, path = found
            return _Object(store.open(path))
        size = storage.size(location)
        if size is None:
            raise FileNotFoundError(location)
        return _File(location, size)
    except FileNotFoundError:
        raise MissingAudioError(f"{location}: no such object: check audio_path") from None
    except stores.StoreError as error:
        if not error.final:
            raise
        if _DENIED.search(str(error)):
            raise UnreadableAudioError(f"{location}: may not be read ({error}): check its permissions") from None
        raise StorageError(str(error)) from error
