"""Flags of `ge2e run` to the configs, and which of them are Beam's."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner
from jobs import job

from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.planning import PlanConfig
from pipeline import options
from pipeline.flags import add_run
from pipeline.options import JobConfig

REQUIRED = ["--manifest", "/m.csv", "--output", "/out"]


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_run(parser)
    return parser.parse_args([*REQUIRED, *flags])


def config(*flags: str) -> JobConfig:
    return options.job_config(parsed(*flags))


def beam_options(*flags: str, after: tuple[str, ...] = ()) -> PipelineOptions:
    return options.beam_options(parsed(*flags), list(after))


def chosen(made: PipelineOptions) -> tuple[str, int, str]:
    direct = made.view_as(DirectOptions)
    return made.view_as(StandardOptions).runner, direct.direct_num_workers, direct.direct_running_mode


def test_defaults() -> None:
    made = config()
    assert made.manifests == ("/m.csv",)
    assert made.output == "/out"
    assert made.recipe == PRESETS["ge2e"]
    assert made.plan == PlanConfig()
    assert made.plan.shard_mib == 128
    assert (made.max_rejected, made.speakers_per_batch, made.utterances_per_speaker) == (0.05, 8, 4)
    assert made.overwrite is False


def test_every_job_has_a_token_of_its_own() -> None:
    tokens = {config().token for _ in range(5)}
    assert len(tokens) == 5
    assert all(len(token) == 16 for token in tokens)


def test_all_flags_arrive() -> None:
    made = config(
        *("--preset", "seed", "--segments", "utterance", "--features", "mfcc", "--set", "n_mels=64"),
        *("--dtype", "float16"),
        *("--set", "f_max_hz=7600", "--set", "window=hamming", "--set", "channel=1", "--set", "level_dbfs=-26"),
        *("--test_speakers", "3", "--valid_fraction", "0.1", "--split_salt", "other", "--shard_mib", "0.5"),
        *("--max_rejected", "0.2", "--speakers_per_batch", "64", "--utterances_per_speaker", "10", "--overwrite"),
    )
    assert made.recipe == PRESETS["seed"].replace(
        segments="utterance",
        features="mfcc",
        dtype="float16",
        n_mels=64,
        f_max_hz=7600.0,
        window="hamming",
        channel=1,
        level_dbfs=-26.0,
    )
    assert made.plan == PlanConfig(test_speakers=3, valid_fraction=0.1, split_salt="other", shard_mib=0.5)
    assert (made.max_rejected, made.speakers_per_batch, made.utterances_per_speaker) == (0.2, 64, 10)
    assert made.overwrite is True


# Another value than the default for each flag, by the name of what is parsed.
OTHERS: dict[str, tuple[str, ...]] = {
    "manifest": ("--manifest", "/n.csv"),
    "output": ("--output", "/elsewhere"),
    "overwrite": ("--overwrite",),
    "max_rejected": ("--max_rejected", "0.2"),
    "isolate_decoder": ("--isolate_decoder",),
    "pseudonymize": ("--pseudonymize", "/key"),
    "augment": ("--augment", "augment.yaml"),
    "speakers_per_batch": ("--speakers_per_batch", "64"),
    "utterances_per_speaker": ("--utterances_per_speaker", "10"),
    "allow_outside": ("--allow_outside",),
    "allow_schemes": ("--allow_scheme", "hdfs"),
    "preset": ("--preset", "kaldi"),
    "segments": ("--segments", "windows"),
    "features": ("--features", "mfcc"),
    "dtype": ("--dtype", "float16"),
    "settings": ("--set", "n_mels=64"),
    "test_fraction": ("--test_fraction", "0.1"),
    "test_speakers": ("--test_speakers", "3"),
    "valid_fraction": ("--valid_fraction", "0.1"),
    "valid_speakers": ("--valid_speakers", "3"),
    "split_salt": ("--split_salt", "other"),
    "shard_mib": ("--shard_mib", "64"),
    "runner": ("--runner", "PrismRunner"),
    "direct_num_workers": ("--direct_num_workers", "1"),
    "direct_running_mode": ("--direct_running_mode", "multi_threading"),
}


def test_every_flag_has_another_value_to_try() -> None:
    assert OTHERS.keys() == vars(parsed()).keys()


@pytest.mark.parametrize("name", OTHERS)
def test_every_flag_changes_the_job(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "augment.yaml").write_text("speed: [0.9, 1.1]\n")
    monkeypatch.chdir(tmp_path)

    def made(*flags: str) -> tuple[JobConfig, dict[str, Any]]:
        return dataclasses.replace(config(*flags), token=""), beam_options(*flags).get_all_options()

    assert made(*OTHERS[name]) != made()


def test_every_field_of_a_job_is_read_by_a_stage() -> None:
    """A flag that only reaches the config would do nothing."""
    read = {
        node.attr
        for path in Path(options.__file__).parent.glob("*.py")
        if path.stem not in ("options", "main", "doctor", "dataflow")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("job", "self._job")
    }
    assert {field.name for field in dataclasses.fields(JobConfig)} <= read


def test_a_preset_keeps_its_own_form_unless_told() -> None:
    assert config("--preset", "seed").recipe.segment.segments == "windows"
    assert config("--preset", "ge2e").recipe.segment.segments == "utterance"
    assert config("--preset", "ge2e", "--segments", "windows").recipe.segment.segments == "windows"


def test_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = parsed("--manifest", "lists/*.csv.gz", "--manifest", "gs://bucket/m.csv")
    args.output = "out"
    made = options.job_config(args)
    assert made.manifests == ("/m.csv", f"{tmp_path}/lists/*.csv.gz", "gs://bucket/m.csv")
    assert made.output == f"{tmp_path}/out"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "n_mells=64"], "no recipe field is called 'n_mells'"),
        (["--set", "n_mels"], "--set 'n_mels' cannot be read: expected field=value"),
        (["--set", "n_mels=many"], "n_mels='many' cannot be used"),
        (["--set", "window_ms=40"], "window_ms=40.0 cannot be used: expected at most n_fft=512"),
        (["--features", "raw", "--dtype", "float32"], "dtype='float32' cannot be used with features='raw'"),
        (["--features", "raw", "--set", "dtype=float16"], "dtype, features, log=.* cannot be used: .* 'raw' is PCM16"),
        (["--max_rejected", "1.5"], "max_rejected=1.5 cannot be used: expected a fraction"),
        (["--max_rejected", "nan"], "max_rejected=nan cannot be used"),
        (["--max_rejected", "-0.1"], "max_rejected=-0.1 cannot be used"),
        (["--speakers_per_batch", "1"], "speakers_per_batch=1, .* cannot be used: expected at least 2 speakers"),
        (["--utterances_per_speaker", "0"], "utterances_per_speaker=0 cannot be used"),
        (["--shard_mib", "0"], "shard_mib=0.0 cannot be used"),
        (["--test_fraction", "1"], "test_fraction=1.0 cannot be used"),
        (["--test_fraction", "0.1", "--test_speakers", "2"], "give one of the two"),
        (["--test_fraction", "0.6", "--valid_fraction", "0.6"], "leave nothing to train on"),
    ],
)
def test_wrong_values_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*flags)


@pytest.mark.parametrize(
    "flags",
    [["--bogus"], ["--shard_mb", "3"], ["--preset", "none"], ["--overwrit"], ["--shard_mib", "big"]],
)
def test_unknown_flags_are_wrong_usage(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(*flags)
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_without_a_runner_all_cores_work_in_processes() -> None:
    cores = os.cpu_count() or 1
    mode = "in_memory" if cores == 1 else "multi_processing"
    assert chosen(beam_options()) == ("FnApiRunner", cores, mode)
    assert chosen(beam_options("--direct_num_workers", "0")) == ("FnApiRunner", cores, mode)


def test_one_worker_needs_no_process_of_its_own() -> None:
    assert chosen(beam_options("--direct_num_workers=1")) == ("FnApiRunner", 1, "in_memory")


def test_flags_of_the_local_runner_are_taken_before_and_after_the_dashes() -> None:
    expected = ("FnApiRunner", 3, "multi_threading")
    given = ("--runner=FnApiRunner", "--direct_num_workers=3", "--direct_running_mode=multi_threading")
    assert chosen(beam_options(*given)) == expected
    assert chosen(beam_options(after=given)) == expected
    assert chosen(beam_options("--direct_num_workers=7", after=given)) == expected


@pytest.mark.parametrize("name", ["DirectRunner", "directrunner", "Direct", "FnApiRunner", "fnapi"])
def test_the_direct_runner_is_fn_api_runner(name: str) -> None:
    made = beam_options("--runner", name, "--direct_num_workers=2")
    assert chosen(made) == ("FnApiRunner", 2, "multi_processing")
    assert type(create_runner(made.view_as(StandardOptions).runner)) is FnApiRunner


@pytest.mark.parametrize("name", ["PrismRunner", "FlinkRunner", "DataflowRunner", "BundleBasedDirectRunner"])
def test_other_runners_are_left_alone(name: str) -> None:
    made = beam_options("--runner", name)
    runner, workers, mode = chosen(made)
    assert (runner, workers) == (name, 1)  # Beam's own defaults
    assert mode == "in_memory"


def test_a_runner_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--runner=Spork: expected .* one of .*FlinkRunner"):
        beam_options("--runner=Spork")
    assert chosen(beam_options("--runner=some.package.Runner"))[0] == "some.package.Runner"


def test_flags_after_the_dashes_reach_beam() -> None:
    made = beam_options(
        "--runner=FlinkRunner",
        after=("--flink_version=1.19", "--flink_master=host:8081", "--parallelism", "4", "--job_name=features"),
    )
    found = made.get_all_options()
    assert (found["flink_version"], found["flink_master"]) == ("1.19", "host:8081")
    assert (found["parallelism"], found["job_name"]) == (4, "features")


@pytest.mark.parametrize("after", [["--bogus=1"], ["--direct_num_worker=2"], ["word"], ["--flink_masterr", "x"]])
def test_flags_that_beam_does_not_know_are_refused(after: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"Beam knows no option {after[0]}"):
        beam_options(after=tuple(after))


def test_flags_of_a_job_server_reach_it() -> None:
    """Python knows nothing of them, so they were refused as misspelt."""
    flag = "--execution_mode_for_batch=BATCH_FORCED"
    made = beam_options("--runner=FlinkRunner", after=(flag,))
    assert made.get_all_options(retain_unknown_options=True)["execution_mode_for_batch"] == "BATCH_FORCED"
    with pytest.raises(ConfigError, match="Beam knows no option --execution_mode"):
        beam_options(after=(flag,))


def test_flags_of_a_job_server_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    beam_options("--runner=FlinkRunner", after=("--execution_mode_for_batch=BATCH_FORCED", "--load_balance_bundles"))
    assert caplog.messages == []


def test_no_main_session_travels() -> None:
    made = beam_options(after=("--save_main_session",))
    assert made.view_as(SetupOptions).save_main_session is False


@pytest.mark.parametrize(
    "fields",
    [{"max_rejected": 2.0}, {"max_rejected": float("nan")}, {"speakers_per_batch": 1}, {"utterances_per_speaker": 0}],
)
def test_a_job_checks_its_numbers(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        job("/out", **fields)


def test_a_setup_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam changes to its folder, and to none for a bare name."""
    (tmp_path / "setup.py").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("setup.py", "./setup.py", str(tmp_path / "setup.py")):
        made = beam_options(after=(f"--setup_file={name}",))
        assert made.view_as(SetupOptions).setup_file == str(tmp_path / "setup.py")
    with pytest.raises(ConfigError, match=r"--setup_file=gone/setup.py: no such file: expected setup.py"):
        beam_options(after=("--setup_file=gone/setup.py",))
    assert beam_options().view_as(SetupOptions).setup_file is None
