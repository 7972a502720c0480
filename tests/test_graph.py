"""The whole flow: what comes out, what crosses a shuffle, and names that stay the same."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
import synth
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.typehints import Iterable, Tuple
from jobs import counters, job, metadata_of, unlisted

from ge2e_transforms.planning import PlanConfig
from pipeline import graph, metrics


class _Collect(PipelineVisitor):
    """All transforms of a pipeline by their full label."""

    def __init__(self) -> None:
        self.found: dict[str, AppliedPTransform] = {}

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self.found[transform_node.full_label] = transform_node

    enter_composite_transform = visit_transform


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    found = synth.small_corpus(folder, speakers=4, utterances=2, seconds=1.5, test_speakers=1)
    with found.open("a", newline="") as file:
        file.write("gone.wav,spk00,synth,s0,train\r\nspk00/utt00.wav,,synth,s0,train\r\n")
    return found


@pytest.fixture(scope="module")
def transforms(manifest: Path) -> dict[str, AppliedPTransform]:
    pipeline = TestPipeline(runner="FnApiRunner")
    graph.build(pipeline, job("/out", manifest))
    visitor = _Collect()
    pipeline.visit(visitor)
    return visitor.found


def test_manifests_become_a_published_dataset(manifest: Path, tmp_path: Path) -> None:
    config = job(tmp_path / "out", manifest, max_rejected=0.5, plan=PlanConfig(min_shards=2))
    pipeline = TestPipeline(runner="FnApiRunner")
    metadata = graph.build(pipeline, config)
    brief = metadata | beam.Map(lambda content: (content["counts"], content["files_created"]))
    counts = {"rows": 10, "written": 8, "filtered": {}, "rejected": {"empty_speaker": 1, "missing": 1}}
    assert_that(brief, equal_to([(counts, 3)]))
    result = pipeline.run()
    result.wait_until_finish()
    assert counters(result) == {
        metrics.MANIFESTS_READ: 1,
        metrics.ROWS_READ: 10,
        metrics.ROWS_REJECTED: 1,
        metrics.SHARDS_WRITTEN: 3,
        metrics.UTTERANCES_WRITTEN: 8,
        metrics.UTTERANCES_FILTERED: 0,
        metrics.UTTERANCES_REJECTED: 1,
        metrics.RECORDS_WRITTEN: 8,
    }
    assert metadata_of(tmp_path / "out")["counts"] == counts
    assert unlisted(tmp_path / "out") == set()


def test_stages_in_their_order(transforms: dict[str, AppliedPTransform]) -> None:
    stages = [name for name in transforms if name and "/" not in name]
    assert stages == ["ReadManifest", "PlanDataset", "GroupByShard", "WriteShards", "CommitDataset"]


def test_labels_are_camel_case(transforms: dict[str, AppliedPTransform]) -> None:
    own = {name.split("/")[1] for name in transforms if name.count("/") == 1}
    assert own == {
        *("Patterns", "ExpandManifests", "SpreadManifests", "ReadRows"),
        *("GroupLengths", "SumLengths", "PlanOnce", "MakePlan"),
        *("AssignShards", "AnnounceShards", "Flatten", "GroupRows"),
        *("WriteShard", "CommitOnce", "Commit"),
    }


def test_nothing_but_rows_and_lengths_crosses_a_shuffle(transforms: dict[str, AppliedPTransform]) -> None:
    """Audio and features never do: what is grouped are rows by shard, lengths by speaker, and names of manifests."""
    grouped = {
        name: node.outputs[None].element_type
        for name, node in transforms.items()
        if isinstance(node.transform, beam.GroupByKey) and "SpreadManifests" not in name
    }
    assert grouped == {
        "PlanDataset/GroupLengths": Tuple[int, Iterable[bytes]],
        "GroupByShard/GroupRows": Tuple[int, Iterable[bytes]],
    }


def test_every_output_has_a_type(transforms: dict[str, AppliedPTransform]) -> None:
    """Else Beam chooses a coder value by value. Metadata is any JSON."""
    free = ("CommitDataset/Commit",)
    untyped = [
        (name, tag)
        for name, node in transforms.items()
        if name.count("/") == 1 and name not in free
        for tag, output in node.outputs.items()
        if "Any" in str(output.element_type)
    ]
    assert untyped == []
