"""`ge2e erase`: takes speakers out of a dataset, for good.

Speakers are `namespace/speaker_id`. It must not know which files are written anew: `pipeline.erase` does.
"""

from __future__ import annotations

import argparse

from ge2e_transforms.errors import ConfigError
from ge2e_transforms.utterance import shown
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal

_EPILOG = """examples:
  ge2e erase features --speaker libri/1001
  ge2e erase gs://bucket/features --speakers_file withdrawn.txt

Only the shards that hold something of a speaker are written anew, statistics are recomputed, and
metadata.json changes over at once. A salted hash of each speaker stays, so that no later run, retry or add into this
folder brings them back.

What it cannot reach, and you have to see to yourself: copies of the folder, backups and snapshots; older versions of
objects where the bucket keeps them; the caches of loaders (cache_dir); pages of `ge2e report`; what was trained on the
speaker's data; and the manifests and recordings themselves. On a disk the blocks of removed files are not overwritten.
"""
_UNREACHED = (
    "not reached: copies, backups, snapshots, older versions in a bucket that keeps them, caches of loaders "
    "(cache_dir), pages of `ge2e report`, models trained on it, and the manifests and recordings themselves"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("output", metavar="FOLDER", help="of the dataset; local, gs:// or s3://")
    speaker = "namespace/speaker_id; may be given more than once"
    parser.add_argument("--speaker", action="extend", nargs="+", default=[], metavar="ID", help=speaker)
    listed = "text file of such ids, one a line"
    parser.add_argument("--speakers_file", metavar="FILE", help=listed)
    key = "the ids given are the true ones, and the dataset holds their pseudonyms"
    parser.add_argument("--pseudonymize", default="", metavar="KEYFILE", help=key)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Says how much was erased, and what was not reached."""
    require_beam("`ge2e erase` needs")
    from pipeline import options
    from pipeline.clean import clean
    from pipeline.erase import erase

    console = Terminal()
    output = options.absolute("FOLDER", args.output)
    speakers = _speakers(args)
    done = erase(output, speakers, lambda shard: console.print(f"writing {shard} anew"))
    left = clean(output)  # what jobs left that were killed may hold the speakers, too
    for speaker in done.already:
        console.print(f"{shown(speaker)} was erased before")
    console.print(
        f"erased {len(speakers) - len(done.already)} speaker(s): {done.utterances} utterances in {done.shards} shards, "
        f"{done.rows} rows of the ledger (generation {done.metadata['generation']})"
    )
    if left.names:
        console.print(f"removed {len(left.names)} files that killed jobs had left")
    console.print(_UNREACHED)
    return 0


def _speakers(args: argparse.Namespace) -> list[str]:
    from pipeline import options, storage
    from pipeline.read import read_key

    names = list(args.speaker)
    if args.speakers_file:
        names += storage.read_bytes(args.speakers_file).decode().splitlines()
    names = list(dict.fromkeys(name for name in map(str.strip, names) if name))
    if not names:
        raise ConfigError("nobody to erase: give --speaker namespace/speaker_id, or --speakers_file")
    key = options.key_file(args)
    if not key:
        return names
    pseudonyms = read_key(key)
    pairs = [name.partition("/") for name in names]
    return [f"{namespace}/{pseudonyms.speaker(namespace, speaker)}" for namespace, _, speaker in pairs]
