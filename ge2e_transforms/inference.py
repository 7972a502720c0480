"""Recordings to features outside of a dataset: what a worker makes of one row of a manifest, as a function.

Offsets and durations are seconds. It must not know of manifests, archives or datasets.

extractor = FeatureExtractor.from_metadata(loader.get_metadata())
features = features_of_file("new.flac", extractor)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ge2e_transforms import audio
from ge2e_transforms.checks import check_number
from ge2e_transforms.extractor import Extraction, FeatureExtractor

# Longer than any recording, and few enough samples to count exactly in a float64.
_FAR_S = 1e9


def features_of_file(
    source: str | Path | bytes,
    extractor: FeatureExtractor,
    *,
    channel: str | int | None = None,
    offset_s: float | None = None,
    duration_s: float | None = None,
    utterance_id: str | None = None,
    keep_all: bool = False,
) -> npt.NDArray[Any]:
    """Features of a recording, equal to what readers give of what a job stores for the same row of a manifest.

    Args:
        source: path of a recording in any format that a job decodes, or its encoded bytes.
        extractor: `FeatureExtractor.from_metadata(...)` of a dataset, or of a preset.
        channel: 'mean' or a number from 0; None leaves it to the recipe.
        offset_s: only the segment that starts after so many seconds; None is the start.
        duration_s: and is so long; None goes to the end.
        utterance_id: only used where the recipe dithers; by default the path, as in a manifest without ids.
        keep_all: what a held-out split stores of an utterance that is too short.

    Returns:
        As `FeatureExtractor.__call__`: `[rows, bins]` float32, `[windows, rows, bins]`, or raw int16.

    Raises:
        ConfigError: an offset or a duration that is none.
        DataError: it cannot be decoded, or holds nothing; see `audio.load`, `audio.cut` and `FeatureExtractor.extract`.
        OSError: it could not be read, for a reason that may pass.
    """
    name = "" if isinstance(source, bytes) else str(source)
    extraction = extract_file(
        source if isinstance(source, bytes) else str(source),
        extractor,
        name,
        channel=channel,
        offset_s=offset_s,
        duration_s=duration_s,
        utterance_id=name if utterance_id is None else utterance_id,
        keep_all=keep_all,
    )
    return extractor.joined(extraction)


def extract_file(
    source: str | bytes,
    extractor: FeatureExtractor,
    name: str,
    *,
    channel: str | int | None,
    offset_s: float | None,
    duration_s: float | None,
    utterance_id: str,
    keep_all: bool,
) -> Extraction:
    """As `features_of_file`, with where each segment lies; messages call the recording by its name."""
    check_number("offset_s", offset_s or 0.0, 0, _FAR_S)
    if duration_s is not None:
        check_number("duration_s", duration_s, 0, _FAR_S, open_low=True)
    config = extractor.recipe.audio
    samples = audio.load(source, config, channel, name)
    if offset_s is not None or duration_s is not None:
        samples = audio.cut(samples, config.sample_rate_hz, offset_s, duration_s, name)
    return extractor.extract(samples, utterance_id=utterance_id, keep_all=keep_all)
