"""The rules of the layout: who may import whom, what importing costs, and how long files and functions are."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import jobs
import pytest
from synth import small_corpus

from pipeline.commit import commit

ROOT = Path(__file__).parent.parent
# A file imports only from files before it in this list. A file that no other imports need not be in it.
ORDER = [
    "errors",
    "checks",
    "feature_kinds",
    "regular_files",
    "archive_index",
    "archives",
    "stages",
    "config",
    "schema",
    "augmentation",
    "rng",
    "runs",
    "augment",
    "utterance",
    "identity",
    "manifest_lines",
    "manifest_parquet",
    "manifest",
    "pattern_proposal",
    "tree_scan",
    "list_files",
    "corpus_kinds",
    "corpora",
    "tabled_corpora",
    "noise_corpora",
    "kaldi_lists",
    "toolkit_lists",
    "lhotse_lists",
    "containers",
    "codec_samples",
    "decoders",
    "audio",
    "headers",
    "isolated",
    "compiled",
    "sums",
    "frames",
    "voice",
    "levels",
    "filterbank",
    "spectrum",
    "features",
    "inversion",
    "extractor",
    "inference",
    "records",
    "licences",
    "facts",
    "data_card",
    "standing",
    "selection",
    "layout",
    "splits",
    "planning",
    "lengths",
    "row_chunks",
    "decoded",
    "mixing",
    "sounds",
    "copies",
    "shard_sums",
    "shards",
    "erasing",
    "selftest",
    "stores",
    "places",
    "read_ahead",
    "files",
    "shard_files",
    "metadata",
    "split_index",
    "dataset",
    "placing",
    "supply",
    "population",
    "parts",
    "dealing",
    "sampling",
    "coverage",
    "notes",
    "plans",
    "windows",
    "half_floats",
    "reading",
    "waveform_transform",
    "crop_features",
    "noise_crops",
    "mel_mixing",
    "mel_augment",
    "examples",
    "waveform_augment",
    "batch_workers",
    "utterance_rows",
    "whole",
    "trials",
    "stream",
    "loader_options",
    "torch_reader",
    "loader",
    "tf_reader",
    "digest",
    "verify_index",
    "verify",
    "verify_batches",
    "deny_list",
    "histogram",
    "treatments",
    "audit_contents",
    "audit",
    "samples",
    "suspects",
    "eligibility",
    "summary",
]
# Who may import what is heavy, or tied to one purpose.
ONLY = {
    "soundfile": {"decoders", "mixing"},
    "av": {"decoders"},
    "soxr": {"audio"},
    "xxhash": {"audio"},
    "scipy": {"feature_kinds", "features", "inversion", "mixing", "spectrum", "waveform_augment"},
    "librosa": {"inversion"},
    "numba": {"compiled"},
    "tensorflow": {"tf_reader"},
    "torch": {"torch_reader"},
    "apache_beam": set(),
    "google_crc32c": {"records"},
    "rich": set(),
    "tqdm": set(),
    "matplotlib": set(),
    "jinja2": set(),
}
# The same of the pipeline.
PIPELINE_ONLY = {"matplotlib": {"report_plots"}, "jinja2": {"report_page"}}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 40

LIBRARY = sorted((ROOT / "ge2e_transforms").glob("*.py"))
PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Full names of all that a file imports, also within functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(path):
    """Files of the library that a file imports from."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("ge2e_transforms.")}
    return names - {"__version__"}


def name_of(path):
    return str(path.relative_to(ROOT))


def test_the_list_holds_every_file_that_another_imports():
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) <= {path.stem for path in LIBRARY}
    assert set().union(*(own_modules(path) for path in LIBRARY if path.stem != "__init__")) <= set(ORDER)


@pytest.mark.parametrize("path", [path for path in LIBRARY if path.stem != "__init__"], ids=name_of)
def test_a_file_imports_only_from_files_above_it(path):
    """A file that is not in the list is imported by none that is, so it is above nothing."""
    allowed = set(ORDER[: ORDER.index(path.stem)]) if path.stem in ORDER else set(ORDER)
    assert own_modules(path) <= allowed


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_does_not_know_the_pipeline(path):
    assert not {name for name in imports(path) if name.split(".")[0] in ("pipeline", "tests")}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_special_libraries_are_imported_where_they_belong(path):
    used = {name.split(".")[0] for name in imports(path)}
    assert {library for library in used & set(ONLY) if path.stem not in ONLY[library]} == set()


@pytest.mark.parametrize("path", PIPELINE, ids=name_of)
def test_what_draws_and_writes_the_report_is_imported_where_it_belongs(path):
    used = {name.split(".")[0] for name in imports(path)}
    assert {library for library in used & set(PIPELINE_ONLY) if path.stem not in PIPELINE_ONLY[library]} == set()


