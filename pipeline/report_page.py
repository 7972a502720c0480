"""The report on a dataset: one HTML page that needs nothing else, runs nothing and asks nobody.

It gathers what `templates/report.html.j2` shows, and must not know how figures are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ge2e_transforms import __version__, suspects
from ge2e_transforms.data_card import BIOMETRIC
from ge2e_transforms.dataset import Dataset, speaker_names
from ge2e_transforms.eligibility import eligible, epoch, grid, supplied
from ge2e_transforms.errors import visible
from ge2e_transforms.facts import facts, rows_of
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.licences import licence_of
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.samples import Row, Sample, Samples, at_floor, clipped
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.summary import LOUD_DBFS, MOST_SPEAKERS, Summary, summarize
from pipeline import report_plots as plots
from pipeline.report_copies import copies_of
from pipeline.report_ledger import reasons

# Records that are read for what the index does not hold, records that are shown, and rows of a list.
SAMPLED, SHOWN, LISTED = 256, 6, 50
_NAME = 80


def page(dataset: Dataset, seed: int = 0, utterances: Sequence[str] = ()) -> str:
    """The report as HTML.

    Args:
        dataset: an open dataset, on a disk or on a store.
        seed: of what is drawn: the records that are read and shown.
        utterances: ids of utterances that are shown beside those.

    Raises:
        DatasetError, CorruptRecordError: the dataset is damaged, or has no utterance of such an id.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": name, "number": number, "percent": percent, "size": size}
    contents = contents_of(dataset, seed, utterances)
    return environment.get_template("report.html.j2").render(contents)


def name(text: object, most: int = _NAME) -> str:
    """A name as the page shows it: what is not seen is escaped, and what is long is cut."""
    shown = visible(str(text))
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(shown):,} signs)"


def number(value: float | None, places: int = 0, unit: str = "") -> str:
    """A number for people; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "\u2013"
    return f"{value:,.{places}f}{unit}".replace("-", "\u2212")


def percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, 1, " %")


def size(count: float) -> str:
    """Bytes, in units of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def contents_of(dataset: Dataset, seed: int, utterances: Sequence[str]) -> dict[str, Any]:
    """All that the template shows, by name."""
    metadata = dataset.metadata
    require_complete(metadata, dataset.folder.where(METADATA_FILE))
    samples = Samples(dataset)
    chosen = samples.find(utterances) if utterances else []
    summary = summarize(dataset, seed)
    return {
        "title": PurePosixPath(str(dataset.root)).name or str(dataset.root),
        "program": __version__,
        "seed": seed,
        "facts": facts(metadata),
        "rows": rows_of(facts(metadata)),
        "clean": _clean(summary, facts(metadata)),
        "kind": FEATURE_KINDS[metadata["features"]].title,
        "biometric": BIOMETRIC.replace("`", ""),
        "sizes": _sizes(dataset, summary),
        "sources": summary.sources,
        "has_level": dataset.recipe.level.level_dbfs is not None,
        "loud_dbfs": LOUD_DBFS,
        "batches": _batches(dataset),
        **_records(dataset, samples, summary, chosen, seed),
        **copies_of(dataset, samples, summary.treatments, chosen, seed),
        **_figures(dataset, summary),
        "suspects": _suspects(dataset, summary),
        "ledger": reasons(dataset.ledger()),
        "licences": [(source, licence_of(source)) for source in metadata["datasets"][:LISTED]],
        "more_licences": max(0, len(metadata["datasets"]) - LISTED),
        "statistics": metadata["statistics"],
        "listed": LISTED,
    }


