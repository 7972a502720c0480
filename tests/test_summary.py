"""Figures of indexes: sizes, lengths, bins, spectra of speakers; and the histograms they are kept in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import jobs
import numpy as np
import pyarrow as pa
import pytest
from small_dataset import DEFAULT, write_dataset

from ge2e_transforms import summary as module
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.histogram import Histogram
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.summary import summarize
from pipeline.commit import commit


def level(rows: int, value: float) -> np.ndarray:
    """Values that are `value` in bin 0 and rise by one a bin."""
    return np.full((rows, DEFAULT.n_bins), value, np.float32) + np.arange(DEFAULT.n_bins, dtype=np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two train speakers and a test speaker; b's second utterance lies in two records."""
    train = {
        "test/a": [[level(121, 1.0)], [level(201, 3.0)]],
        "test/b": [[level(101, 2.0)], [level(151, 4.0), level(51, 6.0)]],
    }
    splits = {"train": train, "test": {"test/c": [[level(301, 0.0)]]}}
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("summary") / "dataset", splits))


def test_sizes_by_split_and_source(dataset: Dataset) -> None:
    found = summarize(dataset)
    assert list(found.sizes) == [("train", 0), ("test", 0)]
    train, test = found.sizes.values()
    assert (train.speakers, train.utterances, train.records) == (2, 4, 5)
    # Centred frames: one more than hops in each record.
    assert train.seconds == pytest.approx(1.2 + 2.0 + 1.0 + 1.5 + 0.5)
    assert (test.speakers, test.utterances, test.records, test.seconds) == (1, 1, 1, pytest.approx(3.0))
    assert found.speakers == 3


def test_durations_are_of_utterances_not_of_records(dataset: Dataset) -> None:
    (source,) = summarize(dataset).sources
    assert source.durations.count == 5
    assert (source.durations.lowest, source.durations.highest) == (pytest.approx(1.0), pytest.approx(3.0))
    assert source.durations.mean == pytest.approx((1.2 + 2.0 + 1.0 + 2.0 + 3.0) / 5)
    assert source.voiced.mean == 1.0


def test_bins_are_weighted_by_frames(dataset: Dataset) -> None:
    (source,) = summarize(dataset).sources
    frames = np.array([121, 201, 101, 151, 51, 301])
    values = np.repeat([1.0, 3.0, 2.0, 4.0, 6.0, 0.0], frames)
    assert source.frames == frames.sum()
    assert source.mean == pytest.approx(values.mean() + np.arange(DEFAULT.n_bins))
    assert source.deviation == pytest.approx(np.full(DEFAULT.n_bins, values.std()))


def test_spectra_of_speakers(dataset: Dataset) -> None:
    spectra = summarize(dataset).spectra
    assert spectra.label.tolist() == [0, 1, 2]
    assert spectra.records.tolist() == [2, 3, 1]
    assert spectra.frames.tolist() == [322, 303, 301]
    assert spectra.total[:, 0] == pytest.approx([121 * 1 + 201 * 3, 101 * 2 + 151 * 4 + 51 * 6, 0])
    assert spectra.square[:, 0] == pytest.approx([121 * 1 + 201 * 9, 101 * 4 + 151 * 16 + 51 * 36, 0])


def test_levels_are_the_aim_less_the_gain(dataset: Dataset) -> None:
    (source,) = summarize(dataset).sources
    assert (source.levels.count, source.levels.lowest, source.loud) == (5, -30.0, 0)


def test_of_many_speakers_some_are_drawn_by_the_seed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = summarize(dataset)
    monkeypatch.setattr(module, "MOST_SPEAKERS", 2)
    drawn = {seed: summarize(dataset, seed).spectra.label.tolist() for seed in range(8)}
    assert {len(labels) for labels in drawn.values()} == {2}
    assert len(set(map(tuple, drawn.values()))) > 1
    some = summarize(dataset, 0)
    assert (some.speakers, some.sizes) == (3, everyone.sizes)
    place = np.searchsorted(everyone.spectra.label, some.spectra.label)
    assert np.array_equal(some.spectra.total, everyone.spectra.total[place])


