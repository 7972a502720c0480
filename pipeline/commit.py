"""CommitDataset: checks what the shards hold and publishes the dataset, metadata last.

One element, the last of the graph, safe to run twice. All figures come from the done files, in shard
order; nothing depends on the program that submitted the job.

Counts are of manifest rows, utterances and records. It must not open a recording or a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import apache_beam as beam

from ge2e_transforms import schema
from ge2e_transforms.errors import CommitError, LedgerRow
from ge2e_transforms.identity import nameless, unread
from ge2e_transforms.planning import Plan
from pipeline import growth, progress, publishing, storage, tables
from pipeline.assembly import Part, assemble, read_parts, remove_replaced, standing_bases
from pipeline.options import JobConfig
from pipeline.verdict import recorded

_KINDS = ("filtered", "rejected")
# Counts of a dataset with augmentation: rows at other speeds, which are written, filtered or rejected beside those of
# the manifests, and copies, which are part of their utterance.
_MADE = ("sped", "copies")


def commit(job: JobConfig, plan: Plan, rejected: Iterable[LedgerRow]) -> dict[str, Any]:
    """Publishes the dataset and returns its metadata.

    Raises:
        CommitError: a shard is not finished, the sums do not balance, too many rows are rejected, nothing was
            written, or another job has published meanwhile. Nothing is published then.
    """
    previous = publishing.read(job.output)
    stands = previous.metadata.get("generation", plan.standing)
    if stands not in (plan.standing, plan.generation):
        raise CommitError(
            f"another job has published generation {stands} in {job.output} since this one (generation "
            f"{plan.generation}) was planned, so nothing was published: run the same command again"
            + (", with --overwrite to replace that, or with another --output" if plan.kind == "run" else "")
        )
    if plan.nothing_to_do or (plan.grows and stands == plan.generation):
        remove_replaced(job.output, previous.metadata)
        return previous.metadata
    new = read_parts(job.output, (task.base for task in plan.tasks))
    ledger = [*_refused(plan, rejected), *(LedgerRow(*entry) for part in new for entry in part.done["ledger"])]
    counts = _balance(plan, new, ledger)
    if _over_limit(job, counts):
        raise CommitError(_refusal(job, counts, ledger))
    facts = _facts(job, plan, counts, new)
    if stands == plan.generation:
        facts["token"] = previous.metadata.get("token", facts["token"])  # who made it, not who found it made
    if plan.grows:
        if not counts["written"]:  # another attempt at what cannot be read, or manifests that hold nothing new
            storage.remove(storage.join(job.output, name) for part in new for name in schema.shard_files(part.base))
            return previous.metadata
        old = growth.ledger_of(job.output, previous.metadata)
        again = set(growth.retryable(old)) if plan.kind == "retry" else set()
        facts = {**previous.metadata, **_grown_facts(facts, previous.metadata, plan, again)}
        ledger += [row for row in old if row not in again]
    return assemble(job.output, facts, [*_standing_parts(job, plan, previous.metadata), *new], ledger, previous)


def _standing_parts(job: JobConfig, plan: Plan, metadata: Mapping[str, Any]) -> list[Part]:
    return read_parts(job.output, standing_bases(metadata)) if plan.grows else []


def _refused(plan: Plan, rejected: Iterable[LedgerRow]) -> Iterable[LedgerRow]:
    """Rows that the manifests' reader refused. Where somebody was erased it is not known whom they name."""
    return (nameless(row) if plan.erased and unread(row) else row for row in rejected)


def _balance(plan: Plan, new: list[Part], ledger: list[LedgerRow]) -> dict[str, Any]:
    """Counts of the whole job; every manifest row must be accounted for once."""
    rows = sum(entry.rows for entry in plan.manifests)
    written = sum(part.done["utterances"] for part in new)
    by_kind = {kind: tables.add_counts({row.reason: 1} for row in ledger if row.kind == kind) for kind in _KINDS}
    total = written + sum(sum(by_kind[kind].values()) for kind in _KINDS)
    made = {name: sum(part.done[name] for part in new) for name in _MADE} if plan.augmented else {}
    if total != rows + made.get("sped", 0):
        raise CommitError(
            f"the sums do not balance: the manifests hold {rows} rows{_beside(made)}, but {written} written + "
            f"{by_kind['filtered']} filtered + {by_kind['rejected']} rejected make {total}. Was a manifest "
            "changed while the job ran? Nothing was published"
        )
    return {"rows": rows, **made, "written": written, **by_kind}


def _beside(made: Mapping[str, int]) -> str:
    return f" and {made['sped']} were made of them at other speeds" if made.get("sped") else ""


def _over_limit(job: JobConfig, counts: dict[str, Any]) -> bool:
    rejected = sum(counts["rejected"].values())
    nothing = not counts["written"] and (job.kind == "run" or rejected)
    return job.kind != "retry" and (bool(nothing) or rejected > job.max_rejected * counts["rows"])


