"""`ge2e inspect`: every fact as JSON, and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import augmented
import jobs
import pytest
import synth
from small_dataset import write_metadata

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.facts import changed, facts, preset_of
from ge2e_transforms.planning import PlanConfig
from pipeline import __main__ as program
from pipeline.commands.run import print_summary
from pipeline.commit import commit

pytestmark = pytest.mark.usefixtures("unsynced")


def mixed(folder: Path, sources: Sequence[str]) -> Dataset:
    """A speaker of each source, with two utterances that are longer from source to source, and a row without audio."""
    rows = [("gone.wav", "x", sources[0], "gone")]
    for number, source in enumerate(sources):
        synth.write(folder / f"{number}.wav", synth.speechlike(number, 1.4 + 0.3 * number), 16000)
        rows += [(f"{number}.wav", f"s{number}", source, f"u{part}") for part in range(2)]
    manifest = jobs.write_rows(folder / "m.csv", rows, "audio_path,speaker_id,source,utterance_id")
    config = jobs.job(folder / "dataset", manifest, max_rejected=0.5, plan=PlanConfig(min_shards=2))
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return mixed(tmp_path_factory.mktemp("inspect"), ["VCTK", "[red]mine\u202e"])


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert program.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_json_holds_every_fact(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, dataset.root, "--json"))
    metadata = dataset.metadata
    assert (told["dataset"], told["format"], told["format_version"]) == (str(dataset.root), "ge2e-features", 3)
    for name in ("generation", "fingerprint", "feature_shape", "dtype", "features", "segments", "counts", "recipe"):
        assert told[name] == metadata[name], name
    assert (told["preset"], told["changed"], told["sample_rate_hz"], told["crop_s"]) == ("ge2e", {}, 16000, 1.2)
    assert told["sources"] == ["VCTK", "[red]mine\u202e"]
    assert told["licences"] == {"VCTK": "CC BY 4.0", "[red]mine\u202e": "unknown"}
    assert told["counts"] == {"rows": 5, "written": 4, "filtered": {}, "rejected": {"missing": 1}}
    assert told["ledger"]["rows"] == 1
    assert (told["pseudonyms"], told["erased_speakers"]) == (False, 0)
    assert [step["kind"] for step in told["history"]] == ["run"]
    assert told["warnings"] == [
        "split 'train' has 2 speakers, fewer than the 8 of a batch: the loader will use 2 there"
    ]


def test_totals_are_those_of_the_files(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, dataset.root, "--json"))
    files = ("*/*.tfrecord", "**/*.parquet", "*/*.arrow")
    assert told["totals"]["bytes"] == sum(path.stat().st_size for name in files for path in dataset.root.glob(name))
    train = told["splits"]["train"]
    assert {name: told["totals"][name] for name in train if name != "bytes"} == {
        name: value for name, value in train.items() if name != "bytes"
    }
    assert told["totals"]["hours"] == train["seconds"] / 3600


def test_tables_for_people(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, dataset.root).split("\n")
    assert all(line.isprintable() for line in lines)
    assert r"sources      VCTK, [red]mine\u202e" in lines
    assert "licences     CC BY 4.0, unknown" in lines
    assert "recipe       preset ge2e" in lines
    assert "rejected     {'missing': 1}" in lines
    assert f"history      run {dataset.metadata['generation']}" in lines
    assert any(line.startswith("│ train │        2 │          4 │") for line in lines)


def test_metadata_of_someone_else_gives_no_traceback(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no reader relies on may be anything."""
    metadata = {**dataset.metadata, "versions": ["x"], "cpus": {"a": 1}}
    metadata["manifests"] = [{"rows": 1, "rejected": 0, "path": 7}]
    write_metadata(tmp_path, metadata)
    told = json.loads(printed(capsys, tmp_path, "--json"))
    assert (told["versions"], told["cpus"]) == ({}, [])
    assert told["manifests"] == [{"path": "7", "sha256": "", "rows": 1, "rejected": 0}]


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_is_named_by_the_preset_that_is_nearest(name: str) -> None:
    recipe = PRESETS[name]
    assert (preset_of(recipe), changed(recipe, name)) == (name, {})
    other = recipe.replace(n_mels=64)
    assert preset_of(other) == name
    assert changed(other, name) == {"feature.n_mels": 64}


