"""Flags of the commands that run a job. Beam is not needed for them, so that help is there at once.

`options` makes of what was given what the stages take. Sizes are MiB where a flag says so. It must not import Beam.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ge2e_transforms.config import PRESETS
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.splits import PlanConfig

# What a job has unless its flags say otherwise: see `JobConfig`.
MAX_REJECTED, SPEAKERS_PER_BATCH, UTTERANCES_PER_SPEAKER = 0.05, 8, 4

_RUN_EXAMPLES = """examples:
  ge2e run --manifest manifest.csv --output features
  ge2e run --manifest 'lists/*.csv.gz' --output features --test_speakers 40 --set n_mels=64
  ge2e run --manifest manifest.csv --output features --augment augment.yaml
  ge2e run --manifest gs://bucket/manifest.csv --output gs://bucket/features -- \\
      --runner=DataflowRunner --project=P --region=R --temp_location=gs://bucket/tmp --setup_file=./setup.py
  ge2e run --manifest /shared/manifest.csv --output /shared/features -- \\
      --runner=FlinkRunner --flink_version=1.19 --flink_master=localhost:8081

All after -- goes to Beam as it is. Without a runner the job runs on all cores of this machine.
"""
_DOCTOR_EXAMPLES = """examples:
  ge2e doctor
  ge2e doctor --manifest manifest.csv --output features --set n_mels=64
  ge2e doctor --manifest /shared/manifest.csv --output /shared/features -- \\
      --runner=FlinkRunner --flink_version=1.19 --flink_master=localhost:8081

Give the runner and Beam's options as to `ge2e run`. The exit status is 1 when a job would fail, crawl or mix bytes.
"""


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and Beam's after `--`."""
    arguments = list(argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:cut], arguments[cut + 1 :]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Flags of `ge2e run`."""
    parser.epilog = _RUN_EXAMPLES
    _add_job(parser)
    add_places(parser.add_argument_group("what manifests may name"))
    add_recipe(parser.add_argument_group("recipe"))
    _add_plan(parser.add_argument_group("splits and shards"))
    add_local(parser.add_argument_group("where it runs"))


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Flags of `ge2e doctor`."""
    parser.epilog = _DOCTOR_EXAMPLES
    manifest = "the first usable row is opened and decoded on every worker; a glob; may be given more than once"
    parser.add_argument("--manifest", action="append", default=[], metavar="FILE", help=manifest)
    output = "written to from every worker, and left as it was; needed on a cluster"
    parser.add_argument("--output", metavar="FOLDER", help=output)
    add_augment(parser)
    parser.add_argument("--require_av", action="store_true", help="M4A and AAC must decode too (extra 'av')")
    add_places(parser.add_argument_group("what manifests may name"))
    add_recipe(parser.add_argument_group("recipe"))
    add_shard_size(parser.add_argument_group("shards"))
    add_local(parser.add_argument_group("where it runs"))


def _add_job(parser: argparse.ArgumentParser) -> None:
    manifests = "CSV, JSON Lines or Parquet, text also as .gz; a glob; may be given more than once"
    parser.add_argument("--manifest", action="append", required=True, metavar="FILE", help=manifests)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of the dataset; local, gs:// or s3://")
    replaced = "replace another dataset in FOLDER, once the new one is complete"
    parser.add_argument("--overwrite", action="store_true", help=replaced)
    add_max_rejected(parser)
    add_isolation(parser)
    batch = "that the dataset proposes to the loader (default: %(default)d)"
    add_pseudonymize(parser)
    add_augment(parser)
    parser.add_argument("--speakers_per_batch", type=int, default=SPEAKERS_PER_BATCH, metavar="N", help=f"N {batch}")
    parser.add_argument(
        "--utterances_per_speaker", type=int, default=UTTERANCES_PER_SPEAKER, metavar="M", help=f"M {batch}"
    )


