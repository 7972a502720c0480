"""Members of tar and zip archives: found and read whatever form they have, and every fault by its name."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms import archive_index
from ge2e_transforms.archives import Archives, split_member
from ge2e_transforms.errors import (
    CorruptAudioError,
    DataError,
    EmptyAudioError,
    MissingAudioError,
    NotAudioError,
    OverLimitError,
    TruncatedAudioError,
    UnreadableAudioError,
)

MIB = 1 << 20
CONTENT = {"a/b.flac": b"first" * 100, "ä/ö 1.wav": b"\0\xff" * 1000, "empty.wav": b"", "c.wav": b"last"}


class LocalFile:
    """A local archive; what is read of it is written down."""

    def __init__(self, path: str, reads: list[tuple[int, int]]) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = self.version = os.fstat(self._descriptor).st_size
        self._reads = reads

    def read_at(self, offset: int, length: int) -> bytes:
        self._reads.append((offset, length))
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class Opener:
    """Opens local archives; counts what is opened and read."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.opened = self.closed = 0

    @contextmanager
    def __call__(self, path: str) -> Iterator[LocalFile]:
        file = LocalFile(path, self.reads)
        self.opened += 1
        try:
            yield file
        finally:
            self.closed += 1
            file.close()


def tar_of(
    members: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT, mode: str = "w"
) -> bytes:
    if isinstance(members, dict):
        members = [(info(name, len(content)), content) for name, content in members.items()]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str, bytes], str]:
    """Writes an archive and gives its path."""

    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/x/a.tar#b/c.flac", ("/x/a.tar", "b/c.flac")),
        ("s3://bucket/a.zip#c.flac", ("s3://bucket/a.zip", "c.flac")),
        ("a.TaR#c", ("a.TaR", "c")),
        ("a.tar#b.zip#c", ("a.tar", "b.zip#c")),
        ("a#1.tar#b#2.wav", ("a#1.tar", "b#2.wav")),
        ("a.tar#", ("a.tar", "")),
        ("a.tar.gz#b", ("a.tar.gz", "b")),
        ("a.tgz#b", ("a.tgz", "b")),
        ("a.tar.zst#b", ("a.tar.zst", "b")),
        ("a.tar", None),
        ("take#1.wav", None),
        ("a.tar/b#c.wav", None),
        ("atar#b", None),
        ("a.rar#b", None),
    ],
)
def test_split_member(location: str, expected: tuple[str, str] | None) -> None:
    assert split_member(location) == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_members_are_read(at: Callable[[str, bytes], str], form: int) -> None:
    names = {**CONTENT, "d/" * 45 + "e.wav": b"long name", "f" * 99: b"longest short name"}
    path, opener = at("a.tar", tar_of(names, form)), Opener()
    archives = Archives(opener)
    assert {name: archives.read(path, name) for name in names} == names
    assert archives.size(path, "a/b.flac") == 500
    assert opener.opened == opener.closed == len(names) + 1


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_longer_than_a_header_holds(at: Callable[[str, bytes], str], form: int) -> None:
    name = "ü" * 150 + "/" + "x" * 300
    path = at("a.tar", tar_of({"first": b"1", name: b"2", "last": b"3"}, form))
    assert [Archives(Opener()).read(path, member) for member in ("first", name, "last")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"PK" * 30000])
def test_zip_members_are_read(at: Callable[[str, bytes], str], method: int, comment: bytes) -> None:
    path = at("a.zip", zip_of(CONTENT, method, comment))
    archives = Archives(Opener())
    assert {name: archives.read(path, name) for name in CONTENT} == CONTENT
    assert archives.size(path, "a/b.flac") == 500


