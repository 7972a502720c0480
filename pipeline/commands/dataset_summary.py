"""What `ge2e run` and `ge2e inspect` both say of a dataset: its splits, its copies, and what is doubtful.

From metadata alone: no index and no record is read. Lengths are seconds of speech in features. It must not print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from ge2e_transforms.errors import visible

_NAMED = 3  # recordings that a warning names


def splits_table(told: Mapping[str, Any]) -> Table:
    """What each split holds, and all of them together."""
    several = len(told["splits"]) > 1
    table = Table("split", show_footer=several)
    table.columns[0].footer = "all"
    columns = dict.fromkeys(("speakers", "utterances", "records"), "{:,}")
    columns |= {"seconds": "{:,.1f}", "shards": "{:,}", "bytes": "{:,}"}
    for name, form in columns.items():
        table.add_column(name, form.format(told["totals"][name]), justify="right")
    for split, held in told["splits"].items():
        table.add_row(split, *(form.format(held[name]) for name, form in columns.items()))
    return table


def augmentation_lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `facts` say of copies and speeds, name and value; nothing for a dataset without augmentation."""
    if "augmentation" not in told:
        return
    made = told["augmentation"]
    splits = f"of split {', '.join(made['splits'])}"
    if made["copies"]:
        kinds = ", ".join(f"{kind} {number}" for kind, number in made["copies"].items())
        yield "copies", f"{sum(made['copies'].values())} ({kinds}) {splits}, seed {made['seed']}"
    if made["speed"]:
        factors = ", ".join(f"{factor:g}" for factor in made["speed"])
        yield "speeds", f"{factors} {splits}: {told['counts']['sped']} rows more; each speed is a speaker of its own"


def doubts(metadata: Mapping[str, Any]) -> list[str]:
    """What somebody should know of a dataset before training on it."""
    unusable = metadata["augmentation"]["unusable"] if "augmentation" in metadata else {}
    named = [f"{visible(place)} ({visible(why.partition(':')[0])})" for place, why in list(unusable.items())[:_NAMED]]
    told = [
        f"{len(unusable)} recording(s) of noise or rooms could not be used, and others were drawn in their place: "
        f"{', '.join(named)}{', ...' if len(unusable) > _NAMED else ''}"
    ]
    return small_splits(metadata) + told * bool(unusable)


def small_splits(metadata: Mapping[str, Any]) -> list[str]:
    """Splits that hold fewer speakers than a batch of the size that the metadata proposes, or none at all."""
    wanted, plan = metadata["speakers_per_batch"], metadata["plan"]
    drawn = [split for split in ("test", "valid") if plan[f"{split}_fraction"] or plan[f"{split}_speakers"]]
    return [
        f"no speaker was drawn for split {split!r}: ask for a larger --{split}_fraction"
        for split in drawn
        if split not in metadata["splits"]
    ] + [
        f"split {split!r} has {counts['speakers']} speakers, fewer than the {wanted} of a batch: "
        f"the loader will use {counts['speakers']} there"
        for split, counts in metadata["splits"].items()
        if counts["speakers"] < wanted
    ]
