"""Flags of the commands that run a job to the configs of the stages, and what of them is Beam's.

Units stand in the names of fields. It must not know what a stage does with its config.
"""

from __future__ import annotations

import argparse
import logging
import os
import uuid
from dataclasses import dataclass
from typing import Any

from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems as FileSystems  # its import brings those that are installed
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions, StandardOptions

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import PRESETS, Recipe, parse_setting
from ge2e_transforms.errors import ConfigError, SchemeError
from ge2e_transforms.places import check_scheme
from ge2e_transforms.splits import PlanConfig
from pipeline import storage
from pipeline.augment_file import read_augmentation
from pipeline.flags import MAX_REJECTED, SPEAKERS_PER_BATCH, UTTERANCES_PER_SPEAKER

LOCAL_RUNNER = "FnApiRunner"
# Begins the token of a job that is written as a template: a verdict of one launch would fail the next ones.
TEMPLATE = "template-"
# Their job servers know options of their own, which Beam asks them for when the job is submitted.
_JOB_SERVERS = ("flinkrunner", "sparkrunner", "portablerunner")
_BEAM_FLAGS = ("runner", "direct_num_workers", "direct_running_mode")


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
        augmentation: what is written beside the utterances.
        isolate_decoder: recordings are decoded in a child process from the start; the bytes are the same.
        token: names this submission, for its verdict; begins with `TEMPLATE` where nobody waits for one.
    """

    manifests: tuple[str, ...]
    output: str
    recipe: Recipe
    plan: PlanConfig
    max_rejected: float = MAX_REJECTED
    speakers_per_batch: int = SPEAKERS_PER_BATCH
    utterances_per_speaker: int = UTTERANCES_PER_SPEAKER
    overwrite: bool = False
    kind: str = "run"
    pseudonym_key: str = ""
    allow_outside: bool = False
    allow_schemes: tuple[str, ...] = ()
    isolate_decoder: bool = False
    augmentation: Augmentation | None = None
    token: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"max_rejected={self.max_rejected!r} cannot be used: expected a fraction in [0, 1]")
        if self.speakers_per_batch < 2 or self.utterances_per_speaker < 1:
            raise ConfigError(
                f"speakers_per_batch={self.speakers_per_batch}, utterances_per_speaker={self.utterances_per_speaker} "
                "cannot be used: expected at least 2 speakers and 1 utterance"
            )
        if self.augmentation:
            self.augmentation.check_rate(self.recipe.audio.sample_rate_hz)
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
        augmentation=augmentation_of(args),
        token=new_token(),
    )


def new_token() -> str:
    """A name for one submission, unlike that of any other."""
    return uuid.uuid4().hex[:16]


def augmentation_of(args: argparse.Namespace) -> Augmentation | None:
    """The config that `--augment` names; None without it."""
    return read_augmentation(absolute("--augment", args.augment)) if args.augment else None


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


def local_processes(beam_options: PipelineOptions) -> int | None:
    """Worker processes of a job on this machine; None where another runner sees to that."""
    if beam_options.view_as(StandardOptions).runner != LOCAL_RUNNER:
        return None
    direct = beam_options.view_as(DirectOptions)
    return direct.direct_num_workers if direct.direct_running_mode == "multi_processing" else 1


def has_job_server(beam_options: PipelineOptions) -> bool:
    return _runner_name(beam_options.view_as(StandardOptions).runner or LOCAL_RUNNER) in _JOB_SERVERS


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
