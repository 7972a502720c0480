"""Fetches the archives of LibriSpeech: resumed where it stopped, checked, unpacked whole or not at all.

An archive grows in `<name>.part`, and gets its name once its checksum is right. It is unpacked in a folder of its own,
of which the subset is moved to its place in one step: a subset that is there is complete.

Lengths are bytes. It must not know what speech is in it: `ge2e manifest` reads the folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ge2e_transforms.errors import DownloadError

LIBRISPEECH_URL = "https://www.openslr.org/resources/12"
# md5 of `<subset>.tar.gz`, as the corpus publishes them (md5sum.txt beside the archives) and as the downloaders of
# PaddlePaddle's DeepSpeech, which has all seven, and others repeat them.
LIBRISPEECH_MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
_TOP = "LibriSpeech"
_CHUNK = 1 << 20
# Of an answer: what has come of a piece is lost when the connection breaks.
_PIECE = 1 << 16
_TIMEOUT_S = (15, 60)
# Waits after connections that broke without a byte; one that brought some is followed by the next at once.
_PAUSES_S = (1.0, 5.0, 15.0)
# FLAC hardly shrinks when it is packed; what tar and the disk's blocks add stays below this.
_UNPACKED = 1.1
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def librispeech(subset: str, folder: Path, url: str = LIBRISPEECH_URL, keep: bool = False) -> Path:
    """Fetches and unpacks one subset; gives `folder/LibriSpeech/<subset>`, which is left as it is if it is there.

    Args:
        subset: one of `LIBRISPEECH_MD5`.
        folder: where the archive is kept meanwhile and `LibriSpeech` is made.
        url: folder of the archives, by http or https.
        keep: leave the archive there.

    Raises:
        DownloadError: the server refuses or cannot be reached, the checksum is wrong, the archive holds what it may
            not, or the disk is too small.
    """
    target = folder / _TOP / subset
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{subset}.tar.gz"
    fetch(f"{url.rstrip('/')}/{archive.name}", archive, LIBRISPEECH_MD5[subset])
    _unpack(archive, folder, subset)
    if not keep:
        archive.unlink()
    return target


def fetch(url: str, path: Path, md5: str) -> None:
    """Fetches a file of known checksum; a part that is there is continued, the whole file is left as it is.

    Raises:
        DownloadError: as `librispeech`.
    """
    if path.exists():
        _check(path, path, md5)
        return
    part = path.with_name(path.name + ".part")
    pauses = iter(_PAUSES_S)
    while True:
        before = part.stat().st_size if part.exists() else 0
        broken = _continue(url, part)
        if broken is None:
            break
        if part.exists() and part.stat().st_size > before:
            continue
        pause = next(pauses, None)
        if pause is None:
            raise DownloadError(
                f"{url} cannot be fetched ({broken}): check the network; the same command goes on after what is there"
            ) from broken
        time.sleep(pause)
    _check(part, path, md5)
    part.replace(path)


def _continue(url: str, part: Path) -> Exception | None:
    """Fetches what is missing; gives the error if the connection broke."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            if answer.status_code == 416 and have:
                return _past_the_end(answer, part)
            start, total = _extent(url, answer, have)
            _require_room(part.parent, total, start)
            # A server that does not know ranges sends all of it again.
            with part.open("r+b" if start else "wb") as file, _bar("fetch", total, start) as bar:
                file.seek(start)
                file.truncate()
                for chunk in answer.iter_content(_PIECE):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > total:
                        raise DownloadError(f"{url}: more comes than the {total} bytes that the server stated")
                if file.tell() < total:
                    return ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        return ConnectionError(str(error))
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched: {error}") from error
    except OSError as error:
        raise DownloadError(f"{part} cannot be written ({error.strerror}): make room, and run it again") from error
    return None


def _past_the_end(answer: Any, part: Path) -> Exception | None:
    """There is nothing after the part: it is whole, or is of another file and goes."""
    if str(answer.headers.get("Content-Range")) == f"bytes */{part.stat().st_size}":
        return None
    part.unlink()
    return ConnectionError("what was fetched before is longer than the file")


def _extent(url: str, answer: Any, have: int) -> tuple[int, int]:
    """First byte of an answer in the file, and bytes of the whole file."""
    if answer.status_code not in (200, 206):
        raise DownloadError(
            f"{url}: the server answered {answer.status_code} {answer.reason}: check the address, or name another that "
            "holds the archives by --url"
        )
    if answer.status_code == 206:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise DownloadError(
                f"{url}: asked for byte {have} on, got {answer.headers.get('Content-Range', 'no range')!r}; remove the "
                ".part to begin anew"
            )
        return have, int(found[2])
    length = answer.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise DownloadError(f"{url}: the server does not say how long it is: name another address by --url")
    return 0, int(length)


def _require_room(folder: Path, total: int, have: int) -> None:
    needed = total - have + int(total * _UNPACKED)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{folder} has {free / 1e9:.1f} GB free: expected {needed / 1e9:.1f} GB for the archive and what is "
            "unpacked of it; make room, or name another folder by -o"
        )


def _check(found: Path, path: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    size = found.stat().st_size
    with found.open("rb") as file, _bar("check", size) as bar:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != md5:
        found.unlink()
        raise DownloadError(
            f"{path}: {size} bytes of md5 {digest.hexdigest()}, expected md5 {md5}: it was removed; run the same "
            "command again, and if it comes again so, the server has another file"
        )


def _unpack(archive: Path, folder: Path, subset: str) -> None:
    aside = folder / f".{subset}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        with (
            archive.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:gz") as tar,
            _bar("unpack", archive.stat().st_size) as bar,
        ):
            for member in tar:
                tar.extract(member, aside, filter="data")
                bar.update(file.tell() - bar.n)
        _move(aside / _TOP, folder / _TOP, subset, archive)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(f"{archive} cannot be unpacked ({error}): nothing of it was kept") from error
    except OSError as error:
        raise DownloadError(
            f"{archive} cannot be unpacked in {folder} ({error.strerror}): make room, and run it again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move(unpacked: Path, top: Path, subset: str, archive: Path) -> None:
    if not (unpacked / subset).is_dir():
        raise DownloadError(f"{archive} holds no {_TOP}/{subset}: expected the archive of that subset")
    top.mkdir(exist_ok=True)
    for path in unpacked.iterdir():
        # Texts about the corpus, the same in all archives.
        if path.is_file() and not (top / path.name).exists():
            path.replace(top / path.name)
    (unpacked / subset).replace(top / subset)


@contextmanager
def _bar(what: str, total: int, start: int = 0) -> Iterator[Any]:
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(desc=what, total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=hidden) as bar:
        yield bar
