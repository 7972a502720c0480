"""A survey and a calibration put together: splits, shards, disk, time, and what looks wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import augmented
import pytest
from jobs import job, metadata_of, run_here
from synth import small_corpus

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.errors import PlanError, WorkerError
from ge2e_transforms.planning import Augmented, PlanConfig, SoundList
from ge2e_transforms.utterance import Utterance
from pipeline import forecast as module
from pipeline.augment_file import read_augmentation
from pipeline.calibrate import Speed, calibrate
from pipeline.forecast import Forecast, forecast
from pipeline.sound_lists import sound_lists
from pipeline.survey import Finding, Survey, Tally, survey

HOUR = 3600.0
SPEED = Speed(2, 2000.0, 0.8, 12000.0, 3.0, 300 << 20)


def surveyed(tallies: dict[tuple[str, str, str], Tally], **fields: Any) -> Survey:
    return Survey(rows=sum(tally.rows for tally in tallies.values()), tallies=tallies, **fields)


def even(speakers: int, rows: int = 10, seconds: float = 100.0, split: str = "") -> dict[tuple[str, str, str], Tally]:
    return {(f"x/s{number:03d}", split, "x"): Tally(rows, round(seconds * 1000), seconds) for number in range(speakers)}


def expected(found: Survey, output: Path, *, here: bool = True, speed: Speed | None = SPEED, **plan: Any) -> Forecast:
    return forecast(job(output, plan=PlanConfig(**plan)), found, speed, here=here)


def test_splits_shards_disk_and_time(tmp_path: Path) -> None:
    found = expected(surveyed(even(100)), tmp_path, test_speakers=20)
    train, test = found.splits["train"], found.splits["test"]
    assert (train.speakers, train.rows, train.seconds, train.shards) == (80, 800, 8000.0, 16)
    assert (test.speakers, test.rows, test.seconds, test.shards) == (20, 200, 2000.0, 16)
    mib = 100 * 100 * 40 * 4 / (1 << 20)  # of a speaker: 100 s of 100 frames of 40 float32
    assert train.smallest == train.median == train.largest == pytest.approx(5 * mib)
    assert (test.smallest, test.largest) == pytest.approx((mib, 2 * mib))
    assert found.disk_most == 10_000 * 100 * 40 * 4
    assert found.disk_likely == 10_000 * 12_000
    assert found.disk_free is not None and found.disk_free > 0
    assert found.memory == 300 << 20
    assert found.core_hours == pytest.approx(10_000 / 2000 * 2 / 3600)
    assert found.wall_s == pytest.approx(2 * 3.0 + 10_000 / 2000, abs=0.1)
    assert found.warnings == []


def test_eligible_speakers_by_m(tmp_path: Path) -> None:
    tallies = {(f"x/s{rows}", "", "x"): Tally(rows, 1000, 1.0) for rows in (1, 2, 3, 3, 7, 200)}
    tallies |= {(f"x/t{number}", "test", "x"): Tally(5, 1000, 1.0) for number in range(4)}
    found = expected(surveyed(tallies), tmp_path)
    eligible = found.splits["train"].eligible
    assert [eligible[m] for m in (1, 2, 3, 4, 8, 128)] == [5, 4, 3, 2, 1, 1]
    assert [found.splits["test"].eligible[m] for m in (5, 6)] == [4, 0]
    assert any("2 speakers of train have 4 utterances, fewer than the 8 of a batch" in w for w in found.warnings)


def test_without_a_calibration_and_elsewhere_less_is_known(tmp_path: Path) -> None:
    found = expected(surveyed(even(100)), tmp_path, speed=None)
    assert (found.disk_likely, found.memory, found.wall_s, found.core_hours) == (None, None, None, None)
    elsewhere = expected(surveyed(even(100)), Path("x"), here=False)
    assert elsewhere.wall_s is None
    assert elsewhere.core_hours is not None
    on_a_store = forecast(job("gs://bucket/out"), surveyed(even(100)), SPEED, here=False)
    assert on_a_store.disk_free is None


def test_shards_are_cut_by_the_manifest_and_sized_by_the_headers(tmp_path: Path) -> None:
    """A manifest without lengths: each row counts 10 s, and one speaker's rows have 100."""
    tallies = even(32, seconds=100.0)
    first = ("x/s000", "", "x")
    tallies[first] = Tally(10, 100_000, 5000.0)
    found = expected(surveyed(tallies), tmp_path, shard_mib=1.0)
    train = found.splits["train"]
    assert train.shards == 32
    assert train.largest == pytest.approx(50 * train.median)
    assert any("the largest shard of split train has" in w and "--headers" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"refused": Counter(empty_speaker=1)}, "1 of 1,000 rows cannot be used (empty_speaker 1): they go to the"),
        (
            {"faults": {"missing": Finding(300, ["/a", "/b"])}},
            "(missing 300): more than --max_rejected allows: nothing would be published, such as '/a', '/b'",
        ),
        ({"doubled": Finding(2, ["/a.wav"])}, "2 rows name audio that another row names, too, such as '/a.wav'"),
        ({"spaced": Finding(1, ["a\t"])}, "1 ids have spaces in them, such as 'a\\t': lists of trials"),
        ({"rates": Counter({16000: 3, 8000: 2})}, "recordings have 2 sample rates (16000 Hz 3, 8000 Hz 2)"),
        ({"rates": Counter({8000: 5})}, "all recordings are below 16000 Hz: take --set sample_rate_hz=8000"),
        ({"channels": Counter({2: 5})}, "some recordings have several channels (2 channels 5)"),
        ({"short": 4}, "4 rows are shorter than min_utterance_ms=300: filtered in train"),
        ({"long": 4}, "4 rows are longer than max_seconds=600 and would be rejected"),
    ],
)
def test_what_looks_wrong_is_said_with_what_to_do(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    (warning,) = expected(surveyed(even(100), **fields), tmp_path).warnings
    assert told in warning


def test_a_giant_speaker_and_one_id_in_two_sources(tmp_path: Path) -> None:
    tallies = even(100)
    tallies["x/unknown", "", "x"] = Tally(5000, 40_000_000, 40_000.0)
    tallies["x/s001", "", "y"] = Tally(1, 1000, 1.0)
    warnings = expected(surveyed(tallies), tmp_path).warnings
    assert any("speaker 'x/unknown' has 80% of all speech, 400 times the median" in warning for warning in warnings)
    assert any("1 ids stand in more than one source of a namespace, such as 'x/s001 in x and y'" in w for w in warnings)


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_disk", lambda folder: 50 << 20)
    (warning,) = expected(surveyed(even(100)), tmp_path).warnings
    assert warning.startswith("the dataset needs about 114 MiB, but 50 MiB are free in")


def test_rows_that_cannot_be_laid_out_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no usable row"):
        expected(surveyed({}), tmp_path)


# Two seconds of work.


def test_a_forecast_of_a_real_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits and shards are those of the job; bytes are within some percent, as the rows of the sample are all rows."""
    monkeypatch.setattr("pipeline.calibrate.MEASURED_S", 0.0)
    manifest = small_corpus(tmp_path / "corpus", speakers=9, utterances=2)
    config = job(tmp_path / "out", manifest, plan=PlanConfig(test_speakers=3))
    found = survey(config)
    speed = calibrate(config, found.sample, 1)
    assert (speed.processes, speed.real_time > 1, speed.start_s > 0, speed.copied) == (1, True, True, None)
    assert 50 << 20 < speed.peak_bytes < 4 << 30
    result = forecast(config, found, speed, here=True)
    metadata = metadata_of(tmp_path / "out") if run_here(manifest, tmp_path / "out", "--test_speakers=3") else {}
    for name, split in metadata["splits"].items():
        told = result.splits[name]
        assert (told.speakers, told.rows, told.shards) == (split["speakers"], split["utterances"], split["shards"])
    seconds = sum(split["seconds"] for split in metadata["splits"].values())
    assert speed.voiced * found.seconds == pytest.approx(seconds, rel=0.02)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/*.tfrecord"))
    assert result.disk_likely is not None
    assert written <= result.disk_likely <= 2 * written  # with indexes, which weigh much in so small a dataset


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    row = Utterance("/no/such.wav", "s", "x", "u", "x", duration_s=1.0)
    # What cannot be unpickled ends a process that is started with it.
    with pytest.raises(WorkerError, match="a process that computed some rows of the manifest died"):
        calibrate(job(tmp_path), [row._replace(utterance_id=_Fatal())], 1)  # type: ignore[arg-type]


class _Fatal(str):
    __slots__ = ()

    def __reduce__(self) -> Any:
        import os

        return os._exit, (3,)


# Copies.


def test_copies_take_room_and_time_where_they_are_written(tmp_path: Path) -> None:
    config = Augmentation.from_dict({"codec": {"copies": 2}, "room": {"manifest": "r.csv"}, "speed": [0.5]})
    speed = Speed(2, 2000.0, 0.8, 12_000.0, 3.0, 900 << 20, 100.0)
    rows, plan = surveyed(even(100)), PlanConfig(test_speakers=20)
    asked = job(tmp_path, plan=plan, augmentation=config)
    found = forecast(asked, rows, speed, here=True, augmented=Augmented(config, (SoundList("room", "0" * 64, 2),)))
    plain = forecast(job(tmp_path, plan=plan), rows, SPEED, here=True)
    train, test = found.splits["train"], found.splits["test"]
    growth = (1 + 3) * (1 + 1 / 0.5)  # itself and three copies, at its own speed and half of it
    assert (train.growth, test.growth) == (growth, 1.0)
    assert train.largest == pytest.approx(growth * plain.splits["train"].largest)
    assert test == plain.splits["test"]
    assert (train.speakers, train.rows, train.eligible[10], train.eligible[12]) == (80, 800, 160, 0)
    assert found.disk_most == (8000 * growth + 2000) * 100 * 40 * 4
    assert found.disk_likely == (8000 * growth + 2000) * 12_000
    assert found.core_hours == pytest.approx((8000 / 100 + 2000 / 2000) * 2 / 3600)
    assert found.wall_s == pytest.approx(2 * 3.0 + 8000 / 100 + 2000 / 2000, abs=0.1)
    assert found.memory == 900 << 20


def test_a_forecast_of_a_real_job_with_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.calibrate.MEASURED_S", 0.0)
    (tmp_path / "sounds").mkdir()
    path = augmented.sounds(tmp_path / "sounds")
    manifest = small_corpus(tmp_path / "corpus", speakers=6, utterances=2, test_speakers=2)
    config = job(tmp_path / "out", manifest, augmentation=read_augmentation(str(path)))
    assert config.augmentation is not None
    asked = Augmented(config.augmentation, tuple(sound_lists(config, config.augmentation)))
    found = survey(config)
    speed = calibrate(config, found.sample, 1, asked)
    assert speed.copied is not None and speed.copied < speed.real_time
    assert speed.peak_bytes > config.augmentation.cache_mib << 20
    result = forecast(config, found, speed, here=True, augmented=asked)
    dataset = augmented.write(tmp_path / "out", manifest, path, plan=PlanConfig())
    for name, split in dataset.metadata["splits"].items():
        told = result.splits[name]
        assert (told.eligible[2], told.shards) == (split["speakers"], split["shards"])
    written = sum(path.stat().st_size for path in dataset.root.glob("*/*.tfrecord"))
    assert result.disk_likely is not None
    assert written <= result.disk_likely <= 1.5 * written  # with indexes