def _clean(summary: Summary, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Totals of clean utterances at their own speed; of a dataset without augmentation that is everything."""
    if summary.treatments is None:
        return {**told["totals"], "lost": told["counts"]["rows"] - told["counts"]["written"]}
    sizes = summary.sizes.values()
    totals = {name: sum(getattr(size, name) for size in sizes) for name in ("utterances", "records")}
    hours, lost = sum(size.seconds for size in sizes) / 3600, told["counts"]["rows"] - totals["utterances"]
    return {**totals, "speakers": summary.speakers, "hours": hours, "lost": lost}


def _sizes(dataset: Dataset, summary: Summary) -> list[tuple[str, str, Any]]:
    """Rows of the table of splits and sources."""
    return [
        (split, summary.sources[source].name, summary.sizes[split, source])
        for split in dataset.splits
        for source in range(len(summary.sources))
        if (split, source) in summary.sizes
    ]


def _batches(dataset: Dataset) -> dict[str, Any]:
    """What speakers have to give, and what the first epoch of each split makes of it."""
    splits = [split for split in dataset.splits if dataset.metadata["splits"][split]["records"]]
    have = {split: supplied(dataset, split) for split in splits}
    counts = grid(max((int(of.crops.max(initial=1)) for of in have.values()), default=1))
    curves = {split: (eligible(of.crops, counts), eligible(of.utterances, counts)) for split, of in have.items()}
    told = [m for m in (1, 2, 4, 8, 10, 16, 32, 64) if m <= counts[-1]]
    return {
        "crops": plots.crops({split: of.crops for split, of in have.items()}),
        "eligible": plots.eligible(counts, curves, dataset.metadata["utterances_per_speaker"]),
        "told": told,
        "table": [
            (split, what, eligible(of, told).tolist())
            for split, both in have.items()
            for what, of in zip(("crops", "utterances"), both, strict=True)
        ],
        "median": {split: float(np.median(of.crops)) for split, of in have.items()},
        "epochs": {split: epoch(dataset, split) for split in splits},
    }


def _records(dataset: Dataset, samples: Samples, summary: Summary, chosen: Sequence[Row], seed: int) -> dict[str, Any]:
    """Records to look at, and what the values of a sample tell of each source."""
    drawn = samples.draw(max(1, SAMPLED // max(1, len(dataset.metadata["datasets"]))), seed)[:SAMPLED]
    of_source = {number: place for place, source in enumerate(summary.sources) for number in source.numbers}
    sums = np.zeros((len(summary.sources), 3))
    shown: list[Sample] = []
    for sample in samples.read(drawn):
        if len(shown) < SHOWN:
            shown.append(sample)
        told = (at_floor(sample.values, dataset.recipe), clipped(sample.values, dataset.recipe))
        sums[of_source[sample.source]] += sample.values.size * np.array([1, *(share or 0 for share in told)])
    shares = sums[:, 1:] / np.maximum(1, sums[:, :1])
    feature = dataset.recipe.feature
    floor = feature.features == "logmel" and feature.log != "none"
    kept = [*samples.read(chosen), *shown]
    return {
        "sampled": len(drawn),
        "floor": shares[:, 0].tolist() if floor else [None] * len(sums),
        "clipped": shares[:, 1].tolist() if feature.features == "raw" else [None] * len(sums),
        "shown": _drawings(dataset, kept),
        "chosen": len(chosen),
    }


def _drawings(dataset: Dataset, shown: Sequence[Sample]) -> list[dict[str, Any]]:
    """All with one scale of colours, so that they can be compared."""
    scale = plots.scale_of([sample.values for sample in shown], dataset.metadata["features"])
    recipe = dataset.recipe
    return [
        {
            "sample": sample,
            "source": dataset.metadata["datasets"][sample.source],
            "seconds": recipe.seconds(len(sample.values), 1),
            "svg": plots.record(f"record{place}", sample.values, recipe, scale),
        }
        for place, sample in enumerate(shown)
    ]


def _figures(dataset: Dataset, summary: Summary) -> dict[str, Any]:
    """Figures of the sources."""

    def shares(which: str, label: str, **options: bool) -> str:
        return plots.shares(which, [getattr(source, which) for source in summary.sources], label, **options)

    level = dataset.recipe.level.level_dbfs is not None
    return {
        "durations_svg": shares("durations", "seconds of voice in an utterance", logarithmic=True),
        "voiced_svg": shares("voiced", "kept as voice, % of the utterance", percent=True),
        "levels_svg": shares("levels", "level of the voice before the level stage, dBFS") if level else "",
        "bins_svg": plots.bins(summary.sources, dataset.metadata["features"]),
    }


def _suspects(dataset: Dataset, summary: Summary) -> dict[str, Any]:
    """Speakers to listen to; of raw samples there is no spectrum."""
    spectra = summary.spectra
    if dataset.metadata["features"] == "raw" or len(spectra.label) < suspects.LEAST_SPEAKERS:
        return {"rows": [], "svg": "", "looked_at": 0, "least": suspects.LEAST_SPEAKERS, "limit": suspects.LIMIT}
    found = suspects.suspects(spectra, LISTED)
    distance = suspects.distances(spectra)
    names = speaker_names(dataset, [suspect.label for suspect in found])
    return {
        "rows": list(zip(names, found, strict=True)),
        "svg": plots.distances(distance, suspects.limit_of(distance)),
        "looked_at": len(spectra.label),
        "drawn": summary.speakers > MOST_SPEAKERS,
        "least": suspects.LEAST_SPEAKERS,
        "limit": suspects.LIMIT,
    }
