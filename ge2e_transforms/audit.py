"""Leakage and doubles in a finished dataset: speakers across splits, audio that stands twice, ids that are one person.

`audit` reads the indexes of all shards and no records, so it works on a store too. Of an utterance it keeps the hash of
its audio, 8 bytes; names are read again where something was found. All rows of a finding are an Arrow table. It must
not know how findings are shown.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import schema
from ge2e_transforms.audit_contents import IDENTITY, Contents, codes
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.deny_list import DenyEntry, DenyMatcher
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.runs import Ints
from ge2e_transforms.treatments import labels_at_other_speeds
from ge2e_transforms.utterance import shown

Mask = npt.NDArray[np.bool_]

FAIL, WARN = "fail", "warn"
# What is looked for, in this order: what a finding of it says after its count, and what to do then.
CHECKS = {
    "split_overlap": (
        "speaker(s) in more than one split",
        "name one split in all rows of a speaker and make the dataset anew: scores on such speakers are not those of "
        "unseen ones",
    ),
    "same_audio_two_speakers": (
        "recording(s) under two or more speakers",
        "find out who speaks, and leave the other rows out of the manifest; if two corpora share speakers, give them "
        "one namespace and one id",
    ),
    "same_audio_twice": (
        "recording(s) twice or more under one speaker",
        "leave all but one row out of the manifest: a pair of equal crops is an easy positive that teaches nothing",
    ),
    "id_in_two_sources": (
        "speaker id(s) in two or more sources of one namespace",
        "right where the sources share their speakers; else two people are taken for one: give each source a namespace "
        "of its own",
    ),
    "near_equal_ids": (
        "group(s) of speaker ids that differ only in case, form, separators or leading zeros",
        "if they are one person, write the id in one way: else batches hold a person against themselves",
    ),
    "denied": (
        "speaker(s) and utterance(s) of a deny-list in the train split",
        "leave their rows out of the manifest, or name another split for all rows of these speakers",
    ),
}
# Columns of the rows of findings. Rows of one group belong together; groups count from 1.
ROWS = pa.schema(
    [
        pa.field("group", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("split", "speaker_id", "utterance_id", "source", "detail")),
    ]
)
_NAMES = (*IDENTITY, "utterance_id", "audio_path", "audio_hash", "samples")
# Hashes that are looked up at once.
_STEP = 1 << 20
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_SEPARATORS = re.compile(r"((?<=\d)[ _.-]+(?=\d))|[ _.-]+")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: one of `CHECKS`.
        severity: 'fail' where scores or training are wrong for certain, 'warn' where somebody must look.
        count: of what `text` says.
        text, advice: what it is, and what to do.
        rows: all of it, `ROWS`.
    """

    check: str
    severity: str
    count: int
    text: str
    advice: str
    rows: pa.Table


class DenyCount(NamedTuple):
    """What became of the entries of one deny-list: `in_train` + `elsewhere` + `nowhere` = `entries`."""

    file: str
    entries: int
    in_train: int
    elsewhere: int
    nowhere: int


@dataclass(frozen=True)
class AuditReport:
    """What was looked at, copies and other speeds left out, and all that was found, in the order of `CHECKS`."""

    utterances: int
    speakers: int
    split_rule: str
    deny_lists: list[DenyCount] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether any finding is certain."""
        return any(finding.severity == FAIL for finding in self.findings)


def audit(dataset: Dataset, deny: Sequence[DenyEntry] = ()) -> AuditReport:
    """Looks for leakage and doubles.

    Takes some 30 bytes of memory an utterance (`benchmarks/audit.py`), and the rows of what is found.

    Args:
        dataset: an open dataset, on a disk or on a store.
        deny: entries of all deny-lists.

    Raises:
        DatasetError: an index is missing or damaged, or metadata does not say how splits were made.
    """
    rule = split_rule(dataset)
    contents = Contents(dataset)
    denied, counts = _denied(contents, deny) if deny else ([], [])
    findings = [*_split_overlap(contents), *_same_audio(contents), *_two_sources(contents), *_near_equal(contents)]
    return AuditReport(len(contents.hashes), len(contents.speakers), rule, counts, findings + denied)


def split_rule(dataset: Dataset) -> str:
    """How speakers came to their splits, in words; DatasetError if metadata does not say."""
    plan = dataset.metadata.get("plan")
    if plan is None:
        where = dataset.folder.where(schema.METADATA_FILE)
        raise DatasetError(f"{where}: plan missing: the file is damaged")
    names = ("test_fraction", "test_speakers", "valid_fraction", "valid_speakers")
    drawn = " and ".join(f"{name}={plan[name]:g}" for name in names if plan[name])
    if not drawn:
        return f"as the manifests name them; a speaker for whom they name none is in {schema.TRAIN_SPLIT}"
    return (
        f"as the manifests name them; of the other speakers {drawn} are drawn by a hash with the salt "
        f"{shown(plan['split_salt'])}"
    )


def normal_form(speaker: str) -> str:
    """What near-equal speaker ids have in common, for `namespace/speaker_id` as for either part of it.

    NFKC, casefold, no leading zeros in runs of digits, none of the separators ` _-.` (between two digits one stays, as
    1-12 and 11-2 are not one number). So Spk_007, spk-7 and SPK7 are one. There is no edit distance: ids are
    mostly numbers, where every neighbour is another person (1001 and 1002), so it would find everyone.

    >>> normal_form("vox/Spk_007"), normal_form("vox/spk-7"), normal_form("vox/1_12")
    ('vox/spk7', 'vox/spk7', 'vox/1-12')
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", speaker).casefold())
    text = _LEADING_ZEROS.sub("", text)
    return _SEPARATORS.sub(lambda run: "-" if run[1] else "", text)


