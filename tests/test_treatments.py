"""Copies by kind and ratio, speeds and clean records, beside a plain count over the columns of the indexes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from small_dataset import speakers, write_dataset

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.dataset import Dataset, speaker_id_mapping
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.treatments import COLUMNS, AtSpeed, Treatments, labels_at_other_speeds, speeds

NOISE = {"noise": {"manifest": "n.csv", "copies": 2}, "codec": {"codecs": ["telephone"]}, "speed": [0.9]}


def table(*rows: tuple[int, int, int, str, float | None]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    kinds = (pa.int32(), pa.int32(), pa.int32(), pa.string(), pa.float32())
    return pa.table([pa.array(*pair) for pair in zip(columns, kinds, strict=True)], names=list(COLUMNS))


def counted(*tables: pa.Table) -> Treatments:
    treatments = Treatments(Augmentation.from_dict(NOISE))
    for part in tables:
        treatments.add(part, treatments.done(part, "here"))
    return treatments


def test_a_copy_in_two_records_is_one() -> None:
    found = counted(
        table(
            (0, 0, 0, "", None),
            (0, 0, 0, "", None),
            (0, 0, 1 << 3, "noise", 3.0),
            (0, 0, 1 << 3, "noise", 3.0),
            (0, 0, 2 << 3, "noise", 9.0),
            (0, 0, 3 << 3, "codec", None),
            (0, 1, 1, "", None),
            (0, 1, 1 | 1 << 3, "noise", 15.0),
        ),
        table((1, 0, 0, "speed0.9", None), (1, 0, 1 << 3, "speed0.9+noise", 0.0)),
    )
    noise, codec = found.of["noise"], found.of["codec"]
    assert (list(found.of), noise.copies, noise.sped, codec.copies, codec.sped) == (["noise", "codec"], 3, 1, 1, 0)
    assert noise.snr_db is not None and codec.snr_db is None
    assert (noise.snr_db.count, noise.snr_db.lowest, noise.snr_db.highest, noise.snr_db.mean) == (4, 0.0, 15.0, 27 / 4)
    assert (noise.snr_db.edges[0], noise.snr_db.edges[-1]) == (0, 15)  # as they were asked for


def test_what_is_clean() -> None:
    treatments = counted()
    records = table((0, 0, 0, "", None), (0, 0, 8, "noise", 1.0), (1, 0, 0, "speed0.9", None))
    done = treatments.done(records, "here")
    assert done.clean.tolist() == [True, False, False]
    assert (done.factor.tolist(), done.kind.tolist()) == ([1, 1, 0.9], [-1, 0, -1])


def test_one_ratio_for_all_has_a_histogram_too() -> None:
    config = Augmentation.from_dict({"noise": {"manifest": "n.csv", "snr_db": 10}})
    treatments = Treatments(config)
    part = table((0, 0, 0, "", None), (0, 0, 8, "noise", 10.0))
    treatments.add(part, treatments.done(part, "here"))
    histogram = treatments.of["noise"].snr_db
    assert histogram is not None and histogram.counts.sum() == 1


def test_what_the_config_does_not_know_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"here: expected augmentation to be one of '', 'noise', .* got 'music'"):
        counted(table((0, 0, 8, "music", 1.0)))


def test_of_a_real_dataset(augmented_dataset: Dataset) -> None:
    config = Augmentation.of(augmented_dataset.metadata)
    assert config is not None
    treatments, names, ratios = Treatments(config), Counter[str](), []
    for split in augmented_dataset.splits:
        for shard in range(len(augmented_dataset.shards(split))):
            part = augmented_dataset.shard_index(split, shard)
            treatments.add(part, treatments.done(part, "here"))
            names.update(part["augmentation"].to_pylist())
            ratios += [row for row in part.to_pylist() if row["augmentation"].endswith("noise")]
    told = {kind: (of.copies, of.sped) for kind, of in treatments.of.items()}
    assert told == {kind: (names[kind], names[f"speed0.9+{kind}"]) for kind in treatments.kinds}
    assert told["codec"] == (44, 44)
    assert sum(map(sum, told.values())) == augmented_dataset.metadata["counts"]["copies"]
    histogram = treatments.of["noise"].snr_db
    assert histogram is not None
    assert histogram.mean == pytest.approx(np.mean([row["snr_db"] for row in ratios]))


def test_speeds_are_speakers(augmented_dataset: Dataset) -> None:
    config = Augmentation.of(augmented_dataset.metadata)
    assert config is not None
    names = speaker_id_mapping(augmented_dataset)
    sped = {name: label for name, label in names.items() if name.endswith("~speed0.9")}
    assert set(labels_at_other_speeds(augmented_dataset).tolist()) == set(sped.values())
    table = augmented_dataset.speakers.to_pylist()
    seconds = sum(row["seconds"] for row in table if row["speaker_id"] in sped)
    assert speeds(augmented_dataset, config) == [AtSpeed(0.9, 11, 22, pytest.approx(seconds))]


def test_without_augmentation_nobody_is_sped(tmp_path: object) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "d", {"train": speakers("a", 2, 0, 2)}))  # type: ignore[operator]
    assert labels_at_other_speeds(dataset).tolist() == []
