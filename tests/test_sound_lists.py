"""The YAML file of `--augment` and the lists that it names: where they are looked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import augmented
import jobs
import pytest
import synth

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.errors import ConfigError, NoiseError, PlanError
from pipeline import sound_lists
from pipeline.augment_file import read_augmentation
from pipeline.sound_lists import copies_of


def listed(folder: Path, text: str, **fields: Any) -> dict[str, list[str]]:
    """Ids in the lists of a config, by kind."""
    path = folder / "augment.yaml"
    path.write_text(text)
    found = sound_lists.sound_lists(jobs.job(folder / "out", **fields), read_augmentation(str(path)))
    for entry, rows in found.items():
        assert entry.rows == len(rows)
    return {entry.kind: [row.speaker_id for row in rows] for entry, rows in found.items()}


def test_lists_are_those_beside_the_file_and_of_the_subsets_named(tmp_path: Path) -> None:
    augmented.sounds(tmp_path)
    found = listed(tmp_path, augmented.EVERYTHING)
    assert found == {
        "noise": [f"noise{number}" for number in range(4)],
        "music": [f"music{number}" for number in range(4)],
        "babble": [f"speech{number}" for number in range(4)],
        "room": ["room0", "room1"],
    }
    both = listed(tmp_path, "noise: {manifest: sounds.csv, subset: [noise, music]}")
    assert sorted(both["noise"]) == sorted(found["noise"] + found["music"])
    assert len(listed(tmp_path, "noise: {manifest: sounds.csv}")["noise"]) == 12


def test_a_list_elsewhere_is_named_by_its_path(tmp_path: Path) -> None:
    augmented.sounds(tmp_path)
    (tmp_path / "config").mkdir()
    for path in (tmp_path / "sounds.csv", "../sounds.csv"):
        assert listed(tmp_path / "config", f"noise: {{manifest: {path}, subset: noise}}")["noise"]
    config = read_augmentation(str(tmp_path / "config" / "augment.yaml"))
    assert config.noise is not None and config.noise.snr_db == (0, 15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noise: [", "is no YAML"),
        ("\xff\xfe", "is no YAML|augment="),
        ("noise: {manifest: 3}", "manifest=3"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ("", "augment=None"),
        ("a: &a [*a]", r"augment=\['a'\]"),
        ("1: 2", r"augment=\[1\]"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "augment.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=rf"--augment={path}.*({message})|--augment={path}: .*({message})"):
        read_augmentation(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"--augment={path} cannot be read"):
            read_augmentation(str(path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"augment\.noise: .*sounds\.csv cannot be read"),
        ("audio_path,speaker_id\n", "subset noise, got no rows"),
        ("audio_path,speaker_id,subset\na.wav,a,music\nb.wav,b,speech\n", "subset noise, got 'music', 'speech'"),
        ("audio_path,speaker_id,subset\na.wav,,noise\n", "the row at 29 cannot be used: speaker_id is empty"),
        ("audio_path,speaker_id,subset\na.wav,a,noise\n/etc/passwd,b,noise\n", "the row at 43 cannot be used"),
        ("path\na.wav\n", r"sounds\.csv: .*column"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, rows: str | None, message: str) -> None:
    if rows is not None:
        (tmp_path / "sounds.csv").write_text(rows)
    with pytest.raises(NoiseError, match=message):
        listed(tmp_path, "noise: {manifest: sounds.csv, subset: noise}")


def test_rows_that_lead_out_are_taken_when_the_job_may(tmp_path: Path) -> None:
    augmented.sounds(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "n.csv").write_text("audio_path,speaker_id\n../noise0.wav,n\n")
    with pytest.raises(NoiseError, match="leads out"):
        listed(tmp_path, "noise: {manifest: lists/n.csv}")
    assert listed(tmp_path, "noise: {manifest: lists/n.csv}", allow_outside=True) == {"noise": ["n"]}


def test_a_list_that_changes_while_the_job_runs_ends_it(tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", 3, 1, 1.0)
    path = augmented.sounds(tmp_path, "noise: {manifest: sounds.csv, subset: noise}\nroom: {manifest: rooms.csv}")
    job = jobs.job(tmp_path / "out", manifest, augmentation=read_augmentation(str(path)))
    plan = jobs.planned(job).plan
    assert copies_of(job, plan) is not None
    rooms = tmp_path / "rooms.csv"
    rooms.write_text(rooms.read_text() + "noise1.wav,another\n")
    other = jobs.job(tmp_path / "out", manifest, augmentation=job.augmentation, token="another")
    with pytest.raises(NoiseError, match=r"augment\.room is another one than when the job was planned"):
        copies_of(other, plan)
    assert jobs.planned(other).plan.generation != plan.generation


def test_sounds_are_shared_within_a_submission_and_its_process(tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", 3, 1, 1.0)
    path = augmented.sounds(tmp_path)
    job = jobs.job(tmp_path / "out", manifest, augmentation=read_augmentation(str(path)))
    plan = jobs.planned(job).plan
    first, second = copies_of(job, plan), copies_of(job, plan)
    assert first is not None and second is not None and first is not second
    assert first._sounds is second._sounds
    assert (
        copies_of(jobs.job(tmp_path / "out", manifest), jobs.planned(jobs.job(tmp_path / "o", manifest)).plan) is None
    )


def test_mp3_at_a_rate_that_it_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    recipe = jobs.Recipe().replace(sample_rate_hz=10000)
    with pytest.raises(ConfigError, match="mp3 cannot hold sample_rate_hz=10000"):
        jobs.job(tmp_path, recipe=recipe, augmentation=Augmentation.from_dict({"codec": {}}))


def test_other_copies_than_those_of_the_dataset_are_not_added(tmp_path: Path) -> None:
    dataset = augmented.small(tmp_path)
    config = Augmentation.from_dict(dataset.metadata["augmentation"]["config"])
    more = synth.small_corpus(tmp_path / "more", 2, 1, 1.2)
    for augmentation in (None, Augmentation.from_dict({**config.to_dict(), "seed": 9})):
        job = jobs.job(tmp_path / "dataset", more, kind="add", augmentation=augmentation)
        with pytest.raises(PlanError, match=r"was augmented otherwise .*one augmentation"):
            jobs.planned(job)
