"""Trials are drawn as promised, and lists are read line by line or refused with what is wrong where."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_dataset import write_dataset, write_metadata

from ge2e_transforms import schema
from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, DatasetError, SamplingError, StorageError
from ge2e_transforms.rng import derive
from ge2e_transforms.trials import Trials, _draw, read_trials, verification_trials

RECIPE = PRESETS["ge2e"].replace(n_mels=2, n_mfcc=1)
WINDOWS = RECIPE.replace(segments="windows")
ROWS = np.zeros((3, 2), dtype=np.float32)
Pairs = list[tuple[tuple[str, str], tuple[str, str]]]


def spoken(count: int, parts: int = 1) -> list[list[Any]]:
    """Utterances u0, u1, ... of a speaker; two are a session."""
    return [[ROWS] * parts for _ in range(count)]


def make(root: Path, *counts: int, shards: int = 3, **kind: Any) -> Dataset:
    """A test split with a speaker `ns/00`, `ns/01`, ... for each number of utterances, beside a train split."""
    test = {f"ns/{number:02d}": spoken(count) for number, count in enumerate(counts)}
    splits = {"train": {"ns/t": spoken(3, parts=2)}, "test": test}
    return Dataset.open(write_dataset(root, splits, shards=shards, **({"recipe": RECIPE} | kind)))


def pairs_of(trials: Trials, same: bool) -> Pairs:
    columns = trials.enrol[trials.same == same], trials.test[trials.same == same]
    return [(trials.utterances[a], trials.utterances[b]) for a, b in zip(*columns, strict=True)]


def session_of(utterance: tuple[str, str]) -> int:
    return int(utterance[1][1:]) // 2


def check_promises(trials: Trials, cross_session: bool, gender: Callable[[str], Any] = lambda _: 0) -> None:
    assert trials.same.dtype == np.bool_
    assert trials.enrol.dtype == trials.test.dtype == np.int32
    assert len(trials) == len(trials.enrol) == len(trials.test)
    targets, others = pairs_of(trials, True), pairs_of(trials, False)
    assert len(targets) == len(others) > 0
    assert len({frozenset(pair) for pair in targets + others}) == len(trials)  # none twice, in either order
    assert all(len(set(pair)) == 2 for pair in targets + others)  # none with itself
    assert all(one[0] == other[0] for one, other in targets)
    assert not cross_session or all(session_of(one) != session_of(other) for one, other in targets)
    assert all(one[0] != other[0] and gender(one[0]) == gender(other[0]) for one, other in others)
    assert len(set(trials.utterances)) == len(trials.utterances)
    used = set(trials.enrol.tolist()) | set(trials.test.tolist())
    assert used == set(range(len(trials.utterances)))


def possible(counts: Sequence[int], cross_session: bool) -> list[int]:
    """Target pairs of each speaker."""
    return [
        sum(not cross_session or a // 2 != b // 2 for a, b in itertools.combinations(range(count), 2))
        for count in counts
    ]


# Drawing.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=7),
    per_speaker=st.integers(1, 40),
    seed=st.integers(0, (1 << 64) - 1),
    cross_session=st.booleans(),
    genders=st.sampled_from([0, 1, 2, 3]),
)
def test_every_promise(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    per_speaker: int,
    seed: int,
    cross_session: bool,
    genders: int,
):
    dataset = make(tmp_path_factory.mktemp("trials"), *counts)
    gender = {f"ns/{number:02d}": number % genders for number in range(len(counts))} if genders else None
    wanted = [min(count, per_speaker) for count in possible(counts, cross_session)]
    groups = [number % (genders or 1) for number in range(len(counts))]
    free = sum(
        counts[a] * counts[b] for a, b in itertools.combinations(range(len(counts)), 2) if groups[a] == groups[b]
    )
    draw = lambda: verification_trials(dataset, "test", per_speaker, seed, cross_session, gender)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not sum(wanted):
            with pytest.raises(SamplingError, match="no target trial can be made"):
                draw()
        elif sum(wanted) > free:
            with pytest.raises(SamplingError, match="fewer utterance pairs of different speakers"):
                draw()
        else:
            trials = draw()
            check_promises(trials, cross_session, gender.__getitem__ if gender else lambda _: 0)
            given_by = collections.Counter(one[0] for one, _ in pairs_of(trials, True))
            assert [given_by[f"ns/{number:02d}"] for number in range(len(counts))] == wanted


def test_a_draw_is_pinned(tmp_path: Path):
    """The same on every machine and in every version: a change of these trials changes every published number."""
    trials = verification_trials(make(tmp_path, 4, 5, 3), "test", per_speaker=3, seed=7)
    named = [(a[0][3:] + a[1], b[0][3:] + b[1]) for same in (True, False) for a, b in pairs_of(trials, same)]
    assert trials.same.tolist() == [True] * (len(named) // 2) + [False] * (len(named) // 2)
    assert named == PINNED


PINNED = [
    ("00u0", "00u2"),
    ("00u0", "00u3"),
    ("00u1", "00u2"),
    ("01u0", "01u4"),
    ("01u1", "01u3"),
    ("01u3", "01u4"),
    ("02u1", "02u2"),
    ("02u0", "02u2"),
    ("01u0", "02u1"),
    ("01u2", "02u0"),
    ("01u3", "02u1"),
    ("02u2", "00u2"),
    ("02u2", "00u1"),
    ("00u0", "01u1"),
    ("00u1", "01u3"),
    ("00u3", "01u0"),
]


def test_a_draw_depends_on_the_seed_and_on_nothing_else(tmp_path: Path):
    counts = [6, 9, 4, 8, 5]
    one, other = (make(tmp_path / str(shards), *counts, shards=shards) for shards in (1, 4))
    draws = [verification_trials(dataset, "test", 10, seed) for dataset, seed in ((one, 0), (other, 0), (one, 1))]
    named = [[pairs_of(trials, same) for same in (True, False)] for trials in draws]
    assert named[0] == named[1]
    assert draws[0].utterances == draws[1].utterances
    assert named[0][0] != named[2][0]
    assert named[0][1] != named[2][1]


def test_utterances_come_as_they_are_stored_and_parts_are_one(tmp_path: Path):
    splits = {"test": {"ns/b": spoken(5, parts=3), "ns/a": spoken(4, parts=2)}}
    dataset = Dataset.open(write_dataset(tmp_path, splits, RECIPE))
    trials = verification_trials(dataset, "test")
    assert trials.utterances == [("ns/a", f"u{n}") for n in range(4)] + [("ns/b", f"u{n}") for n in range(5)]
    assert len(pairs_of(trials, True)) == 4 + 8
    check_promises(trials, True)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (3, 8), (5, 8), (7, 8), (4, 13)])
def test_all_pairs_are_equally_likely(count: int, size: int):
    """Draws without repetition, in one go for 20,000 keys."""
    keys = derive(count, np.arange(20_000))
    owner, number = _draw(keys, np.full(len(keys), count), np.full(len(keys), size))
    assert np.array_equal(owner, np.repeat(np.arange(len(keys)), count))
    drawn = number.reshape(-1, count)
    assert np.all(np.diff(np.sort(drawn, axis=1), axis=1) > 0)
    assert np.allclose(np.bincount(number, minlength=size) / len(keys), count / size, atol=0.02)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1 << 50)), max_size=9))
def test_draws_are_different_and_inside(wanted: list[tuple[int, int]]):
    counts = np.array([min(pair) for pair in wanted], dtype=np.int64)
    sizes = np.array([size for _, size in wanted], dtype=np.int64)
    owner, number = _draw(derive(1, np.arange(len(wanted))), counts, sizes)
    assert np.bincount(owner, minlength=len(wanted)).tolist() == counts.tolist()
    assert np.all((number >= 0) & (number < sizes[owner]))
    assert len(set(zip(owner.tolist(), number.tolist(), strict=True))) == len(owner)


def test_all_pairs_of_speakers_meet(tmp_path: Path):
    dataset = make(tmp_path, 4, 4, 4, 4, 4, 4)
    met: collections.Counter[Any] = collections.Counter()
    for seed in range(40):
        met.update(frozenset((a[0], b[0])) for a, b in pairs_of(verification_trials(dataset, "test", 4, seed), False))
    assert len(met) == 15
    assert max(met.values()) < 2 * min(met.values())


def test_each_speaker_is_enrolled_as_often_in_both_kinds(tmp_path: Path):
    trials = verification_trials(make(tmp_path, 8, 9, 10, 11, 12), "test", per_speaker=17)
    counts = [collections.Counter(one[0] for one, _ in pairs_of(trials, same)) for same in (True, False)]
    assert counts[0] == counts[1] == dict.fromkeys([f"ns/{number:02d}" for number in range(5)], 17)


@pytest.mark.parametrize(("counts", "targets", "free"), [((3, 1), 3, 3), ((4, 1, 1), 6, 9), ((5, 2), 11, 10)])
def test_every_last_pair_can_be_drawn(tmp_path: Path, counts: tuple[int, ...], targets: int, free: int):
    """From speakers who cannot give their own share too; and not one pair more than there are."""
    dataset = make(tmp_path, *counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for per_speaker in range(1, 11):
            if sum(min(per_speaker, count) for count in possible(counts, False)) <= free:
                check_promises(verification_trials(dataset, "test", per_speaker, cross_session=False), False)
        if targets <= free:
            assert len(verification_trials(dataset, "test", cross_session=False)) == 2 * targets
        else:
            with pytest.raises(SamplingError, match=f"than its {targets} target trials: lower per_speaker=100"):
                verification_trials(dataset, "test", cross_session=False)


def test_a_large_split_is_spread_evenly(tmp_path: Path):
    """Utterances of a speaker are enrolled or tested about as often as the others."""
    trials = verification_trials(make(tmp_path, 60, 60), "test", per_speaker=600)
    used = collections.Counter(utterance for pair in pairs_of(trials, True) for utterance in pair)
    assert len(used) == 120
    assert min(used.values()) > 10
    assert max(used.values()) < 32


def test_speakers_of_one_session_are_told(tmp_path: Path):
    dataset = make(tmp_path, 4, 2, 1, 6)
    message = r"2 of 4 speakers of split 'test' have one session only, so no target trial; with cross_session=F"
    with pytest.warns(UserWarning, match=message) as caught:
        trials = verification_trials(dataset, "test")
    assert caught[0].filename == __file__
    assert {one[0] for one, _ in pairs_of(trials, True)} == {"ns/00", "ns/03"}
    with pytest.warns(UserWarning, match="1 of 4 speakers of split 'test' have one utterance only, so no"):
        verification_trials(dataset, "test", cross_session=False)


def test_nobody_is_warned_without_reason(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verification_trials(make(tmp_path, 3, 4), "test", 2)


def test_no_target_trial_at_all_is_an_error(tmp_path: Path):
    message = r"no target trial can be made .*: 3 of 3 speakers .* one session only, .*cross_session=False"
    with pytest.raises(SamplingError, match=message):
        verification_trials(make(tmp_path / "a", 2, 2, 1), "test")
    with pytest.raises(SamplingError, match=r"2 of 2 speakers .* one utterance only, so no target trial$"):
        verification_trials(make(tmp_path / "b", 1, 1), "test", cross_session=False)
    with pytest.raises(SamplingError, match="no target trial can be made"):
        verification_trials(make(tmp_path / "c"), "test")


def test_too_few_non_targets_are_an_error(tmp_path: Path):
    with pytest.raises(SamplingError, match="fewer utterance pairs of different speakers than its 12 target trials: l"):
        verification_trials(make(tmp_path / "a", 6), "test")
    gender = {"ns/00": "f", "ns/01": "m"}
    with pytest.raises(SamplingError, match="pairs of different speakers of one gender than its 24 target trials"):
        verification_trials(make(tmp_path / "b", 6, 6), "test", same_gender=gender)


def test_the_only_speaker_of_a_gender_meets_nobody(tmp_path: Path):
    gender = {f"ns/{number:02d}": "f" if number == 2 else None for number in range(5)}
    trials = verification_trials(make(tmp_path, 6, 6, 6, 6, 6), "test", 7, same_gender=gender)
    check_promises(trials, True, gender.__getitem__)
    assert len(trials) == 70
    assert not any(speaker == "ns/02" for pair in pairs_of(trials, False) for speaker, _ in pair)


def test_speakers_without_gender_are_listed(tmp_path: Path):
    dataset = make(tmp_path, *[3] * 14)
    gender = {"ns/03": "f", "ns/t": "m"}
    message = r"same_gender lacks 13 of 14 speakers of split 'test' .*: 'ns/00', 'ns/01', .*'ns/10', \.\.\.$"
    with pytest.raises(ConfigError, match=message):
        verification_trials(dataset, "test", same_gender=gender)


def test_options_of_a_draw_are_checked(tmp_path: Path):
    dataset = make(tmp_path, 4, 4)
    for name, value in (("per_speaker", 0), ("per_speaker", 1.5), ("seed", -1), ("seed", None)):
        with pytest.raises(ConfigError, match=f"{name}={value} cannot be used: expected an integer"):
            verification_trials(dataset, "test", **{name: value})
    with pytest.raises(DatasetError, match="has no split 'dev'"):
        verification_trials(dataset, "dev")


def test_windows_are_no_utterances(tmp_path: Path):
    dataset = make(tmp_path / "data", 4, 4, recipe=WINDOWS)
    with pytest.raises(DatasetError, match="holds windows, fixed cuts and not utterances"):
        verification_trials(dataset, "test")
    with pytest.raises(DatasetError, match="holds windows, fixed cuts and not utterances"):
        read_trials(tmp_path / "list.txt", dataset)


# Lists.


def voxceleb(root: Path, paths: Sequence[str] = (), names: Sequence[str] = (), split: str = "test") -> Dataset:
    """Two speakers with two utterances each in one shard, with these audio paths and utterance ids."""
    dataset = make(root, 2, 2, shards=1)
    entry = dataset.shards(split)[0]
    path = root / schema.shard_files(entry["base"])[1]
    table = pq.read_table(path)
    for column, values in (("audio_path", paths), ("utterance_id", names)):
        if values:
            place = table.column_names.index(column)
            table = table.set_column(place, table.schema.field(column), pa.array(values))
    pq.write_table(table, path)
    metadata = json.loads((root / schema.METADATA_FILE).read_text())
    content = path.read_bytes()
    metadata["shards"][split][0] |= {"index_bytes": len(content), "index_sha256": hashlib.sha256(content).hexdigest()}
    write_metadata(root, metadata)
    return Dataset.open(root)


WAVS = [f"/corpora/vox1/test/wav/id1027{s}/5r0dW_{u}C8/0000{u}.wav" for s in (0, 1) for u in (1, 2)]


def listed(root: Path, *lines: str) -> Path:
    path = root / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_voxceleb_list(tmp_path: Path):
    ends = ["/".join(path.split("/")[-3:]) for path in WAVS]
    dataset = voxceleb(tmp_path, WAVS)
    lines = [f"1 {ends[2]} {ends[3]}", f"0 {ends[2]} {ends[0]}", f"0 {ends[3]} {ends[0]}", f"1 {ends[2]} {ends[3]}"]
    trials = read_trials(listed(tmp_path, *lines), dataset)
    assert trials.utterances == [("ns/01", "u0"), ("ns/01", "u1"), ("ns/00", "u0")]
    assert trials.same.tolist() == [True, False, False, True]
    assert trials.enrol.tolist() == [0, 0, 1, 0]
    assert trials.test.tolist() == [1, 2, 2, 1]
    assert (trials.same.dtype, trials.enrol.dtype, trials.test.dtype) == (np.bool_, np.int32, np.int32)


def test_a_kaldi_list(tmp_path: Path):
    dataset = voxceleb(tmp_path, names=["a1", "a2", "b1", "b2"])
    trials = read_trials(listed(tmp_path, "a1 a2 target", "", "a1\tb2   nontarget  "), dataset)
    assert trials.same.tolist() == [True, False]
    assert [trials.utterances[n][1] for n in (*trials.enrol, *trials.test)] == ["a1", "a1", "a2", "b2"]


@pytest.mark.parametrize(
    "name",
    [
        "ns/01/b1",
        "b1",
        WAVS[2],
        WAVS[2].removesuffix(".wav"),
        "id10271/5r0dW_1C8/00001.wav",
        "id10271/5r0dW_1C8/00001",
        "wav/id10271/5r0dW_1C8/00001.wav",
        "corpora/vox1/test/wav/id10271/5r0dW_1C8/00001",
    ],
)
def test_ids_are_looked_for_in_many_ways(tmp_path: Path, name: str):
    dataset = voxceleb(tmp_path, WAVS, ["a1", "a2", "b1", "b2"])
    trials = read_trials(listed(tmp_path, f"1 {name} b2"), dataset)
    assert trials.utterances == [("ns/01", "b1"), ("ns/01", "b2")]


@pytest.mark.parametrize("name", ["0001.wav", "0271/5r0dW_1C8/00001.wav", "00001.flac", "b", "ns/01", "", "01/b1"])
def test_a_part_of_a_name_is_no_name(tmp_path: Path, name: str):
    dataset = voxceleb(tmp_path, WAVS, ["a1", "a2", "b1", "b2"])
    with pytest.raises(DatasetError, match=r"1 of 2 ids do not name one utterance|expected label enrol test"):
        read_trials(listed(tmp_path, f"1 {name} b2"), dataset)


def test_the_first_rule_that_fits_goes(tmp_path: Path):
    """The same text is an utterance id, an audio path, and the end of one, of three utterances."""
    dataset = voxceleb(tmp_path, ["x/one.wav", "one.wav", "two", "one"], ["one.wav", "b", "c", "ns/00/one.wav"])
    trials = read_trials(listed(tmp_path, "1 one.wav two", "1 ns/00/one.wav one", "1 x/one c"), dataset)
    # `ns/00/one.wav` is the speaker and utterance before it is an utterance id, and `one` a path before a stem.
    found = [trials.utterances[n][1] for pair in zip(trials.enrol, trials.test, strict=True) for n in pair]
    assert found == ["one.wav", "c", "one.wav", "ns/00/one.wav", "one.wav", "c"]
    assert len(trials.utterances) == 3


def test_records_of_one_utterance_are_one(tmp_path: Path):
    dataset = make(tmp_path, 2)
    trials = read_trials(listed(tmp_path, "1 ns/t/u0 ns/t/u2", "0 ns/t/u0 ns/00/u1"), dataset)
    assert trials.utterances == [("ns/t", "u0"), ("ns/t", "u2"), ("ns/00", "u1")]


def test_ids_that_several_utterances_have_are_told(tmp_path: Path):
    dataset = make(tmp_path, 3, 2)
    message = r"list.txt: 1 of 2 ids do not name one utterance: 'u1' \(line 2\) is ns/00/u1 or ns/01/u1 or ns/t/u1\. S"
    with pytest.raises(DatasetError, match=message):
        read_trials(listed(tmp_path, "1 ns/00/u0 ns/00/u0", "0 ns/00/u0 u1"), dataset)
    dataset = voxceleb(tmp_path / "paths", WAVS)
    with pytest.raises(DatasetError, match=r"'00001.wav' \(line 1\) is ns/00/u0 or ns/01/u0\."):
        read_trials(listed(tmp_path, "1 00001.wav ns/00/u0"), dataset)


def test_unknown_ids_are_told_with_what_was_searched(tmp_path: Path):
    dataset = make(tmp_path, 3, 2)
    lines = [f"0 ns/00/u0 nobody/{number}" for number in range(12)]
    with pytest.raises(DatasetError) as caught:
        read_trials(listed(tmp_path, *lines), dataset)
    message = str(caught.value)
    assert "list.txt: 12 of 13 ids do not name one utterance: 'nobody/0' (line 1) is unknown, " in message
    assert "'nobody/9' (line 10) is unknown, .... Searched for as speaker_id/utterance_id, utterance_id, " in message
    assert "nobody/10" not in message
    assert message.endswith("splits train (6 records), test (5 records)")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["1 a b", "2 a b"],
            r"line 2: expected label enrol test \(label 1 or 0\), as on the lines before, got '2 a b'$",
        ),
        (
            ["", "1 a"],
            r"line 2: expected label enrol test \(label 1 or 0\), or enrol test target\|nontarget, got '1 a'",
        ),
        (["a b"], "line 1: expected label enrol test .*, or enrol test target.*, got 'a b'"),
        (
            ["a b target", "a b c target"],
            r"line 2: expected enrol test target\|nontarget, as on .*, got 'a b c target'",
        ),
        (["a b target", "1 a b"], r"line 2: expected enrol test target\|nontarget, as on .*, got '1 a b'"),
        (["1 a target", "0 b target", "x y z"], "line 3: expected label enrol test .*, or enrol test target.*, got 'x"),
        (
            ["1 a target", "0 b target", "0 b c", "d e target"],
            "line 4: expected label enrol test .*, as on .* got 'd e",
        ),
        (["a b Target"], "line 1: expected label"),
        (["1.0 a b"], "line 1: expected label"),
        (["1 a target", "0 b target"], "is no list of trials: expected lines .* but all lines fit both"),
        (["", "  "], "is no list of trials: expected lines .* but it has no lines"),
    ],
)
def test_lines_of_another_form_are_told(tmp_path: Path, lines: list[str], message: str):
    with pytest.raises(DatasetError, match=rf"list\.txt,? {message}"):
        read_trials(listed(tmp_path, *lines), make(tmp_path / "data", 2))


def test_lists_that_cannot_be_read_are_told(tmp_path: Path):
    dataset = make(tmp_path / "data", 2)
    with pytest.raises(DatasetError, match=r"none\.txt cannot be read as a list of trials: .*No such file"):
        read_trials(tmp_path / "none.txt", dataset)
    (tmp_path / "bad.txt").write_bytes(b"1 a \xff\xfe\n")
    with pytest.raises(DatasetError, match=r"bad\.txt cannot be read as a list of trials: 'utf-8' codec"):
        read_trials(tmp_path / "bad.txt", dataset)
    (tmp_path / "windows.txt").write_bytes("\ufeff1 ns/00/u0 ns/00/u1\r\n".encode())
    assert len(read_trials(tmp_path / "windows.txt", dataset)) == 1


# Writing.


def test_what_is_written_is_read_again(tmp_path: Path):
    dataset = make(tmp_path, 5, 6, 7)
    trials = verification_trials(dataset, "test", 8)
    trials.write(tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().splitlines()
    first = [trials.utterances[n] for n in (trials.enrol[0], trials.test[0])]
    assert lines[0] == " ".join(["1", *map("/".join, first)])
    assert len(lines) == len(trials)
    again = read_trials(tmp_path / "out.txt", dataset)
    assert again.same.tolist() == trials.same.tolist()
    for same in (True, False):
        assert pairs_of(again, same) == pairs_of(trials, same)


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\u2028b", " a", "a\n"])
def test_ids_with_spaces_cannot_be_written(tmp_path: Path, name: str):
    numbers = np.array([0], dtype=np.int32)
    trials = Trials(np.array([True]), numbers, numbers, [("ns/0", name)])
    with pytest.raises(DatasetError, match=r"out\.txt: 1 ids hold spaces, which a list of trials cannot: 'ns/0/.*Name"):
        trials.write(tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


def test_a_list_that_cannot_be_written_is_told(tmp_path: Path):
    numbers = np.array([0], dtype=np.int32)
    trials = Trials(np.array([True]), numbers, numbers, [("ns/0", "a")])
    with pytest.raises(StorageError, match=r"out\.txt cannot be written: .*No such file"):
        trials.write(tmp_path / "nowhere" / "out.txt")
