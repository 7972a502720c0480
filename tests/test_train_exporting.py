"""What the training example exports: the same embeddings in every form, and the recipe inside of each."""

from __future__ import annotations

import shutil

import exporting
import keras
import litert_model
import numpy as np
import pytest
import tensorflow as tf
from encoder import About, Encoder, EncoderError, Normalize, build_network, windows
from exporting import INT8_FILE, LITERT_FILE, SAVED_MODEL, export
from tensorflow.lite.python import schema_py_generated as schema
from verification import load_encoder

from ge2e_transforms import PRESETS, FeatureExtractor, features_of_file

FRAMES = {"ge2e": 30, "kaldi": 50}
NORMALIZE = {"ge2e": "crop", "kaldi": "dataset"}


def about_of(preset: str) -> About:
    recipe, trained = PRESETS[preset], {"steps": 0, "name": "Zoë"}
    return About(recipe.fingerprint(), recipe.to_dict(), NORMALIZE[preset], FRAMES[preset], 8, 0.625, trained)


def encoder_of(preset: str) -> Encoder:
    """Untrained, with biases that are not the zeros of the start: a wrong order of gates must show."""
    keras.utils.set_random_seed(0)
    bands = PRESETS[preset].n_bins
    numbers = (np.linspace(10, 14, bands).tolist(), np.linspace(2, 4, bands).tolist())
    layers, units, pooling = (2, 32, "mean") if preset == "ge2e" else (1, 8, "last")
    network = build_network(Normalize(NORMALIZE[preset], *numbers), bands, layers, units, 8, pooling)
    draws = np.random.default_rng(0)
    network.set_weights([weights + draws.normal(0, 0.2, weights.shape) for weights in network.get_weights()])
    return Encoder(network, about_of(preset))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of an encoder of each preset, and what was exported of it."""
    root = tmp_path_factory.mktemp("exported")
    found = {}
    for preset in FRAMES:
        encoder_of(preset).save(root / preset)
        found[preset] = export(root / preset, root / "out" / preset, quantize=preset == "ge2e")
    return root, found


@pytest.fixture(scope="module")
def loaded(exported):
    """The network of each preset, and its forms."""
    root, _ = exported
    places = {preset: [root / "out" / preset / name for name in (SAVED_MODEL, LITERT_FILE)] for preset in FRAMES}
    return {
        preset: (Encoder.load(root / preset), [load_encoder(place) for place in places[preset]]) for preset in FRAMES
    }


def features_like(preset: str, rows: int):
    centre = -3 if preset == "ge2e" else 12
    return np.random.default_rng(rows).normal(centre, 2, (rows, PRESETS[preset].n_bins)).astype(np.float32)


@pytest.mark.parametrize("preset", FRAMES)
def test_every_form_gives_the_embeddings_of_the_network(loaded, preset):
    """And gives them again: the state of the LSTM does not go from one window to the next."""
    encoder, forms = loaded[preset]
    for rows in (7, FRAMES[preset], 211):
        features = features_like(preset, rows)
        expected = encoder.embed(features)
        for form in (*forms, *forms):
            np.testing.assert_allclose(form.embed(features), expected, atol=2e-5)


def test_embeddings_of_speech_are_those_of_the_network(loaded, librispeech):
    """Less near than above where gates are nearly shut: the logistic function of LiteRT is an approximation."""
    speakers = sorted((librispeech / "test-other").iterdir())[:3]
    for preset, (encoder, forms) in loaded.items():
        extractor = FeatureExtractor(PRESETS[preset])
        for speaker in speakers:
            features = features_of_file(min(speaker.rglob("*.flac")), extractor)
            expected = encoder.embed(features)
            for form in forms:
                np.testing.assert_allclose(form.embed(features), expected, atol=2e-4)


def test_a_file_has_operations_that_microcontrollers_have(exported):
    """One for each LSTM, none of TensorFlow's own or of nobody's, and no loop."""
    root, found = exported
    content = (root / "out" / "ge2e" / LITERT_FILE).read_bytes()
    assert set(litert_model.operations(content)) == {
        *("ABS", "ADD", "DIV", "FULLY_CONNECTED", "GREATER", "MEAN", "MINIMUM", "MUL", "RSQRT", "SELECT_V2", "SQRT"),
        *("SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    }
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(graph.Operators(n).OpcodeIndex()) for n in range(graph.OperatorsLength())]
    lstm = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    assert sum(code.BuiltinCode() == lstm for code in codes) == 2
    assert model.SubgraphsLength() == 1
    assert all(form.operations == tuple(litert_model.operations(content)) for form in found["ge2e"].forms[1:2])


def test_the_state_must_be_reset_as_the_guide_says(exported):
    """A fused LSTM goes on from where it was: without the rule a window's embedding depends on the one before."""
    root, _ = exported
    interpreter = litert_model._interpreter((root / "out" / "ge2e" / LITERT_FILE).read_bytes())
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    window = features_like("ge2e", 30)[None]
    first, second = (run(features=window)["embedding"].copy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    interpreter.reset_all_variables()
    np.testing.assert_array_equal(run(features=window)["embedding"], first)


def test_what_it_was_trained_on_goes_with_each_form(exported, tmp_path):
    root, _ = exported
    for name in (SAVED_MODEL, LITERT_FILE, INT8_FILE):
        source, moved = root / "out" / "ge2e" / name, tmp_path / ("moved-" + name)
        shutil.copytree(source, moved) if source.is_dir() else shutil.copy(source, moved)
        assert load_encoder(moved).about == about_of("ge2e")


def test_the_report_says_what_was_written(exported):
    root, found = exported
    result = found["ge2e"]
    text = str(result)
    assert [form.name for form in result.forms] == [SAVED_MODEL, LITERT_FILE, INT8_FILE]
    assert f"encoder of recipe {PRESETS['ge2e'].fingerprint()[:12]}, compared on {result.compared} windows" in text
    saved, exact, rounded = result.forms
    for form in (exact, rounded):
        assert form.bytes == (result.folder / form.name).stat().st_size
        assert f"{form.name}: {form.bytes:,} bytes, embeddings differ by {form.difference:.1e}" in text
        assert f"  operations: {' '.join(form.operations)}" in text
    assert saved.cosine_error < 1e-6 and exact.cosine_error < 1e-6 < rounded.cosine_error < 0.05
    assert rounded.bytes < exact.bytes
    assert sorted(path.name for path in (root / "out").iterdir()) == sorted(FRAMES)
    assert [form.name for form in found["kaldi"].forms] == [SAVED_MODEL, LITERT_FILE]


def test_a_saved_model_says_it_all_without_this_project(exported, loaded):
    root, _ = exported
    found = tf.saved_model.load(str(root / "out" / "kaldi" / SAVED_MODEL))
    assert About.from_json(found.signatures["about"]()["about"].numpy(), "it") == about_of("kaldi")
    features = features_like("kaldi", 120).reshape(2, 60, 80)
    embeddings = found.signatures["embed"](features=features)["embedding"].numpy()
    np.testing.assert_allclose(embeddings, np.asarray(loaded["kaldi"][0].network(features)), atol=1e-6)


@pytest.fixture
def quick(monkeypatch):
    """An export that writes the names of its files into them; a test may let it fail after the first."""
    fails: list[Exception] = []

    def write(encoder, folder, quantize, compared):
        for name in (LITERT_FILE, INT8_FILE)[: 1 + quantize]:
            (folder / name).write_text(name)
            if fails:
                raise fails.pop()
        return ()

    monkeypatch.setattr(exporting, "_write", write)
    return fails


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_export_is_replaced_and_nothing_else(exported, tmp_path, quick):
    root, _ = exported
    output = tmp_path / "new" / "out"
    export(root / "kaldi", output, quantize=True)
    assert names(output) == {LITERT_FILE, INT8_FILE}
    export(root / "kaldi", output)
    assert names(output) == {LITERT_FILE}
    (output / "notes.txt").write_text("mine")
    with pytest.raises(EncoderError, match=r"an earlier export, got one that holds notes\.txt"):
        export(root / "kaldi", output)
    with pytest.raises(EncoderError, match="expected a folder, got a file"):
        export(root / "kaldi", output / "notes.txt")
    assert names(output) == {LITERT_FILE, "notes.txt"}


def test_an_export_that_fails_leaves_what_was_there(exported, tmp_path, quick):
    root, _ = exported
    output = tmp_path / "out"
    quick.append(OSError("full"))
    with pytest.raises(OSError, match="full"):
        export(root / "kaldi", output)
    assert names(tmp_path) == set()
    export(root / "kaldi", output)
    (output / LITERT_FILE).write_text("old")
    quick.append(OSError("full"))
    with pytest.raises(OSError, match="full"):
        export(root / "kaldi", output, quantize=True)
    assert (names(tmp_path), names(output)) == ({"out"}, {LITERT_FILE})
    assert (output / LITERT_FILE).read_text() == "old"


def test_a_form_of_another_network_is_refused(exported, loaded):
    """One file of float32 must give cosines of 1, however it came to be what it is."""
    root, _ = exported
    right = np.asarray(loaded["ge2e"][0].network(features_like("ge2e", 30)[None]))
    path = root / "out" / "ge2e" / LITERT_FILE
    assert exporting._form(path, right, right).cosine_error == pytest.approx(0, abs=1e-6)
    for wrong in (-right, np.roll(right, 1, axis=1), right * np.nan):
        with pytest.raises(
            EncoderError, match=r"encoder\.tflite does not compute what the network does: .* Nothing was"
        ):
            exporting._form(path, wrong, right)


def test_forms_are_compared_on_features_of_the_recipe():
    for preset, frames in FRAMES.items():
        found = exporting._windows_of(about_of(preset))
        assert found.shape[1:] == (frames, PRESETS[preset].n_bins) and len(found) > 20
        assert (found.std(axis=(0, 1)) > 0.1).all()
    fixed = np.zeros((4, 121, 40), np.float32)
    assert windows(fixed, 121) is fixed