def _refusal(job: JobConfig, counts: dict[str, Any], ledger: list[LedgerRow]) -> str:
    first = [row for row in ledger if row.kind == "rejected"][:3] or ledger[:3]
    examples = "; ".join(f"{row.reason}: {row.audio_path or row.manifest} ({row.detail})" for row in first)
    if not counts["written"]:
        problem = f"none of the {counts['rows']} rows could be written"
    else:
        rejected = sum(counts["rejected"].values())
        problem = f"{rejected} of {counts['rows']} rows were rejected, more than --max_rejected={job.max_rejected:g}"
    return (
        f"{problem} (filtered {counts['filtered']}, rejected {counts['rejected']}). First: {examples}. Nothing was "
        "published: mend these files and run the same command again, or raise --max_rejected"
    )


def _facts(job: JobConfig, plan: Plan, counts: dict[str, Any], new: list[Part]) -> dict[str, Any]:
    """What metadata says that does not follow from the shards."""
    recipe = job.recipe
    return {
        **_augmentation_facts(plan, new),
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        "generation": plan.generation,
        "edition": plan.edition,
        "history": [{"kind": plan.kind, "generation": plan.generation, "content": plan.content}],
        "token": job.token,
        "fingerprint": recipe.fingerprint(),
        "feature_shape": recipe.feature_shape,
        "features": recipe.feature.features,
        "segments": recipe.segment.segments,
        "dtype": recipe.dtype,
        "speakers_per_batch": job.speakers_per_batch,
        "utterances_per_speaker": job.utterances_per_speaker,
        "batch_size": job.speakers_per_batch * job.utterances_per_speaker,
        "datasets": list(plan.sources),
        "counts": counts,
        "recipe": recipe.to_dict(),
        "plan": asdict(job.plan),
        "split_rule": plan.rule._asdict(),
        "next_label": plan.next_label,
        "pseudonyms": plan.pseudonyms,
        "erased": plan.erased.to_json() if plan.erased else None,
        "manifests": [entry._asdict() for entry in plan.manifests],
    }


def _augmentation_facts(plan: Plan, new: list[Part]) -> dict[str, Any]:
    if plan.augmented is None:
        return {}
    told: dict[str, str] = {}
    for part in new:
        told |= part.done["unusable_sounds"]
    return {
        "augmentation": {
            "config": plan.augmented.config.to_dict(),
            "fingerprint": plan.augmented.fingerprint,
            "sounds": [entry._asdict() for entry in plan.augmented.sounds],
            "unusable": dict(sorted(told.items())),
        }
    }


def _grown_facts(
    facts: dict[str, Any], stood: Mapping[str, Any], plan: Plan, again: Iterable[LedgerRow]
) -> dict[str, Any]:
    """What metadata says of a dataset after rows were added; `again`: those of its own that were tried once more."""
    names = ("rows", *(_MADE if plan.augmented else ()), "written")
    counts = {name: stood["counts"][name] + facts["counts"][name] for name in names}
    tried = tables.add_counts({row.reason: 1} for row in again)
    counts["rows"] -= sum(tried.values())
    for kind in _KINDS:
        less = {reason: -number for reason, number in tried.items()} if kind == "rejected" else {}
        sums = tables.add_counts([stood["counts"][kind], facts["counts"][kind], less])
        counts[kind] = {reason: number for reason, number in sums.items() if number}
    grown = {name: facts[name] for name in ("generation", "token", "datasets", "next_label", "erased")}
    grown |= {"counts": counts, "history": [*stood["history"], *facts["history"]]}
    if plan.augmented:
        unusable = {**stood["augmentation"]["unusable"], **facts["augmentation"]["unusable"]}
        grown["augmentation"] = {**stood["augmentation"], "unusable": dict(sorted(unusable.items()))}
    if plan.kind == "add":
        grown["manifests"] = [*stood["manifests"], *facts["manifests"]]
    return grown


class _CommitFn(beam.DoFn):
    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(
        self, _: None, done: Iterable[str], plan: Plan, rejected: Iterable[LedgerRow]
    ) -> Iterator[dict[str, Any]]:
        with recorded(self._job.output, self._job.token):
            reported = len(set(done))
            if reported < len(plan.tasks):
                raise CommitError(f"{len(plan.tasks)} shards were planned, but only {reported} are reported done")
            metadata = commit(self._job, plan, rejected)
        progress.forget(self._job.output)
        yield metadata


class CommitDataset(beam.PTransform):
    """(done paths, plan, manifest rows rejected) -> the metadata of the published dataset."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, inputs: tuple[beam.PCollection[str], beam.PCollection[Plan], beam.PCollection[LedgerRow]]
    ) -> beam.PCollection[dict[str, Any]]:
        done, plan, rejected = inputs
        return (
            done.pipeline
            | "CommitOnce" >> beam.Create([None])
            | "Commit"
            >> beam.ParDo(
                _CommitFn(self._job),
                beam.pvalue.AsList(done),
                beam.pvalue.AsSingleton(plan),
                beam.pvalue.AsIter(rejected),
            ).with_output_types(dict[str, Any])
        )
