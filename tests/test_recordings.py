"""Audio by path or by bytes, and whose fault it is when it cannot be had."""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
import synth
from apache_beam.io.filesystem import BeamIOError
from memory_store import MemoryStore
from s3_server import BUCKET, S3Server

from ge2e_transforms import stores
from ge2e_transforms.errors import MissingAudioError, StorageError, UnreadableAudioError
from ge2e_transforms.headers import Header, read_headers
from pipeline import recordings
from pipeline.commands import manifest


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        for number in range(40):
            running.put(f"audio/{number}.wav", b"RIFF%d" % number)
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0,))
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture
def memory() -> type[MemoryStore]:
    MemoryStore.clear()
    return MemoryStore


def url(name: str) -> str:
    return f"s3://{BUCKET}/audio/{name}"


def test_local_files_stay_paths(s3: S3Server) -> None:
    with recordings.reading(["/data/a.wav"]) as source:
        assert source("/data/a.wav") == "/data/a.wav"
    with recordings.reading(["/data/a.wav", url("1.wav"), "b.wav"]) as source:
        assert [source(name) for name in ("/data/a.wav", url("1.wav"), "b.wav")] == ["/data/a.wav", b"RIFF1", "b.wav"]


def test_objects_are_read_ahead(s3: S3Server) -> None:
    s3.proxy.latency_s = 0.05  # so that those that come together meet
    try:
        order = [url(f"{number}.wav") for number in range(40)]
        with recordings.reading(order) as source:
            assert [source(name) for name in order] == [b"RIFF%d" % number for number in range(40)]
        assert s3.proxy.most_at_once >= 20
        assert len(s3.proxy.requests) == 80
    finally:
        s3.proxy.latency_s = 0.0


def test_what_beam_reads_is_read_ahead_too(memory: type[MemoryStore]) -> None:
    memory.objects["memory://b/a.wav"] = b"RIFF"
    with recordings.reading(["memory://b/a.wav", "memory://b/b.wav"]) as source:
        assert source("memory://b/a.wav") == b"RIFF"
        with pytest.raises(MissingAudioError, match=r"memory://b/b\.wav: no such object: check audio_path"):
            source("memory://b/b.wav")
    memory.broken.add("memory://b/a.wav")
    with recordings.reading(["memory://b/a.wav"]) as source, pytest.raises(BeamIOError, match="the network is down"):
        source("memory://b/a.wav")


def test_a_missing_object_is_the_rows_fault(s3: S3Server) -> None:
    with pytest.raises(MissingAudioError, match=r"s3://corpus/audio/none\.wav: no such object: check audio_path"):
        recordings.open_source(url("none.wav"))


def test_a_store_that_fails_is_not(s3: S3Server) -> None:
    s3.proxy.fail_next = 100
    with recordings.reading([url("1.wav")]) as source, pytest.raises(OSError, match=r"1\.wav cannot be opened: .*503"):
        source(url("1.wav"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", UnreadableAudioError),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", UnreadableAudioError),
        ("google::cloud::Status(PERMISSION_DENIED: no)", UnreadableAudioError),
        ("AWS Error EXPIRED_TOKEN during HeadObject operation", StorageError),
        ("AWS Error INVALID_ACCESS_KEY_ID during HeadObject operation", StorageError),
    ],
)
def test_refusals(s3: S3Server, text: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """One object that is forbidden is a row in the ledger; credentials that are wrong end the job."""

    def refuse(self: stores.Store, path: str) -> None:
        self.try_to("opened", path, raising)

    def raising(_: object) -> None:
        raise OSError(text)

    monkeypatch.setattr(stores.Store, "open", refuse)
    with pytest.raises(error):
        recordings.open_source(url("1.wav"))


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = {f"spk/{number}.wav": b"RIFF%d" % number for number in range(20)}


@pytest.mark.parametrize("place", ["disk", "store"])
def test_members_of_archives(place: str, s3: S3Server, tmp_path: Path) -> None:
    if place == "disk":
        (tmp_path / "a.tar").write_bytes(tar_of(MEMBERS))
        root = f"{tmp_path}/a.tar"
    else:
        s3.put("archives/a.tar", tar_of(MEMBERS))
        root = f"s3://{BUCKET}/archives/a.tar"
    order = [f"{root}#{name}" for name in MEMBERS]
    with recordings.reading(order) as source:
        assert [source(name) for name in order] == list(MEMBERS.values())
    with recordings.reading([f"{root}#spk/x.wav"]) as source, pytest.raises(MissingAudioError, match=r"spk/x\.wav"):
        source(f"{root}#spk/x.wav")
    with pytest.raises(MissingAudioError, match="no such archive"):
        recordings.open_source(f"{root[:-5]}b.tar#x")


def test_an_archive_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({"x.wav": b"old"}))
    for content in (b"old", b"new, and longer than a block" * 40):
        new = tmp_path / "new.tar"
        new.write_bytes(tar_of({"x.wav": content}))
        new.replace(path)
        with recordings.reading([f"{path}#x.wav"]) as source:
            assert source(f"{path}#x.wav") == content


def test_places_where_archives_are_not_read(tmp_path: Path, memory: type[MemoryStore]) -> None:
    (tmp_path / "folder.tar").mkdir()
    for location in (f"{tmp_path}/folder.tar#x", "memory://b/a.tar#x"):
        with pytest.raises(UnreadableAudioError):
            recordings.open_source(location)


def test_headers_of_archives_and_stores(s3: S3Server, tmp_path: Path) -> None:
    wave = synth.encoded(synth.speechlike(1, 10.0), 16000)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("b.wav")
        member.size = len(wave)
        archive.addfile(member, io.BytesIO(wave))
    s3.put("audio/c.wav", wave)
    s3.proxy.requests.clear()
    (tmp_path / "a.wav").write_bytes(wave)
    locations = [str(tmp_path / "a.wav"), f"{tmp_path}/a.tar#b.wav", url("c.wav"), url("no.wav"), f"{tmp_path}/a.tar#c"]
    *found, missing, no_member = read_headers(locations, open_header=recordings.open_header)
    assert found == [Header(10.0, 16000, 1, "WAV PCM_16")] * 3
    assert isinstance(missing, MissingAudioError)
    assert isinstance(no_member, MissingAudioError)


def test_a_manifest_of_a_store_gets_durations(s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    s3.put("audio/d.wav", synth.encoded(synth.speechlike(1, 2.5), 16000))
    s3.put("audio/m.csv", b"audio_path,speaker_id\nd.wav,s\n")
    parser = argparse.ArgumentParser()
    manifest.add_arguments(parser)
    args = parser.parse_args(["list", url("m.csv"), "--headers", "-o", str(tmp_path / "m.csv")])
    assert manifest.command(args) == 0
    _, row = (tmp_path / "m.csv").read_text().splitlines()
    assert row == f"{url('d.wav')},s,unnamed,d.wav,unnamed,,,,,,2.5,"
