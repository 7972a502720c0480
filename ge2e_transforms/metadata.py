"""What metadata.json may hold: the type and range of every value that is used, and names that only a writer gives.

Values are checked before anything is done with them, so that a damaged or foreign file is an error by name, and no name
in it leads out of the dataset's folder. Keys that are not listed here are left alone: later versions may add some. It
opens nothing, and must not know how the file is reached.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ge2e_transforms import schema
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.records import DTYPES

# Some hundred bytes a shard: room for more shards than a folder bears.
MAX_BYTES = 1 << 30
# Values are shown in messages up to this length.
_SHOWN = 80


class Leaf(NamedTuple):
    """A value that is looked at as a whole."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Object:
    """An object: what readers need of it, what is there besides in all that a writer made, and what may be there."""

    needed: Mapping[str, Kind]
    written: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)


class Every(NamedTuple):
    """An object or a list whose values are all of one kind; `keys`, of an object, are those of its names."""

    of: Kind
    keys: re.Pattern[str] | None = None


class Maybe(NamedTuple):
    """A value that may be null."""

    of: Kind


Kind: TypeAlias = "Leaf | Object | Every | Maybe"


def _integer(low: int, high: int = 1 << 62) -> Leaf:
    expected = f"an integer from {low} to {high - 1}"
    return Leaf(expected, lambda value: type(value) is int and low <= value < high)


def _number(low: float = -1e300) -> Leaf:
    expected = "a number" + (f" from {low:g} on" if low > -1e300 else "")
    return Leaf(expected, lambda value: type(value) in (int, float) and low <= value <= 1e300)


def _text(pattern: str, expected: str) -> Leaf:
    return Leaf(expected, lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None)


def _file(pattern: str, ending: str = "") -> Leaf:
    """A name of a file, but for its `ending`."""

    def fits(value: Any) -> bool:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            return False
        return schema.OWN_FILE.fullmatch(f"{value}{ending}") is not None

    return Leaf("a name that `ge2e run` gives to such a file, within the folder", fits)


def _one_of(names: Sequence[str]) -> Leaf:
    return Leaf("one of " + ", ".join(names), lambda value: isinstance(value, str) and value in names)


_COUNT, _SIZE = _integer(0), _integer(1, 1 << 31)
_TEXT = _text(r"[^\ud800-\udfff]*", "text")
_SHA256 = _text("[0-9a-f]{64}", "a sha256 of 64 hex digits")
_SPLITS = schema.SPLIT_NAME
_NAMES = re.compile(r"[^\ud800-\udfff]*", re.DOTALL)
_SHARD = Object(
    {
        "base": _file(r".*/features-.*", ".tfrecord"),
        "records": _integer(0, 1 << 31),
        "frames": _COUNT,
        "records_bytes": _COUNT,
        "index_bytes": _COUNT,
    },
    {"records_sha256": _SHA256, "index_sha256": _SHA256, "labels": Every(_integer(0, 1 << 31))},
)


def _table(pattern: str) -> Object:
    return Object({"path": _file(pattern), "rows": _COUNT, "bytes": _COUNT, "sha256": _SHA256})


