"""An object store within the process, as Beam's file systems see one: for paths that begin with memory://."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem


class _Upload(io.BytesIO):
    """Like an object store's: the object appears when the upload is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            MemoryStore.objects[self._path] = self.getvalue()
            MemoryStore.uploads.append(self._path)
        super().close()


class MemoryStore(FileSystem):
    """Import it to have it; `objects` holds what was uploaded, reading one of `broken` fails."""

    objects: ClassVar[dict[str, bytes]] = {}
    uploads: ClassVar[list[str]] = []
    broken: ClassVar[set[str]] = set()

    @classmethod
    def clear(cls) -> None:
        cls.objects.clear()
        cls.uploads.clear()
        cls.broken.clear()

    @classmethod
    def scheme(cls) -> str:
        return "memory"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        raise AssertionError("a store has no folders to make")

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        return (self.metadata(path) for path in self.objects if path.startswith(dir_or_prefix))

    def create(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        return _Upload(path)

    def open(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        if path in self.broken:
            raise BeamIOError("the network is down")
        if path not in self.objects:
            raise BeamIOError(f"no object {path}")
        return io.BytesIO(self.objects[path])

    def exists(self, path: str) -> bool:
        return path in self.objects

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(self.objects[path]))

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.objects[path]

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise AssertionError("nothing is copied on a store")

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise AssertionError("nothing is renamed on a store")

    size = last_updated = checksum = lambda self, path: None