@pytest.mark.parametrize(
    ("name", "value"),
    [("gain_db", math.nan), ("voiced_fraction", math.inf), ("frames", 0), ("source_index", 1), ("source_index", -1)],
)
def test_figures_that_no_writer_gives_are_refused(
    dataset: Dataset, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = dataset.shard_index

    def changed(split: str, shard: int, columns: Sequence[str]) -> pa.Table:
        table = really(split, shard, columns)
        place = table.schema.get_field_index(name)
        column = pa.array([value] * len(table), table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), column)

    monkeypatch.setattr(dataset, "shard_index", changed)
    with pytest.raises(DatasetError, match="in the indexes of split 'train': they are damaged, or of another dataset"):
        summarize(dataset)


def test_a_histogram_counts_what_lies_outside_at_its_ends() -> None:
    histogram = Histogram([0, 1, 2, 4])
    for values in ([-5.0, 0.0, 0.5], [1.0, 3.0, 9.0], []):
        histogram.add(np.array(values))
    assert histogram.counts.tolist() == [3, 1, 2]
    assert (histogram.count, histogram.lowest, histogram.highest) == (6, -5.0, 9.0)
    assert histogram.mean == pytest.approx(8.5 / 6)


def test_quantiles_are_right_to_a_bin() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    histogram = Histogram(np.linspace(-5, 5, 101))
    for part in np.array_split(values, 7):
        histogram.add(part)
    for share in (0.05, 0.5, 0.9):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.1)
    assert histogram.quantile(1) == values.max()


def test_of_no_values_nothing_is_known() -> None:
    histogram = Histogram([0, 1])
    assert histogram.count == 0
    assert math.isnan(histogram.mean) and math.isnan(histogram.quantile(0.5))


def test_small_sources_are_put_together(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_command_inspect import mixed

    found = summarize(mixed(tmp_path, [f"corpus{number}" for number in range(4)]))
    assert [source.name for source in found.sources] == ["corpus3", "corpus2", "corpus1", "corpus0"]
    monkeypatch.setattr(module, "MOST_SOURCES", 3)
    few = summarize(mixed(tmp_path, [f"corpus{number}" for number in range(4)]))
    assert [(source.name, source.numbers) for source in few.sources] == [
        ("corpus3", (3,)),
        ("corpus2", (2,)),
        ("2 other sources", (1, 0)),
    ]
    assert few.sources[2].frames == found.sources[2].frames + found.sources[3].frames
    assert few.sizes["train", 2].speakers == 2


def test_figures_are_of_clean_speech_and_copies_are_counted_apart(augmented_dataset: Dataset, tmp_path: Path) -> None:
    """All but the copies is as of the same corpus without augmentation."""
    corpus = augmented_dataset.metadata["manifests"][0]["path"]
    config = jobs.job(tmp_path / "plain", corpus, plan=PlanConfig(min_shards=2))
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    plain, found = summarize(Dataset.open(tmp_path / "plain")), summarize(augmented_dataset)
    assert (found.sizes, found.speakers) == (plain.sizes, plain.speakers) and plain.treatments is None
    for source, other in zip(found.sources, plain.sources, strict=True):
        for name in ("durations", "voiced", "levels"):
            assert np.array_equal(getattr(source, name).counts, getattr(other, name).counts)
        assert (source.frames, source.short) == (other.frames, other.short)
        assert np.array_equal(source.mean, other.mean)
    for name in ("records", "frames", "total"):
        assert np.array_equal(getattr(found.spectra, name), getattr(plain.spectra, name))
    assert found.treatments is not None
    assert {kind: of.copies for kind, of in found.treatments.of.items()} == {
        **dict.fromkeys(("noise", "music", "babble", "room"), 22),
        "codec": 44,
    }