def test_keys_are_documented(dataset: Dataset) -> None:
    text = (jobs.ROOT / "docs" / "format.md").read_text()
    section = text.partition("## What `ge2e inspect --json` prints")[2].partition("\n## ")[0]
    for name in ("dataset", *facts(dataset.metadata), "warnings"):
        assert f"`{name}`" in section, name
    assert Recipe.from_dict(facts(dataset.metadata)["recipe"]) == dataset.recipe


# Copies.


def test_what_is_told_of_copies(augmented_dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, augmented_dataset.root).split("\n")
    assert "rows         24 and 22 at other speeds, written 46" in lines
    kinds = "noise 44, music 44, babble 44, room 44, codec 88"
    assert f"copies       264 ({kinds}) of split train, seed 0" in lines
    assert "speeds       0.9 of split train: 22 rows more; each speed is a speaker of its own" in lines
    (place,) = augmented_dataset.metadata["augmentation"]["unusable"]
    warning = " ".join(" ".join(lines).partition("warning: 1 recording(s)")[2].split())
    expected = "of noise or rooms could not be used, and others were drawn in their place: "
    assert warning.replace(" ", "").startswith(f"{expected}{place} (not_audio)".replace(" ", ""))


def test_json_holds_the_copies(augmented_dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, augmented_dataset.root, "--json"))["augmentation"]
    stored = augmented_dataset.metadata["augmentation"]
    assert told["copies"] == {"noise": 44, "music": 44, "babble": 44, "room": 44, "codec": 88}
    assert (told["speed"], told["splits"], told["seed"]) == ([0.9], ["train"], 0)
    assert {name: told[name] for name in stored} == stored
    text = (jobs.ROOT / "docs" / "format.md").read_text()
    assert "`augmentation`" in text.partition("## What `ge2e inspect --json` prints")[2].partition("\n## ")[0]


def test_only_speeds_and_only_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, line, other in (
        ("speed", "speed: [1.1, 0.9]", "speeds       1.1, 0.9 of split train: 4 rows more", "copies "),
        ("codec", "codec: {}", "copies       2 (codec 2) of split train", "speeds "),
    ):
        (tmp_path / name).mkdir()
        lines = printed(capsys, augmented.small(tmp_path / name, text, speakers=2).root)
        assert f"\n{line}" in lines and f"\n{other}" not in lines
        assert "could not be used" not in lines


def test_a_run_tells_of_copies_and_of_what_could_not_be_used(
    augmented_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary("out", augmented_dataset.metadata, 2.0)
    text = capsys.readouterr().out
    assert "\ncopies     264 (noise 44, music 44, babble 44, room 44, codec 88) of split train, seed 0\n" in text
    assert "\nwritten    46 utterances, " in text and " s of speech in features with copies\n" in text
    assert "warning: 1 recording(s) of noise or rooms could not be used" in text


def test_adding_tells_of_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = augmented.small(tmp_path, "codec: {codecs: [telephone]}\nspeed: [0.9]", speakers=2)
    synth.write(tmp_path / "new.wav", synth.speechlike(77, 1.5), 16000)
    manifest = jobs.write_rows(tmp_path / "more.csv", [("new.wav", "new")])
    status, out, err = jobs.ge2e(capsys, "add", dataset.root, "--manifest", manifest, "--direct_num_workers=1")
    assert status == 0, err
    assert "rows       4 -> 5\nsped       2 -> 3\ncopies     4 -> 6\nwritten    6 -> 8\n" in out
