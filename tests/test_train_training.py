"""Training of the example: what it learns, and that a run that was killed goes on as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_dataset
import training
from encoder import Encoder, EncoderError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import Settings, read_steps, train

from ge2e_transforms import BatchLoader
from ge2e_transforms.errors import ConfigError

EXAMPLE = Path(training.__file__).parent
SMALL = Settings(
    steps=9,
    speakers_per_batch=6,
    utterances_per_speaker=3,
    crop_frames=30,
    units=16,
    embedding=8,
    layers=1,
    checkpoint_every=2,
    seed=3,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Speakers who differ in their mean spectrum and in nothing else."""
    draws = np.random.default_rng(0)

    def speaker():
        mean = draws.normal(-3, 1, 40)
        return [[(mean + draws.normal(0, 0.5, (90, 40))).astype(np.float32)] for _ in range(4)]

    splits = {"train": {f"test/train{number}": speaker() for number in range(10)}}
    return small_dataset.write_dataset(tmp_path_factory.mktemp("training") / "features", splits)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """(folder, steps) of a run to its end."""
    output = tmp_path_factory.mktemp("run")
    return output, list(train(dataset, output, SMALL))


KILLED = """
import json, os, signal, sys
sys.path[:0] = [sys.argv[1]]
from training import Settings, train
for step in train(sys.argv[2], sys.argv[3], Settings(**json.loads(sys.argv[4]))):
    if step.number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_goes_on_with_the_same_losses_and_ends_in_the_same_encoder(dataset, undisturbed, tmp_path):
    """Killed in another process at step 5, whose last checkpoint is of step 4."""
    output, steps = undisturbed
    settings = json.dumps(json.loads((output / "training.json").read_text())["trained"]["settings"])
    program = [sys.executable, "-c", KILLED, str(EXAMPLE), str(dataset), str(tmp_path), settings]
    killed = subprocess.run(program, cwd=EXAMPLE.parent.parent, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "encoder.json").exists()
    resumed = list(train(dataset, tmp_path, SMALL))
    assert [step.number for step in resumed] == [5, 6, 7, 8, 9]
    assert [step.loss for step in resumed] == [step.loss for step in steps[4:]]
    assert [step.loss for step in read_steps(tmp_path)] == [step.loss for step in steps]
    crop = np.random.default_rng(1).normal(-3, 1, (30, 40)).astype(np.float32)
    np.testing.assert_array_equal(Encoder.load(tmp_path).embed(crop), Encoder.load(output).embed(crop))


def test_crops_are_new_in_every_epoch(dataset):
    batches = SMALL.loader(dataset).batches(epochs=2)
    seen = [crop.tobytes() for examples, _ in batches for crop in examples]
    assert len(seen) > 60 and len(set(seen)) == len(seen)


def test_it_learns(dataset, tmp_path):
    settings = replace(SMALL, steps=60, learning_rate=0.01)
    losses = [step.loss for step in train(dataset, tmp_path, settings)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_what_was_done_is_kept(dataset, undisturbed):
    output, steps = undisturbed
    about = Encoder.load(output).about
    metadata = BatchLoader(dataset).get_metadata()
    assert about.fingerprint == metadata["fingerprint"] and about.recipe == metadata["recipe"]
    assert (about.normalize, about.crop_frames, about.embedding, about.threshold) == ("dataset", 30, 8, None)
    assert about.trained["settings"]["learning_rate"] == SMALL.learning_rate
    network = Encoder.load(output).network
    assert np.allclose(network.get_layer("normalize").mean, metadata["statistics"]["mean"])
    logs = EventAccumulator(str(output / "logs"), size_guidance={"tensors": 0}).Reload()
    logged = [float(np.frombuffer(event.tensor_proto.tensor_content, np.float32)[0]) for event in logs.Tensors("loss")]
    assert logged == [np.float32(step.loss) for step in steps]
    assert {"scale", "offset", "learning_rate", "share_of_waiting"} <= set(logs.Tags()["tensors"])
    assert f"{output}: 9 steps in" in training.summary(output)


def test_a_run_that_has_ended_is_left_as_it_is(dataset, undisturbed):
    """It may hold a threshold by now."""
    output, _ = undisturbed
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert list(train(dataset, output, SMALL)) == []
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before


def test_a_run_of_other_settings_is_not_gone_on_with(dataset, undisturbed):
    output, _ = undisturbed
    other = Settings(**{**vars(SMALL), "learning_rate": 0.5})
    with pytest.raises(EncoderError, match=r"holds a run of other settings: learning_rate=0.5 \(was 0.003\)"):
        list(train(dataset, output, other))


def test_a_run_of_another_dataset_is_not_gone_on_with(undisturbed, tmp_path):
    splits = {"train": small_dataset.speakers("train", 8, 0, 4)}
    recipe = small_dataset.DEFAULT.replace(dtype="float16")
    other = small_dataset.write_dataset(tmp_path / "features", splits, recipe)
    with pytest.raises(EncoderError, match="other settings: fingerprint, recipe"):
        list(train(other, undisturbed[0], SMALL))


def test_waveforms_are_no_features_to_train_on(tmp_path):
    raw = small_dataset.write_dataset(
        tmp_path / "raw", {"train": small_dataset.raw_speakers("s", 6)}, small_dataset.RAW
    )
    settings = Settings(**{**vars(SMALL), "equalizer_db": (0.0, 0.0), "gain_db": (0.0, 0.0), "crop_frames": 4800})
    with pytest.raises(EncoderError, match="expected log-mels or MFCCs, got features 'raw'"):
        list(train(raw, tmp_path / "run", settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", 0, "an integer from 1"),
        ("utterances_per_speaker", 1, "an integer from 2"),
        ("learning_rate", 0.0, r"a number in \(0, 1\]"),
        ("loss", "triplet", "one of softmax, contrast"),
        ("normalize", "utterance", "one of none, dataset, crop"),
        ("checkpoint_every", 2.5, "an integer from 1"),
    ],
)
def test_settings_that_cannot_be_used_are_told(field, value, expected):
    with pytest.raises(ConfigError, match=f"{field}=.* cannot be used: expected {expected}"):
        Settings(**{field: value})


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    (tmp_path / "steps.csv").write_text("number,loss,waited_s,trained_s\r\n1,0.5,0.1,0.2\r\n2,0.25")
    assert read_steps(tmp_path) == [training.Step(1, 0.5, 0.1, 0.2)]
