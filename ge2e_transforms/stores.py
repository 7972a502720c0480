"""Object stores (`s3://`, `gs://`) through `pyarrow.fs`: whole objects and ranges by path, tried again if that helps.

Credentials and endpoints come from where the store's own tools look for them (environment, profile, instance) and from
nowhere else. Safe to call from several threads at once. Paths are `bucket/key`. It must not know what the objects hold.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import operator
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

SCHEMES = ("gs", "s3")
MOST_READERS = 256  # requests that one client has in flight at most
RANGE_BYTES = 8 << 20  # of one request for a whole object: long beside the time to its first byte
_RANGES = 16  # in flight for one whole object: 128 MiB of memory at most

# What a store's client tries by itself before we see an error (with pauses of up to 1, 2, 4 ... 20 s), and our pauses
# between rounds of that. A store that is busy or down for half a minute stops nothing.
_CLIENT_TRIES = 3
_PAUSES_S = (0.5, 2.0, 8.0, 20.0)
_GCS_TRY_S = 10
# Errors that no second try mends.
_FINAL = re.compile(
    r"ACCESS_DENIED|ACCOUNT|INVALID|SIGNATURE|NO_SUCH|UNRECOGNIZED_CLIENT|TOKEN|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|HTTP status (3\d\d|4(?!08|29)\d\d)"
)
_QUOTED = re.compile(r"'[^']*'")  # names of objects, which may say anything
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_client_lock = threading.Lock()
_first_used: dict[str, int] = {}  # scheme -> process


class StoreError(OSError):
    """A store did not answer, or refused. The message says what to check.

    Attributes:
        final: no second try would mend it.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Store:
    """One bucket, by a client of this process that is made when it is needed.

    All methods raise FileNotFoundError for what is not there and StoreError for all else, once tries are of no use.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self.scheme, self.bucket = scheme, bucket
        self._client: tuple[tuple[Any, ...], Any] | None = None

    def client(self) -> Any:
        """The `pyarrow.fs.FileSystem` of this process; StoreError if it was forked from one that used the store."""
        made_for = (os.getpid(), *endpoint(self.scheme))
        if self._client is None or self._client[0] != made_for:
            with _client_lock:  # making one takes a tenth of a second, and all readers ask at once
                if self._client is None or self._client[0] != made_for:
                    self._client = (made_for, _connect(self.scheme, self.bucket))
        return self._client[1]

    def try_to(self, action: str, path: str, call: Callable[[Any], Any]) -> Any:
        """`call` of the client, again after errors that may pass."""
        pauses = iter(_PAUSES_S)
        while True:
            try:
                return call(self.client())
            except (FileNotFoundError, StoreError):
                raise
            except OSError as error:
                text, pause = str(error), next(pauses, None)
                final = bool(_FINAL.search(_QUOTED.sub("", text)))
                if pause is None or final:
                    raise StoreError(told(f"{self.scheme}://{path}", action, text), final=final) from None
                time.sleep(pause * random.uniform(0.5, 1))

    def size(self, path: str) -> int | None:
        """Bytes of an object; None if there is none."""
        info = self.info(path)
        return None if info is None else info[0]

    def info(self, path: str) -> tuple[int, int] | None:
        """(bytes, time of change in nanoseconds) of an object; None if there is none."""
        found = self.try_to("looked up", path, lambda client: client.get_file_info(path))
        return (int(found.size), int(found.mtime_ns or 0)) if found.is_file else None

    def sizes(self, folder: str, *, deep: bool = False) -> dict[str, int]:
        """Bytes of all objects of a folder (and below, if `deep`), by path; one request for each thousand."""
        from pyarrow import fs

        chosen = fs.FileSelector(folder.rstrip("/"), allow_not_found=True, recursive=deep)
        entries = self.try_to("listed", folder, operator.methodcaller("get_file_info", chosen))
        return {entry.path: int(entry.size) for entry in entries if entry.is_file}

    def open(self, path: str) -> OpenObject:
        """An object for reads of any part of it."""
        return OpenObject(self, path)

    def read(self, path: str) -> bytes:
        """A whole object."""
        return self.open(path).read_all()

    def write(self, path: str, content: Callable[[], Iterable[bytes]]) -> None:
        """One object, whole or not at all, in place of what was there.

        Args:
            path: of the object.
            content: gives its parts from the start; again for each try.
        """

        def upload(client: Any) -> int:
            parts, sent = iter(content()), 0
            part = next(parts, b"")  # before the upload begins, as what has begun cannot be taken back
            with client.open_output_stream(path, compression=None) as stream:
                while part:
                    stream.write(part)
                    sent += len(part)
                    part = next(parts, b"")
            return sent

        sent, arrived = self.try_to("written", path, upload), self.size(path)
        if arrived != sent:
            raise StoreError(f"{self.scheme}://{path} was not written: {sent} bytes sent, {arrived} there", final=False)

    def remove(self, path: str) -> None:
        """Removes an object; one that is gone already does not matter."""
        with contextlib.suppress(FileNotFoundError):
            self.try_to("removed", path, lambda client: client.delete_file(path))


class OpenObject:
    """One object, opened: its size is known, and any range can be read by any number of threads."""

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self._lock = threading.Lock()
        # On gs:// the size of an opened file is asked for anew, with Python's lock held, and a whole object comes by
        # one request without opening it.
        self._file = None if store.scheme == "gs" else self._opened()
        size = store.size(path) if self._file is None else int(self._file.size())
        if size is None:
            raise FileNotFoundError(f"{store.scheme}://{path}")
        self.size = size

    def _opened(self) -> Any:
        return self._store.try_to("opened", self._path, lambda client: client.open_input_file(self._path))

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on: `length` of them, or less at the end of the object."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        with self._lock:
            file = self._file = self._file or self._opened()
        return bytes(self._store.try_to("read", self._path, lambda _: file.read_at(length, offset)))

    def read_all(self) -> bytes:
        """The whole object; a large one by several requests at once."""
        if self.size > RANGE_BYTES:
            content = bytearray(self.size)
            self.fetch(lambda offset, part: content.__setitem__(slice(offset, offset + len(part)), part))
            return bytes(content)
        if self._file is not None:
            return self.read_at(0, self.size)
        return bytes(self._store.try_to("read", self._path, self._stream))

    def _stream(self, client: Any) -> Any:
        with client.open_input_stream(self._path, compression=None) as stream:
            return stream.read(self.size)

    def fetch(self, take: Callable[[int, bytes], object]) -> None:
        """Hands all parts, with their offsets and in any order, to `take`, from several threads."""

        def part(offset: int) -> None:
            take(offset, self.read_at(offset, RANGE_BYTES))

        with ThreadPoolExecutor(_RANGES, "ge2e-fetch") as pool:
            for _ in pool.map(part, range(0, self.size, RANGE_BYTES)):
                pass

    @contextlib.contextmanager
    def stream(self, range_bytes: int = RANGE_BYTES) -> Iterator[BinaryIO]:
        """The object as a file of bytes, seekable, read by ranges of this size."""
        with io.BufferedReader(_RawObject(self), range_bytes) as stream:
            yield cast(BinaryIO, stream)


class _RawObject(io.RawIOBase):
    def __init__(self, opened: OpenObject) -> None:
        self._opened, self._position = opened, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._opened.size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._opened.read_at(self._position, len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def told(url: str, action: str, text: str) -> str:
    """What to say of an object that cannot be read or written; `text` is the client's."""
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***")
    place = "://".join(endpoint(url.partition("://")[0])) or "of the provider"
    return f"{url} cannot be {action}: {text.strip()}. Check the endpoint ({place}), the credentials and the network"


