"""Corpora whose recordings stand in tables: Common Voice, and folders of audio as the Hugging Face Hub takes them.

Durations are seconds. It must not open a recording: names and tables tell all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ge2e_transforms.corpus_kinds import NO_SPLITS, OF_TREES, SOURCE, CorpusKind
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.list_files import Place, below, checked, json_lines, seconds, table, text_of
from ge2e_transforms.tree_scan import AUDIO_ENDINGS, files_below, folder_of
from ge2e_transforms.utterance import NO_ID, Utterance

_log = logging.getLogger(__name__)

_COMMON_VOICE_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
# Words that make a folder or a table part of a split, with nothing or a sign that is no letter around them.
_HUB_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_METADATA = ("metadata.csv", "metadata.jsonl")
# How deep links to folders are followed: a split, a speaker and one more.
_DEPTH = 3
_SPEAKER_COLUMNS = ("speaker_id", "speaker", "spk_id", "client_id")


def common_voice(
    root: str | Path, lists: Sequence[str] = (), splits: bool = True, namespace: str = "common_voice"
) -> Iterator[Utterance]:
    """Rows of Common Voice: `<language>/<list>.tsv` with the columns `client_id` and `path`, `<language>/clips/*.mp3`.

    The speaker is the client, the subset the list, the source `common_voice_<language>`. A client is an account or a
    browser, so several people may share one and one person may have several: a warning says so. Only listed clips are
    taken, those of several lists once.

    Args:
        root: `cv-corpus-...` with a folder for each language, or one of these.
        lists: names of the tables, such as 'validated'; by default 'train', 'dev' and 'test', which share no client.
        splits: False leaves the splits of these three to be drawn.
        namespace: what client ids count in.

    Raises:
        ManifestError: no such folder or table, a line that cannot be used, or no clip is there.
    """
    folder = folder_of(root)
    languages = [folder] if (folder / "clips").is_dir() else sorted(path.parent for path in folder.glob("*/clips"))
    if not languages:
        raise ManifestError(f"{folder}: expected the folder of a language, with 'clips' in it, or folders of languages")
    _log.warning(
        "a client of Common Voice is an account or a browser: several people may be behind one, and several clients "
        "may be one person"
    )
    return checked(_clips(languages, lists or tuple(_COMMON_VOICE_SPLITS), splits, namespace), "the folder 'clips'")


def _clips(languages: Sequence[Path], lists: Sequence[str], splits: bool, namespace: str) -> Iterator[Utterance]:
    for language in languages:
        source, seen = f"common_voice_{language.name}", set()
        durations = dict(_clip_durations(language / "clip_durations.tsv"))
        for name in lists:
            if not (language / f"{name}.tsv").is_file():
                there = ", ".join(sorted(path.stem for path in language.glob("*.tsv"))) or "none"
                raise ManifestError(f"{language}: there is no {name}.tsv; lists that are there: {there}")
            for place, row in table(language / f"{name}.tsv", "\t", ["client_id", "path"]):
                if row["path"] in seen:
                    continue
                seen.add(row["path"])
                yield Utterance(
                    audio_path=below(place, row["path"], language / "clips"),
                    speaker_id=row["client_id"],
                    namespace=namespace,
                    utterance_id=row["path"].rpartition(".")[0] or row["path"],
                    source=source,
                    subset=name,
                    split=_COMMON_VOICE_SPLITS.get(name, "") if splits else "",
                    duration_s=durations.get(row["path"]),
                    manifest=place.path,
                    position=place.line,
                )


def _clip_durations(path: Path) -> Iterator[tuple[str, float]]:
    """Seconds of each clip, which later releases state in milliseconds in a table of its own."""
    for place, row in table(path, "\t", ["clip"]) if path.is_file() else ():
        value = next((text for name, text in row.items() if name.startswith("duration")), "")
        yield row["clip"], seconds(place, "duration", value) / 1000


def audiofolder(
    root: str | Path, speaker_column: str = "", source: str = "", namespace: str = "", splits: bool = True
) -> Iterator[Utterance]:
    """Rows of a folder of audio in the form of the Hugging Face Hub.

    With `metadata.csv` or `metadata.jsonl`, in the root or in folders of splits, its `file_name` is relative to its own
    folder and a column says who speaks. Without one the folder that a recording lies in is its speaker. A folder above
    whose name is a word for a split (`train`, `validation`, `test`) makes it part of that.

    Args:
        root: the folder.
        speaker_column: by default the first that is there of speaker_id, speaker, spk_id and client_id.
        source: name of the corpus; by default the folder's name.
        namespace: what speaker ids count in; by default the source.
        splits: False leaves the splits to be drawn.

    Raises:
        ManifestError: no such folder, a row that cannot be used, no such column, or no audio.
    """
    folder = folder_of(root)
    source = source or folder.name
    like = Utterance("", "", namespace or source, "", source)
    tables = sorted(path for name in _METADATA for path in folder.rglob(name))
    rows = _by_metadata(folder, tables, speaker_column, like) if tables else _by_folders(folder, like)
    return checked((row if splits else row._replace(split="") for row in rows), "'file_name'")


def _by_metadata(folder: Path, tables: Sequence[Path], column: str, like: Utterance) -> Iterator[Utterance]:
    for path in tables:
        rows: Iterator[tuple[Place, Any]] = (
            table(path, ",", ["file_name"]) if path.suffix == ".csv" else json_lines(path)
        )
        for place, row in rows:
            wanted = (column,) if column else _SPEAKER_COLUMNS
            if not any(name in row for name in wanted):
                raise ManifestError(
                    f"{place}: expected a column of speakers, {' or '.join(wanted)}, got {', '.join(map(ascii, row))}; "
                    "--speaker_column names it"
                )
            audio = below(place, text_of(place, row, "file_name"), path.parent)
            name = str(Path(audio).relative_to(folder))
            subset, split = _part_of(name)
            yield like._replace(
                audio_path=audio,
                speaker_id=text_of(place, row, *wanted),
                utterance_id=name,
                subset=subset,
                split=split,
                manifest=place.path,
                position=place.line,
            )


def _by_folders(folder: Path, like: Utterance) -> Iterator[Utterance]:
    left_out: list[str] = []
    count = 0
    for number, file in enumerate(files_below(folder, _DEPTH)):
        *above, label, _ = ["", *file.path.split("/")]
        if not file.path.lower().endswith(AUDIO_ENDINGS):
            continue
        if not label or label.lower() in _HUB_SPLITS or file.size is None or NO_ID.search(file.path):
            left_out += [file.path]
            continue
        count += 1
        subset, split = _part_of("/".join(above) + "/")
        yield like._replace(
            audio_path=f"{folder}/{file.path}",
            speaker_id=label,
            utterance_id=file.path,
            subset=subset,
            split=split,
            manifest=str(folder),
            position=number,
        )
    if left_out and count:
        _log.warning(
            "%s: %d files lie in no folder of a speaker and are left out, first %s", folder, len(left_out), left_out[0]
        )
    if not count:
        found = (
            f"{len(left_out)} audio files lie in no folder of a speaker, first {left_out[0]!r}"
            if left_out
            else "no audio"
        )
        raise ManifestError(f"{folder}: {found}: expected metadata.csv or metadata.jsonl, or a folder for each speaker")


def _part_of(path: str) -> tuple[str, str]:
    """Subset and split of a path: the first folder whose name holds a word for a split, and that split; '' for none."""
    for name in path.split("/")[:-1]:
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _HUB_SPLITS:
                return name, _HUB_SPLITS[word]
    return "", ""


_COMMON_VOICE_NOTES = """\
train, dev and test become the splits train, valid and test. Namespace: common_voice. A client may be several people.

