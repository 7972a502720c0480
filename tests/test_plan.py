"""Totals per speaker to the plan and rows to their shards, through Beam."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from jobs import files_in, job

from ge2e_transforms import lengths
from ge2e_transforms.errors import PlanError
from ge2e_transforms.planning import ManifestSummary, Plan, PlanConfig, SpeakerTotal, make_plan
from ge2e_transforms.row_chunks import pack, unpack
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION
from ge2e_transforms.utterance import Utterance
from pipeline.group import GroupByShard
from pipeline.options import JobConfig
from pipeline.plan import PlanDataset

SUMMARY = ManifestSummary("/m.csv", "0" * 64, 9, 0)


def row(speaker: str, name: str, split: str = "", source: str = "corpus", seconds: float = 2.0) -> Utterance:
    return Utterance(f"{name}.wav", speaker, "ns", name, source, split=split, duration_s=seconds, manifest="/m.csv")


def standing(generation: str, content: str, edition: int = 0) -> dict[str, Any]:
    """As much of a dataset's metadata as a plan looks at."""
    return {
        **{"format": FORMAT, "format_version": FORMAT_VERSION, "generation": generation, "edition": edition},
        **{"token": "another", "history": [{"kind": "run", "generation": generation, "content": content}]},
    }


def sent(rows: Iterable[Utterance], size: int = 2) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """Chunks of so many rows, and the lengths that readers send with each."""
    chunks: list[bytes] = []
    buckets: list[tuple[int, bytes]] = []
    left = list(rows)
    while left:
        sums: lengths.Lengths = {}
        chunks.append(pack(left[:size], 600, sums))
        buckets += lengths.pack(sums)
        left = left[size:]
    return chunks, buckets


def plan_of(config: JobConfig, rows: list[Utterance], summaries: list[ManifestSummary], expected: list[Plan]) -> None:
    pipeline = TestPipeline(runner="FnApiRunner")
    inputs = (
        pipeline | "Lengths" >> beam.Create(sent(rows)[1], reshuffle=False).with_output_types(tuple[int, bytes]),
        pipeline | "Summaries" >> beam.Create(summaries, reshuffle=False).with_output_types(ManifestSummary),
    )
    assert_that(inputs | PlanDataset(config), equal_to(expected))
    pipeline.run().wait_until_finish()


def groups_of(plan: Plan, rows: list[Utterance], expected: list[tuple[int, list[Utterance]]]) -> None:
    """Every shard is announced once, and has the rows expected."""

    def in_order(group: tuple[int, Iterable[bytes]]) -> tuple[int, int, list[Utterance]]:
        parcels = list(group[1])
        return group[0], parcels.count(b""), sorted(itertools.chain.from_iterable(map(unpack, parcels)))

    pipeline = TestPipeline(runner="FnApiRunner")
    inputs = (
        pipeline | "Rows" >> beam.Create(sent(rows)[0], reshuffle=False).with_output_types(bytes),
        pipeline | "Plan" >> beam.Create([plan], reshuffle=False).with_output_types(Plan),
    )
    shards = inputs | GroupByShard() | beam.Map(in_order)
    assert_that(shards, equal_to([(number, 1, sorted(group)) for number, group in expected]))
    pipeline.run().wait_until_finish()


def test_one_plan_from_all_rows_and_summaries(tmp_path: Path) -> None:
    config = job(tmp_path)
    rows = [row("s2", "a"), row("s1", "b"), row("s1", "c", source="other", seconds=1), row("s2", "d"), row("s3", "e")]
    second = ManifestSummary("/n.csv", "1" * 64, 3, 1)
    totals = [
        SpeakerTotal("ns/s1", "", "corpus", 2000),
        SpeakerTotal("ns/s1", "", "other", 1000),
        SpeakerTotal("ns/s2", "", "corpus", 4000),
        SpeakerTotal("ns/s3", "", "corpus", 2000),
    ]
    expected = make_plan(totals, [SUMMARY, second], config.plan, config.recipe)
    assert expected.speakers == {"train": 3}
    assert expected.sources == ("corpus", "other")
    plan_of(config, rows, [second, SUMMARY], [expected])
    plan_of(config, rows[::-1], [SUMMARY, second], [expected])
    assert files_in(tmp_path) == {"ge2e-progress.json"}  # what tells the program how much there is to do


