"""The whole job with manifest, audio and output on a store: the same dataset, and nothing published half-done."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
from jobs import done_contents, run_command, run_here
from s3_server import BUCKET, S3Server

from ge2e_transforms import BatchLoader, stores
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.files import open_folder
from ge2e_transforms.stores import Store
from pipeline.__main__ import main
from pipeline.assembly import listed_files

FLAGS = ("--shard_mib", "2")  # some tens of shards


@pytest.fixture(scope="module")
def corpus(librispeech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the audio, and manifests of all and of some of it, so that they can move to a store as they are."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "audio").symlink_to(librispeech)
    assert main(["manifest", "librispeech", str(folder / "audio"), "-o", str(folder / "all.csv")]) == 0
    header, *rows = (folder / "all.csv").read_text().splitlines()
    few = [row for row in rows if "/test-other/" in row] + [row for row in rows if "/train-" in row][:12]
    (folder / "few.csv").write_text("\n".join([header, *few]) + "\n")
    return folder


Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The dataset that a manifest gives on this machine alone, made when it is first asked for."""

    @functools.cache
    def make(name: str) -> Path:
        out = tmp_path_factory.mktemp("local") / "out"
        run_here(corpus / name, out, *FLAGS)
        return out

    return make


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server.gcs_emulator() as endpoint:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        yield


def rows_of(manifest: Path) -> list[str]:
    """Paths of the audio, relative to the manifest."""
    with manifest.open(newline="") as file:
        return [row["audio_path"] for row in csv.DictReader(file)]


def upload(store: Store, manifest: Path) -> str:
    """Manifest and audio as they are; where the manifest is then."""
    for name in [manifest.name, *rows_of(manifest)]:
        content = (manifest.parent / name).read_bytes()
        store.write(f"{BUCKET}/speech/{name}", lambda content=content: [content])
    return f"{store.scheme}://{BUCKET}/speech/{manifest.name}"


def digest_of(folder: str | Path) -> str:
    return digest(Dataset.open(folder))


# The stand-in of gs:// takes 30 ms for each request, one at a time.
@pytest.mark.parametrize(("scheme", "name"), [("s3", "few.csv"), ("gs", "few.csv")])
def test_all_on_a_store(scheme: str, name: str, corpus: Path, local: Made, request: pytest.FixtureRequest) -> None:
    """By worker processes, which find store and credentials in their environment."""
    request.getfixturevalue(scheme)
    store, output = Store(scheme, BUCKET), f"{scheme}://{BUCKET}/features"
    manifest = upload(store, corpus / name)
    made = run_command("run", "--manifest", manifest, "--output", output, *FLAGS, "--direct_num_workers=2")
    assert made.returncode == 0, made.stderr
    assert digest_of(output) == digest_of(local(name))
    path = f"{BUCKET}/features/"
    there = {found.removeprefix(path) for found in store.sizes(path, deep=True)}
    assert there == {"README.md", "metadata.json"} | listed_files(json.loads(store.read(f"{path}metadata.json")))
    examples, _ = next(BatchLoader(output, speakers_per_batch=6, utterances_per_speaker=4).batches("test"))
    assert examples.shape == (24, 40, 121)
    checked = run_command("doctor", "--manifest", manifest, "--output", output, "--direct_num_workers=1")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def done_on(s3: S3Server, prefix: str) -> dict[str, Any]:
    listed = s3.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {entry["Key"]: entry["LastModified"] for entry in listed if entry["Key"].endswith(".done.json")}


def at_write(number: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Acts just before an object is written, in the middle of a job."""
    write, writes = Store.write, []

    def acting(self: Store, path: str, content: Any) -> None:
        writes.append(path)
        if len(writes) == number:
            act()
        write(self, path, content)

    monkeypatch.setattr(Store, "write", acting)


def test_an_upload_that_fails_publishes_nothing_and_the_next_run_goes_on(
    s3: S3Server, corpus: Path, local: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0,))
    manifest, output = upload(Store("s3", BUCKET), corpus / "few.csv"), f"s3://{BUCKET}/broken"
    with monkeypatch.context() as patch:
        at_write(26, patch, lambda: setattr(s3.proxy, "fail_next", 10_000))  # the store goes away for good
        assert main(["run", "--manifest", manifest, "--output", output, *FLAGS, "--direct_num_workers=1"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"ge2e: StorageError: {output}/t")
    assert told.endswith("Run the same command again: finished shards are kept")
    s3.proxy.reset()
    done = done_on(s3, "broken/")
    assert 5 <= len(done) < len(done_contents(local("few.csv")))
    assert open_folder(output).size("metadata.json") is None

    run_here(manifest, output, *FLAGS)
    assert digest_of(output) == digest_of(local("few.csv"))
    after = done_on(s3, "broken/")
    assert {name: after[name] for name in done} == done  # adopted, not written again


def test_short_failures_of_the_store_lose_nothing(
    s3: S3Server, corpus: Path, local: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0,) * 8)
    manifest, output = upload(Store("s3", BUCKET), corpus / "few.csv"), f"s3://{BUCKET}/shaken"

    def shake() -> None:
        s3.proxy.fail_next, s3.proxy.cut_next = 6, 6

    at_write(10, monkeypatch, shake)
    run_here(manifest, output, *FLAGS)
    assert (s3.proxy.fail_next, s3.proxy.cut_next) == (0, 0)
    assert digest_of(output) == digest_of(local("few.csv"))


def test_the_store_that_is_not_there_is_told_at_once(
    s3: S3Server, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--manifest", str(corpus / "few.csv"), "--output", "s3://elsewhere/features"]) == 1
    assert "ConfigError: no dataset can be written to s3://elsewhere/features (there is no bucket" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("place", ["disk", "store"])
def test_audio_in_archives(kind: str, place: str, s3: S3Server, corpus: Path, local: Made, tmp_path: Path) -> None:
    manifest = corpus / "few.csv"
    text = manifest.read_text().replace("audio/train-clean-100/", f"train-clean-100.{kind}#")
    text = text.replace("audio/test-other/", f"test-other.{kind}#")
    for subset in ("train-clean-100", "test-other"):
        path = tmp_path / f"{subset}.{kind}"
        members = [name for name in rows_of(manifest) if f"/{subset}/" in name]
        with pack(path) as add:
            for name in members:
                add(manifest.parent / name, name.partition(f"/{subset}/")[2])
        if place == "store":
            s3.put(f"archives-{kind}/{path.name}", path.read_bytes())
    found = str(tmp_path / "manifest.csv")
    Path(found).write_text(text)
    if place == "store":
        s3.put(f"archives-{kind}/manifest.csv", text.encode())
        found = f"s3://{BUCKET}/archives-{kind}/manifest.csv"
    run_here(found, tmp_path / "out", *FLAGS)
    values = [
        [entry["records_sha256"] for entry in Dataset.open(folder).shards(split)]
        for folder in (tmp_path / "out", local("few.csv"))
        for split in ("train", "test")
    ]
    assert values[:2] == values[2:]  # the indexes name other paths


@contextlib.contextmanager
def pack(path: Path) -> Iterator[Callable[[Path, str], None]]:
    """A function that adds a file under a name to a new archive."""
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            yield tar.add
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            yield packed.write
