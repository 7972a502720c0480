"""Who may not be known: pseudonyms that are written instead of ids, and tombstones of speakers that were erased.

Pure functions of text and a secret. It must not know where the secret comes from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ge2e_transforms.errors import AlreadyThereError, ConfigError, DoubledUtteranceError, ErasedSpeakerError, LedgerRow
from ge2e_transforms.utterance import Utterance

# As BLAKE2b takes it: 128 bits cannot be guessed, 64 bytes are its longest key.
_KEY_BYTES = (16, 64)
# 128 bits: of 10^9 ids the chance that any two share a pseudonym is below 10^-20.
_DIGEST_BYTES = 16
_SALT_BYTES = 16


@dataclass(frozen=True)
class Tombstones:
    """Speakers that were erased and must not come back, as salted hashes.

    Whoever has the salt, which lies with the hashes, can test a guess: ids from a short list are not hidden by this.

    Attributes:
        salt: hex digits, drawn for each dataset.
        hashes: hex digits of `namespace/speaker_id`, one for each speaker.
    """

    salt: str
    hashes: frozenset[str]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Tombstones:
        """Those of a dataset, none (with a salt that is drawn now) for one that nobody was erased from."""
        stored = metadata.get("erased") or {"salt": secrets.token_hex(_SALT_BYTES), "speakers": []}
        return cls(stored["salt"], frozenset(stored["speakers"]))

    def to_json(self) -> dict[str, Any]:
        return {"salt": self.salt, "speakers": sorted(self.hashes)}

    def with_speakers(self, speakers: Iterable[str]) -> Tombstones:
        return Tombstones(self.salt, self.hashes | {self._hash(speaker) for speaker in speakers})

    def hide(self, speaker: str) -> bool:
        """Whether a speaker (`namespace/speaker_id`) was erased."""
        return bool(self.hashes) and self._hash(speaker) in self.hashes

    def _hash(self, speaker: str) -> str:
        return hashlib.blake2b(speaker.encode(), digest_size=_DIGEST_BYTES, key=bytes.fromhex(self.salt)).hexdigest()


class Pseudonyms:
    """Keyed pseudonyms: the same for the same id and key, and not to be undone without the key.

    Args:
        key: 16 to 64 secret bytes.

    Attributes:
        check: tells keys apart without giving anything of them away; part of the dataset.

    Raises:
        ConfigError: the key is too short or too long.
    """

    def __init__(self, key: bytes) -> None:
        if not _KEY_BYTES[0] <= len(key) <= _KEY_BYTES[1]:
            raise ConfigError(
                f"the key of --pseudonymize has {len(key)} bytes: expected {_KEY_BYTES[0]} to {_KEY_BYTES[1]} random "
                "ones (head -c 32 /dev/urandom > KEYFILE)"
            )
        self._key = key
        self.check = self._of("check")

    def speaker(self, namespace: str, speaker_id: str) -> str:
        """32 hex digits instead of a speaker id; the namespace, a population and no person, stays."""
        return self._of("speaker", namespace, speaker_id)

    def row(self, row: Utterance) -> Utterance:
        """A row with pseudonyms for speaker, utterance and session; where its audio lies is kept for reading it."""
        person = (row.namespace, row.speaker_id)
        session = self._of("session", *person, row.session_id) if row.session_id else ""
        return row._replace(
            speaker_id=self.speaker(*person),
            utterance_id=self._of("utterance", *person, row.utterance_id),
            session_id=session,
        )

    def _of(self, *parts: str) -> str:
        text = "".join(f"{len(part)}:{part}" for part in parts)  # lengths keep ('a', 'bc') and ('ab', 'c') apart
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=self._key).hexdigest()


def nameless(row: LedgerRow) -> LedgerRow:
    """An entry of the ledger without anything that was said of the person or the file."""
    return row._replace(detail="", speaker_id="", utterance_id="", audio_path="")


def unread(row: LedgerRow) -> bool:
    """Whether a row was refused before its speaker was known for certain: it may name anybody."""
    return row.stage == "manifest" and row.reason not in (DoubledUtteranceError.reason, AlreadyThereError.reason)


def erased_row(row: LedgerRow) -> LedgerRow:
    """What the ledger says of a row whose speaker was erased: where it stands in the manifest, and nothing else."""
    error = ErasedSpeakerError
    return nameless(row)._replace(kind=error.kind, stage=error.stage, reason=error.reason)