_INDEX = _table(r"[^/]+/index-.*\.arrow")
_SPLIT = Object(
    {"index": Object({**_INDEX.needed, "crc32c": _integer(0, 1 << 32)})},
    {
        **dict.fromkeys(("speakers", "utterances", "records", "frames", "shards"), _COUNT),
        "seconds": _number(),
    },
)
_REASONS = Every(_COUNT, _NAMES)
_DRAWN = {f"{split}_fraction": _number(0) for split in ("test", "valid")}
_DRAWN |= {f"{split}_speakers": _COUNT for split in ("test", "valid")}
_GENERATION = _text("[0-9a-f]{8}", "8 hex digits")
_STEP = Object({"kind": _one_of(("run", "add", "retry", "erase")), "generation": _GENERATION, "content": _TEXT})
_HASH = _text("[0-9a-f]{32}", "a hash of 32 hex digits")
_BOUND = _integer(0, (1 << 64) + 1)
_RULE = Object({"salt": _TEXT, "test_below": _BOUND, "valid_below": _BOUND})
_COUNTS = Object(
    {"rows": _COUNT, "written": _COUNT, "filtered": _REASONS, "rejected": _REASONS},
    optional={"sped": _COUNT, "copies": _COUNT},
)
# A writer checks the values of the config when it takes them up again, as those of the recipe.
_AUGMENTATION = Object(
    {
        "config": Every(Leaf("a value", lambda value: True), _NAMES),
        "fingerprint": _SHA256,
        "sounds": Every(Object({"kind": _TEXT, "sha256": _SHA256, "rows": _COUNT})),
        "unusable": Every(_TEXT, _NAMES),
    }
)
METADATA = Object(
    {
        "checksum": _SHA256,
        "dtype": _one_of(tuple(DTYPES)),
        "feature_shape": Every(_SIZE),
        "recipe": Every(Every(Leaf("a value", lambda value: True), _NAMES), _NAMES),
        "segments": _one_of(("utterance", "windows")),
        "shards": Every(Every(_SHARD), _SPLITS),
        "speakers": _table(r"speakers-.*"),
        "speakers_per_batch": _SIZE,
        "splits": Every(_SPLIT, _SPLITS),
        "statistics": Object({"frames": _COUNT, "mean": Every(_number()), "std": Every(_number(0))}, {"split": _TEXT}),
        "utterances_per_speaker": _SIZE,
    },
    {
        "batch_size": _integer(1),
        "counts": _COUNTS,
        "datasets": Every(_TEXT),
        "features": _one_of(tuple(FEATURE_KINDS)),
        "files": Every(_file(r".*\.tfrecord")),
        "files_created": _COUNT,
        "fingerprint": _SHA256,
        "edition": _COUNT,
        "erased": Maybe(Object({"salt": _HASH, "speakers": Every(_HASH)})),
        "generation": _GENERATION,
        "history": Every(_STEP),
        "ledger": _table(r"ledger-.*"),
        "manifests": Every(Object({"rows": _COUNT, "rejected": _COUNT})),
        "next_label": _integer(0, 1 << 31),
        "plan": Object(_DRAWN),
        "pseudonyms": _text("([0-9a-f]{32})?", "a hash of 32 hex digits, or nothing"),
        "split_rule": _RULE,
        "token": _TEXT,
    },
    {"augmentation": _AUGMENTATION},
)


def parse(content: bytes, where: str) -> dict[str, Any]:
    """The values of a metadata.json of this format.

    Raises:
        DatasetError: no JSON object, of another format or version, or a value that readers need is missing or is not
            as a writer gives it; the message names the file (`where`), the value and what was expected. Or all values
            might be a writer's, but the checksum is of others.
    """
    try:
        metadata = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON ({error}): the file is damaged") from error
    if not isinstance(metadata, dict):
        raise DatasetError(f"{where}: expected a JSON object, got {type(metadata).__name__}")
    if metadata.get("format") != schema.FORMAT:
        raise DatasetError(
            f"{where}: expected format {schema.FORMAT!r}, got {_shown(metadata.get('format'))}: not one of ours"
        )
    if metadata.get("format_version") != schema.FORMAT_VERSION:
        raise DatasetError(
            f"{where}: expected format version {schema.FORMAT_VERSION}, got {_shown(metadata.get('format_version'))}: "
            "read it with the version of ge2e-features that wrote it"
        )
    _require(metadata, where, complete=False)
    return metadata


