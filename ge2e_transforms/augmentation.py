"""What is written beside each clean utterance: the copies and speeds that an `augment.yaml` asks for.

Fields, ranges, reasons, and what is refused; ratios are dB, speeds factors. It must not know how a copy is made, or of
files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ge2e_transforms.checks import check, check_integer, check_number, check_one_of, refuse_unknown
from ge2e_transforms.config import canonical_json
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.schema import MAX_COPIES, SPLIT_NAME, TRAIN_SPLIT

# Raised when a change of the code gives other copies for the same config.
AUGMENT_VERSION = 1
# Kinds whose sound is added, and the order in which copies of all kinds are written.
ADDED = ("noise", "music", "babble")
KINDS = (*ADDED, "room", "codec")
# What MPEG-1 to 2.5 layer III can hold.
_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
CODECS = ("mp3", "telephone")
# Between an id and what was done to it: '19~speed0.9', 'a.flac~noise1'.
MARK = "~"
_RESERVED = re.compile(rf"{MARK}(({'|'.join(KINDS)})\d+|speed\d+(\.\d+)?)$")


@dataclass(frozen=True)
class Added:
    """Sound that is added at a drawn ratio of speech to noise.

    manifest: list of recordings, in the form of all manifests.
    subset: only its rows of these subsets; () for all.
    snr_db: lowest and highest ratio in dB, of power over the voiced part; drawn evenly between.
    talkers: fewest and most recordings that are added up to one noise, each at the same power.
    copies: of each utterance.
    """

    manifest: str
    snr_db: tuple[float, float]
    subset: tuple[str, ...] = ()
    talkers: tuple[int, int] = (1, 1)
    copies: int = 1

    def __post_init__(self) -> None:
        _set(self, snr_db=_pair("snr_db", self.snr_db, float), talkers=_pair("talkers", self.talkers, int))
        _check_list(self)
        for value in self.snr_db:
            check_number("snr_db", value, -100, 100)
        check_integer("talkers", self.talkers[0], 1, 101)
        check_integer("talkers", self.talkers[1], self.talkers[0], 101)


@dataclass(frozen=True)
class Rooms:
    """Speech as it sounds in a room: convolved with an impulse response, drawn from a manifest."""

    manifest: str
    subset: tuple[str, ...] = ()
    copies: int = 1

    def __post_init__(self) -> None:
        _check_list(self)


@dataclass(frozen=True)
class Codecs:
    """Speech as it sounds after a lossy way: 'mp3', or 'telephone' (300 to 3400 Hz, 8 kHz, mu-law), drawn evenly."""

    codecs: tuple[str, ...] = CODECS
    copies: int = 1

    def __post_init__(self) -> None:
        _set(self, codecs=_names("codecs", self.codecs))
        check(bool(self.codecs), "codecs", self.codecs, "at least one of " + ", ".join(CODECS))
        for codec in self.codecs:
            check_one_of("codecs", codec, CODECS)
        _check_copies(self.copies)


class Copy(NamedTuple):
    """One copy of an utterance.

    kind: one of `KINDS`.
    number: from 1 within its kind.
    """

    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.number}"


@dataclass(frozen=True)
class Augmentation:
    """What is written beside the utterances of some splits.

    noise, music, babble: sound from recordings, added. The ratios by default are those of Kaldi's recipes for
        VoxCeleb: 0 to 15 dB for noise, 5 to 15 for music, 13 to 20 for babble of 3 to 7 talkers.
    room: reverberation. codec: lossy coding and back.
    speed: factors of tempo and pitch, such as (0.9, 1.1). Speech at another speed sounds like somebody else, so each
        factor makes a new speaker of each speaker, who gets the same copies as the others.
    splits: which are augmented. Held-out splits stay clean unless they are named: a score must not depend on draws.
    seed: another one draws other copies.
    cache_mib: decoded noise and rooms that a worker keeps; it decides no value.
    """

    noise: Added | None = None
    music: Added | None = None
    babble: Added | None = None
    room: Rooms | None = None
    codec: Codecs | None = None
    speed: tuple[float, ...] = ()
    splits: tuple[str, ...] = (TRAIN_SPLIT,)
    seed: int = 0
    cache_mib: int = 256

    _BY_DEFAULT: ClassVar[dict[str, dict[str, Any]]] = {
        "noise": {"snr_db": (0.0, 15.0)},
        "music": {"snr_db": (5.0, 15.0)},
        "babble": {"snr_db": (13.0, 20.0), "talkers": (3, 7)},
    }

    def __post_init__(self) -> None:
        check(isinstance(self.speed, tuple | list), "speed", self.speed, "a list of factors, such as [0.9, 1.1]")
        for factor in self.speed:
            check(type(factor) in (int, float), "speed", factor, "a number")
            check_number("speed", factor, 0.5, 2)
            check(factor != 1, "speed", factor, "a factor other than 1: speech at its own speed is written anyway")
            whole = round(factor * 1000) == factor * 1000
            check(whole, "speed", factor, "a factor of at most three decimals")
        _set(self, speed=tuple(map(float, self.speed)), splits=_names("splits", self.splits))
        for name in ("speed", "splits"):
            values = getattr(self, name)
            check(len(set(values)) == len(values), name, values, "each once")
        check(bool(self.splits), "splits", self.splits, "at least one split, such as train")
        for split in self.splits:
            check(SPLIT_NAME.fullmatch(split) is not None, "splits", split, "names of splits, such as train")
        check_integer("seed", self.seed, 0, 1 << 63)
        check_integer("cache_mib", self.cache_mib, 1, 1 << 20)
        check(len(self.copies) <= MAX_COPIES, "copies", len(self.copies), f"at most {MAX_COPIES} of all kinds together")
        check(bool(self.copies or self.speed), "augment", self.to_dict(), f"one of {', '.join(KINDS)} or speed")

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The copies of one utterance, in the order in which they are written."""
        configs = {kind: getattr(self, kind) for kind in KINDS}
        return tuple(
            Copy(kind, number + 1)
            for kind, config in configs.items()
            if config is not None
            for number in range(config.copies)
        )

    def factors(self, split: str) -> tuple[float, ...]:
        """Speeds at which the utterances of a split are written, their own first."""
        return (1.0, *self.speed) if split in self.splits else (1.0,)

    def labels(self, split: str) -> int:
        """Labels that a speaker of a split takes: its own, and one after the other of each speed."""
        return len(self.factors(split))

    def growth(self, split: str) -> float:
        """How many times as much is written of a split as without augmentation."""
        if split not in self.splits:
            return 1.0
        return sum(1 / factor for factor in self.factors(split)) * (1 + len(self.copies))

    @property
    def lists(self) -> dict[str, Added | Rooms]:
        """Kinds that draw from a manifest."""
        named = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: config for kind, config in named.items() if isinstance(config, Added | Rooms)}

    def at_speeds(self, name: str) -> list[str]:
        """Ids of a speaker or an utterance at the other speeds."""
        return [sped(name, factor) for factor in self.speed]

    @property
    def treatments(self) -> dict[str, tuple[float, str]]:
        """Speed and kind of copy ('' for none) by what the column `augmentation` of an index says of them."""
        found = {}
        for factor in (1.0, *self.speed):
            for kind in ("", *dict.fromkeys(copy.kind for copy in self.copies)):
                found["+".join(filter(None, ("" if factor == 1 else f"speed{factor:g}", kind)))] = (factor, kind)
        return found

    def check_rate(self, sample_rate_hz: int) -> None:
        """Refuses a codec that cannot hold the recipe's sample rate.

        Raises:
            ConfigError: it is MP3.
        """
        if self.codec and self.codec.copies and "mp3" in self.codec.codecs and sample_rate_hz not in _MP3_RATES_HZ:
            raise ConfigError(
                f"augment.codec: mp3 cannot hold sample_rate_hz={sample_rate_hz}: expected one of "
                f"{', '.join(map(str, _MP3_RATES_HZ))}, or codecs: [telephone]"
            )

    def to_dict(self) -> dict[str, Any]:
        """As `from_dict` takes it."""
        values = dataclasses.asdict(self, dict_factory=_lists)
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: object) -> Augmentation:
        """The config that an `augment.yaml` holds, or metadata.

        Raises:
            ConfigError: an unknown name, or a value that cannot be used.
        """
        refuse_unknown("augment", values, {entry.name for entry in dataclasses.fields(cls)})
        made: dict[str, Any] = dict(values)  # type: ignore[call-overload]
        kinds: dict[str, type] = {**dict.fromkeys(ADDED, Added), "room": Rooms, "codec": Codecs}
        for kind in made.keys() & kinds:
            if made[kind] is not None:
                known = {entry.name for entry in dataclasses.fields(kinds[kind])}
                refuse_unknown(f"augment.{kind}", made[kind], known)
                given = {**cls._BY_DEFAULT.get(kind, {}), **made[kind]}
                if "manifest" in known:
                    check("manifest" in given, f"augment.{kind}", made[kind], "a manifest of recordings")
                made[kind] = kinds[kind](**given)
        return cls(**made)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Augmentation | None:
        """The config that a dataset was written with; None for one without copies.

        Raises:
            ConfigError: as `from_dict`; the dataset is of a later version, or was changed.
        """
        return cls.from_dict(metadata["augmentation"]["config"]) if "augmentation" in metadata else None

    def fingerprint(self, sums: Mapping[str, str]) -> str:
        """sha256, 64 hex digits, of all that decides the copies.

        Args:
            sums: sha256 of the manifest of each kind of `lists`, which stands for its path.
        """
        content = self.to_dict()
        del content["cache_mib"]
        for kind in self.lists:
            content[kind] = {**content[kind], "manifest": sums[kind]}
        return hashlib.sha256(canonical_json([AUGMENT_VERSION, content]).encode()).hexdigest()