def test_splits_follow_the_options(tmp_path: Path) -> None:
    config = job(tmp_path, plan=PlanConfig(test_speakers=1))
    rows = [row(f"s{number}", "a") for number in range(4)]
    totals = [SpeakerTotal(f"ns/s{number}", "", "corpus", 2000) for number in range(4)]
    expected = make_plan(totals, [SUMMARY], config.plan, config.recipe)
    assert expected.speakers == {"train": 3, "test": 1}
    plan_of(config, rows, [SUMMARY], [expected])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"no usable row in 1 manifest\(s\) \(/m.csv\): 9 rows read, 0 rejected\. .*`ge2e manifest` writes"),
        ([row("s1", "a", "train"), row("s1", "b", "test")], "speaker 'ns/s1' is in more than one split"),
        ([row("s1", "a", "train"), row("s1", "b")], "speaker 'ns/s1' is in more than one split"),
    ],
)
def test_rows_that_make_no_plan_fail_the_job_with_a_verdict(
    tmp_path: Path, rows: list[Utterance], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(job(tmp_path), rows, [SUMMARY], [])
    assert files_in(tmp_path) == {"failed-token.json"}


def test_a_verdict_that_stands_fails_the_stage_at_once(tmp_path: Path) -> None:
    (tmp_path / "failed-token.json").write_text('{"error": "PlanError", "message": "from the attempt before"}')
    with pytest.raises(PlanError, match="from the attempt before"):
        plan_of(job(tmp_path), [row("s1", "a")], [SUMMARY], [])


def test_a_dataset_of_other_rows_is_only_replaced_on_request(tmp_path: Path) -> None:
    present = standing("01234567", "89abcdef")
    (tmp_path / "metadata.json").write_text(json.dumps(present))
    rows, config = [row("s1", "a")], job(tmp_path)
    expected = make_plan([SpeakerTotal("ns/s1", "", "corpus", 2000)], [SUMMARY], config.plan, config.recipe)
    message = f"complete dataset .generation 01234567.* .content {expected.content}.: give --overwrite"
    with pytest.raises(PlanError, match=message):
        plan_of(config, rows, [SUMMARY], [])
    stood = dataclasses.replace(expected, standing="01234567")
    plan_of(job(tmp_path, overwrite=True, token="2"), rows, [SUMMARY], [stood])
    (tmp_path / "metadata.json").write_text(json.dumps(standing(expected.generation, expected.content)))
    again = dataclasses.replace(expected, standing=expected.generation)
    plan_of(job(tmp_path, token="3"), rows, [SUMMARY], [again])


def test_overwriting_the_same_content_makes_the_next_edition(tmp_path: Path) -> None:
    rows, totals = [row("s1", "a")], [SpeakerTotal("ns/s1", "", "corpus", 2000)]
    config = job(tmp_path, overwrite=True)
    editions = [make_plan(totals, [SUMMARY], config.plan, config.recipe, edition) for edition in range(3)]
    assert len({plan.generation for plan in editions}) == 3
    for present, following in itertools.pairwise(editions):
        stands = standing(present.generation, present.content, present.edition)
        (tmp_path / "metadata.json").write_text(json.dumps(stands))
        plan_of(config, rows, [SUMMARY], [dataclasses.replace(following, standing=present.generation)])
        kept = dataclasses.replace(present, standing=present.generation)
        plan_of(job(tmp_path), rows, [SUMMARY], [kept])
        (tmp_path / "metadata.json").write_text(json.dumps({**stands, "token": config.token}))
        plan_of(config, rows, [SUMMARY], [kept])  # started again after it had published


def test_a_job_that_died_over_the_removal_of_what_it_replaced_is_not_made_anew(tmp_path: Path) -> None:
    """The same command, with --overwrite, computed all of it again as a next edition."""
    rows, config = [row("s1", "a")], job(tmp_path, overwrite=True)
    totals = [SpeakerTotal("ns/s1", "", "corpus", 2000)]
    first, second = (make_plan(totals, [SUMMARY], config.plan, config.recipe, edition) for edition in range(2))
    replaced = ["speakers-01234567.parquet", "train/index-01234567.arrow"]
    stands = standing(first.generation, first.content)
    (tmp_path / "metadata.json").write_text(json.dumps({**stands, "token": "of before", "replaced": replaced}))
    (tmp_path / "train").mkdir()
    (tmp_path / replaced[-1]).touch()
    plan_of(config, rows, [SUMMARY], [dataclasses.replace(first, standing=first.generation)])
    (tmp_path / replaced[-1]).unlink()
    plan_of(config, rows, [SUMMARY], [dataclasses.replace(second, standing=first.generation)])


def test_rows_go_to_the_shards_of_their_speakers() -> None:
    totals = [SpeakerTotal(f"ns/s{number}", split, "corpus", 2000) for number, split in enumerate(("test", "", "", ""))]
    plan = make_plan(totals, [SUMMARY], PlanConfig(min_shards=2), job("/out").recipe)
    assert [(task.split, task.shard, task.shards, task.label) for task in plan.tasks] == [
        ("train", 0, 2, 0),
        ("train", 1, 2, 1),
        ("test", 0, 1, 3),
    ]
    rows = {name: row(f"s{number}", name, "test" if number == 0 else "") for number, name in enumerate("abcd")}
    rows["e"] = row("s2", "e")
    expected = [(0, [rows["b"]]), (1, [rows["c"], rows["d"], rows["e"]]), (2, [rows["a"]])]
    groups_of(plan, list(rows.values()), expected)


def test_every_shard_is_announced_even_without_rows() -> None:
    totals = [SpeakerTotal(f"ns/s{number}", "", "corpus", 2000) for number in range(3)]
    plan = make_plan(totals, [SUMMARY], PlanConfig(), job("/out").recipe)
    groups_of(plan, [], [(0, []), (1, []), (2, [])])


def test_a_large_speaker_is_spread_by_utterance() -> None:
    config = PlanConfig(shard_mib=0.1)  # 6.5 s of features
    totals = [SpeakerTotal("ns/s0", "", "corpus", 2000), SpeakerTotal("ns/s1", "", "corpus", 40_000)]
    plan = make_plan(totals, [SUMMARY], config, job("/out").recipe)
    assert [(task.shard, task.label) for task in plan.tasks] == [(0, 0), *((shard, 1) for shard in range(1, 8))]
    rows = [row("s1", f"u{number:02d}") for number in range(20)]
    shards: dict[int, list[Utterance]] = {}
    for entry in rows:
        shards.setdefault(plan.shard_of(entry), []).append(entry)
    assert len(shards) > 4
    expected: list[Any] = [(number, shards.get(number, [])) for number in range(8)]
    groups_of(plan, rows, expected)
