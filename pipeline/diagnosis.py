"""From the reports of processes to what would go wrong in a job, and the remedy of each. Pure; no Beam, no files.

Sizes are bytes. It must not know how a report is made (`examine`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ge2e_transforms.codec_samples import SAMPLES
from ge2e_transforms.config import Recipe
from ge2e_transforms.decoded import KEPT_BYTES
from ge2e_transforms.selftest import LOSSLESS, NEEDS_AV

if TYPE_CHECKING:
    from pipeline.examine import Report

MIB = 1 << 20
# What decides the bytes of records and indexes.
_DECIDE_BYTES = ("ge2e-features", "numpy", "scipy", "soundfile", "libsndfile", "soxr", "pyarrow", "av")
_MUST_FIT = ("python", "apache-beam")
_NAMED_WORKERS = 3


@dataclass(frozen=True)
class Needs:
    """What a job asks of each worker process.

    Attributes:
        memory: bytes without which recordings of the length that the recipe allows do not fit.
        most_memory: bytes that a recording at the recipe's limit on decoded size would take.
        disk: bytes of the shard that is being built.
        av: M4A and AAC must decode.
    """

    memory: int
    most_memory: int
    disk: int
    av: bool = False


def needs_of(recipe: Recipe, shard_mib: float, *, av: bool = False) -> Needs:
    """By the limits of the recipe and the size of shards."""
    audio = recipe.audio
    # As decoded and as resampled.
    recording = 2 * 4 * round(audio.max_seconds * audio.sample_rate_hz)
    # A shard grows a little beyond its size, and its index lies beside it.
    disk = round(2 * shard_mib * MIB)
    return Needs(KEPT_BYTES + recording, KEPT_BYTES + round(audio.max_decoded_mib * MIB), disk, av)


@dataclass(frozen=True)
class Finding:
    """Something to know: `kind` is 'fails', 'crawls', 'mixes' or 'note'; only a note leaves the job as it should be."""

    kind: str
    text: str


def diagnose(reports: Sequence[Report], program: Report, needs: Needs) -> list[Finding]:
    """All that is wrong, worst first.

    Args:
        reports: of the worker processes, at least one.
        program: of the program that submits the job; its versions and digests count, nothing else of it.
        needs: what the job asks for.
    """
    found = [*_faults(reports, needs), *_slow(reports), *_room(reports, needs), *_mixed(reports, program)]
    order = ("fails", "crawls", "mixes", "note")
    return sorted(dict.fromkeys(found), key=lambda finding: order.index(finding.kind))


# Each fault by the name of its check: what it does to a job, and what to do about it.
_REMEDIES = {
    "crc32c": "Records cannot be written: reinstall the package google-crc32c",
    "libsndfile": "No audio can be decoded: install the package soundfile, and libsndfile where its wheel has none",
    "recipe": "No features can be computed: install ge2e-features with its dependencies in the workers' environment",
    "output": "Nothing can be written: mend the path, its permissions, or the credentials of the workers",
    "recording": "The first usable row cannot be read: mend the path, or the access that workers have to it",
    "sounds": "Copies cannot be made: all workers must reach the lists of --augment, and all recordings in them",
    "temp": "Nothing can be built there: make a folder for temporary files that may be written, and name it by TMPDIR",
}


def _faults(reports: Sequence[Report], needs: Needs) -> Iterator[Finding]:
    for name in (*_REMEDIES, *SAMPLES):
        by_text: dict[str, list[Report]] = defaultdict(list)
        for report in reports:
            if name in report.faults:
                by_text[report.faults[name]].append(report)
        for text, these in by_text.items():
            where = _where(these, reports)
            if name in _REMEDIES:
                yield Finding("fails", f"{name} {where}: {text}. {_REMEDIES[name]}")
            elif name not in NEEDS_AV:
                rejected = f"Recordings in {name} would be rejected: reinstall the package soundfile there"
                yield Finding("fails", f"{name} does not decode {where}: {text}. {rejected}")
            else:
                missing = any(not report.versions.get("av") for report in these)
                yield Finding(
                    "fails" if needs.av or not missing else "note",
                    f"M4A and AAC do not decode {where}: such recordings would be rejected. "
                    + ("The extra is not installed: pip install 'ge2e-features[av]'" if missing else text),
                )


def _slow(reports: Sequence[Report]) -> Iterator[Finding]:
    python = [report for report in reports if report.crc32c not in ("c", "")]
    if python:
        kind, speed = python[0].crc32c, min(report.crc32c_mb_s for report in python)
        yield Finding(
            "crawls",
            f"crc32c runs in {kind!r} {_where(python, reports)}, at {speed:g} MB/s: `ge2e run` refuses to write "
            "records so slowly. Reinstall the package google-crc32c from a wheel for this platform",
        )
    crowded = [report for report in reports if max(report.threads.values(), default=1) > 1]
    if crowded:
        pools = ", ".join(f"{name} {number}" for name, number in crowded[0].threads.items() if number > 1)
        yield Finding(
            "crawls",
            f"more threads than one {_where(crowded, reports)} ({pools}): workers would crowd each other. Set "
            "OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 in the workers' environment",
        )
    loaded = [report for report in reports if report.heavy]
    if loaded:
        names = ", ".join(sorted({name for report in loaded for name in report.heavy}))
        yield Finding(
            "note", f"{names} loaded {_where(loaded, reports)}: memory of each worker for nothing that it uses"
        )


def _room(reports: Sequence[Report], needs: Needs) -> Iterator[Finding]:
    """Memory and disk are shared by all processes of a host."""
    hosts = Counter(report.host for report in reports)
    for report in {report.host: report for report in reports}.values():
        processes = hosts[report.host]
        share = f"of {report.host} for {processes} worker process(es)"
        if report.memory is not None and report.memory < processes * needs.memory:
            yield Finding(
                "crawls",
                f"{_mib(report.memory)} of memory left {share}: expected {_mib(needs.memory)} for each. Use fewer "
                "workers on a host, hosts with more memory, or --set max_seconds for shorter recordings",
            )
        elif report.memory is not None and report.memory < processes * needs.most_memory:
            yield Finding(
                "note",
                f"{_mib(report.memory)} of memory left {share}: a recording at the recipe's limit takes "
                f"{_mib(needs.most_memory)}. Lower it by --set max_decoded_mib if there may be such",
            )
        disk, place = report.output_disk, "the output"
        if disk is None:
            disk, place = report.temp_disk, report.temp
        if disk is not None and disk < processes * needs.disk:
            yield Finding(
                "fails",
                f"{_mib(disk)} of disk left in {place} {share}: expected {_mib(needs.disk)} for the shard that each "
                "builds. Make room, or lower --shard_mib",
            )


_OTHER_SHARDS = "Shards would depend on who writes them: install the same versions everywhere"


def _mixed(reports: Sequence[Report], program: Report) -> Iterator[Finding]:
    """What differs among workers, or between them and the program."""
    everyone = (*reports, program)
    yield from _differing(
        "mixes", "the digest of the recipe", [(r, r.recipe[:16]) for r in everyone], program, _OTHER_SHARDS
    )
    for package in _DECIDE_BYTES:
        # A program that only submits a job needs no PyAV.
        who = reports if package == "av" and not program.versions.get("av") else everyone
        yield from _differing("mixes", package, _versions(package, who), program, _OTHER_SHARDS)
    yield from _differing(
        "mixes", "the first recording, decoded,", [(r, r.recording_digest) for r in reports], program, _OTHER_SHARDS
    )
    for codec in SAMPLES:
        remedy = f"Features of recordings in {codec} depend on who computes them: use machines of one kind"
        kind = "mixes" if codec in LOSSLESS else "note"
        decoded = [(report, report.codecs.get(codec, "")) for report in reports]
        yield from _differing(kind, f"{codec}, decoded,", decoded, program, remedy)
    for package in _MUST_FIT:
        remedy = "Beam promises nothing for workers of other versions than the program's: install the same"
        yield from _differing("note", package, _versions(package, everyone), program, remedy)


def _versions(package: str, reports: Iterable[Report]) -> list[tuple[Report, str]]:
    return [(report, report.versions.get(package) or "none") for report in reports]


def _differing(
    kind: str, what: str, values: Iterable[tuple[Report, str]], program: Report, remedy: str
) -> Iterator[Finding]:
    """A finding if there is more than one value; '' is none, as its fault is told already."""
    by_value: dict[str, list[Report]] = defaultdict(list)
    for report, value in values:
        if value:
            by_value[value].append(report)
    if len(by_value) > 1:
        found = "; ".join(f"{value} in {_names(these, program)}" for value, these in sorted(by_value.items()))
        yield Finding(kind, f"{what} differs: {found}. {remedy}")


def _names(reports: Iterable[Report], program: Report) -> str:
    reports = list(reports)
    own = ["this program"] if any(report.key == program.key for report in reports) else []
    return ", ".join([*own, *_some({report.name for report in reports if report.key != program.key})])


def _where(these: Sequence[Report], reports: Sequence[Report]) -> str:
    if len(these) == len(reports):
        return "on every worker"
    return f"on {len(these)} of {len(reports)} workers ({', '.join(_some({report.name for report in these}))})"


def _some(names: set[str]) -> list[str]:
    more = len(names) - _NAMED_WORKERS
    return [*sorted(names)[:_NAMED_WORKERS], *([f"{more} more"] if more > 0 else [])]


def _mib(size: int) -> str:
    return f"{size // MIB} MiB"