def _differ(values: npt.NDArray[Any], group: Ints) -> Mask:
    """Whether a group (numbers from 0, as of `_codes`) holds more than one value."""
    _, first = np.unique(group, return_index=True)
    return np.bincount(group, weights=values != values[first][group], minlength=len(first)) > 0


def _finding(check: str, severity: str, table: pa.Table, group: Ints, kept: Mask, more: str = "") -> list[Finding]:
    """The finding of the groups that are kept; none where no group is."""
    if not kept.any():
        return []
    rows = np.flatnonzero(kept[group])
    rows = rows[np.argsort(group[rows], kind="stable")]
    found = table.take(pa.array(rows))
    numbers = pa.array(np.cumsum(kept)[group[rows]])
    empty = pa.array([""] * len(rows), pa.string())
    columns = [numbers, *(found[name] if name in found.column_names else empty for name in ROWS.names[1:])]
    text, advice = CHECKS[check]
    count = int(np.count_nonzero(kept))
    return [Finding(check, severity, count, f"{count:,} {text}{more}", advice, pa.table(columns, schema=ROWS))]


def _split_overlap(contents: Contents) -> list[Finding]:
    """By the indexes and by the speakers table."""
    own = ~np.isin(contents.dataset.speakers["label"], labels_at_other_speeds(contents.dataset))
    listed = contents.dataset.speakers.filter(pa.array(own)).select(["split", "speaker_id", "source"])
    listed = listed.append_column("detail", pa.array(["in the speakers table"] * len(listed), pa.string()))
    table = pa.concat_tables([contents.told.drop_columns(["code"]), listed], promote_options="default")
    group = codes(table["speaker_id"])
    return _finding("split_overlap", FAIL, table, group, _differ(codes(table["split"]), group))


def _two_sources(contents: Contents) -> list[Finding]:
    table = contents.told
    group = table["code"].to_numpy()
    return _finding("id_in_two_sources", WARN, table, group, _differ(codes(table["source"]), group))


def _near_equal(contents: Contents) -> list[Finding]:
    forms = pa.chunked_array([pa.array(map(normal_form, contents.speakers.to_pylist()), pa.string())])
    code = contents.told["code"].to_numpy()
    group = codes(forms)[code]
    return _finding("near_equal_ids", WARN, contents.told, group, _differ(code, group))


def _same_audio(contents: Contents) -> list[Finding]:
    """The same number of samples with the same hash."""
    table = _doubles(contents)
    # Equal samples make equal records, so the number of samples of the first one tells apart what only shares a hash.
    both = codes(table["audio_hash"]) << 32 | codes(table["samples"])
    group = codes(pa.chunked_array([pa.array(both)]))
    people, splits = _differ(codes(table["speaker_id"]), group), _differ(codes(table["split"]), group)
    twice = (np.bincount(group) > 1) & ~people
    across = f" ({np.count_nonzero(people & splits):,} of them in two splits)" if np.any(people & splits) else ""
    return [
        *_finding("same_audio_two_speakers", FAIL, table, group, people, across),
        *_finding("same_audio_twice", FAIL, table, group, twice & splits, ", in two splits"),
        *_finding("same_audio_twice", WARN, table, group, twice & ~splits),
    ]