examples:
  ge2e manifest common_voice /corpora/cv-corpus-17.0-2024-03-15 -o cv.csv
  ge2e manifest common_voice /corpora/cv-corpus-17.0-2024-03-15/it --list validated --min_utterances 10 -o it.csv
"""
_LIST = {
    "action": "append",
    "default": [],
    "metavar": "NAME",
    "help": "table to take, such as validated; may be repeated (default: train, dev and test)",
}
_AUDIOFOLDER_NOTES = """\
With metadata.csv or metadata.jsonl a column says who speaks; without, the folder that a file lies in does. Folders
named train, validation and test become splits. Namespace: the source.

examples:
  ge2e manifest audiofolder /corpora/hub -o hub.csv
  ge2e manifest audiofolder /corpora/hub --speaker_column reader --source hub -o hub.csv
"""
_COLUMN = {
    "default": "",
    "metavar": "NAME",
    "help": "column of speakers (default: speaker_id, speaker, spk_id or client_id)",
}

KINDS = (
    CorpusKind(
        *("common_voice", "Common Voice: one language, or all that lie below", _COMMON_VOICE_NOTES),
        lambda given: common_voice(given.root, given.list, not given.no_splits, given.namespace or "common_voice"),
        {**OF_TREES, "--list": _LIST, **NO_SPLITS},
    ),
    CorpusKind(
        *("audiofolder", "an audiofolder of the Hugging Face Hub", _AUDIOFOLDER_NOTES),
        lambda given: audiofolder(given.root, given.speaker_column, given.source, given.namespace, not given.no_splits),
        {**OF_TREES, "--speaker_column": _COLUMN, **SOURCE, **NO_SPLITS},
    ),
)
