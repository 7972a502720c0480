"""From reports to findings: each condition, whom it names, and what it says to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ge2e_transforms.codec_samples import SAMPLES
from ge2e_transforms.config import Recipe
from pipeline.diagnosis import MIB, Finding, Needs, diagnose, needs_of
from pipeline.examine import Report

NEEDS = Needs(memory=300 * MIB, most_memory=1200 * MIB, disk=256 * MIB)
VERSIONS = {
    **dict.fromkeys(("ge2e-features", "apache-beam", "numpy", "scipy", "librosa", "soundfile", "soxr"), "1.0"),
    **{"pyarrow": "1.0", "av": "1.0", "google-crc32c": "1.0", "libsndfile": "1.0", "python": "3.11.7"},
}
GOOD = Report(
    key="a",
    host="h1",
    pid=1,
    cpu="cpu",
    versions=VERSIONS,
    heavy=[],
    codecs=dict.fromkeys(SAMPLES, "0"),
    recipe="f" * 64,
    crc32c="c",
    crc32c_mb_s=5000.0,
    threads={"openblas of numpy.libs": 1},
    variables={},
    memory=8000 * MIB,
    temp="/tmp",
    temp_disk=8000 * MIB,
    output="",
    output_disk=None,
    recording="",
    recording_digest="",
    faults={},
)


def workers(*changes: dict[str, Any]) -> list[Report]:
    return [replace(GOOD, **{"key": str(pid), "pid": pid, **change}) for pid, change in enumerate(changes, 1)]


def found(*changes: dict[str, Any], needs: Needs = NEEDS, program: Report | None = None) -> list[Finding]:
    return diagnose(workers(*changes), program or replace(GOOD, key="program"), needs)


def only(*changes: dict[str, Any], **more: Any) -> tuple[str, str]:
    (finding,) = found(*changes, **more)
    return finding.kind, finding.text


def test_nothing_is_found_where_all_is_well() -> None:
    assert found({}) == found({}, {}, {}) == []


def test_a_report_travels_as_json() -> None:
    assert Report.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize("check", ["crc32c", "libsndfile", "recipe", "output", "recording", "temp", "WAV", "MP3"])
def test_a_failed_check_fails_the_job(check: str) -> None:
    kind, text = only({}, {"faults": {check: "OSError: no"}})
    assert kind == "fails"
    assert "on 1 of 2 workers (h1:2)" in text
    assert "OSError: no. " in text
    assert len(text) > 80  # with what to do


def test_the_same_fault_of_all_is_said_once() -> None:
    _, text = only(*[{"faults": {"output": "OSError: no"}}] * 5)
    assert text.startswith("output on every worker: OSError: no. Nothing can be written: mend the path")


def test_many_workers_are_counted() -> None:
    _, text = only({}, *[{"faults": {"output": "OSError: no"}}] * 5)
    assert "on 5 of 6 workers (h1:2, h1:3, h1:4, 2 more)" in text


def test_a_missing_extra_is_a_note_unless_it_is_asked_for() -> None:
    lacks: dict[str, Any] = {"faults": {"AAC": "NotAudioError: ..."}, "versions": {**VERSIONS, "av": ""}}
    program = replace(GOOD, key="program", versions={**VERSIONS, "av": ""})
    kind, text = only(lacks, lacks, program=program)
    assert kind == "note"
    assert "pip install 'ge2e-features[av]'" in text
    assert only(lacks, program=program, needs=replace(NEEDS, av=True))[0] == "fails"
    assert [finding.kind for finding in found(lacks, {}, program=program)] == ["mixes", "note"]


def test_an_extra_that_is_there_and_does_not_decode_fails() -> None:
    kind, text = only({"faults": {"AAC": "CorruptAudioError: it decodes to something else"}})
    assert kind == "fails"
    assert "CorruptAudioError" in text


def test_a_slow_checksum_crawls() -> None:
    kind, text = only({"crc32c": "python", "crc32c_mb_s": 3.2}, {})
    assert kind == "crawls"
    assert "'python' on 1 of 2 workers (h1:1), at 3.2 MB/s" in text
    assert "Reinstall the package google-crc32c" in text


def test_more_threads_than_one_crawl() -> None:
    kind, text = only({"threads": {"openblas of numpy.libs": 8, "openmp of x": 1}})
    assert kind == "crawls"
    assert "(openblas of numpy.libs 8): workers would crowd" in text
    assert found({"threads": {}}) == []


def test_heavy_imports_are_a_note() -> None:
    assert only({"heavy": ["tensorflow"]}, {})[0] == "note"


def test_memory_is_shared_by_the_workers_of_a_host() -> None:
    assert found({"memory": 1200 * MIB}) == []
    kind, text = only({"memory": 1199 * MIB})
    assert (kind, "--set max_decoded_mib" in text) == ("note", True)
    kind, text = only({"memory": 599 * MIB}, {"memory": 599 * MIB})
    assert kind == "crawls"
    assert "599 MiB of memory left of h1 for 2 worker process(es): expected 300 MiB for each" in text
    assert [f.kind for f in found({"memory": 1500 * MIB}, {"memory": 1500 * MIB, "host": "h2"})] == []
    assert found({"memory": None}) == []


def test_disk_is_looked_at_where_shards_are_built() -> None:
    kind, text = only({"temp_disk": 255 * MIB})
    assert kind == "fails"
    assert "255 MiB of disk left in /tmp of h1 for 1 worker process(es): expected 256 MiB" in text
    assert found({"temp_disk": 0, "output_disk": 256 * MIB}) == []
    assert "in the output" in only({"output_disk": 0})[1]


def test_another_digest_mixes_bytes() -> None:
    kind, text = only({}, {"recipe": "e" * 64})
    assert kind == "mixes"
    assert f"the digest of the recipe differs: {'e' * 16} in h1:2; {'f' * 16} in this program, h1:1." in text


def test_a_digest_that_could_not_be_had_is_no_difference() -> None:
    assert [f.kind for f in found({}, {"recipe": "", "faults": {"recipe": "x"}})] == ["fails"]


@pytest.mark.parametrize("package", ["ge2e-features", "numpy", "scipy", "soxr", "libsndfile", "pyarrow", "av"])
def test_another_version_of_what_decides_bytes_mixes_them(package: str) -> None:
    kind, text = only({}, {"versions": {**VERSIONS, package: "0.9"}})
    assert kind == "mixes"
    assert f"{package} differs: 0.9 in h1:2; 1.0 in this program, h1:1." in text
    kind, text = only({}, program=replace(GOOD, key="program", versions={**VERSIONS, package: "0.9"}))
    assert kind == "mixes"


@pytest.mark.parametrize("package", ["python", "apache-beam"])
def test_another_python_or_beam_is_a_note(package: str) -> None:
    assert only({"versions": {**VERSIONS, package: "0.9"}})[0] == "note"


def test_other_samples_of_a_codec() -> None:
    assert only({}, {"codecs": {**GOOD.codecs, "FLAC": "1"}})[0] == "mixes"
    kind, text = only({}, {"codecs": {**GOOD.codecs, "MP3": "1"}})
    assert kind == "note"
    assert "recordings in MP3 depend on who computes them" in text
    assert only({}, {"recording_digest": "1"}, {"recording_digest": "2"})[0] == "mixes"


def test_the_worst_comes_first() -> None:
    bad = {"heavy": ["torch"], "recipe": "e" * 64, "crc32c": "python", "faults": {"output": "x"}}
    assert [finding.kind for finding in found(bad)] == ["fails", "crawls", "mixes", "note"]


def test_needs_follow_from_the_recipe_and_the_size_of_shards() -> None:
    needs = needs_of(Recipe(), 128)
    assert needs.disk == 256 * MIB
    assert needs.memory < needs.most_memory == (256 + 1024) * MIB
    longer = needs_of(Recipe().replace(max_seconds=1200.0), 128)
    assert longer.memory - needs.memory == 600 * 16000 * 8
    assert needs_of(Recipe(), 1, av=True).av
