"""The augmented copies of one utterance: which noise, room or codec, by draws that belong to its id alone.

So a copy does not depend on the shard, the worker or the order in which it is made. Waveforms are mono, float32 `[n]`,
at the rate of the recipe. It must not know of records.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ge2e_transforms import mixing, sums, voice
from ge2e_transforms.augmentation import ADDED, CODECS, MARK, Added, Augmentation, Copy
from ge2e_transforms.config import Recipe
from ge2e_transforms.decoded import AudioLoader
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import DataError, MissingAudioError, NoiseError, UnreadableAudioError
from ge2e_transforms.extractor import Voiced
from ge2e_transforms.rng import Bits, below, derive, fraction
from ge2e_transforms.sounds import Sounds

# Streams of random bits of a copy's key. A change of their order changes every copy.
_SNR, _TALKERS, _SOUND, _START, _CODEC, _LEVEL = range(6)
# Sounds that are drawn for a copy until one can be used: some recordings are silent for the most part.
_ATTEMPTS = 100
# Sound that is so much (30 dB) fainter where the voice is than on the whole is drawn again: to be heard there it would
# have to drown all else.
_LEAST_PART = 1e-3
# libsndfile's compression levels, of which it takes those below 1: about 40 down to 25 kbit/s at 16 kHz.
_MP3_LEVELS = (0.2, 0.9)


class MadeCopy(NamedTuple):
    """One copy.

    kind: one of `augmentation.KINDS`; name: with its number, as 'noise1'.
    samples: `[n]` float32, as long as the utterance; no sample beyond what PCM16 holds.
    snr_db: of added sound, on the voiced part; None of others.
    """

    kind: str
    name: str
    samples: Samples
    snr_db: float | None


class _Speech(NamedTuple):
    """What the copies of one utterance are made of: see `Copies.made`. power: mean square of its voiced part."""

    samples: Samples
    voiced: Voiced
    power: float
    load: AudioLoader


class Copies:
    """Makes the copies that a config asks for.

    Args:
        config: which ones.
        sounds: the recordings of its lists.
        recipe: of the dataset.

    Attributes:
        faults: what was wrong with sounds that could not be used, by location; others were drawn in their place.
        nameless_faults: the same without a name, by number in the list: recordings of babble are of people.
    """

    def __init__(self, config: Augmentation, sounds: Sounds, recipe: Recipe) -> None:
        self.config, self._sounds, self._recipe = config, sounds, recipe
        self.faults: dict[str, str] = {}
        self.nameless_faults: dict[str, str] = {}

    def made(self, utterance: str, samples: Samples, voiced: Voiced, load: AudioLoader) -> Iterator[MadeCopy]:
        """The copies of one utterance, one after the other.

        Args:
            utterance: speaker and utterance id, which seed all draws.
            samples: `[n]` float32 mono at the recipe's rate.
            voiced: what of them is voice.
            load: what decodes sounds.

        Raises:
            NoiseError: a list names a recording that is not there, or none of those drawn can be used.
        """
        power = self._powers(samples, voiced)[0] if self.config.copies else 0.0
        speech = _Speech(samples, voiced, power, load)
        for copy in self.config.copies:
            key = _key(self.config.seed, utterance, copy)
            snr_db = None
            if copy.kind in ADDED:
                made, snr_db = self._added(copy.kind, key, speech)
            elif copy.kind == "room":
                made = self._in_room(key, speech)
            else:
                made = self._coded(key, samples)
            yield MadeCopy(copy.kind, copy.name, mixing.limited(made), snr_db)

    def _added(self, kind: str, key: Bits, speech: _Speech) -> tuple[Samples, float]:
        low, high = getattr(self.config, kind).snr_db
        snr_db = low + (high - low) * float(fraction(derive(key, _SNR))[0])
        for attempt in range(_ATTEMPTS):
            noise = self._noise(kind, derive(key, _SOUND, attempt), len(speech.samples), speech.load)
            if noise is None:
                continue
            noise_power, whole = self._powers(noise, speech.voiced)
            if noise_power > _LEAST_PART * whole:
                gain = mixing.noise_gain(speech.power, noise_power, snr_db)
                return mixing.mix(speech.samples, noise, gain), snr_db
        raise self._none_usable(kind)

    def _noise(self, kind: str, key: Bits, length: int, load: AudioLoader) -> Samples | None:
        """One or more sounds, added up at equal power; None if one of them cannot be used or is silent."""
        config: Added = getattr(self.config, kind)
        fewest, most = config.talkers
        talkers = fewest + int(below(derive(key, _TALKERS), most - fewest + 1)[0])
        noise: Samples | None = None
        for talker in range(talkers):
            number = int(below(derive(key, _SOUND, talker), self._sounds.count(kind))[0])
            try:
                sound = self._sounds.sound(kind, number, load)
            except DataError as error:
                self._note(kind, number, error)
                return None
            spare = len(sound) - length
            start = int(below(derive(key, _START, talker), spare + 1 if spare > 0 else len(sound))[0])
            part = mixing.excerpt(sound, start, length)
            if talkers == 1:
                return part
            power = float(np.sum(sums.hop_energies(part, sums.mean(part), length))) / length
            if power == 0:
                return None
            scaled = part * np.float32(1 / math.sqrt(power))
            noise = scaled if noise is None else np.add(noise, scaled, out=noise)
        return noise

    def _in_room(self, key: Bits, speech: _Speech) -> Samples:
        """In a room, as loud as before."""
        for attempt in range(_ATTEMPTS):
            number = int(below(derive(key, _SOUND, attempt), self._sounds.count("room"))[0])
            try:
                room = self._sounds.room(number, speech.load)
            except DataError as error:
                self._note("room", number, error)
                continue
            made = room.apply(speech.samples)
            heard, _ = self._powers(made, speech.voiced)
            if heard > 0:
                made *= np.float32(math.sqrt(speech.power / heard))
            return made
        raise self._none_usable("room")

    def _coded(self, key: Bits, samples: Samples) -> Samples:
        rate = self._recipe.audio.sample_rate_hz
        codecs = () if self.config.codec is None else self.config.codec.codecs
        codec = codecs[int(below(derive(key, _CODEC), len(codecs))[0])]
        if codec == CODECS[0]:
            low, high = _MP3_LEVELS
            return mixing.through_mp3(samples, rate, low + (high - low) * float(fraction(derive(key, _LEVEL))[0]))
        return mixing.through_telephone(samples, rate)

    def _powers(self, samples: Samples, voiced: Voiced) -> tuple[float, float]:
        """Mean square of the voiced part, and of all; less the mean of all samples."""
        hop = self._recipe.voice.voice_hop
        energies = sums.hop_energies(samples, sums.mean(samples), hop)
        whole = voice.energy_of(energies, hop, np.array([[0, len(samples)]]))
        return voice.energy_of(energies, hop, voiced.intervals) / voiced.length, whole / len(samples)

    def _note(self, kind: str, number: int, error: DataError) -> None:
        location = self._sounds.location(kind, number)
        if isinstance(error, MissingAudioError | UnreadableAudioError):
            raise NoiseError(
                f"the manifest of augment.{kind} names a recording that cannot be opened: {error}. All workers must "
                "reach all of its recordings: a copy would depend on the worker otherwise. Run the same command again "
                "when they do; finished shards are kept"
            ) from error
        self.faults[location] = f"{error.reason}: {error}"
        self.nameless_faults[f"{kind} {number + 1}"] = error.reason

    def _none_usable(self, kind: str) -> NoiseError:
        found = "; ".join(list(self.faults.values())[:3]) or "they are silent"
        return NoiseError(
            f"of {_ATTEMPTS} recordings drawn from the manifest of augment.{kind} none can be used ({found}): expected "
            "a list of sounds, such as `ge2e manifest musan` writes"
        )


def _key(seed: int, utterance: str, copy: Copy) -> Bits:
    text = f"{seed}{MARK}{utterance}{MARK}{copy.name}"
    return derive(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"), 0)
