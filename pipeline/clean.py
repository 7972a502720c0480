"""Removes from the folder of a dataset what killed jobs and replaced datasets left there.

Only names that this program gives are removed. Files of a job that is running are not listed in `metadata.json`
either, and its finished shards would go: it must not run meanwhile.

Sizes are bytes. It must not know how a file was made: names, and what `metadata.json` lists, decide.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ge2e_transforms import schema
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.metadata import parse
from pipeline import storage
from pipeline.assembly import listed_files
from pipeline.card import has_own_card

# Names that are no part of any dataset: verdicts, notes of progress, and what a killed doctor leaves.
_PASSING = re.compile(
    rf"{re.escape(schema.PROGRESS_FILE)}|" + r"failed-[0-9a-f]{16}\.json|doctor-([0-9a-f]{16}\.jsonl|[0-9a-f]{32}\.txt)"
)


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be.

    Attributes:
        names: of the files, relative to the folder, sorted.
        bytes: of all of them.
    """

    names: list[str]
    bytes: int


def clean(output: str, *, dry_run: bool = False, unfinished: bool = False) -> Cleaned:
    """Removes the files of ours that `metadata.json` does not list, and folders of splits that are left empty.

    Args:
        output: folder of the dataset, local or on a store. No job may be running into it.
        dry_run: nothing is removed.
        unfinished: where no `metadata.json` is, all files of ours are removed, finished shards too.

    Raises:
        DatasetError: there is no `metadata.json` and not `unfinished`; it is not one of ours; or it changed
            meanwhile. Nothing was removed.
    """
    content = _metadata(output)
    if content is None and not unfinished:
        raise DatasetError(
            f"{output} holds no metadata.json, so no file in it is listed, and the finished shards of a job that was "
            "stopped would be removed: finish it with the same `ge2e run` command, or give --unfinished to remove them"
        )
    metadata = {} if content is None else _parsed(content, output)
    sizes = storage.listing(output)
    names = _unlisted(output, metadata, sizes)
    if content is None and has_own_card(output):
        names = sorted([*names, schema.CARD_FILE])
    if _metadata(output) != content:
        raise DatasetError(
            f"{storage.join(output, schema.METADATA_FILE)} changed while the folder was listed: a job is running. "
            "Nothing was removed; clean again when it has ended"
        )
    if not dry_run:
        storage.remove(storage.join(output, name) for name in names)
        touched = {str(PurePosixPath(name).parent) for name in [*names, *metadata.get("replaced", ())]}
        # Of what was replaced before that metadata names nothing any more.
        for folder in sorted(touched | set(schema.SPLIT_ORDER)):
            if schema.SPLIT_NAME.fullmatch(folder):
                storage.remove_empty(storage.join(output, folder))
    return Cleaned(names, sum(sizes[name] for name in names))


def _unlisted(output: str, metadata: dict[str, Any], found: dict[str, int]) -> list[str]:
    """Files of ours among those that were found in a folder, which its metadata does not list; sorted.

    They are files of other generations, verdicts, notes of progress, marks, what a killed doctor left, and temporary
    files whose process is gone from this host or that are a day old; with empty metadata all of ours. Other names are
    never among them.
    """
    listed = listed_files(metadata)
    names = {name for name in found if _is_ours(name)} - listed
    temporary = [name for name in found if _is_written(storage.final_of(name))]
    for folder in {str(PurePosixPath(name).parent) for name in temporary}:
        abandoned = set(storage.leftovers(storage.join(output, folder)))
        names |= {name for name in temporary if storage.join(output, name) in abandoned}
    return sorted(names)


def _is_ours(name: str) -> bool:
    return bool(schema.OWN_FILE.fullmatch(name) or _PASSING.fullmatch(name))


def _is_written(name: str) -> bool:
    return name in (schema.METADATA_FILE, schema.CARD_FILE) or _is_ours(name)


def _metadata(output: str) -> bytes | None:
    path = storage.join(output, schema.METADATA_FILE)
    return storage.read_bytes(path) if storage.exists(path) else None


def _parsed(content: bytes, output: str) -> dict[str, Any]:
    path = storage.join(output, schema.METADATA_FILE)
    try:
        metadata = json.loads(content)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict) or metadata.get("format") != schema.FORMAT:
        raise DatasetError(f"{path} was not written by this program, so it does not say what may be removed")
    if metadata.get("format_version") != schema.FORMAT_VERSION:
        raise DatasetError(
            f"{path}: expected format version {schema.FORMAT_VERSION}, got {metadata.get('format_version')!r}: "
            "clean it with the version of ge2e-features that wrote it"
        )
    if lacking := sorted({"shards", "splits", "speakers", "ledger"} - metadata.keys()):
        raise DatasetError(f"{path}: {', '.join(lacking)} missing: the file is damaged, and nothing is removed by it")
    return parse(content, path)  # a damaged name in it would make a shard one that is not listed
