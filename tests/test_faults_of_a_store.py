"""Each request of a job to a store fails once, which nobody notices, or from then on, which harms no dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import s3_server
from jobs import run_here
from s3_server import BUCKET, Request, S3Server
from synth import small_corpus
from test_faults import Work, quiet, work

from ge2e_transforms import stores
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import StorageError
from ge2e_transforms.stores import StoreError
from pipeline import conditional
from pipeline.__main__ import main
from pipeline.assembly import listed_files

FLAGS = ("--features", "raw")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    quiet(monkeypatch)
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0,) * 6)
    monkeypatch.setattr(conditional, "_PAUSES_S", (0.0,) * 6)
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture(scope="module")
def corpus(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of a speaker, here and on the store."""
    manifest = small_corpus(tmp_path_factory.mktemp("corpus"), speakers=1, utterances=2, seconds=0.6)
    for path in manifest.parent.rglob("*"):
        if path.is_file():
            server.put(f"speech/{path.relative_to(manifest.parent)}", path.read_bytes())
    return manifest


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the dataset that a job on this machine makes."""
    output = tmp_path_factory.mktemp("expected") / "out"
    run_here(corpus, output, *FLAGS)
    return digest(Dataset.open(output))


def each_once(order: str, seen: set[Request]) -> Callable[[Request], str | None]:
    """Each request meets the order when it first comes."""

    def before(request: Request) -> str | None:
        if request in seen:
            return None
        seen.add(request)
        return order

    return before


def kinds(requests: set[Request], output: str) -> set[tuple[str, str]]:
    """Method and file of the dataset, without generation."""
    return {(request.method, request.path.rpartition("/")[2].partition("-")[0]) for request in requests}


@pytest.mark.parametrize("order", ["fail_next", "cut_next", "drop"])
def test_a_store_that_fails_once_at_everything_makes_no_ledger_row(
    order: str, s3: S3Server, corpus: Path, expected: str
) -> None:
    """A whole job: manifest, audio, shards, indexes, done files, tables and metadata."""
    output, seen = f"s3://{BUCKET}/once-{order}", set[Request]()
    s3.proxy.before = each_once(order, seen)
    metadata = run_here(f"s3://{BUCKET}/speech/manifest.csv", output, *FLAGS).metadata
    s3.proxy.reset()
    assert metadata["counts"] == {"rows": 2, "written": 2, "filtered": {}, "rejected": {}}
    assert digest(Dataset.open(output)) == expected
    names = {"manifest.csv", "utt00.wav", "features", "index", "speakers", "ledger", "metadata.json"}
    assert names <= {name for _, name in kinds(seen, output)}
    assert {request.method for request in seen} >= {"GET", "HEAD", "PUT"}


class Stored(NamedTuple):
    """What a job replaces on the store (marks and content of the objects), and the job with its requests."""

    old: dict[str, str]
    bodies: dict[str, bytes]
    job: Work
    requests: list[tuple[str, str]]


@pytest.fixture
def stored(s3: S3Server, corpus: Path) -> Stored:
    output = f"s3://{BUCKET}/stays"
    work(output, corpus, 250).run()
    old = objects(s3)
    bodies = {name: body(s3, name) for name in old}
    replacing = work(output, corpus, overwrite=True)
    s3.proxy.reset()
    replacing.run()
    requests = [(request.method, request.path) for request in s3.proxy.requests]
    for name, content in bodies.items():
        s3.put(f"stays/{name}", content)
    return Stored(old, bodies, replacing, requests)


def objects(s3: S3Server) -> dict[str, str]:
    """Names in the folder and marks of their content, looked up past the proxy."""
    found = s3.client.list_objects_v2(Bucket=BUCKET, Prefix="stays/").get("Contents", [])
    return {entry["Key"].removeprefix("stays/"): entry["ETag"] for entry in found}


def body(s3: S3Server, name: str) -> bytes:
    content: bytes = s3.client.get_object(Bucket=BUCKET, Key=f"stays/{name}")["Body"].read()
    return content


def test_a_store_that_goes_away_harms_no_dataset(s3: S3Server, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first request of each kind, for good."""
    monkeypatch.setattr(stores, "_PAUSES_S", ())
    monkeypatch.setattr(conditional, "_PAUSES_S", ())
    first = {
        (method, path.rpartition("-")[0] + path[-6:]): (method, path) for method, path in reversed(stored.requests)
    }
    assert len(first) >= 20
    failed = 0
    removing = [place for place in first.values() if place[0] == "DELETE"]
    for place in [place for place in first.values() if place[0] != "DELETE"] + removing[:1]:
        now = objects(s3)
        for name in now.keys() - stored.old.keys():
            s3.delete(f"stays/{name}")
        for name in {"metadata.json", *(stored.old.keys() - now.keys())}:
            s3.put(f"stays/{name}", stored.bodies[name])
        s3.proxy.before = from_then_on(place)
        try:
            stored.job.run()
        except (StoreError, StorageError) as error:
            failed += 1
            assert "s3://corpus/stays/" in str(error), place
            assert "Check the endpoint" in str(error), place
        s3.proxy.reset()
        now, metadata = objects(s3), json.loads(body(s3, "metadata.json"))
        assert listed_files(metadata) <= now.keys(), place
        if metadata["generation"] == stored.job.made.plan.standing:
            # The card is written just before metadata.json; the same command again mends it.
            data = stored.old.keys() - {"README.md"}
            assert {name: now[name] for name in data} == {name: stored.old[name] for name in data}, place
    assert failed > len(first) / 2
    stored.job.run()
    assert json.loads(body(s3, "metadata.json"))["generation"] == stored.job.made.plan.generation


def from_then_on(place: tuple[str, str]) -> Callable[[Request], str | None]:
    away: list[bool] = []

    def before(request: Request) -> str | None:
        if (request.method, request.path) == place:
            away.append(True)
        return "fail_next" if away else None

    return before


def test_the_program_tells_in_one_line_and_goes_on(
    s3: S3Server, corpus: Path, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conditional, "_PAUSES_S", ())
    output = f"s3://{BUCKET}/told"
    command = ["run", "--manifest", str(corpus), "--output", output, *FLAGS, "--direct_num_workers=1"]
    s3.proxy.before = lambda request: (
        "fail_next" if request.method == "PUT" and request.path.endswith("/metadata.json") else None
    )
    assert main(command) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"ge2e: StorageError: {output}/metadata.json cannot be written: ")
    assert told.endswith("Run the same command again: finished shards are kept")
    s3.proxy.reset()
    assert main(command) == 0
    assert digest(Dataset.open(output)) == expected
