"""What metadata says of a dataset, as one flat object: what `ge2e inspect --json` prints and the data card tells.

It must not know of files, or how it is shown.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.licences import licence_of

_AS_THEY_ARE = (
    *("format", "format_version", "generation", "edition", "fingerprint", "features", "segments", "dtype"),
    *("feature_shape", "speakers_per_batch", "utterances_per_speaker", "batch_size", "counts"),
)
_DRAWN = ("test_fraction", "valid_fraction", "test_speakers", "valid_speakers")
_SUMMED = ("speakers", "utterances", "records", "frames", "seconds", "shards")


def facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """All of a complete dataset that people and programs ask for; `docs/format.md` lists the keys.

    Args:
        metadata: of a dataset, after `metadata.require_complete`.
    """
    recipe = Recipe.from_dict(metadata["recipe"])
    splits = {name: _split(metadata, name) for name in metadata["splits"]}
    totals = {name: sum(split[name] for split in splits.values()) for name in (*_SUMMED, "bytes")}
    # Totals of bytes are of all files that metadata lists with their size; done files, a few kB each, are not.
    totals["bytes"] += metadata["speakers"]["bytes"] + metadata["ledger"]["bytes"]
    preset, cpus = preset_of(recipe), metadata.get("cpus")
    return {
        **{name: metadata[name] for name in _AS_THEY_ARE},
        "preset": preset,
        "changed": changed(recipe, preset),
        "sample_rate_hz": recipe.audio.sample_rate_hz,
        "crop_s": recipe.segment.crop_ms / 1000,
        "sources": list(metadata["datasets"]),
        "licences": {source: licence_of(source).name for source in metadata["datasets"]},
        "splits": splits,
        "totals": {**totals, "hours": totals["seconds"] / 3600},
        "ledger": {"path": metadata["ledger"]["path"], "rows": metadata["ledger"]["rows"]},
        "history": [{name: step[name] for name in ("kind", "generation")} for step in metadata["history"]],
        "pseudonyms": bool(metadata["pseudonyms"]),
        "erased_speakers": len(metadata["erased"]["speakers"]) if metadata["erased"] else 0,
        "manifests": [_manifest(entry) for entry in metadata["manifests"]],
        "versions": _texts(metadata.get("versions")),
        "cpus": [str(cpu) for cpu in cpus] if isinstance(cpus, list) else [],
        "recipe": recipe.to_dict(),
        "split_plan": {name: metadata["plan"][name] for name in _DRAWN},
        **_augmentation(metadata),
    }


def preset_of(recipe: Recipe) -> str:
    """The preset that a recipe is, or from which it differs in the fewest fields (of equals the first)."""
    return min(PRESETS, key=lambda name: len(changed(recipe, name)))


def changed(recipe: Recipe, preset: str) -> dict[str, Any]:
    """Fields in which a recipe differs from a preset, as `stage.field`, with its own values."""
    # Of both all fields: `to_dict` leaves out some that have their default.
    own, other = dataclasses.asdict(recipe), dataclasses.asdict(PRESETS[preset])
    return {
        f"{stage}.{name}": value
        for stage, fields in own.items()
        for name, value in fields.items()
        if value != other[stage][name]
    }


def _augmentation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What was written beside clean utterances; nothing for a dataset that holds nothing else."""
    config = Augmentation.of(metadata)
    if config is None:
        return {}
    counts, each = metadata["counts"], len(config.copies)
    # Every utterance of a split that is augmented has all copies.
    of_kind = Counter(copy.kind for copy in config.copies)
    copies = {kind: counts["copies"] * number // each for kind, number in of_kind.items()}
    told = {"copies": copies, "speed": list(config.speed), "splits": list(config.splits), "seed": config.seed}
    return {"augmentation": {**told, **metadata["augmentation"], "config": config.to_dict()}}


def rows_of(told: Mapping[str, Any]) -> str:
    """The rows that a dataset was made of, in words: those of the manifests, and what was made of them."""
    counts = told["counts"]
    made = f", and of {counts['sped']:,} made of them at other speeds," if counts.get("sped") else ""
    return f"{counts['rows']:,} manifest rows{made}"


def _manifest(entry: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: str(entry.get(name, "")) for name in ("path", "sha256")}
    return {**named, "rows": entry["rows"], "rejected": entry["rejected"]}


def _texts(values: object) -> dict[str, str]:
    """What no reader relies on, so nothing was checked of it."""
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}


def _split(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    entries, index = metadata["shards"][name], metadata["splits"][name]["index"]
    stored = sum(entry["records_bytes"] + entry["index_bytes"] for entry in entries)
    return {**{key: metadata["splits"][name][key] for key in _SUMMED}, "bytes": stored + index["bytes"]}
