"""Lists of wespeaker, NeMo and SpeechBrain to manifest rows, in the order in which they stand.

Rows have absolute paths or URLs, and the size of local files. Times are seconds. No audio is read: of wespeaker's tars
only the headers and the names of speakers. It must not decode a recording.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ge2e_transforms.corpus_kinds import OF_LISTS, CorpusKind, list_options
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.kaldi_lists import kaldi, plain_path
from ge2e_transforms.list_files import (
    UNSAID,
    ListOptions,
    Place,
    checked,
    json_lines,
    placed,
    seconds,
    table,
    text_lines,
    text_of,
)
from ge2e_transforms.utterance import MAX_TEXT, Utterance, shown, with_default_id

# What SpeechBrain's recipe for VoxCeleb counts `start` and `stop` in: a constant of its code, not of the table.
SPEECHBRAIN_RATE_HZ = 16000
_PLACEHOLDER = re.compile(r"\$\{?(\w+)\}?")


def wespeaker(path: str | Path, options: ListOptions = UNSAID) -> Iterator[Utterance]:
    """Rows of a list of wespeaker.

    Args:
        path: `raw.list`, an object {"key", "wav", "spk"} a line; `shard.list`, a tar a line, whose members are
            `key.spk`, the speaker, and `key.wav` or another kind of audio; or a folder with wav.scp and utt2spk.
        options: what the list does not say.

    Raises:
        ManifestError: a line or a tar cannot be used, or no audio is there.
    """
    if Path(path).is_dir():
        return kaldi(path, options)
    first = next(text_lines(path), None)
    if first is None:
        raise ManifestError(f"{path} is empty: expected wespeaker's raw.list or shard.list")
    return checked((_raw if first[1].lstrip().startswith("{") else _sharded)(path, options), "--root")


def _raw(path: str | Path, options: ListOptions) -> Iterator[Utterance]:
    like = options.row(Path(path).absolute().parent)
    for place, row in json_lines(path):
        yield like._replace(
            audio_path=placed(plain_path(place, text_of(place, row, "wav")), options.root),
            speaker_id=text_of(place, row, "spk", "speaker"),
            utterance_id=text_of(place, row, "key"),
            manifest=place.path,
            position=place.line,
        )


def _sharded(path: str | Path, options: ListOptions) -> Iterator[Utterance]:
    like = options.row(Path(path).absolute().parent)
    for place, line in text_lines(path):
        if not line.lower().endswith(".tar"):
            raise ManifestError(
                f"{place}: expected the path of a .tar (or, in a raw.list, a JSON object), got {shown(line)}; packed "
                "tars must be unpacked, as members are read at random"
            )
        archive = placed(plain_path(place, line), options.root)
        try:
            with tarfile.open(archive, "r:") as tar:
                yield from _members(tar, archive, like, place)
        except (OSError, tarfile.TarError) as error:
            raise ManifestError(f"{place}: {archive} cannot be read ({error}): expected a tar") from error


def _members(tar: tarfile.TarFile, archive: str, like: Utterance, place: Place) -> Iterator[Utterance]:
    speakers: dict[str, str] = {}
    audio: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        key, _, ending = member.name.rpartition(".")
        if ending != "spk":
            audio[key] = member
        elif content := tar.extractfile(member):
            speakers[key] = content.read(4 * MAX_TEXT).decode(errors="replace").strip()
    if set(speakers) != set(audio):
        odd = min(set(speakers) ^ set(audio))
        raise ManifestError(f"{place}: {archive}: expected pairs of key.spk and audio, got one alone of {shown(odd)}")
    for key, member in audio.items():
        yield like._replace(
            audio_path=f"{archive}#{member.name}",
            speaker_id=speakers[key],
            utterance_id=key,
            bytes=member.size,
            manifest=place.path,
            position=place.line,
        )


def nemo(path: str | Path, options: ListOptions = UNSAID) -> Iterator[Utterance]:
    """Rows of a manifest of NeMo: an object {"audio_filepath", "duration", "offset", "label" or "speaker"} a line.

    With an offset (0 too, as NeMo reads it) the row is that piece of the recording. Its id is the path as it is
    written, with the piece.

    Args:
        path: the list.
        options: what the list does not say; relative paths begin in the list's folder by default, as in NeMo.

    Raises:
        ManifestError: a line cannot be used, or no audio is there.
    """

    def rows() -> Iterator[Utterance]:
        folder = Path(path).absolute().parent
        like = options.row(folder)
        for place, row in json_lines(path):
            offset, duration = row.get("offset"), row.get("duration")
            as_written = like._replace(
                audio_path=text_of(place, row, "audio_filepath"),
                speaker_id=text_of(place, row, "speaker", "speaker_id", "label"),
                offset_s=None if offset is None else seconds(place, "offset", offset),
                duration_s=None if duration is None else seconds(place, "duration", duration),
                manifest=place.path,
                position=place.line,
            )
            # The id is made from the path as it is written, so that it stays when the list is moved with its audio.
            named = with_default_id(as_written)
            yield named._replace(audio_path=placed(named.audio_path, options.root or folder))

    return checked(rows(), "--root")


def speechbrain(
    path: str | Path,
    options: ListOptions = UNSAID,
    data_root: str = "",
    rate_hz: int = SPEECHBRAIN_RATE_HZ,
) -> Iterator[Utterance]:
    """Rows of a table of SpeechBrain: CSV with `ID`, `wav`, `spk_id`, and perhaps `duration`, `start` and `stop`.

    `start` and `stop` are samples, as the recipe for VoxCeleb writes them beside the duration of the whole file. From 0
    to that duration is the whole recording.

    Args:
        path: the list.
        options: what the list does not say.
        data_root: what stands for `$data_root` in paths.
        rate_hz: of `start` and `stop`.

    Raises:
        ManifestError: a line cannot be used, a placeholder has no value, or no audio is there.
    """

    def rows() -> Iterator[Utterance]:
        like = options.row(Path(path).absolute().parent)
        for place, row in table(path, ",", ["ID", "wav", "spk_id"]):
            offset, duration = _piece(place, row, rate_hz)
            yield like._replace(
                audio_path=placed(_filled(place, row["wav"], data_root), options.root),
                speaker_id=row["spk_id"],
                utterance_id=row["ID"],
                offset_s=offset,
                duration_s=duration,
                manifest=place.path,
                position=place.line,
            )

    return checked(rows(), "--data_root or --root")


def _filled(place: Place, path: str, data_root: str) -> str:
    for name in _PLACEHOLDER.findall(path):
        if name != "data_root" or not data_root:
            known = "--data_root gives its value" if name == "data_root" else "only $data_root is known here"
            raise ManifestError(f"{place}: {shown(path)} has the placeholder ${name}: {known}")
    return _PLACEHOLDER.sub(lambda _: data_root, path)


def _piece(place: Place, row: dict[str, str], rate_hz: int) -> tuple[float | None, float | None]:
    """Offset and duration of a row; no offset for a whole recording."""
    whole = (seconds(place, "duration", row["duration"]) if row.get("duration") else 0.0) or None
    if not row.get("start") or not row.get("stop"):
        return None, whole
    start, stop = (seconds(place, name, row[name]) / rate_hz for name in ("start", "stop"))
    if stop <= start:
        raise ManifestError(f"{place}: start={row['start']} and stop={row['stop']}: expected samples, the stop behind")
    if start == 0 and whole and abs(stop - whole) < 0.5 / rate_hz:
        return None, whole
    return start, round(stop - start, 6)


_NEMO_NOTES = """\
examples:
  ge2e manifest nemo train.json --source voxceleb2 --namespace voxceleb --split train -o vox2.csv
