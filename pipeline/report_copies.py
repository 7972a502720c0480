"""The part of the report that shows utterances beside their copies, and counts these by kind and ratio.

Ratios are dB of speech over what was added. It must not know how copies are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ge2e_transforms.augmentation import ADDED
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.samples import Row, Samples, Treated
from ge2e_transforms.treatments import Treatments, speeds
from pipeline import report_plots as plots

# Utterances that are shown with their copies, copies of each kind, and recordings that are named.
SHOWN, EACH, LISTED = 2, 2, 10
_DRAWN = 8  # records of a source among which these are looked for
_IN_WORDS = {"": "clean", "noise": "noise", "music": "music", "babble": "babble", "room": "a room", "codec": "a codec"}


def copies_of(
    dataset: Dataset, samples: Samples, treatments: Treatments | None, chosen: Sequence[Row], seed: int
) -> dict[str, Any]:
    """What the template shows of a dataset with augmentation; nothing of others.

    Args:
        dataset: an open dataset.
        samples: of it.
        treatments: its copies.
        chosen: records that were asked for; those of splits that are augmented are shown first.
        seed: of the utterances that are drawn.
    """
    if treatments is None:
        return {"copies": None}
    config, metadata = treatments.config, dataset.metadata
    drawn = samples.draw(_DRAWN, seed, config.splits)
    own = [row for row in chosen if row.split in config.splits]
    families: dict[tuple[Treated, ...], None] = {}  # each once: several records may be of one utterance
    for row in [*own, *drawn]:
        if len(families) < max(SHOWN, len(own)):
            families[tuple(samples.family(row, treatments, EACH))] = None
    told, measured = metadata["augmentation"], {kind: of.snr_db for kind, of in treatments.of.items() if of.snr_db}
    return {
        "copies": {
            "config": config,
            "families": [_drawn(dataset, samples, number, family) for number, family in enumerate(families)],
            "each": EACH,
            "of": treatments.of,
            "asked": {kind: getattr(config, kind).snr_db for kind in treatments.of if kind in ADDED},
            "lists": {entry["kind"]: entry["rows"] for entry in told["sounds"]},
            "ratios_svg": plots.ratios(measured) if measured else "",
            "speeds": speeds(dataset, config),
            "unusable": list(told["unusable"].items())[:LISTED],
            "all_unusable": len(told["unusable"]),
        }
    }


def _drawn(dataset: Dataset, samples: Samples, number: int, family: Sequence[Treated]) -> dict[str, Any]:
    """One utterance and its copies, with one scale of colours."""
    records = list(samples.read([member.row for member in family]))
    scale = plots.scale_of([record.values for record in records], dataset.metadata["features"])
    return {
        "first": records[0],
        "items": [
            {
                "svg": plots.record(f"copy{number}-{place}", record.values, dataset.recipe, scale, small=True),
                "done": done_to(member),
                "sample": record,
                "seconds": dataset.recipe.seconds(len(record.values), 1),
            }
            for place, (member, record) in enumerate(zip(family, records, strict=True))
        ],
    }


def done_to(member: Treated) -> str:
    """What was done to a record, in words."""
    if member.factor != 1:
        return f"at {member.factor:g} times its speed"
    ratio = "" if member.snr_db is None else f", {member.snr_db:.1f} dB below the speech"
    return _IN_WORDS[member.kind] + ratio.replace("-", "\u2212")