@functools.lru_cache(maxsize=64)
def _store(scheme: str, bucket: str) -> Store:
    return Store(scheme, bucket)


def locate(url: str) -> tuple[Store, str] | None:
    """The store of an `s3://` or `gs://` URL, one for each bucket, and the path in it; None for any other path."""
    scheme, separator, path = url.partition("://")
    return (_store(scheme, path.partition("/")[0]), path) if separator and scheme in SCHEMES else None


def _connect(scheme: str, bucket: str) -> Any:
    """A client of this process; called by one thread at a time.

    Endpoints are taken from the environment here, as Arrow looks for none.
    """
    if _first_used.setdefault(scheme, os.getpid()) != os.getpid() and scheme == "s3":
        raise StoreError(
            f"s3://{bucket} cannot be read in a forked process: the program it was forked from has used s3:// already, "
            "and another client would hang. Start workers by 'spawn' or 'forkserver' "
            "(torch: DataLoader(multiprocessing_context='forkserver'))",
            final=True,
        )
    import pyarrow as pa
    from pyarrow import fs

    place = endpoint(scheme)
    options: dict[str, Any] = {"scheme": place[0], "endpoint_override": place[1]} if place else {}
    if scheme == "gs":  # an emulator knows no credentials
        limit = datetime.timedelta(seconds=_GCS_TRY_S)
        return fs.GcsFileSystem(anonymous=bool(place), retry_time_limit=limit, **options)
    options["retry_strategy"] = fs.AwsStandardS3RetryStrategy(max_attempts=_CLIENT_TRIES)
    # A small object is sent by one request.
    options["allow_delayed_open"] = True
    # Arrow lets a client of S3 open as many connections as it has I/O threads (8), but at least 25.
    threads = pa.io_thread_count()
    pa.set_io_thread_count(max(threads, MOST_READERS))
    try:
        return fs.S3FileSystem(region=region(bucket), **options)
    finally:
        pa.set_io_thread_count(threads)


def region(bucket: str) -> str:
    """Of a bucket on S3: as the environment says, else as the bucket does."""
    from pyarrow import fs

    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or ("us-east-1" if endpoint("s3") else str(fs.resolve_s3_region(bucket)))


def endpoint(scheme: str) -> tuple[str, ...]:
    """Protocol and address that the environment names for a store; else empty."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if scheme == "s3" else ("STORAGE_EMULATOR_HOST",)
    url = next((value for name in names if (value := os.environ.get(name))), "")
    if not url:
        return ()
    parts = urlsplit(url if "://" in url else f"{'https' if scheme == 's3' else 'http'}://{url}")
    return parts.scheme, parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")


def _renew_lock() -> None:
    global _client_lock
    _client_lock = threading.Lock()


# Another thread may hold the lock at the moment of a fork; in the copy nobody would ever let go of it.
os.register_at_fork(after_in_child=_renew_lock)