"""
_WESPEAKER_NOTES = """\
examples:
  ge2e manifest wespeaker data/vox2_dev/raw.list --source voxceleb2 --namespace voxceleb -o vox2.csv
  ge2e manifest wespeaker data/vox2_dev/shard.list --source voxceleb2 --namespace voxceleb -o vox2.csv
"""
_SPEECHBRAIN_NOTES = """\
examples:
  ge2e manifest speechbrain results/save/train.csv --data_root /corpora/VoxCeleb1 --source voxceleb1 -o vox1.csv
"""
_NEMO_FILE = {"metavar": "FILE", "help": "audio_filepath, and label or speaker, in each line"}
_WESPEAKER_FILE = {"metavar": "FILE", "help": "the list, or the folder with wav.scp and utt2spk"}
_FILE = {"metavar": "FILE", "help": "the list"}
_DATA_ROOT = {"default": "", "metavar": "FOLDER", "help": "what stands for $data_root in paths"}
_RATE = {
    "type": int,
    "default": SPEECHBRAIN_RATE_HZ,
    "metavar": "HZ",
    "help": "samples a second that start and stop count in (default: %(default)s, as in the recipe for VoxCeleb)",
}

KINDS = (
    CorpusKind(
        *("nemo", "a manifest of NVIDIA NeMo: JSON Lines", _NEMO_NOTES),
        lambda given: nemo(given.file, list_options(given)),
        {**OF_LISTS, "file": _NEMO_FILE},
    ),
    CorpusKind(
        *("wespeaker", "a raw.list, shard.list or folder of wespeaker", _WESPEAKER_NOTES),
        lambda given: wespeaker(given.file, list_options(given)),
        {**OF_LISTS, "file": _WESPEAKER_FILE},
    ),
    CorpusKind(
        *("speechbrain", "a CSV of SpeechBrain: ID, wav, spk_id, start, stop", _SPEECHBRAIN_NOTES),
        lambda given: speechbrain(given.file, list_options(given), given.data_root, given.rate_hz),
        {**OF_LISTS, "file": _FILE, "--data_root": _DATA_ROOT, "--rate_hz": _RATE},
    ),
)
