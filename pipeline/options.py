"""Flags of `ge2e run` <-> the configs of the stages, and what of them is Beam's."""

from __future__ import annotations

import argparse
import logging
import os
import uuid
from dataclasses import dataclass
from typing import Any

from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems as FileSystems  # its import brings those that are installed
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from ge2e_transforms.config import PRESETS, Recipe, parse_setting
from ge2e_transforms.errors import ConfigError, SchemeError
from ge2e_transforms.places import check_scheme
from ge2e_transforms.splits import PlanConfig
from pipeline import storage

LOCAL_RUNNER = "FnApiRunner"
# Begins the token of a job that is written as a template: a verdict of one launch would fail the next ones.
TEMPLATE = "template-"
# Their job servers know options of their own, which Beam asks them for when the job is submitted.
_JOB_SERVERS = ("flinkrunner", "sparkrunner", "portablerunner")
_BEAM_FLAGS = ("runner", "direct_num_workers", "direct_running_mode")
_EPILOG = """examples:
  ge2e run --manifest manifest.csv --output features
  ge2e run --manifest 'lists/*.csv.gz' --output features --test_speakers 40 --set n_mels=64
  ge2e run --manifest gs://bucket/manifest.csv --output gs://bucket/features -- \\
      --runner=DataflowRunner --project=P --region=R --temp_location=gs://bucket/tmp --setup_file=./setup.py
  ge2e run --manifest /shared/manifest.csv --output /shared/features -- \\
      --runner=FlinkRunner --flink_version=1.19 --flink_master=localhost:8081

All after -- goes to Beam as it is. Without a runner the job runs on all cores of this machine.
"""


@dataclass(frozen=True)
class JobConfig:
    """One job: what to read, where to write, and all that decides the dataset.

    Attributes:
        manifests: paths or globs.
        output: folder of the dataset.
        recipe, plan: what decides the bytes.
        max_rejected: fraction of rejected rows above which nothing is published.
        speakers_per_batch, utterances_per_speaker: N and M that the metadata proposes to the loader.
        overwrite: a dataset of another generation in `output` is replaced.
        kind: 'run'; 'add' to the dataset in `output`, or 'retry' rows that it rejected.
        pseudonym_key: file of the key with which ids are replaced; empty where they are written as they are.
        allow_outside, allow_schemes: which rows may be opened; see `places.permitted`.
        isolate_decoder: recordings are decoded in a child process from the start; the bytes are the same.
        token: names this submission, for its verdict; begins with `TEMPLATE` where nobody waits for one.
    """

    manifests: tuple[str, ...]
    output: str
    recipe: Recipe
    plan: PlanConfig
    max_rejected: float = 0.05
    speakers_per_batch: int = 8
    utterances_per_speaker: int = 4
    overwrite: bool = False
    kind: str = "run"
    pseudonym_key: str = ""
    allow_outside: bool = False
    allow_schemes: tuple[str, ...] = ()
    isolate_decoder: bool = False
    token: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"max_rejected={self.max_rejected!r} cannot be used: expected a fraction in [0, 1]")
        if self.speakers_per_batch < 2 or self.utterances_per_speaker < 1:
            raise ConfigError(
                f"speakers_per_batch={self.speakers_per_batch}, utterances_per_speaker={self.utterances_per_speaker} "
                "cannot be used: expected at least 2 speakers and 1 utterance"
            )
        _check_schemes(self.manifests, self.allow_schemes)


