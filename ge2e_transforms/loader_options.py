"""The options of a loader by name, and the configs of its parts that they belong to.

It must not know of datasets, or what an option does.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ge2e_transforms.crop_features import WaveformOptions
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.files import Cache
from ge2e_transforms.reading import ReadingOptions
from ge2e_transforms.stream import Delivery, Hosts
from ge2e_transforms.supply import SamplingOptions

if TYPE_CHECKING:
    from ge2e_transforms.augment import SpecAugment
    from ge2e_transforms.mel_augment import MelAugment
    from ge2e_transforms.sampling import SpeakerOrder
    from ge2e_transforms.waveform_transform import Bindable, WaveformTransform


class LoaderOptions(TypedDict, total=False):
    """What may be given to `BatchLoader` by name beside its first arguments; all of it may be left out."""

    # See `SamplingOptions`.
    distinct: str
    distinct_sessions: bool
    speakers: str | float
    slots_per_utterance: int | None
    short: str
    under_m: str
    crops: str
    batch_sources: str
    locality: int | None
    # See `Chosen`.
    only_speakers: Sequence[str] | None
    exclude_speakers: Sequence[str]
    sources: Sequence[str] | None
    min_utterances: int
    min_sessions: int
    # See `Sampler`.
    speaker_order: SpeakerOrder | None
    # See `ReadingOptions`.
    normalize: str
    layout: str
    check_crc: str
    readers: int
    # See `WaveformOptions`.
    features: str | None
    waveform_transform: WaveformTransform | Bindable | None
    # See `Delivery`.
    labels: str
    spec_augment: SpecAugment | None
    mel_augment: MelAugment | None
    workers: int
    # See `Hosts`.
    host_index: int
    host_count: int
    global_batch: bool
    # See `CacheOptions`.
    cache_dir: str | Path | None
    cache_gib: float


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which speakers and records take part, by name.

    Attributes:
        only_speakers: ids, `namespace/speaker_id`; others take no part. Speech at another speed is another speaker,
            'ns/19~speed0.9', so 'ns/19' is that speaker at their own speed alone.
        exclude_speakers: ids that take no part, at any speed: 'ns/19' is 'ns/19~speed0.9', too.
        sources: names of sources; others take no part.
        min_utterances, min_sessions: speakers with fewer take no part.
        speaker_order: labels in the order in which they meet, by epoch; see `Sampler`. It is asked when its epoch
            begins, and again after a resume; it must give the same for the same epoch.
    """

    only_speakers: Sequence[str] | None = None
    exclude_speakers: Sequence[str] = ()
    sources: Sequence[str] | None = None
    min_utterances: int = 0
    min_sessions: int = 0
    speaker_order: SpeakerOrder | None = None


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """Where copies of files of a store are kept.

    Attributes:
        cache_dir: a folder on the local disk; None for no copies.
        cache_gib: its bound, in GiB (2^30 bytes).
    """

    cache_dir: str | Path | None = None
    cache_gib: float = 100.0

    @property
    def cache(self) -> Cache | None:
        """ConfigError if the folder or its bound cannot be used."""
        return None if self.cache_dir is None else Cache(Path(self.cache_dir), int(self.cache_gib * (1 << 30)))


class Options(NamedTuple):
    """The options of a loader, part by part; those of sampling are not complete without the dataset's defaults."""

    sampling: dict[str, Any]
    chosen: Chosen
    reading: ReadingOptions
    waveforms: WaveformOptions
    delivery: Delivery
    hosts: Hosts
    cache: CacheOptions


_KINDS = (Chosen, ReadingOptions, WaveformOptions, Delivery, Hosts, CacheOptions)
_RENAMED = {"host_index": "index", "host_count": "count"}


def sort_options(given: Mapping[str, Any]) -> Options:
    """Options by name to the parts they belong to.

    Raises:
        ConfigError: no such option, with the name that was probably meant; or a value that cannot be used.
    """
    known = set(LoaderOptions.__annotations__)
    for name in sorted(given.keys() - known):
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(f"no option {name!r}: {f'did you mean {near[0]!r}?' if near else ', '.join(sorted(known))}")
    parts = [{field.name for field in dataclasses.fields(kind)} for kind in (SamplingOptions, *_KINDS)]
    values = [
        {name: value for option, value in given.items() if (name := _RENAMED.get(option, option)) in part}
        for part in parts
    ]
    return Options(values[0], *(kind(**own) for kind, own in zip(_KINDS, values[1:], strict=True)))
