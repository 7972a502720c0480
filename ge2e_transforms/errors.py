"""Every error a user can meet, by name, and the ledger row that bad data becomes.

Two kinds. A `DataError` is about one manifest row: it is caught where the row is handled and becomes a
`LedgerRow`, and the job goes on. Every other `Ge2eError` ends the command with its message. Messages say
what was wrong, what was expected, what was got, where, and what to do. Any exception that is not a
`Ge2eError` is a bug in this project and is never caught. It must not import another file of
the package, so that all may import it.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


def visible(text: str) -> str:
    """Text for terminals: what is not printed as a sign of its own is escaped.

    Control characters would act on a terminal, and marks for the direction of text would show something else.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class Ge2eError(Exception):
    """Base of all errors that are raised on purpose. As text it is one line, whatever names it quotes."""

    def __str__(self) -> str:
        return visible(super().__str__())


class ConfigError(Ge2eError, ValueError):
    """An option or a recipe field has a value that cannot be used."""


class ManifestError(Ge2eError, ValueError):
    """A manifest as a whole cannot be used (unknown format, missing columns, no usable row)."""


class PlanError(Ge2eError, ValueError):
    """The rows of the manifests cannot be laid out as a dataset (a speaker in two splits, no speaker)."""


class CommitError(Ge2eError, RuntimeError):
    """A finished job may not be published (sums that do not balance, too many rejected rows)."""


class MissingExtraError(Ge2eError, ImportError):
    """A package that only some uses need is not installed; the message names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'ge2e-features[{extra}]'")


class StorageError(Ge2eError, OSError):
    """The output cannot take what is written to it: no space left, no permission."""


class NoiseError(Ge2eError, RuntimeError):
    """Noise or rooms of an `augment.yaml` cannot be used: a list, or a recording that it names."""


class DownloadError(Ge2eError, RuntimeError):
    """A corpus cannot be fetched: the server refuses, a checksum is wrong, there is no room."""


class DiskError(OSError):
    """A local disk failed, when it was tried again too.

    It may pass: it ends the job without a verdict, so a runner may try elsewhere, and it is no fault of a recording.
    """


class DoctorError(Ge2eError, RuntimeError):
    """The workers of a runner could not be examined: none started, or none could give its report back."""


class StoppedError(Ge2eError, RuntimeError):
    """A job on a cluster whose program was interrupted."""


class WorkerError(Ge2eError, RuntimeError):
    """A worker process on this machine died: it was killed, ran out of memory or crashed."""


class DatasetError(Ge2eError, RuntimeError):
    """A dataset folder is missing, incomplete, changed or contradicts itself."""


class CorruptRecordError(DatasetError):
    """A stored record does not match its checksum or its index row."""


class SamplingError(Ge2eError, ValueError):
    """No batch of N speakers x M utterances can be made from what a split holds."""


class DenyListError(Ge2eError, ValueError):
    """A list of what must not be trained on cannot be read, or a line of it says nothing."""


class DataError(Ge2eError):
    """One manifest row cannot be used. `stage` and `reason` are what the ledger counts by.

    `kind` is 'rejected' for a fault (something is wrong with the row or its audio; counts against
    `--max_rejected`) and 'filtered' for a policy (nothing is wrong, but the recipe leaves it out).
    """

    kind: ClassVar[str] = "rejected"
    stage: ClassVar[str] = ""
    reason: ClassVar[str] = ""


class BadRowError(DataError):
    """The manifest row cannot be read: wrong number of fields, bad quoting, a number that is none."""

    stage, reason = "manifest", "bad_row"


class OutsideError(DataError):
    """The row of a manifest with relative paths leads out of the manifest's folder."""

    stage, reason = "manifest", "outside"


class SchemeError(DataError):
    """The audio is at a URL of a scheme that is not opened unless it is allowed."""

    stage, reason = "manifest", "scheme"


class EmptySpeakerError(DataError):
    """The manifest row has no speaker."""

    stage, reason = "manifest", "empty_speaker"


class DoubledUtteranceError(DataError):
    """An earlier row has the same speaker and utterance id; the first by (manifest, position) stays."""

    stage, reason = "manifest", "doubled_utterance"


class AlreadyThereError(DataError):
    """The dataset that is added to holds the utterance: what was written stays."""

    kind = "filtered"
    stage, reason = "manifest", "already_there"


class ErasedSpeakerError(DataError):
    """The row is of a speaker who was erased from the dataset and must not come back."""

    kind = "filtered"
    stage, reason = "erase", "erased"


class MissingAudioError(DataError):
    """There is no file at `audio_path`."""

    stage, reason = "decode", "missing"


class UnreadableAudioError(DataError):
    """The file is there but may not be opened: permissions, a directory, a device."""

    stage, reason = "decode", "unreadable"


class EmptyAudioError(DataError):
    """The file has no bytes, or its audio no samples."""

    stage, reason = "decode", "empty"


class NotAudioError(DataError):
    """No decoder knows the file's format."""

    stage, reason = "decode", "not_audio"


class CorruptAudioError(DataError):
    """A decoder knows the format but fails inside the file."""

    stage, reason = "decode", "corrupt"


class TruncatedAudioError(DataError):
    """The file ends before its header, or the row's offset and duration, say that it does."""

    stage, reason = "decode", "truncated"


class NonFiniteAudioError(DataError):
    """The decoded samples hold NaN or infinity."""

    stage, reason = "decode", "non_finite"


class OverLimitError(DataError):
    """The audio is longer, wider or faster, or takes more memory, than the limits of the recipe allow."""

    stage, reason = "decode", "over_limit"


class NoSuchChannelError(DataError):
    """The row or the recipe asks for a channel that the audio does not have."""

    stage, reason = "decode", "no_such_channel"


class DecoderCrashedError(DataError):
    """Decoding it ended a process that did nothing else: a signal, or a library that leaves."""

    stage, reason = "decode", "decoder_crashed"


class DecoderHungError(DataError):
    """Decoding it in a process of its own did not come to an end within the time limit."""

    stage, reason = "decode", "decoder_hung"


class SilentAudioError(DataError):
    """The loudest part is below `silence_dbfs`: nothing was recorded."""

    stage, reason = "voice", "silent"


class TooShortError(DataError):
    """Less voice than `min_utterance_ms` (or than one window) in a train utterance: left out by policy."""

    kind = "filtered"
    stage, reason = "segment", "too_short"


class LedgerRow(NamedTuple):
    """One manifest row that was not written, with the reason.

    `position` is the byte offset of the row in its (uncompressed) manifest, or the row number for
    Parquet. All fields are text or integers so that a row is the same on every runner.
    """

    kind: str
    stage: str
    reason: str
    detail: str
    manifest: str
    position: int
    speaker_id: str
    utterance_id: str
    audio_path: str