def _check_schemes(manifests: tuple[str, ...], allow_schemes: tuple[str, ...]) -> None:
    readable = {system.scheme() for system in FileSystem.get_all_subclasses()} - {None}
    for scheme in allow_schemes:
        if scheme not in readable:
            raise ConfigError(
                f"--allow_scheme {scheme} cannot be used: Apache Beam reads from {', '.join(sorted(readable))} here; "
                "give a scheme without '://', and install the extra of Beam that brings it"
            )
    try:
        for path in manifests:
            check_scheme(path, allow_schemes)
    except SchemeError as error:
        raise ConfigError(f"--manifest {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `ge2e run`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    _add_job(parser)
    add_places(parser.add_argument_group("what manifests may name"))
    add_recipe(parser.add_argument_group("recipe"))
    _add_plan(parser.add_argument_group("splits and shards"))
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
    parser.add_argument("--speakers_per_batch", type=int, default=8, metavar="N", help=f"N {batch}")
    parser.add_argument("--utterances_per_speaker", type=int, default=4, metavar="M", help=f"M {batch}")


def add_max_rejected(parser: argparse.ArgumentParser) -> None:
    """The flag that says how much may be wrong."""
    limit = "publish nothing if more than this fraction of the rows is rejected (default: %(default)g)"
    parser.add_argument("--max_rejected", type=float, default=0.05, metavar="F", help=limit)


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


def add_recipe(group: argparse._ArgumentGroup) -> None:
    """Flags that say what is computed."""
    start = "recipe to start from (default: %(default)s)"
    group.add_argument("--preset", choices=sorted(PRESETS), default="ge2e", help=start)
    form = "whole utterances, or fixed windows (default: the preset's)"
    group.add_argument("--segments", choices=("utterance", "windows"), help=form)
    group.add_argument("--features", choices=("logmel", "mfcc", "raw"), help="default: the preset's")
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


def add_shard_size(group: argparse._ArgumentGroup) -> None:
    """The flag that decides what a worker's disk must hold."""
    size = "size of a shard (default: %(default)g)"
    group.add_argument("--shard_mib", type=float, default=PlanConfig.shard_mib, metavar="MIB", help=size)


def add_local(group: argparse._ArgumentGroup) -> None:
    """Flags that say where it is computed."""
    group.add_argument("--runner", help="Beam runner (default: this machine)")
    group.add_argument("--direct_num_workers", type=int, metavar="P", help="processes here (default: 0, all cores)")
    modes = ("in_memory", "multi_threading", "multi_processing")
    group.add_argument("--direct_running_mode", choices=modes, help="default: processes, for one worker in memory")


def job_config(args: argparse.Namespace) -> JobConfig:
    """The job that parsed flags describe; ConfigError says which value is wrong."""
    plan = PlanConfig(**{name: getattr(args, name) for name in PlanConfig.__dataclass_fields__ if hasattr(args, name)})
    return JobConfig(
        manifests=tuple(absolute("--manifest", path) for path in args.manifest),
        output=absolute("--output", args.output),
        recipe=chosen_recipe(args),
        plan=plan,
        max_rejected=args.max_rejected,
        speakers_per_batch=args.speakers_per_batch,
        utterances_per_speaker=args.utterances_per_speaker,
        overwrite=args.overwrite,
        pseudonym_key=key_file(args),
        allow_outside=args.allow_outside,
        allow_schemes=tuple(args.allow_schemes),
        isolate_decoder=args.isolate_decoder,
        token=uuid.uuid4().hex[:16],
    )


def key_file(args: argparse.Namespace) -> str:
    """The file of `--pseudonymize`; empty without it."""
    return absolute("--pseudonymize", args.pseudonymize) if args.pseudonymize else ""


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of the flags of `add_recipe`."""
    names = ("segments", "features", "dtype")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name))}
    given.update(dict(map(parse_setting, args.settings)))
    recipe = PRESETS[args.preset].replace(**given)
    if "dtype" in given and recipe.feature.features == "raw":
        raise ConfigError(f"dtype={given['dtype']!r} cannot be used with features='raw': raw samples are PCM16 always")
    return recipe


def absolute(flag: str, path: str) -> str:
    """Workers may stand in another folder than the program; one place has one spelling."""
    if not path:
        raise ConfigError(f"{flag} is empty: expected a path (an unset shell variable?)")
    return os.path.abspath(path) if storage.is_local(path) else path  # noqa: PTH100 (Path keeps '..')


def beam_options(args: argparse.Namespace, beam_arguments: list[str]) -> PipelineOptions:
    """Beam's options: ours that are Beam's too, then all that followed `--`.

    Without a runner, and for `DirectRunner`, the job runs on FnApiRunner: Beam's own choice behind the name
    DirectRunner may be Prism, which then ignores the number of workers.

    Raises:
        ConfigError: an option that Beam does not know.
    """
    own = [f"--{name}={value}" for name in _BEAM_FLAGS if (value := getattr(args, name)) is not None]
    choice, rest = _choice_parser().parse_known_args([*own, *beam_arguments])
    name = _runner_name(choice.runner or LOCAL_RUNNER)
    if name == "directrunner":
        logging.getLogger(__name__).info("DirectRunner: running on Beam's %s", LOCAL_RUNNER)
    if name in ("directrunner", LOCAL_RUNNER.lower()):
        choice.runner = LOCAL_RUNNER
        if (choice.direct_num_workers or 0) < 0:
            raise ConfigError(f"--direct_num_workers={choice.direct_num_workers}: expected 0 (all cores) or more")
        choice.direct_num_workers = choice.direct_num_workers or os.cpu_count() or 1
        # One worker needs no process of its own.
        default_mode = "in_memory" if choice.direct_num_workers == 1 else "multi_processing"
        choice.direct_running_mode = choice.direct_running_mode or default_mode
    flags = [f"--{name}={value}" for name, value in vars(choice).items() if value is not None] + rest
    if name in _JOB_SERVERS:
        logging.getLogger(PipelineOptions.__module__).addFilter(_is_no_guess)
    else:
        _refuse_unknown(flags)
    options = PipelineOptions(flags)
    setup = options.view_as(SetupOptions)
    setup.save_main_session = False
    setup.setup_file = _setup_file(setup.setup_file)
    return options


def _setup_file(path: str | None) -> str | None:
    """Beam changes to the file's folder to build the package, and fails where the path names none."""
    if path is None:
        return None
    if not os.path.isfile(path):  # noqa: PTH113 (as Beam looks)
        raise ConfigError(f"--setup_file={path}: no such file: expected setup.py of this project")
    return os.path.abspath(path)  # noqa: PTH100


def runs_on_dataflow(beam_options: PipelineOptions) -> bool:
    return _runner_name(beam_options.view_as(StandardOptions).runner or LOCAL_RUNNER) == "dataflowrunner"


def _choice_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner")
    parser.add_argument("--direct_num_workers", type=int)
    parser.add_argument("--direct_running_mode")
    return parser


def _runner_name(runner: str) -> str:
    """A runner's name as Beam compares it: in lower case, with or without 'Runner' at its end."""
    name = runner.lower().removesuffix("runner") + "runner"
    if "." not in runner and name not in map(str.lower, StandardOptions.KNOWN_RUNNER_NAMES):
        known = ", ".join(StandardOptions.KNOWN_RUNNER_NAMES)
        raise ConfigError(f"--runner={runner}: expected the full name of a class, or one of {known}")
    return name


def _is_no_guess(record: logging.LogRecord) -> bool:
    """Beam warns of what only a job server knows, and once more on submission, of what that does not know either."""
    return not record.getMessage().startswith("Unparseable argument")


def _refuse_unknown(flags: list[str]) -> None:
    """Beam only warns of a flag that it does not know; a misspelt one would go unnoticed."""
    unknown = unknown_flags(flags)
    if unknown:
        raise ConfigError(f"Beam knows no option {' '.join(unknown)}: see the options of the runner you chose")


def unknown_flags(flags: list[str]) -> list[str]:
    """Those of some flags that are no options of Beam."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option_class in PipelineOptions.__subclasses__():
        try:
            option_class._add_argparse_args(parser)
        except argparse.ArgumentError:
            continue
    return parser.parse_known_args(flags)[1]