def _doubles(contents: Contents) -> pa.Table:
    """Utterances whose hash stands more than once: `_NAMES`, with their split, and the recording as detail."""
    rows = _doubled(contents.hashes)
    places = np.searchsorted(contents.first, rows, side="right") - 1
    numbers, start = np.unique(places, return_index=True)
    empty = [(name, pa.int64() if name in ("audio_hash", "samples") else pa.string()) for name in _NAMES[2:]]
    tables = [pa.schema([*empty, ("split", pa.string())]).empty_table()]
    own = np.split(rows, start[1:])
    for number, mine, table in zip(numbers.tolist(), own, contents.heads(numbers.tolist(), _NAMES), strict=False):
        part = table.take(pa.array(mine - contents.first[number])).select(_NAMES[2:])
        tables.append(part.append_column("split", pa.array([contents.split_of(number)] * len(part))))
    table = pa.concat_tables(tables, promote_options="default")
    return table.rename_columns([{"audio_path": "detail"}.get(name, name) for name in table.column_names])


def _doubled(hashes: Ints) -> Ints:
    """Places of the values that stand more than once, in order."""
    values = np.sort(hashes)
    values = np.unique(values[1:][values[1:] == values[:-1]])
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(hashes) if len(values) else 0, _STEP):
        part = hashes[start : start + _STEP]
        near = np.minimum(np.searchsorted(values, part), len(values) - 1)
        found.append(start + np.flatnonzero(values[near] == part))
    return np.concatenate(found)


def _denied(contents: Contents, deny: Sequence[DenyEntry]) -> tuple[list[Finding], list[DenyCount]]:
    matcher = DenyMatcher(deny, contents.speakers)
    in_train, anywhere = (np.zeros(len(deny), dtype=np.bool_) for _ in range(2))
    found = [ROWS.empty_table().select(ROWS.names[1:])]
    for split, pairs, table in itertools.chain(_speakers_of(contents, matcher), _utterances_of(contents, matcher)):
        anywhere[pairs[:, 0]] = True
        if split == schema.TRAIN_SPLIT:
            in_train[pairs[:, 0]] = True
            _, first = np.unique(pairs[:, 1], return_index=True)  # by one entry or by several, it is one
            where = pa.array([deny[entry].where for entry in pairs[first, 0].tolist()], pa.string())
            named = table.take(pa.array(pairs[first, 1])).append_column("split", pa.array([split] * len(where)))
            found.append(named.append_column("detail", where).select(ROWS.names[1:]))
    rows = pa.concat_tables(found, promote_options="default")
    findings = _finding("denied", FAIL, rows, np.arange(len(rows)), np.ones(len(rows), dtype=np.bool_))
    counts = []
    for file in dict.fromkeys(entry.file for entry in deny):
        own = np.array([entry.file == file for entry in deny])
        train, some, total = (int(np.count_nonzero(own & mask)) for mask in (in_train, anywhere, own))
        counts.append(DenyCount(file, total, train, some - train, total - some))
    return findings, counts


def _speakers_of(contents: Contents, matcher: DenyMatcher) -> Iterator[tuple[str, Ints, pa.Table]]:
    """Split by split, its speakers and the pairs (entry, row) of those that are denied as a whole."""
    entry, denied = matcher.whole.T
    for split in contents.dataset.splits:
        told = contents.told.filter(pc.equal(contents.told["split"], split))
        code, first = np.unique(told["code"].to_numpy(), return_index=True)  # once, whatever the number of its sources
        place = np.searchsorted(code, denied)
        here = np.isin(denied, code)
        table = told.select(["speaker_id", "source"]).take(pa.array(first))
        table = table.append_column("utterance_id", pa.array([""] * len(table), pa.string()))
        yield split, np.stack([entry[here], place[here]], axis=1), table


def _utterances_of(contents: Contents, matcher: DenyMatcher) -> Iterator[tuple[str, Ints, pa.Table]]:
    """Shard by shard, its utterances and the pairs (entry, row) of those that are denied one by one."""
    place = contents.people["place"].to_numpy()
    numbers = np.unique(place[np.isin(contents.code, matcher.single[:, 1])]).tolist()
    for number, table in zip(numbers, contents.heads(numbers, (*IDENTITY, "utterance_id")), strict=True):
        first, end = np.searchsorted(place, (number, number + 1))
        own = contents.people["speaker_id"].slice(first, end - first).combine_chunks()
        code = contents.code[first:end][pc.index_in(table["speaker_id"], value_set=own).to_numpy()]
        pairs = matcher.denied(code, table["utterance_id"].combine_chunks())
        yield contents.split_of(number), pairs, table.select(["speaker_id", "source", "utterance_id"])