def reserved(name: str) -> bool:
    """Whether an id ends as those of copies do."""
    return MARK in name and _RESERVED.search(name) is not None


def sped(name: str, factor: float) -> str:
    """Id of a speaker or an utterance at another speed; at its own it stays.

    >>> sped("19", 0.9), sped("19", 1.0)
    ('19~speed0.9', '19')
    """
    return name if factor == 1 else f"{name}{MARK}speed{factor:g}"


def _lists(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in entries}


def _set(config: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(config, name, value)


def _check_list(config: Added | Rooms) -> None:
    text = isinstance(config.manifest, str) and bool(config.manifest)
    check(text, "manifest", config.manifest, "the path of a manifest")
    _set(config, subset=_names("subset", config.subset))
    _check_copies(config.copies)


def _check_copies(copies: int) -> None:
    check_integer("copies", copies, 0, MAX_COPIES + 1)


def _names(name: str, values: Any) -> tuple[str, ...]:
    """One name or a list of names."""
    listed = (values,) if isinstance(values, str) else values
    usable = isinstance(listed, tuple | list) and all(isinstance(value, str) and value for value in listed)
    check(usable, name, values, "a name, or a list of names")
    return tuple(listed)


def _pair(name: str, values: Any, kind: type) -> tuple[Any, Any]:
    """[low, high], or one number for both."""
    listed = [values, values] if type(values) in (int, float) else values
    usable = isinstance(listed, tuple | list) and len(listed) == 2 and all(type(v) in (int, kind) for v in listed)
    check(usable, name, values, f"[lowest, highest], numbers of type {kind.__name__}")
    low, high = map(kind, listed)
    check(low <= high, name, values, "[lowest, highest] in this order")
    return low, high
