"""Lhotse's recordings with supervisions, and cuts, to manifest rows: JSON Lines, plain or `.gz`.

A supervision is an utterance: who speaks from where to where, in seconds, in which channel of a recording. It must not
run or open what a list names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ge2e_transforms.corpus_kinds import OF_LISTS, CorpusKind, list_options
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.list_files import UNSAID, ListOptions, Place, checked, json_lines, placed, seconds, text_of
from ge2e_transforms.utterance import Utterance, is_url, shown

# Lhotse rounds seconds to samples; half of the shortest frame that a recipe has.
_SLACK_S = 0.001


class _Source(NamedTuple):
    path: str
    channels: tuple[int, ...]


class _Recording(NamedTuple):
    sources: tuple[_Source, ...]
    duration: float


def lhotse(paths: Sequence[str | Path], options: ListOptions = UNSAID) -> Iterator[Utterance]:
    """Rows of recordings and supervisions, or of cuts, in the order of the supervisions or cuts.

    Args:
        paths: lists in any order; what each holds is told by its first line.
        options: what the lists do not say; the source is by default the name of the first list's folder.

    Raises:
        ManifestError: a line cannot be used; supervisions without their recordings; audio that is no file, or is
            changed when it is read (speed, volume); a mix of cuts.
    """
    like, root = options.row(Path(paths[0]).absolute().parent), options.root
    kinds = {str(path): _kind(path) for path in paths}
    found: dict[str, _Recording] = {}
    for path, kind in kinds.items():
        for place, item in json_lines(path) if kind == "recordings" else ():
            found[text_of(place, item, "id")] = _recording(place, item, root)
    if "recordings" in kinds.values() and "supervisions" not in kinds.values():
        raise ManifestError(
            f"{shown(list(kinds))} hold recordings alone, which do not say who speaks: add supervisions"
        )
    return checked(_rows(kinds, found, like, root), "--root")


def _rows(kinds: Mapping[str, str], found: Mapping[str, _Recording], like: Utterance, root: str) -> Iterator[Utterance]:
    for path, kind in kinds.items():
        for place, item in json_lines(path) if kind != "recordings" else ():
            like = like._replace(manifest=place.path, position=place.line)
            if kind == "cuts":
                yield from _of_cut(place, item, like, root)
                continue
            name = text_of(place, item, "recording_id")
            if name not in found:
                raise ManifestError(
                    f"{place}: no recording {shown(name)} among the {len(found)} of the other lists: give the "
                    "recordings.jsonl that belongs to these supervisions too"
                )
            yield _supervised(place, item, found[name], 0.0, like)


def _kind(path: str | Path) -> str:
    for place, item in json_lines(path):
        for kind, name in (("cuts", "recording"), ("cuts", "tracks"), ("recordings", "sources")):
            if name in item:
                return kind
        if "recording_id" in item:
            return "supervisions"
        raise ManifestError(
            f"{place}: expected a recording (with 'sources'), a supervision ('recording_id') or a cut ('recording'), "
            f"got {shown(', '.join(item))}"
        )
    raise ManifestError(f"{path} is empty: expected recordings, supervisions or cuts of Lhotse")


def _recording(place: Place, item: Mapping[str, Any], root: str) -> _Recording:
    if item.get("transforms"):
        raise ManifestError(
            f"{place}: the recording is changed when it is read ({shown(item['transforms'])}): expected recordings as "
            "they are; augmentation belongs behind the features"
        )
    sources = []
    for source in _objects(place, item, "sources"):
        path = text_of(place, source, "source")
        if source.get("type") != "file" and not (source.get("type") == "url" and is_url(path)):
            raise ManifestError(
                f"{place}: a source of type {shown(source.get('type'))}: expected 'file', or 'url' of s3:// or gs://; "
                "commands are never run, and what is in memory must be written to files first"
            )
        sources.append(_Source(placed(path, root), _channels(place, source.get("channels"))))
    if not sources:
        raise ManifestError(f"{place}: the recording has no sources")
    return _Recording(tuple(sources), seconds(place, "duration", item.get("duration")))


def _objects(place: Place, item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = item.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ManifestError(f"{place}: expected a list of objects under {name!r}, got {shown(found)}")
    return found


def _channels(place: Place, value: Any) -> tuple[int, ...]:
    channels = tuple(value if isinstance(value, list) else [0 if value is None else value])
    if not channels or not all(type(channel) is int and channel >= 0 for channel in channels):
        raise ManifestError(f"{place}: channels {shown(value)}: expected whole numbers from 0")
    return channels


def _of_cut(place: Place, item: Mapping[str, Any], like: Utterance, root: str) -> Iterator[Utterance]:
    recording = item.get("recording")
    if not isinstance(recording, dict):
        what = "a mix of several cuts" if "tracks" in item else "no recording, so features alone"
        raise ManifestError(f"{place}: the cut holds {what}: expected cuts of one recording each")
    found, start = _recording(place, recording, root), seconds(place, "start", item.get("start", 0))
    for supervision in _objects(place, item, "supervisions"):
        yield _supervised(place, supervision, found, start, like)


def _supervised(
    place: Place, item: Mapping[str, Any], recording: _Recording, cut_start: float, like: Utterance
) -> Utterance:
    """The row of a supervision, whose start counts from that of its cut."""
    begin = item.get("start", 0.0)
    # A cut may begin in the middle of what somebody says: its supervision then begins before 0.
    start = cut_start + (begin if isinstance(begin, float | int) and begin < 0 else seconds(place, "start", begin))
    start, duration = round(max(0.0, start), 6), seconds(place, "duration", item.get("duration"))
    whole = start == 0 and duration >= recording.duration - _SLACK_S
    channels = _channels(place, item.get("channel"))
    source = next((one for one in recording.sources if channels[0] in one.channels), None)
    if source is None:
        raise ManifestError(f"{place}: no source of the recording has channel {channels[0]}")
    alone = len(source.channels) == 1 or len(channels) > 1
    return like._replace(
        audio_path=source.path,
        speaker_id=text_of(place, item, "speaker"),
        utterance_id=text_of(place, item, "id"),
        channel=None if alone else source.channels.index(channels[0]),
        offset_s=None if whole else start,
        duration_s=duration,
    )


_NOTES = """\
examples:
  ge2e manifest lhotse yesno_recordings_train.jsonl.gz yesno_supervisions_train.jsonl.gz --source yesno -o y.csv
  ge2e manifest lhotse cuts.jsonl.gz --source yesno -o yesno.csv
"""
_FILES = {"nargs": "+", "metavar": "FILE", "help": ".jsonl or .jsonl.gz, in any order"}

KINDS = (
    CorpusKind(
        *("lhotse", "recordings with supervisions, or cuts, of Lhotse", _NOTES),
        lambda given: lhotse(given.files, list_options(given)),
        {**OF_LISTS, "files": _FILES},
    ),
)
