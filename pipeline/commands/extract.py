"""`ge2e extract`: features of recordings by the recipe of a dataset, equal to what a job would store.

Features as `FeatureExtractor` joins them; times in flags are seconds.
It must not know how features are computed: `inference` does.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.progress import track
from rich.table import Table

from ge2e_transforms.archives import split_member
from ge2e_transforms.config import PRESETS, parse_setting
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.decoded import AudioSource
from ge2e_transforms.errors import ConfigError, DataError, visible
from ge2e_transforms.extractor import Extraction, FeatureExtractor
from ge2e_transforms.inference import extract_file
from ge2e_transforms.utterance import is_url
from pipeline import disk
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e extract new.flac --dataset features
  ge2e extract new.flac --dataset features -o new
  ge2e extract a.wav b.wav --preset kaldi --set n_mels=40 -o kaldi --npz

The values are the same, to the byte, as a job stores for the recordings. Without -o a summary is printed and nothing is
written.
"""
SUMMARY = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    recordings = "recordings: local, s3:// or gs://, or in an archive (speech.tar#a.flac)"
    parser.add_argument("files", nargs="+", metavar="FILE", help=recordings)
    folder = "write NAME.npy for each; '-' prints a summary (default)"
    parser.add_argument("-o", "--output", default=SUMMARY, metavar="FOLDER", help=folder)
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument("--dataset", metavar="FOLDER", help="by the recipe of this dataset: local, gs:// or s3://")
    recipe.add_argument("--preset", choices=sorted(PRESETS), default="ge2e", help="by this recipe (default: ge2e)")
    setting = "any field of the recipe, such as n_mels=64; then values are no longer those of the dataset"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings", help=setting)
    parser.add_argument("--npz", action="store_true", help="NAME.npz instead, with places, flags, gain and fingerprint")
    parser.add_argument("--channel", type=int, metavar="C", help="this channel, from 0 (default: the recipe's)")
    parser.add_argument("--offset_s", type=float, metavar="S", help="only from here on")
    parser.add_argument("--duration_s", type=float, metavar="S", help="only so long")
    parser.add_argument("--keep_all", action="store_true", help="keep what is too short, as held-out splits do")
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 if all recordings gave features; each that did not is named."""
    targets = _targets(args.files, args.output, ".npz" if args.npz else ".npy")
    extractor = _extractor(args)
    console, table, failed = Terminal(), _table(), 0
    with _sources(args.files) as open_audio:
        watched = track(args.files, "extract", console=console, transient=True, disable=not console.is_terminal)
        for file, target in zip(watched, targets, strict=True):
            try:
                extraction = extract_file(
                    open_audio(file),
                    extractor,
                    file,
                    channel=args.channel,
                    offset_s=args.offset_s,
                    duration_s=args.duration_s,
                    utterance_id=file,
                    keep_all=args.keep_all,
                )
            except (DataError, OSError) as error:
                failed += 1
                _tell(file, error)
                continue
            if target is None:
                table.add_row(*_summary(extractor, extraction), file)
            else:
                _write(target, _content(extractor, extraction, args.npz))
    if args.output == SUMMARY:
        if table.row_count:
            console.print(table)
        console.print("nothing was written: -o FOLDER writes the features")
    else:
        console.print(f"wrote {len(args.files) - failed} of {len(args.files)} to {args.output}")
    return 1 if failed else 0


def _targets(files: Sequence[str], output: str, ending: str) -> Sequence[Path | None]:
    """Where each goes; refused before anything is computed if two would go to one place."""
    if output == SUMMARY:
        return [None] * len(files)
    if not output or is_url(output):
        raise ConfigError(f"--output={output} cannot be used: expected a local folder, or '-' for a summary")
    taken: dict[str, str] = {}
    for file in files:
        inside = split_member(file)
        name = Path(file if inside is None else inside[1]).stem + ending
        if name in taken:
            raise ConfigError(f"{taken[name]} and {file} would both become {name}: extract them into different folders")
        taken[name] = file
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"--output={output} cannot be used ({error.strerror}): expected a folder, old or new"
        ) from error
    except OSError as error:
        raise disk.named(error, output, "made") from error
    return [Path(output) / name for name in taken]


def _extractor(args: argparse.Namespace) -> FeatureExtractor:
    recipe = PRESETS[args.preset]
    if args.dataset is not None:
        dataset = Dataset.open(args.dataset)
        recipe = dataset.recipe
        if dataset.metadata.get("fingerprint") != recipe.fingerprint():
            where = visible(str(dataset.root))
            print(f"warning: {where} was made by another version of the recipe: last bits may differ", file=sys.stderr)
    return FeatureExtractor(recipe.replace(**dict(map(parse_setting, args.settings))))


@contextmanager
def _sources(files: Sequence[str]) -> Iterator[AudioSource]:
    """As workers open recordings; plain files need no Beam."""
    if not any(is_url(file) or split_member(file) for file in files):
        yield lambda location: location
        return
    require_beam("recordings on stores and in archives need")
    from pipeline.recordings import reading

    with reading(files) as open_audio:
        yield open_audio


def _tell(file: str, error: Exception) -> None:
    text = str(error)
    named = text if file in text else f"{file}: {text}"
    print(f"ge2e: {type(error).__name__}: {visible(named)}", file=sys.stderr)


def _content(extractor: FeatureExtractor, extraction: Extraction, npz: bool) -> bytes:
    stream = io.BytesIO()
    values = extractor.joined(extraction)
    if not npz:
        np.save(stream, values, allow_pickle=False)
        return stream.getvalue()
    segments = extraction.segments
    np.savez(
        stream,
        features=values,
        starts=np.array([segment.start for segment in segments], dtype=np.int64),
        samples=np.array([segment.samples for segment in segments], dtype=np.int64),
        rows=np.array([len(segment.values) for segment in segments], dtype=np.int64),
        flags=np.array([segment.flags for segment in segments], dtype=np.int64),
        voiced_fraction=np.float64(extraction.voiced_fraction),
        gain_db=np.float64(extraction.gain_db),
        sample_rate_hz=np.int64(extractor.recipe.audio.sample_rate_hz),
        fingerprint=np.str_(extractor.recipe.fingerprint()),
    )
    return stream.getvalue()


def _write(target: Path, content: bytes) -> None:
    try:
        disk.write_whole(target, content)
    except OSError as error:
        raise disk.named(error, str(target), "written") from error


def _table() -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("shape", "speech s", "voiced", "gain dB", "least", "mean", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    return table


def _summary(extractor: FeatureExtractor, extraction: Extraction) -> list[str]:
    recipe, values = extractor.recipe, extractor.joined(extraction)
    rows = sum(len(segment.values) for segment in extraction.segments)
    seconds = recipe.seconds(rows, len(extraction.segments))
    shape = " x ".join(map(str, values.shape))
    numbers = (seconds, extraction.voiced_fraction, extraction.gain_db, values.min(), values.mean(), values.max())
    return [shape, *(f"{number:.2f}" for number in numbers)]
