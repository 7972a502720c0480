"""The program `ge2e`: what its commands print, and its exit status."""

from __future__ import annotations

import ast
import functools
import importlib
import logging
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synth
from jobs import ge2e, metadata_of, run_command, run_here, write_rows
from small_dataset import write_metadata

from ge2e_transforms import __version__
from ge2e_transforms.corpus_kinds import list_options
from ge2e_transforms.splits import PlanConfig
from pipeline import __main__ as program
from pipeline import options
from pipeline.commands import inspect as inspect_module
from pipeline.commands import manifest_kinds


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = synth.small_corpus(tmp_path_factory.mktemp("corpus"), speakers=10, utterances=2, seconds=1.5)
    with found.open("a", newline="") as file:
        file.write("gone.wav,spk00,synth,s0\r\n")
    return found


@pytest.fixture(scope="module")
def dataset(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "out [bold]"  # no markup
    run_here(manifest, out, "--test_speakers=2")
    return out


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "copy")
    return tmp_path / "copy"


def test_run_prints_what_came_in_and_what_became_of_it(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out [bold]"  # no markup
    status, text, errors = ge2e(
        capsys, "run", "--manifest", manifest, "--output", out, "--direct_num_workers=1", "--test_speakers=2"
    )
    assert (status, errors) == (0, "")
    generation = metadata_of(out)["generation"]
    assert f"dataset    {out} (generation {generation})\n" in text
    assert "rows in    21\n" in text
    assert re.search(r"^written    20 utterances, \d+\.\d s of speech in features$", text, re.MULTILINE)
    assert "filtered   0\n" in text
    assert "rejected   1 (missing 1)\n" in text
    assert re.search(r"train │ +8 │ +16 │ +16 │ +\d+\.\d │ +8 ", text)
    assert re.search(r"test +│ +2 │ +4 │ +4 │ +\d+\.\d │ +2 ", text)
    assert re.search(r"^wall time  \d+\.\d s, \d+ x real time$", text, re.MULTILINE)
    assert "warning: split 'test' has 2 speakers, fewer than the 8 of a batch: the loader will use 2 there" in text
    assert "'train'" not in text


def test_run_helps_and_refuses_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ge2e(capsys, "run", "--help")
    assert status == 0
    assert "--max_rejected" in text
    assert "ge2e run --manifest manifest.csv --output features" in text
    for arguments in ([], ["--manifest", "m.csv"], ["--manifest", "m.csv", "--output", "o", "--bogus"]):
        status, _, errors = ge2e(capsys, "run", *arguments)
        assert status == 2
        assert "ge2e run: error:" in errors


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["verify"], ["inspect"], ["inspect", "a", "b"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, *arguments)
    assert status == 2
    assert "usage: ge2e" in errors


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ge2e(capsys, "--version") == (0, f"ge2e {__version__}\n", "")


def test_inspect(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, "inspect", dataset)
    metadata = metadata_of(dataset)
    assert (status, errors) == (0, "")
    for line in (
        f"dataset      {dataset} (generation {metadata['generation']})",
        "sources      synth",
        "features     logmel [40, 121] float32, stored as utterance",
        "batches      8 speakers x 4",
        "rows         21, written 20",
        "filtered     none",
        "rejected     {'missing': 1}",
        f"fingerprint  {metadata['fingerprint']}",
        "warning: split 'test' has 2 speakers, fewer than the 8 of a batch: the loader will use 2 there",
    ):
        assert f"{line}\n" in text
    assert re.search(r"train │ +8 │ +16 │ +16 │", text)


def test_inspect_of_metadata_without_its_counts_is_an_error(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was a KeyError."""
    metadata = metadata_of(copied)
    del metadata["counts"], metadata["splits"]["test"]["seconds"]
    write_metadata(copied, metadata)
    status, text, errors = ge2e(capsys, "inspect", copied)
    assert (status, text) == (1, "")
    assert errors.startswith(f"ge2e: DatasetError: {copied}/metadata.json: counts missing: the file is damaged")


@pytest.mark.parametrize("name", ["inspect", "verify"])
def test_a_folder_without_a_dataset_is_an_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, name, tmp_path / "nothing")
    assert (status, text) == (1, "")
    assert errors.startswith(
        f"ge2e: DatasetError: no complete dataset at {tmp_path}/nothing: the folder does not exist"
    )
    status, _, errors = ge2e(capsys, name, tmp_path)
    assert status == 1
    assert "it holds no metadata.json" in errors


def test_verify_says_what_it_read(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, "verify", dataset)
    assert (status, errors) == (0, "")
    lines = text.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"train: 8 shards, 16 records, \d+ bytes: ok", lines[0])
    assert re.fullmatch(r"test: 2 shards, 4 records, \d+ bytes: ok", lines[1])


def test_verify_digest_names_the_content_not_the_run(
    dataset: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(manifest, tmp_path / "other", "--test_speakers=2")
    run_here(manifest, tmp_path / "fewer", "--test_speakers=3")
    found = []
    for folder in (dataset, tmp_path / "other", tmp_path / "fewer"):
        status, text, _ = ge2e(capsys, "verify", folder, "--digest")
        assert status == 0
        match = re.search(r"^digest ([0-9a-f]{64})$", text, re.MULTILINE)
        assert match is not None
        found.append(match[1])
    assert found[0] == found[1] != found[2]
    status, text, _ = ge2e(capsys, "verify", dataset, "--against", tmp_path / "other")
    assert (status, text.splitlines()[-1]) == (0, f"equal to {tmp_path}/other to the byte")


def test_verify_against_allows_small_differences_only(
    dataset: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ge2e_transforms import features

    really = features.FeatureKernel.__call__
    for error, status in ((3e-5, 0), (3e-3, 1)):
        monkeypatch.setattr(
            features.FeatureKernel, "__call__", lambda self, samples, shift=error: really(self, samples) + shift
        )
        out = tmp_path / f"by {error}"
        run_here(manifest, out, "--test_speakers=2")
        found, text, _ = ge2e(capsys, "verify", out, "--against", dataset)
        assert found == status
        last = re.fullmatch(
            rf"largest difference from {re.escape(str(dataset))}: (\S+) \(allowed: 0\.0001\)", text.splitlines()[-1]
        )
        assert last is not None
        assert float(last[1]) == pytest.approx(error, rel=0.02)


def test_verify_against_another_recipe_is_an_error(
    dataset: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(manifest, tmp_path / "other", "--test_speakers=2", "--set", "n_mels=64")
    status, _, errors = ge2e(capsys, "verify", dataset, "--against", tmp_path / "other")
    assert status == 1
    assert "were made by different recipes" in errors


def test_verify_names_the_place_of_any_damage(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One byte changed, one cut off, or all gone, in a file of each kind."""
    metadata = metadata_of(copied)
    base = metadata["shards"]["test"][1]["base"]
    names = [f"{base}.tfrecord", f"{base}.index.parquet", metadata["splits"]["test"]["index"]["path"]]
    for name in (*names, metadata["speakers"]["path"], metadata["ledger"]["path"]):
        path = copied / name
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        status, _, errors = ge2e(capsys, "verify", copied)
        assert (status, path.name in errors) == (1, True), (name, errors)
        path.write_bytes(content[:-1])
        status, _, errors = ge2e(capsys, "verify", copied)
        assert (status, path.name in errors) == (1, True), (name, errors)
        path.unlink()
        status, _, errors = ge2e(capsys, "verify", copied)
        assert (status, path.name in errors) == (1, True), (name, errors)
        path.write_bytes(content)
    assert ge2e(capsys, "verify", copied)[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "--manifest", "m 1.csv", "--output", "o"), "the same command goes on where it stopped: ge2e run "),
        (("inspect", "features"), "ge2e: interrupted\n"),
        (
            ("download", "librispeech", "--subset=dev-clean", "-o", "x"),
            "interrupted; the same command goes on where it",
        ),
    ],
)
def test_an_interrupted_program_says_how_to_go_on(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    name = "librispeech" if words[0] == "download" else "command"
    monkeypatch.setattr(importlib.import_module(f"pipeline.commands.{words[0]}"), name, interrupted)
    status, _, errors = ge2e(capsys, *words)
    assert status == 130
    assert told in errors
    assert ("--manifest 'm 1.csv'" in errors) is (words[0] == "run")


def test_a_named_error_is_one_line_and_status_1(tmp_path: Path) -> None:
    """In a process of its own, where Beam's logging is what a user sees."""
    manifest = write_rows(tmp_path / "m.csv", [("gone.wav", "s1")])
    result = run_command("run", "--manifest", manifest, "--output", tmp_path / "out", "--direct_num_workers=1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("ge2e: CommitError: none of the 1 rows could be written")
    assert result.stderr.count("\n") == 1


def test_a_named_error_of_a_worker_process_comes_last(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "m.csv", [("gone.wav", "s1")])
    result = run_command("run", "--manifest", manifest, "--output", tmp_path / "out", "--direct_num_workers=2")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("ge2e: CommitError: none of the 1 rows could be written")


def test_a_bug_is_one_line_and_status_70_with_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise RuntimeError("Traceback of a runner\n  at some place\nthe last line says it\n")

    monkeypatch.setattr(inspect_module, "command", broken)
    status, _, errors = ge2e(capsys, "inspect", "features")
    assert status == 70
    assert errors.startswith("ge2e: RuntimeError: the last line says it. This error has no name here")
    assert errors.count("\n") == 1
    found = re.search(r" is in (\S+\.log) ", errors)
    assert found is not None
    assert "in broken" in Path(found[1]).read_text()
    Path(found[1]).unlink()
    with pytest.raises(RuntimeError, match="at some place"):
        program.main(["inspect", "features", "--debug"])


def test_debug_shows_where_a_named_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, "inspect", tmp_path, "--debug")
    assert status == 1
    assert "Traceback" in errors
    assert errors.splitlines()[-1].startswith("ge2e: DatasetError: ")
    assert "Traceback" not in ge2e(capsys, "inspect", tmp_path)[2]


def test_tracebacks_that_a_runner_logs_are_left_out() -> None:
    """In the message of a runner, or as what was raised; `--debug` shows both."""
    text = (
        "Error in bundle_1. Original traceback is\nTraceback (most recent call last):\n  somewhere\nValueError: a bug"
    )
    try:
        raise ValueError("a bug")
    except ValueError:
        raised = logging.LogRecord("worker", logging.ERROR, "", 0, "a bug [while running]", (), sys.exc_info())
    passed_on = logging.LogRecord("runner", logging.ERROR, "", 0, text, (), None)
    two_lines = logging.LogRecord("runner", logging.WARNING, "", 0, "one\ntwo", (), None)
    plain, full = program.Visible(), program.Visible(tracebacks=True)
    assert plain.format(raised) == "ERROR: a bug [while running]"
    assert plain.format(passed_on) == "ERROR: Error in bundle_1. Original traceback is"
    assert plain.format(two_lines) == "WARNING: one\ntwo"
    assert full.format(raised).endswith("ValueError: a bug")
    assert full.format(passed_on) == f"ERROR: {text}"


@pytest.mark.parametrize(("flags", "level"), [((), "WARNING"), (("-v",), "INFO"), (("--quiet",), "ERROR")])
def test_verbosity(
    flags: tuple[str, ...], level: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    monkeypatch.setattr(inspect_module, "command", lambda args: levels.append(logging.getLogger().level) or 0)
    before = logging.getLogger().level
    assert ge2e(capsys, "inspect", "features", *flags)[0] == 0
    assert levels == [getattr(logging, level)] or (not flags and levels == [before])
    assert logging.getLogger().level == before


def test_verbose_and_quiet_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e(capsys, "inspect", "features", "-v", "-q")
    assert status == 2
    assert "not allowed with argument" in errors


def test_a_quiet_run_says_nothing(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert ge2e(capsys, "run", "-q", "--manifest", manifest, "--output", out, "--direct_num_workers=1") == (0, "", "")
    assert metadata_of(out)["counts"]["written"] == 20


# Each command by itself.


def test_the_table_of_commands_is_complete() -> None:
    files = {path.stem for path in (Path(program.__file__).parent / "commands").glob("*.py")}
    shared = {"__init__", "dataset_summary", "extras", "grow", "manifest_kinds", "results", "terminal"}
    assert {name.replace("-", "_") for name in program.COMMANDS} == files - shared


LEAVES = {leaf.prog: leaf for leaf in program.leaves(program.make_parser(*program.COMMANDS))}


PIPELINE = Path(program.__file__).parent


@functools.cache
def imported(module: str) -> frozenset[str]:
    """Modules of the pipeline that a module of it imports, in functions, too."""
    nodes = ast.walk(ast.parse((PIPELINE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline")]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names} | {str(n.module) for n in froms}
    own = {name.removeprefix("pipeline.") for name in names}
    return frozenset(name for name in own if (PIPELINE / f"{name.replace('.', '/')}.py").is_file())


@functools.cache
def read_of_flags(module: str) -> frozenset[str]:
    """What a module reads of parsed flags: `args.name`, and names in functions that go by `getattr(args, ...)`."""
    read = set()
    for node in ast.walk(ast.parse((PIPELINE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "args":
            read.add(node.attr)
        if isinstance(node, ast.FunctionDef) and "getattr(args, " in ast.unparse(node):
            read |= {str(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
    return frozenset(read)


@pytest.mark.parametrize("name", LEAVES)
def test_every_flag_is_read_by_its_command(name: str) -> None:
    waiting, reached = {f"commands.{name.split()[1].replace('-', '_')}", "__main__"}, set()
    while waiting:
        reached |= waiting
        waiting = set().union(*map(imported, waiting)) - reached
    read = set().union(*map(read_of_flags, reached))
    if "options" in reached:  # by lists of names: what `test_options` tries each of
        read |= {*options._BEAM_FLAGS, *PlanConfig.__dataclass_fields__}
    if name.startswith("ge2e manifest "):  # by the function of the kind, which stands beside its scanner
        (rows,) = (kind.rows for kind in manifest_kinds.kinds() if kind.name == name.split()[2])
        read |= {*rows.__code__.co_names}
        read |= {*list_options.__code__.co_names} if "list_options" in read else set()
    assert {action.dest for action in LEAVES[name]._actions} - {"help"} <= read


@pytest.mark.parametrize("name", LEAVES)
def test_help_of_each_command_has_examples_that_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = LEAVES[name].format_help()
    lines = text.partition("examples:")[2].replace("\\\n", " ").splitlines()
    examples = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("ge2e ")]
    assert examples
    for words in examples:
        cut = next((place for place, word in enumerate(words) if word in ("--", ">", "|")), len(words))
        assert " ".join(words).startswith(name)
        with pytest.raises(SystemExit) as stopped:
            program.main([*words[1:cut], "--no-such-flag"])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.strip().endswith("unrecognized arguments: --no-such-flag")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_all_commands_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, errors = ge2e(capsys, "completion", shell)
    assert (status, errors) == (0, "")
    for word in (*program.COMMANDS, "--test_speakers", "--require_av", "librispeech"):
        assert word in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True).returncode == 0


def test_bash_completes_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "ge2e.bash"
    script.write_text(ge2e(capsys, "completion", "bash")[1])
    asked = 'COMP_WORDS=(ge2e run --test_sp); COMP_CWORD=2; _shtab_ge2e; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--test_speakers"]


def test_a_warning_of_a_worker_process_is_a_plain_line(tmp_path: Path) -> None:
    """It was the text of a protocol message, with a timestamp of its own."""
    manifest = synth.small_corpus(tmp_path / "corpus", speakers=2, utterances=1)
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{rows[0]},mood", *(f'{row},"so ""so"""' for row in rows[1:])]) + "\n")
    ended = run_command("run", "--manifest", manifest, "--output", tmp_path / "out", "--direct_num_workers=2")
    assert ended.returncode == 0
    # Where the job takes long, lines of progress stand there, too.
    told = [line for line in ended.stderr.splitlines() if not line.startswith("ge2e: ")]
    assert told == [f"WARNING: {manifest}: unknown columns left out: mood"]


def test_run_without_beam_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert program.main(["run", "--manifest", "m.csv", "--output", "out"]) == 1
    expected = "Apache Beam, which `ge2e run` needs, is not installed: pip install 'ge2e-features[beam]'"
    assert capsys.readouterr().err == f"ge2e: MissingExtraError: {expected}\n"


WITHOUT_BEAM = """
import sys
sys.modules["apache_beam"] = None
from pipeline.__main__ import COMMANDS, main, make_parser
make_parser(*COMMANDS)
root, page = sys.argv[1:]
for command in (["inspect", root], ["report", root, "-o", page], ["verify", root], ["audit", root], ["presets"]):
    assert main(command) == 0, command
planned = ["plan", "--manifest", "m", "--output", "o"]
for command in (planned, ["erase", root, "--speaker", "s"], ["clean", root], ["doctor"]):
    assert main(command) == 1, command
"""


def test_what_runs_no_job_needs_no_beam(dataset: Path, tmp_path: Path) -> None:
    """`ge2e report` ended with the name of a module."""
    words = [sys.executable, "-c", WITHOUT_BEAM, dataset, tmp_path / "page.html"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(program.__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert done.stderr.count("is not installed: pip install 'ge2e-features[beam]'") == 4
