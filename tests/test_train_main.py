"""The program of the training example: its commands one after the other as its page has them, and its exit status."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path

import evaluation
import pytest
import training

EXAMPLE = Path(training.__file__).parent
SMALL = [
    "--steps",
    "4",
    "-n",
    "4",
    "-m",
    "2",
    "--layers",
    "1",
    "--units",
    "8",
    "--embedding",
    "8",
    "--crop_frames",
    "50",
]


@pytest.fixture(scope="module")
def main():
    """`main` of a file whose name every program has."""
    spec = importlib.util.spec_from_file_location("train_ge2e_main", EXAMPLE / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def trained(main, documents, tmp_path_factory):
    """An encoder of the dataset that documents speak of."""
    output = tmp_path_factory.mktemp("trained") / "encoder"
    assert main(["train", str(documents / "features"), "--output", str(output), *SMALL]) == 0
    return output


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_a_dataset_to_a_verdict(main, documents, trained, tmp_path, capsys):
    features, new = str(documents / "features"), str(documents / "new.wav")
    other = str(next((documents / "corpus").rglob("*.wav")))
    flags = ["--split", "test", "--no-cross_session", "--store_threshold"]
    assert main(["evaluate", str(trained), features, "--output", str(tmp_path / "evaluation"), *flags]) == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert "EER" in capsys.readouterr().out and 0 <= results["eer"] <= 1
    assert main(["export", str(trained), "--output", str(tmp_path / "exported")]) == 0
    capsys.readouterr()
    said = []
    for encoder in (trained, tmp_path / "exported" / "saved_model", tmp_path / "exported" / "encoder.tflite"):
        assert main(["verify", str(encoder), new, new, "--dataset", features]) == 0
        assert main(["verify", str(encoder), new, other, "--threshold", "1"]) == 1
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and "same" in said[0] and "different" in said[0]


def test_what_cannot_be_done_has_status_2_and_one_line(main, documents, trained, tmp_path, capsys):
    new = str(documents / "new.wav")
    assert main(["train", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")]) == 2
    assert "no complete dataset" in capsys.readouterr().err
    assert main(["train", str(documents / "features"), "--output", str(trained), *SMALL, "--seed", "7"]) == 2
    assert "seed=7 (was 0)" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), new, new]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2


def test_every_setting_has_its_flag(main):
    """And each flag of the page is one of the program."""
    text = (EXAMPLE / "__main__.py").read_text()
    for name in training.Settings.__dataclass_fields__:
        assert f'add("--{name}"' in text, name
    page = (EXAMPLE / "README.md").read_text()
    assert all(
        f'"{flag}"' in text for flag in re.findall(r"--[a-z][a-z_-]+", page) if flag not in ("--logdir", "--manifest")
    )


def test_defaults_of_flags_are_those_of_the_settings(main):
    """They stand twice: what a flag says must not wait for TensorFlow."""
    given = main.__globals__["parser"]().parse_args
    for words, settings in (
        (["train", "features", "--output", "o"], training.Settings()),
        (["evaluate", "encoder", "features", "--output", "o"], evaluation.Settings()),
    ):
        named = vars(given(words))
        assert {name: named[name] for name in vars(settings)} == vars(settings)


def test_every_flag_is_read_by_its_command(main):
    tree = ast.parse((EXAMPLE / "__main__.py").read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    (commands,) = main.__globals__["parser"]()._subparsers._group_actions
    assert commands.choices.keys() == {"train", "evaluate", "export", "verify"}
    for name, parser in commands.choices.items():
        nodes = [node for node in ast.walk(functions[name]) if isinstance(node, ast.Attribute)]
        read = {node.attr for node in nodes if ast.unparse(node.value) == "given"}
        settings = {"train": training.Settings, "evaluate": evaluation.Settings}.get(name)
        read |= getattr(settings, "__dataclass_fields__", {}).keys()
        assert {action.dest for action in parser._actions} - {"help"} <= read, name


def test_no_file_hides_a_package_that_others_import():
    """Python looks into its folder first. TensorFlow tries a package `litert`, whether it is there or not."""
    names = {path.stem for path in EXAMPLE.glob("*.py")}
    assert len(names) > 8
    assert not names & {"litert", *sys.stdlib_module_names, *importlib.metadata.packages_distributions()} - {"__main__"}