def test_zip64(at: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # more members than this need the larger end record
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in CONTENT.items():
            with archive.open(name, "w", force_zip64=True) as member:  # 20 bytes more in the local header
                member.write(content)
    assert b"PK\x06\x06" in buffer.getvalue()
    path = at("a.zip", buffer.getvalue())
    assert [Archives(Opener()).read(path, name) for name in CONTENT] == list(CONTENT.values())


def test_a_zip_behind_other_bytes_and_with_long_fields(at: Callable[[str, bytes], str]) -> None:
    """A self-extracting zip begins with a program; a field longer than what is read ahead needs a second read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo("a.wav")
        member.extra = struct.pack("<HH", 0x7777, 5000) + b"x" * 5000
        archive.writestr(member, b"audio")
        archive.writestr("b.wav", b"more")
    path = at("a.zip", b"#!program" * 100 + buffer.getvalue())
    assert [Archives(Opener()).read(path, name) for name in ("a.wav", "b.wav")] == [b"audio", b"more"]


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_names_are_compared_as_they_would_be_unpacked(at: Callable[[str, bytes], str], ending: str) -> None:
    make = tar_of if ending == "tar" else zip_of
    path = at(f"a.{ending}", make({"./x/a.wav": b"1", "/y//b.wav": b"2", "../c.wav": b"3"}))
    archives = Archives(Opener())
    assert [archives.read(path, name) for name in ("x/a.wav", "./x//./a.wav", "/x/a.wav")] == [b"1"] * 3
    assert [archives.read(path, name) for name in ("y/b.wav", "../c.wav")] == [b"2", b"3"]
    with pytest.raises(MissingAudioError):
        archives.read(path, "c.wav")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_doubled_names_the_last_counts(at: Callable[[str, bytes], str]) -> None:
    members = [(info("a.wav", 3), b"old"), (info("b.wav", 1), b"b"), (info("./a.wav", 3), b"new")]
    tar = at("a.tar", tar_of(members))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members:
            archive.writestr(member.name, content)
    for path in (tar, at("a.zip", buffer.getvalue())):
        assert Archives(Opener()).read(path, "a.wav") == b"new"


def test_hard_links_are_the_member_before(at: Callable[[str, bytes], str]) -> None:
    hard = tarfile.LNKTYPE
    members = [
        (info("a.wav", 3), b"old"), (info("b.wav", 0, hard, "./a.wav"), b""), (info("a.wav", 3), b"new"),
        (info("c.wav", 0, hard, "b.wav"), b""), (info("d.wav", 0, hard, "nowhere.wav"), b""),
    ]  # fmt: skip
    path = at("a.tar", tar_of(members))
    archives = Archives(Opener())
    assert [archives.read(path, f"{name}.wav") for name in "abc"] == [b"new", b"old", b"old"]
    with pytest.raises(UnreadableAudioError, match=r"d\.wav is a link"):
        archives.read(path, "d.wav")


def test_an_archive_of_many_blocks(at: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks stand for large archives: members over block ends, many in a block, many blocks in a member."""
    rng = random.Random(7)
    names = {f"s{n % 7}/{n}.wav": rng.randbytes(rng.choice((0, 1, 511, 512, 513, 3000, 40_000))) for n in range(300)}
    path = at("a.tar", tar_of(names))
    for block in (1000, 4096, 1 << 16):
        monkeypatch.setattr(archive_index, "_BLOCK", block)
        archives = Archives(Opener())
        assert {name: archives.read(path, name) for name in names} == names


def test_a_tar_is_walked_in_large_blocks_and_a_zip_by_its_list(at: Callable[[str, bytes], str]) -> None:
    names = {f"{number}.wav": bytes(20_000) for number in range(1000)}
    path, opener = at("a.tar", tar_of(names)), Opener()
    Archives(opener).size(path, "7.wav")
    assert len(opener.reads) <= 6  # 20 MB
    path, opener = at("a.zip", zip_of(names, zipfile.ZIP_STORED)), Opener()
    archives = Archives(opener)
    archives.size(path, "7.wav")
    assert len(opener.reads) <= 2
    assert sum(length for _, length in opener.reads) <= 300_000
    opener.reads.clear()
    archives.read(path, "8.wav")
    assert len(opener.reads) == 1


def test_large_members_are_jumped_over_and_may_be_larger_than_8_gib(tmp_path: Path) -> None:
    """Sizes above 8 GiB are written in base 256 (GNU) or in a pax header; the bytes are a hole in the file."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path, hole = tmp_path / "a.tar", 9 << 30
        with path.open("wb") as file:
            header = info("huge.wav", hole).tobuf(form)
            file.write(header)
            file.truncate(len(header) + hole)
            file.seek(len(header) + hole)
            file.write(tar_of({"after.wav": b"after"}))
        opener = Opener()
        archives = Archives(opener)
        assert archives.read(str(path), "after.wav") == b"after"
        assert sum(length for _, length in opener.reads) < 64 * MIB
        with pytest.raises(OverLimitError, match=f"huge.wav has {hole} bytes"):
            archives.read(str(path), "huge.wav")


def test_an_index_is_made_once_by_many_threads(at: Callable[[str, bytes], str]) -> None:
    path, opener = at("a.zip", zip_of(CONTENT)), Opener()
    archives, together = Archives(opener), threading.Barrier(32)

    def read(number: int) -> bytes:
        together.wait()
        return archives.read(path, "a/b.flac")

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(read, range(32))) == {CONTENT["a/b.flac"]}
    assert len(opener.reads) == 1 + 32  # the list, which is within the last bytes, and each its member


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_of_another_size_is_indexed_anew(at: Callable[[str, bytes], str], ending: str) -> None:
    make = tar_of if ending == "tar" else zip_of
    archives = Archives(Opener())
    path = at(f"a.{ending}", make({"a.wav": b"1"}))
    assert archives.read(path, "a.wav") == b"1"
    at(f"a.{ending}", make({"b.wav": bytes(20_000), "a.wav": b"2"}))
    assert archives.read(path, "a.wav") == b"2"
    assert archives.size(path, "b.wav") == 20_000


def test_the_indexes_used_last_are_kept(at: Callable[[str, bytes], str]) -> None:
    paths = [at(f"{n}.zip", zip_of({f"{m}.wav": b"x" for m in range(10)})) for n in range(4)]
    opener = Opener()
    archives = Archives(opener, max_members=33)  # three archives of ten, and one each for its place

    def indexed(path: str) -> bool:
        opener.reads.clear()
        archives.size(path, "0.wav")
        return bool(opener.reads)

    assert [indexed(path) for path in (*paths[:3], *paths[:3])] == [True] * 3 + [False] * 3
    assert [indexed(paths[number]) for number in (3, 1, 2, 3, 0)] == [True, False, False, False, True]
    alone = Archives(opener, max_members=1)  # an archive larger than the bound is kept until the next
    assert [alone.read(paths[0], "1.wav") for _ in range(2)] == [b"x"] * 2


# Faults.


def refused(content: bytes, name: str, member: str, kind: type[DataError], **limits: int) -> str:
    """The message of the error that reading a member gives."""

    class Memory:
        size = version = len(content)

        def read_at(self, offset: int, length: int) -> bytes:
            return content[offset : offset + length]

    @contextmanager
    def opened(_: str) -> Iterator[Memory]:
        yield Memory()

    with pytest.raises(kind) as caught:
        Archives(opened, **limits).read(name, member)
    assert type(caught.value) is kind
    return str(caught.value)


def test_missing_archives_and_members_are_named(at: Callable[[str, bytes], str], tmp_path: Path) -> None:
    archives = Archives(Opener())
    with pytest.raises(MissingAudioError, match=r"no\.tar: no such archive"):
        archives.read(f"{tmp_path}/no.tar", "a.wav")
    (tmp_path / "b.tar").mkdir()
    path = at("a.tar", tar_of({f"speaker/{n:04d}.wav": b"" for n in range(500)}))
    with pytest.raises(MissingAudioError, match=r"'speaker/0250\.waf', but 500 others such as 'speaker/0250\.wav'"):
        archives.read(path, "speaker/0250.waf")
    with pytest.raises(MissingAudioError, match=r"no member 'zebra', but 500 others such as 'speaker/0\d+\.wav'"):
        archives.read(path, "zebra")
    with pytest.raises(MissingAudioError, match="no member ''"):
        archives.read(path, "")
    assert "nothing else either" in refused(tar_of({}), "a.tar", "a", MissingAudioError)
    assert "nothing else either" in refused(zip_of({}), "a.zip", "a", MissingAudioError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR])
def test_an_archive_that_may_not_be_read(number: int) -> None:
    @contextmanager
    def opened(path: str) -> Iterator[LocalFile]:
        raise OSError(number, "no way in", path)
        yield

    with pytest.raises(UnreadableAudioError, match=r"a\.tar \(no way in\)"):
        Archives(opened).read("a.tar", "a.wav")


@pytest.mark.parametrize("ending", ["tar", "zip"])
@pytest.mark.parametrize("good_reads", [0, 1, 2])
def test_trouble_of_the_disk_is_let_out_and_may_pass(
    at: Callable[[str, bytes], str], ending: str, good_reads: int
) -> None:
    names = {f"{n}.wav": bytes(3000) for n in range(3000)}  # three blocks of a tar; a zip's list is not in its tail
    path = at(f"a.{ending}", (tar_of if ending == "tar" else zip_of)(names))
    left = [good_reads]

    class Broken(LocalFile):
        def read_at(self, offset: int, length: int) -> bytes:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, "the network is down")
            return super().read_at(offset, length)

    @contextmanager
    def opened(path: str) -> Iterator[LocalFile]:
        file = Broken(path, [])
        yield file
        file.close()

    archives = Archives(opened)
    with pytest.raises(OSError, match="the network is down"):
        archives.read(path, "7.wav")
    left[0] = 1000
    assert archives.read(path, "7.wav") == bytes(3000)


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (info("x", 0, tarfile.DIRTYPE), "a directory"),
        (info("x", 0, tarfile.SYMTYPE, "a.wav"), "a link"),
        (info("x", 512, tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (info("x", 0, tarfile.FIFOTYPE), "a device or a pipe"),
        (info("x", 0, tarfile.CHRTYPE), "a device or a pipe"),
    ],
)
def test_tar_members_that_are_no_files(member: tarfile.TarInfo, what: str) -> None:
    content = tar_of([(info("a.wav", 1), b"a"), (member, bytes(member.size)), (info("b.wav", 1), b"b")])
    assert f"a.tar#x is {what}: expected a file" in refused(content, "a.tar", "x", UnreadableAudioError)


def test_zip_members_that_are_no_files_or_packed_otherwise() -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "a.wav")
        archive.writestr("folder/", "")
        archive.writestr("bz", "a" * 99, zipfile.ZIP_BZIP2)
        archive.writestr("secret", "a" * 99)
    content = bytearray(buffer.getvalue())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # as encryption marks a member
    expected = {
        "link": "a link",
        "folder": "a directory",
        "bz": "compressed by method 12 of zip",
        "secret": "encrypted",
    }
    for name, what in expected.items():
        assert f"#{name} is {what}" in refused(bytes(content), "a.zip", name, UnreadableAudioError)


@pytest.mark.parametrize(("mode", "what"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_archives_compressed_as_a_whole(mode: str, what: str) -> None:
    content = tar_of(CONTENT, mode=mode)
    for name in (f"a.tar.{mode[2:]}", "a.tar", "a.zip"):
        message = refused(content, name, "c.wav", NotAudioError)
        assert f"{name} is compressed as a whole ({what})" in message
        assert "cannot be read at random; unpack it" in message


def test_archives_that_are_none() -> None:
    assert "a.tar has no bytes" in refused(b"", "a.tar", "a", EmptyAudioError)
    assert "a.zip has no bytes" in refused(b"", "a.zip", "a", EmptyAudioError)
    for content in (b"x", b"RIFF" + bytes(5000), zip_of(CONTENT)):
        assert "a.tar is no tar archive" in refused(content, "a.tar", "a", NotAudioError)
    for content in (b"x", b"RIFF" + bytes(200_000), tar_of(CONTENT)):
        assert "a.zip is no zip archive" in refused(content, "a.zip", "a", NotAudioError)


def test_a_tar_that_is_cut_off() -> None:
    names = {f"{n}.wav": bytes([n]) * 1000 for n in range(10)}
    whole = tar_of(names)
    step = 512 + 1024
    for end in (3 * step + 700, 3 * step + 512):  # within the fourth member
        assert "3.wav lies at bytes" in refused(whole[:end], "a.tar", "3.wav", TruncatedAudioError)
        assert f"ends after {end} bytes" in refused(whole[:end], "a.tar", "4.wav", TruncatedAudioError)
    for end in (3 * step, 3 * step + 100):  # before the fourth, and within its header
        message = refused(whole[:end], "a.tar", "3.wav", TruncatedAudioError)
        assert f"a.tar ends after {end} bytes without the mark of its end; '3.wav' is not among the 3" in message


def test_a_tar_that_is_damaged_gives_what_stands_before(at: Callable[[str, bytes], str]) -> None:
    names = {f"{n}.wav": bytes([n]) * 1000 for n in range(10)}
    content = bytearray(tar_of(names))
    content[3 * 1536 + 5] ^= 0xFF
    path = at("a.tar", bytes(content))
    assert Archives(Opener()).read(path, "2.wav") == names["2.wav"]
    assert "is damaged at byte 4608" in refused(bytes(content), "a.tar", "7.wav", CorruptAudioError)


def test_a_tar_whose_header_leads_back_is_not_walked_for_ever() -> None:
    """CVE-2025-8194: `tarfile` takes negative sizes."""
    header = bytearray(info("x.wav").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content = tar_of({"a.wav": b"a"})[:1024] + bytes(header) + tar_of({"b.wav": b"b"})
    assert "is damaged at byte" in refused(content, "a.tar", "b.wav", CorruptAudioError)


def test_a_zip_that_is_cut_off_or_damaged() -> None:
    content = zip_of(CONTENT)
    assert "the list of members at its end is missing" in refused(content[:-30], "a.zip", "c.wav", TruncatedAudioError)
    flipped = bytearray(content)
    flipped[content.index(b"a/b.flac") + 10] ^= 0xFF
    refused(bytes(flipped), "a.zip", "a/b.flac", CorruptAudioError)
    flipped = bytearray(zip_of(CONTENT, zipfile.ZIP_STORED))
    flipped[flipped.index(b"firstfirst")] ^= 1
    assert "got 500 bytes of CRC" in refused(bytes(flipped), "a.zip", "a/b.flac", CorruptAudioError)
    header = bytearray(content)
    header[:4] = b"XXXX"
    assert "no member begins at byte 0" in refused(bytes(header), "a.zip", "a/b.flac", CorruptAudioError)


def test_members_above_the_limit_are_not_read() -> None:
    for name, content in {"a.tar": tar_of({"a": bytes(2000)}), "a.zip": zip_of({"a": bytes(2000)})}.items():
        assert f"{name}#a has 2000 bytes" in refused(content, name, "a", OverLimitError, max_member_bytes=1999)


def test_a_bomb_that_understates_its_size_is_not_inflated_beyond_it() -> None:
    content = bytearray(zip_of({"bomb": bytes(100 * MIB)}))
    listed = content.rindex(b"PK\x01\x02")
    content[listed + 24 : listed + 28] = struct.pack("<I", 1000)  # in the list, which is what counts
    assert "got 1001 bytes" in refused(bytes(content), "a.zip", "bomb", CorruptAudioError)


TAR, ZIP = tar_of({**CONTENT, "g" * 150: b"long"}), zip_of(CONTENT)


@settings(max_examples=300, deadline=None)
@given(
    ending=st.sampled_from(["tar", "zip"]),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_whatever_is_damaged_the_error_is_named(ending: str, flips: list[tuple[int, int]], cut: int | None) -> None:
    content = bytearray(TAR if ending == "tar" else ZIP)
    for place, value in flips:
        content[place % len(content)] ^= value
    damaged = bytes(content[: None if cut is None else cut % len(content)])

    class Memory:
        size = version = len(damaged)

        def read_at(self, offset: int, length: int) -> bytes:
            return damaged[offset : offset + length]

    @contextmanager
    def opened(_: str) -> Iterator[Memory]:
        yield Memory()

    for name in CONTENT:
        try:
            got = Archives(opened).read(f"a.{ending}", name)
        except DataError as error:
            assert error.stage == "decode"
        else:
            assert ending == "tar" or got == CONTENT[name]  # a zip has checksums, a tar of its headers only