@pytest.mark.parametrize("path", PIPELINE, ids=name_of)
def test_the_pipeline_handles_no_audio_and_no_tensors(path):
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & {"soundfile", "soxr", "av", "librosa", "scipy", "tensorflow", "torch"}
    assert "tests" not in used


def test_the_limits_are_looked_for_where_they_are():
    """A rule about something that nobody imports any more would say nothing."""
    used = {path.stem: {name.split(".")[0] for name in imports(path)} for path in LIBRARY}
    for library, files in ONLY.items():
        if library != "torch":
            assert all(library in used[name] for name in files), library
    assert any(name.startswith("apache_beam") for path in PIPELINE for name in imports(path))
    used = {path.stem: {name.split(".")[0] for name in imports(path)} for path in PIPELINE}
    assert all(library in used[name] for library, files in PIPELINE_ONLY.items() for name in files)


# What importing loads.

HEAVY = (
    "apache_beam",
    "av",
    "jinja2",
    "librosa",
    "matplotlib",
    "numba",
    "scipy",
    "soundfile",
    "soxr",
    "tensorflow",
    "torch",
)


def loaded_by(code):
    """Top-level packages in memory after a program of its own ran."""
    program = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_package_itself_loads_nothing():
    assert not loaded_by("import ge2e_transforms") & {*HEAVY, "numpy", "pyarrow"}


def test_reading_a_dataset_needs_numpy_pyarrow_and_the_checksum_only(tmp_path):
    manifest = small_corpus(tmp_path / "corpus", speakers=3, utterances=3, seconds=1.3)
    job = jobs.job(tmp_path / "dataset", manifest)
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    loaded = loaded_by(
        "from ge2e_transforms import BatchLoader\n"
        "from ge2e_transforms.dataset import Dataset\n"
        f"dataset = Dataset.open({str(tmp_path / 'dataset')!r})\n"
        "dataset.index('train'), dataset.speakers\n"
        f"loader = BatchLoader({str(tmp_path / 'dataset')!r}, speakers_per_batch=2, utterances_per_speaker=2)\n"
        "from ge2e_transforms import audit, verify\n"
        "verify.verify(dataset), audit.audit(dataset)\n"
    )
    assert {"numpy", "pyarrow"} <= loaded
    assert not loaded & set(HEAVY)


def test_an_extractor_needs_no_beam_and_no_tensorflow():
    loaded = loaded_by("from ge2e_transforms import PRESETS, FeatureExtractor\nFeatureExtractor(PRESETS['ge2e'])")
    assert not loaded & {"apache_beam", "tensorflow", "torch", "av", "pyarrow"}


# Files of the pipeline that need neither Beam nor what draws: so they say, and commands rely on it for a quick start.
WITHOUT_BEAM = (
    *("__main__", "conditional", "diagnosis", "disk", "download", "flags", "hygiene", "interrupt", "layers"),
    *("local_worker", "report_copies", "report_ledger", "report_page", "report_plots", "resources"),
    *("tables", "watchdog"),
)


def test_commands_and_what_is_pure_of_the_pipeline_load_no_beam():
    commands = [f"commands.{path.stem}" for path in (ROOT / "pipeline" / "commands").glob("*.py")]
    names = ", ".join(f"pipeline.{name}" for name in (*WITHOUT_BEAM, *commands) if not name.endswith("__init__"))
    assert not loaded_by(f"import {names}") & {"apache_beam", "jinja2", "librosa", "matplotlib", "tensorflow", "torch"}


# Nothing that is read becomes code, and reading asks nobody.

UNPICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
# Calls that run what they are given, or hand it to a shell.
RUNS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn", "commands.getoutput"}
RUNS |= {
    f"os.{name}{ending}" for name in ("exec", "spawn") for ending in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
}
RUNS |= {"subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"}


def called(path):
    """(name, call) of everything that a file calls, as it is written, without what it is a part of."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), call) for call in calls]


def given(call, name):
    """The text of a named argument, '' if it is not given."""
    return "".join(ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name)


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_nothing_is_unpickled(path):
    assert not {name.split(".")[0] for name in imports(path)} & UNPICKLES
    for name, call in called(path):
        where = f"{path}:{call.lineno}"
        assert not name.endswith(("torch.load", "read_pickle")), where
        if name in ("np.load", "numpy.load"):
            assert given(call, "allow_pickle") in ("", "False"), where


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_nothing_is_run_that_is_read_and_no_shell(path):
    names = {name for name in imports(path) if name.split(".")[0] in ("os", "subprocess", "pty", "asyncio")}
    assert not names & RUNS, "call it by its module, so that it is seen"
    for name, call in called(path):
        assert name not in RUNS and given(call, "shell") in ("", "False"), f"{path}:{call.lineno}: {name}"
        # Beam hands such a command to a shell; the crew's is the name of a crew, which no shell sees.
        assert not name.endswith("from_command_string") or name_of(path) == "pipeline/crew.py"


WATCHED = """
import socket, sys
seen = []
BAD = ("socket.", "pickle.", "os.system", "os.exec", "os.posix_spawn", "subprocess.", "urllib.", "http.")