def checksum_of(metadata: Mapping[str, Any]) -> str:
    """sha256, 64 hex digits, of all values but the checksum itself: as JSON with sorted keys and without spaces.

    Not `canonical_json`, which refuses NaN: keys that are not known here may hold it.
    """
    rest = {name: value for name, value in metadata.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def require_complete(metadata: dict[str, Any], where: str) -> None:
    """Refuses what `parse` would, and metadata without what a writer always gives, although not every reader needs it.

    Raises:
        DatasetError: as `parse`.
    """
    _require(metadata, where, complete=True)


def _require(metadata: dict[str, Any], where: str, complete: bool) -> None:
    _check(metadata, METADATA, where, "", complete)
    _check_names(metadata, where)
    try:
        checksum = checksum_of(metadata)
    except RecursionError as error:  # writing goes less deep than reading
        raise DatasetError(f"{where}: values are nested too deeply: the file is damaged") from error
    if metadata["checksum"] != checksum:
        raise DatasetError(
            f"{where}: the checksum in it is of other values: the file is damaged or was changed. Copy it again"
        )


def _check(value: Any, kind: Kind, where: str, path: str, complete: bool) -> None:
    """Compares a value, and those below it, with what it may be; `path` leads to it within the file."""
    if isinstance(kind, Leaf):
        if not kind.fits(value):
            raise _unfit(where, path, kind.expected, value)
    elif isinstance(kind, Object):
        _check_object(value, kind, where, path, complete)
    elif isinstance(kind, Maybe):
        if value is not None:
            _check(value, kind.of, where, path, complete)
    elif kind.keys is None:
        if not isinstance(value, list):
            raise _unfit(where, path, "a list", value)
        for number, inner in enumerate(value):
            _check(inner, kind.of, where, f"{path}/{number}", complete)
    else:
        if not isinstance(value, dict):
            raise _unfit(where, path, "an object", value)
        for name, inner in value.items():
            if not kind.keys.fullmatch(name):
                raise _unfit(where, path, "names as a writer gives", name)
            _check(inner, kind.of, where, f"{path}/{name}", complete)


def _check_object(value: Any, kind: Object, where: str, path: str, complete: bool) -> None:
    if not isinstance(value, dict):
        raise _unfit(where, path, "an object", value)
    known = {**kind.needed, **kind.written}
    if lacking := sorted((known if complete else kind.needed).keys() - value.keys()):
        at = f" at {path}" if path else ""
        raise DatasetError(f"{where}: {', '.join(lacking)} missing{at}: the file is damaged")
    for name, below in {**known, **kind.optional}.items():
        if name in value:
            _check(value[name], below, where, f"{path}/{name}", complete)


def _check_names(metadata: dict[str, Any], where: str) -> None:
    """Files lie in the folder of their split, each once; an empty shard has none; shapes and splits agree."""
    if metadata["shards"].keys() != metadata["splits"].keys():
        raise _unfit(where, "/shards", f"the splits {sorted(metadata['splits'])}", sorted(metadata["shards"]))
    if len(metadata["feature_shape"]) != 2:
        raise _unfit(where, "/feature_shape", "[bins, frames]", metadata["feature_shape"])
    statistics = metadata["statistics"]
    bins = metadata["feature_shape"][0] if statistics["frames"] else 0
    for name in ("mean", "std"):
        if len(statistics[name]) != bins:
            raise _unfit(where, f"/statistics/{name}", f"{bins} numbers", statistics[name])
    seen: set[str] = set()
    for split, entries in metadata["shards"].items():
        index = metadata["splits"][split]["index"]["path"]
        if not index.startswith(f"{split}/"):
            raise _unfit(where, f"/splits/{split}/index/path", f"a file in {split}/", index)
        for number, entry in enumerate(entries):
            at, base = f"/shards/{split}/{number}", entry["base"]
            if not base.startswith(f"{split}/") or base in seen:
                raise _unfit(where, f"{at}/base", f"a shard in {split}/ that stands nowhere else", base)
            seen.add(base)
            held = {name: entry[name] for name in ("frames", "records_bytes", "index_bytes")}
            if not entry["records"] and any(held.values()):
                raise _unfit(where, at, "frames and bytes of 0, as there are no records", held)
        rows, total = metadata["splits"][split]["index"]["rows"], sum(entry["records"] for entry in entries)
        if rows != total:
            raise _unfit(where, f"/splits/{split}/index/rows", f"{total}, the records of the shards", rows)


def _unfit(where: str, path: str, expected: str, got: object) -> DatasetError:
    return DatasetError(
        f"{where}: expected {expected} at {path}, got {_shown(got)}: the file is damaged or was changed. Copy it again"
    )


def _shown(value: object) -> str:
    """A value as messages show it; ASCII, as not all that JSON can hold can be printed."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
