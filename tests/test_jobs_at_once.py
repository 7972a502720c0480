"""Two jobs into one output at once: equal ones end in one dataset, of unequal ones one wins and the other is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import s3_server
from jobs import job, metadata_of, unlisted, write_all
from racing import race
from s3_server import BUCKET
from synth import small_corpus

from ge2e_transforms.config import PRESETS, parse_setting
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.stores import Store
from ge2e_transforms.verify import verify
from pipeline.commit import commit

KINDS = ("equal", "unequal", "overwrite equal", "overwrite unequal")
PLACES = [("local", kind) for kind in KINDS] + [("s3", "unequal")]
RECIPES = (("min_utterance_ms=300", "features=raw"), ("min_utterance_ms=200", "features=raw"))


class Race(NamedTuple):
    """How two commands ended in an output, local or a copy of what is on a store."""

    output: str
    folder: Path
    results: list[tuple[int, str]]
    before: str  # generation that stood there


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"), speakers=2, utterances=2, seconds=0.8)


def made(output: Path, corpus: Path, *settings: str, overwrite: bool = False) -> Path:
    """A dataset made without Beam."""
    recipe = PRESETS["ge2e"].replace(**dict(map(parse_setting, settings)))
    config = job(output, corpus, recipe=recipe, overwrite=overwrite)
    planned = write_all(config)
    commit(config, planned.plan, planned.rejected)
    return output


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what each recipe gives in a job alone, by fingerprint."""
    base = tmp_path_factory.mktemp("alone")
    datasets = [Dataset.open(made(base / str(number), corpus, *settings)) for number, settings in enumerate(RECIPES)]
    return {dataset.metadata["fingerprint"]: digest(dataset) for dataset in datasets}


@pytest.fixture(scope="module")
def races(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Race]]:
    """All races, in one pair of processes: starting Python and Beam takes longer than a job."""
    base = tmp_path_factory.mktemp("races")
    with s3_server.s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment(server.endpoint).items():
            patch.setenv(name, value)
        roots = {"local": str(base), "s3": f"s3://{BUCKET}"}
        outputs = {(place, kind): f"{roots[place]}/{kind.replace(' ', '-')}" for place, kind in PLACES}
        before, rounds = {}, []
        for key, output in outputs.items():
            overwrite = ["--overwrite"] if key[1].startswith("overwrite") else []
            before[key] = (
                metadata_of(made(Path(output), corpus, "min_utterance_ms=250"))["generation"] if overwrite else ""
            )
            command = ["run", "--manifest", str(corpus), "--output", output, *overwrite, "--direct_num_workers=1"]
            recipes = RECIPES if "unequal" in key[1] else (RECIPES[0], RECIPES[0])
            rounds.append([[*command, "--set", recipe[0], "--set", recipe[1]] for recipe in recipes])
        results = dict(zip(outputs, race(rounds), strict=True))
        yield {
            key: Race(output, copied(output, base / "copies"), results[key], before[key])
            for key, output in outputs.items()
        }


def copied(output: str, folder: Path) -> Path:
    """What is on a store as a local folder, which is what `verify` reads."""
    scheme, _, path = output.partition("://")
    if not path:
        return Path(output)
    store = Store(scheme, BUCKET)
    for name in store.sizes(path, deep=True):
        target = folder / name.removeprefix(f"{path}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(name))
    return folder


@pytest.mark.parametrize("key", [key for key in PLACES if "unequal" not in key[1]], ids=" ".join)
def test_equal_jobs_end_in_one_dataset(
    key: tuple[str, str], races: dict[tuple[str, str], Race], alone: dict[str, str]
) -> None:
    race = races[key]
    assert [status for status, _ in race.results] == [0, 0], race.results
    dataset = Dataset.open(race.folder)
    assert digest(dataset) == alone[dataset.metadata["fingerprint"]]
    verify(dataset)
    assert unlisted(race.folder) == set()


@pytest.mark.parametrize("key", [key for key in PLACES if "unequal" in key[1]], ids=" ".join)
def test_of_unequal_jobs_one_wins_and_the_other_is_told(
    key: tuple[str, str], races: dict[tuple[str, str], Race], alone: dict[str, str]
) -> None:
    race = races[key]
    assert sorted(status for status, _ in race.results) == [0, 1], race.results
    dataset = Dataset.open(race.folder)
    generation = dataset.metadata["generation"]
    assert generation != race.before
    (told,) = [said.splitlines()[-1] for status, said in race.results if status]
    assert told.startswith(f"ge2e: CommitError: another job has published generation {generation} in {race.output} ")
    assert told.endswith("run the same command again with --overwrite to replace it, or with another --output")
    assert digest(dataset) == alone[dataset.metadata["fingerprint"]]
    verify(dataset)
    # What the loser has finished stays for the same command; nothing else is there.
    left = {name.partition("-")[2][:8] for name in unlisted(race.folder)}
    assert len(left) == 1 and not left & {generation, race.before}