def watch(event, arguments):
    if armed and event.startswith(BAD):
        seen.append((event, str(arguments)))

def refuse(*_):
    seen.append("socket")
    raise OSError("no network")

armed = False
sys.addaudithook(watch)
import numpy, pyarrow, pyarrow.dataset, pyarrow.parquet, google_crc32c
from ge2e_transforms import BatchLoader, verify
from ge2e_transforms.dataset import Dataset
from pipeline import __main__ as program
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
armed = True
root = sys.argv[1]
loader = BatchLoader(root, speakers_per_batch=2, utterances_per_speaker=2)
assert len(list(loader.batches())) > 0
loader.utterance("spk00/utt00.wav", "synth/spk00")
assert len(Dataset.open(root).speakers) == 3
verify.verify(Dataset.open(root))
for command in (["inspect", root], ["verify", root], ["verify-batches", root, "-n2", "-m2"]):
    assert program.main(command) == 0
armed = False
import os
sockets = []
for name in os.listdir("/proc/self/fd"):
    try:
        link = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # that of the list itself
        continue
    sockets += [link] * ("socket" in link)
print("seen", seen, sockets)
"""


def test_reading_a_dataset_opens_no_socket_unpickles_nothing_and_starts_nothing(tmp_path):
    manifest = small_corpus(tmp_path / "corpus", speakers=3, utterances=3, seconds=1.3)
    job = jobs.job(tmp_path / "dataset", manifest)
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, str(tmp_path / "dataset")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "seen [] []"


# Size.


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_files_are_short(path):
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= MAX_FILE_LINES


def code_lines(function):
    """Lines of a function that are code: no docstring, no comment, nothing blank."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    first = function.body[0].lineno
    rest = {number for node in body for inner in ast.walk(node) for number in _span(inner)}
    return len(rest | set(range(function.lineno, first)))


def _span(node):
    return range(node.lineno, node.end_lineno + 1) if isinstance(node, ast.stmt | ast.expr) and not _block(node) else ()


def _block(node):
    """Statements whose span holds other statements, and so comments and blank lines."""
    return hasattr(node, "body") and isinstance(node.body, list)


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_functions_are_short(path):
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: code_lines(f) for f in functions if code_lines(f) > MAX_FUNCTION_LINES}
    assert long == {}


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_files_say_first_what_they_are_for_and_what_they_must_not_know(path):
    assert ast.get_docstring(tree_of(path))
    first_lines = path.read_text(encoding="utf-8").partition("\nfrom __future__")[0]
    assert "must not" in " ".join(first_lines.split())


@pytest.mark.parametrize("path", LIBRARY + PIPELINE, ids=name_of)
def test_no_check_of_data_is_an_assertion_and_nothing_is_caught_blindly(path):
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}:{node.lineno}: bare except"
    if path in LIBRARY:
        assert not [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]


def test_every_file_has_its_tests():
    names = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    # Checks and stages are tested through config, decoders through audio, samples of codecs with selftest, digests with
    # verify; dealing and its coverage by what plans promise (sampling, parts), options by name with the loader; rows of
    # utterances with whole, indexes of archives with archives, Parquet with manifest; splits, layout and what stands
    # with planning and growth; what an audit keeps with the audit; facts with `ge2e inspect`, licences with the data
    # card, histograms with the summary; scans of trees with corpora, reading of lists with the lists of toolkits;
    # examples with the stream, and with what is done to them; kinds of corpora with `ge2e manifest`.
    without = {
        "errors",
        "checks",
        "stages",
        "archive_index",
        "manifest_parquet",
        "__init__",
        "codec_samples",
        "decoders",
        "digest",
        "dealing",
        "coverage",
        "loader_options",
        "examples",
        "utterance_rows",
        "layout",
        "splits",
        "standing",
        "audit_contents",
        "shard_sums",
        "levels",
        "verify_index",
        "facts",
        "licences",
        "histogram",
        "tree_scan",
        "list_files",
        "corpus_kinds",
    }
    assert {path.stem for path in LIBRARY if path.stem not in without and f"test_{path.stem}.py" not in names} == set()