def add_augment(parser: argparse.ArgumentParser) -> None:
    """The flag that names what is written beside the utterances."""
    copies = "noisy, reverberated, coded and sped-up copies, as this YAML file says; docs/guides/augmentation.md"
    parser.add_argument("--augment", default="", metavar="FILE", help=copies)


def add_max_rejected(parser: argparse.ArgumentParser) -> None:
    """The flag that says how much may be wrong."""
    limit = "publish nothing if more than this fraction of the rows is rejected (default: %(default)g)"
    parser.add_argument("--max_rejected", type=float, default=MAX_REJECTED, metavar="F", help=limit)


def add_isolation(parser: argparse.ArgumentParser) -> None:
    """The flag that keeps decoders out of the workers."""
    apart = "decode in a process beside each worker from the start: for audio of unknown origin"
    parser.add_argument("--isolate_decoder", action="store_true", help=apart)


def add_pseudonymize(parser: argparse.ArgumentParser) -> None:
    """The flag that keeps ids out of the dataset."""
    pseudonyms = "write keyed pseudonyms instead of ids, and no paths of audio; KEYFILE holds 16 to 64 random bytes"
    parser.add_argument("--pseudonymize", default="", metavar="KEYFILE", help=pseudonyms)


def add_places(group: argparse._ArgumentGroup) -> None:
    """Flags that say which places are opened."""
    outside = "paths of a manifest with relative paths may lead out of its folder"
    group.add_argument("--allow_outside", action="store_true", help=outside)
    scheme = "open URLs of this scheme too, such as hdfs, besides gs and s3; may be given more than once"
    group.add_argument(
        "--allow_scheme", action="append", default=[], metavar="SCHEME", dest="allow_schemes", help=scheme
    )


def add_recipe(group: argparse._ArgumentGroup, preset: str | None = "ge2e") -> None:
    """Flags that say what is computed; without a preset it is the dataset's recipe."""
    start = f"recipe to start from (default: {_or_the_datasets(preset)})"
    group.add_argument("--preset", choices=sorted(PRESETS), default=preset, help=start)
    form = "whole utterances, or fixed windows (default: the preset's)"
    group.add_argument("--segments", choices=("utterance", "windows"), help=form)
    group.add_argument("--features", choices=tuple(FEATURE_KINDS), help="default: the preset's")
    stored = "how values are stored (default: float32); raw is PCM16 and takes none"
    group.add_argument("--dtype", choices=("float32", "float16"), help=stored)
    setting = "any field of the recipe, such as n_mels=64 or f_max_hz=7600"
    group.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings", help=setting)


def _add_plan(group: argparse._ArgumentGroup) -> None:
    for split in ("test", "valid"):
        share = f"share of the speakers drawn for the {split} split, where no manifest names a split"
        group.add_argument(f"--{split}_fraction", type=float, default=0.0, metavar="F", help=share)
        group.add_argument(f"--{split}_speakers", type=int, default=0, metavar="K", help="exactly K of them instead")
    salt = "another salt draws other speakers (default: %(default)s)"
    group.add_argument("--split_salt", default=PlanConfig.split_salt, metavar="TEXT", help=salt)
    add_shard_size(group)


def add_shard_size(group: argparse._ArgumentGroup, default: float | None = PlanConfig.shard_mib) -> None:
    """The flag that decides what a worker's disk must hold; without a default it is the dataset's."""
    size = f"size of a shard (default: {_or_the_datasets(default)})"
    group.add_argument("--shard_mib", type=float, default=default, metavar="MIB", help=size)


def _or_the_datasets(default: float | str | None) -> str:
    return "the dataset's" if default is None else f"{default:g}" if isinstance(default, float) else default


def add_local(group: argparse._ArgumentGroup) -> None:
    """Flags that say where it is computed."""
    group.add_argument("--runner", help="Beam runner (default: this machine)")
    group.add_argument("--direct_num_workers", type=int, metavar="P", help="processes here (default: 0, all cores)")
    modes = ("in_memory", "multi_threading", "multi_processing")
    group.add_argument("--direct_running_mode", choices=modes, help="default: processes, for one worker in memory")
