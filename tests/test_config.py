"""Recipes: frame counts, strict dict form, fingerprints, every value that is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ge2e_transforms.config import (
    PRESETS,
    AudioConfig,
    FeatureConfig,
    LevelConfig,
    Recipe,
    SegmentConfig,
    VoiceConfig,
    canonical_json,
    n_frames,
    parse_setting,
)
from ge2e_transforms.errors import ConfigError

DEFAULT = Recipe()
UNCENTRED = DEFAULT.replace(center=False)
RAW = DEFAULT.replace(features="raw")
KALDI = PRESETS["kaldi"]


def test_frame_counts_are_pinned():
    assert n_frames(19200, DEFAULT) == 121  # 1.2 s at 16 kHz, hop 160
    assert [n_frames(n, DEFAULT) for n in (1, 159, 160, 161, 319, 320, 16000)] == [1, 1, 2, 2, 2, 3, 101]
    assert [n_frames(n, UNCENTRED) for n in (1, 511, 512, 671, 672, 19200)] == [0, 0, 1, 1, 2, 117]


def test_kaldis_frames_are_counted_by_the_window():
    lengths = (1, 399, 400, 559, 560, 16000, 19200, 32240)
    assert [n_frames(n, KALDI) for n in lengths] == [0, 0, 1, 1, 2, 98, 118, 200]
    assert KALDI.feature_shape == [80, 200]
    assert KALDI.replace(crop_ms=1200).feature_shape == [80, 118]
    assert (KALDI.frame_samples, KALDI.first_centre) == (400, 200)
    assert (UNCENTRED.frame_samples, UNCENTRED.first_centre) == (512, 256)
    assert DEFAULT.first_centre == 0
    assert KALDI.replace(crop_ms=25).crop_frames == 1


@pytest.mark.parametrize(
    ("recipe", "samples", "frames"),
    [("ge2e", 19200, 121), ("kaldi", 32240, 200), ("kaldi", 400, 1), ("uncentred", 19232, 118), ("raw", 19200, 19200)],
)
def test_seconds_are_those_of_the_samples_that_make_the_frames(recipe, samples, frames):
    recipe = {"uncentred": UNCENTRED, "raw": RAW, **PRESETS}[recipe]
    assert recipe.rows(samples) == frames
    assert recipe.seconds(frames, 1) == samples / 16000
    assert recipe.seconds(3 * frames, 3) == 3 * samples / 16000
    assert recipe.seconds(0, 0) == 0


@pytest.mark.parametrize("recipe", [DEFAULT, UNCENTRED])
def test_nothing_has_no_frames(recipe):
    assert n_frames(0, recipe) == 0
    assert n_frames(-5, recipe) == 0


@given(
    st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([64, 512, 1024]), st.booleans(), st.integers(0, 10**4)
)
def test_frames_are_the_frame_starts_that_fit(n, hop, n_fft, center, more):
    recipe = DEFAULT.replace(hop_ms=hop / 16, window_ms=64 / 16, n_fft=n_fft, center=center)
    assert recipe.hop_samples == hop
    padded = n + n_fft // 2 * 2 if center and n else n
    assert n_frames(n, recipe) == len(range(0, padded - n_fft + 1, hop))
    assert n_frames(n, recipe) <= n_frames(n + more, recipe) <= n_frames(n, recipe) + more // hop + 1


def test_raw_rows_are_samples():
    assert RAW.rows(19200) == 19200
    assert RAW.row_samples == 1
    assert RAW.feature_shape == [1, 19200]


def test_geometry_of_the_default_is_pinned():
    assert DEFAULT.feature_shape == [40, 121]
    assert (DEFAULT.window_samples, DEFAULT.hop_samples, DEFAULT.crop_samples) == (400, 160, 19200)
    assert (DEFAULT.n_bins, DEFAULT.row_samples, DEFAULT.crop_frames, DEFAULT.f_max_hz) == (40, 160, 121, 8000.0)
    assert DEFAULT.replace(features="mfcc").feature_shape == [20, 121]
    assert DEFAULT.replace(features="mfcc", n_mfcc=13).n_bins == 13
    assert DEFAULT.replace(f_max_hz=7600).f_max_hz == 7600.0
    assert UNCENTRED.feature_shape == [40, 117]


# A changed default makes other datasets than before; then this and the format's notes must change with it.
def test_fingerprints_of_the_presets_are_pinned():
    assert PRESETS["ge2e"].fingerprint() == "32e3889234e3ff2d1d068077be11b842013f0816d7109d1ee75b032119accba5"
    assert PRESETS["seed"].fingerprint() == "1765b5c321de8ed4cbaa3cfa3b2bfd5b34bef88419ff6b2e7628c8fa61941514"


def test_the_default_is_the_preset_ge2e_and_seed_differs_in_four_fields():
    assert PRESETS["ge2e"] == DEFAULT
    seed = DEFAULT.replace(remove_dc=False, level_dbfs=None, pad_mode="reflect", segments="windows")
    assert seed == PRESETS["seed"]


def test_shapes_of_the_presets_are_pinned():
    shapes = {name: (recipe.segment.segments, recipe.feature_shape) for name, recipe in PRESETS.items()}
    assert shapes == {
        "ge2e": ("utterance", [40, 121]),
        "seed": ("windows", [40, 121]),
        "librosa": ("utterance", [128, 38]),
        "kaldi": ("utterance", [80, 200]),
        "rtvc": ("utterance", [40, 160]),
        "wespeaker": ("utterance", [80, 200]),
    }


def test_what_came_later_is_written_only_where_it_differs():
    """Datasets from before have neither the fields nor another fingerprint."""
    later = {"level_mode", "window_form", "snip", "scale", "frame_dc", "pre_emphasis_in"}
    assert later.isdisjoint(name for stage in DEFAULT.to_dict().values() for name in stage)
    assert later - {"level_mode"} <= set(KALDI.to_dict()["feature"])
    assert PRESETS["rtvc"].to_dict()["level"] == {"level_dbfs": -30.0, "level_mode": "raise"}
    stated = DEFAULT.to_dict()
    stated["feature"] |= {"snip": "fft", "frame_dc": False}
    assert Recipe.from_dict(stated).fingerprint() == DEFAULT.fingerprint()


def test_fingerprint_is_the_sha256_of_plain_sorted_json():
    text = json.dumps([2, DEFAULT.to_dict()], sort_keys=True, separators=(",", ":"))
    assert DEFAULT.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def _stages():
    return {f.name: f.default_factory for f in dataclasses.fields(Recipe)}


OTHER_VALUES = {
    "sample_rate_hz": 8000,
    "channel": 1,
    "remove_dc": False,
    "max_seconds": 60,
    "max_decoded_mib": 512,
    "max_channels": 2,
    "max_input_rate_hz": 48000,
    "voice": "mask",
    "top_db": 25,
    "min_silence_ms": 200,
    "voice_window": 1024,
    "voice_hop": 256,
    "silence_dbfs": -70,
    "level_dbfs": -23,
    "features": "mfcc",
    "pre_emphasis": 0.97,
    "dither": 1,
    "window": "hamming",
    "window_ms": 32,
    "hop_ms": 12.5,
    "n_fft": 1024,
    "center": False,
    "pad_mode": "reflect",
    "n_mels": 64,
    "f_min_hz": 20,
    "f_max_hz": 3800,
    "mel_scale": "htk",
    "mel_norm": "none",
    "log": "ln",
    "floor": 1e-10,
    "floor_kind": "max",
    "n_mfcc": 13,
    "dtype": "float16",
    "window_form": "symmetric",
    "snip": "window",
    "scale": "pcm16",
    "frame_dc": True,
    "pre_emphasis_in": "frame",
    "level_mode": "raise",
    "segments": "windows",
    "crop_ms": 1600,
    "min_utterance_ms": 500,
    "max_part_s": 30,
}


def test_every_field_is_part_of_the_fingerprint():
    names = [f.name for stage in _stages().values() for f in dataclasses.fields(stage)]
    assert sorted(OTHER_VALUES) == sorted(names)  # names are unique over the stages, too
    needs = {"snip": {"center": False}}
    prints = {
        DEFAULT.replace(**{name: value}, **needs.get(name, {})).fingerprint() for name, value in OTHER_VALUES.items()
    }
    assert len(prints | {DEFAULT.fingerprint()}) == len(names) + 1


def test_dict_form_comes_back_through_json():
    for recipe in (*PRESETS.values(), DEFAULT.replace(**OTHER_VALUES)):
        again = Recipe.from_dict(json.loads(canonical_json(recipe.to_dict())))
        assert again == recipe
        assert again.fingerprint() == recipe.fingerprint()


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ({"sound": {}}, "'sound'"),
        ({"audio": {"sample_rate": 16000}}, "'sample_rate'"),
        ({"feature": {"sample_rate_hz": 16000}}, "'sample_rate_hz'"),  # a field of another stage
        ({"audio": None}, "recipe.audio=None"),
        ({"audio": [16000]}, "recipe.audio"),
        ([], "recipe="),
        (None, "recipe="),
    ],
)
def test_dict_form_refuses_what_it_does_not_know(stages, named):
    with pytest.raises(ConfigError) as error:
        Recipe.from_dict(stages)
    assert named in str(error.value)


def test_replace_names_the_fields_when_it_knows_none():
    with pytest.raises(ConfigError, match=r"'mels'.*n_mels"):
        DEFAULT.replace(mels=64)


def test_numbers_are_one_value_whatever_their_type():
    same = DEFAULT.replace(window_ms=25, hop_ms=10, top_db=30, f_min_hz=-0.0, level_dbfs=-30)
    assert same.fingerprint() == DEFAULT.fingerprint()
    assert type(same.feature.window_ms) is float
    assert canonical_json(same.feature.f_min_hz) == "0.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate_hz", 16000.0),
        ("sample_rate_hz", "16000"),
        ("sample_rate_hz", True),
        ("n_fft", 512.0),
        ("n_fft", None),
        ("remove_dc", 1),
        ("remove_dc", "true"),
        ("channel", 0.0),
        ("channel", True),
        ("channel", None),
        ("window_ms", "25"),
        ("window_ms", None),
        ("window_ms", True),
        ("window_ms", np.float32(25)),
        ("window", None),
        ("f_max_hz", "8000"),
        ("level_dbfs", False),
        ("n_mels", [40]),
        ("voice", None),
    ],
)
def test_types_are_strict(name, value):
    with pytest.raises(ConfigError, match=f"^{name}=.*a value of type"):
        DEFAULT.replace(**{name: value})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sample_rate_hz", [0, 999, 384001, -16000, 10**400]),
        ("channel", ["left", "", "0", -1]),
        ("max_seconds", [0, -1, 86401, NAN, INF]),
        ("max_decoded_mib", [0, -1, 65537, NAN, INF]),
        ("max_channels", [0, 1025]),
        ("max_input_rate_hz", [999, 10_000_001]),
        ("voice", ["vad", "", "Join"]),
        ("top_db", [0, -1, 201, NAN]),
        ("min_silence_ms", [-1, 60001, NAN]),
        ("voice_hop", [0, -512, (1 << 16) + 1]),
        ("voice_window", [0, -1024, 512, 1536, 2000, 1 << 21]),
        ("silence_dbfs", [1, -201, NAN]),
        ("level_dbfs", [1, -101, NAN, -INF]),
        ("features", ["mel", "LOGMEL", ""]),
        ("pre_emphasis", [-0.1, 1.1, NAN]),
        ("dither", [-1, 1001, NAN]),
        ("window", ["kaiser", "Hann", ""]),
        ("window_ms", [0, -25, 1001, 0.03, NAN, INF, 10**400]),
        ("hop_ms", [0, -10, 1001, 0.03, NAN]),
        ("n_fft", [0, 1, 511, 1 << 17, -512]),
        ("pad_mode", ["edge", "zero"]),
        ("n_mels", [0, 1025]),
        ("mel_scale", ["bark", "HTK"]),
        ("mel_norm", ["l1", "None"]),
        ("log", ["log2", "dB"]),
        ("floor", [0, -1e-6, 1e-31, 1.5, NAN]),
        ("floor_kind", ["clip", "plus"]),
        ("n_mfcc", [0, 1025]),
        ("dtype", ["float64", "int8", "pcm16", "Float16", ""]),
        ("window_form", ["", "Periodic"]),
        ("snip", ["edges", "Window"]),
        ("scale", ["int16", ""]),
        ("pre_emphasis_in", ["frames", "window"]),
        ("level_mode", ["lower", "Set"]),
        ("segments", ["window", "all"]),
        ("crop_ms", [0, -1, 60001, NAN]),
        ("min_utterance_ms", [-1, 60001, NAN]),
        ("max_part_s", [0, 0.5, 3601, NAN]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ConfigError) as error:
            DEFAULT.replace(**{name: value})
        shown = str(error.value).replace(".0 cannot", " cannot")  # 0 may have become 0.0
        assert shown.startswith(f"{name}={value!r} cannot be used: expected ")


def test_every_field_that_can_be_wrong_has_a_refused_value():
    cases = test_values_out_of_range_are_refused_by_name.pytestmark[0].args[1]
    free = {"remove_dc", "center", "frame_dc"}  # both values of a flag are good
    judged_together = {"f_min_hz", "f_max_hz"}
    assert {name for name, _ in cases} == set(OTHER_VALUES) - free - judged_together


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n_fft": 256}, "window_ms=25.0"),  # a window longer than its FFT
        ({"sample_rate_hz": 22050}, "window_ms=25.0"),  # 551.25 samples
        ({"sample_rate_hz": 22050, "window_ms": 20}, "hop_ms=10.0"),  # 220.5 samples
        ({"crop_ms": 1200.03}, "crop_ms=1200.03"),
        ({"crop_ms": 5}, "crop_ms=5.0"),  # less than a hop
        ({"center": False, "crop_ms": 20}, "crop_ms=20.0"),  # less than an FFT
        ({"f_min_hz": -1}, "f_min_hz"),
        ({"f_min_hz": NAN}, "f_min_hz"),
        ({"f_min_hz": 8000}, "f_max_hz"),
        ({"f_max_hz": 8001}, "8000"),
        ({"f_max_hz": NAN}, "f_max_hz"),
        ({"f_min_hz": 300, "f_max_hz": 300}, "f_min_hz"),
        ({"sample_rate_hz": 8000, "f_max_hz": 7600}, "4000"),
        ({"snip": "window"}, "center, snip=(True, 'window')"),
        ({"window": "povey"}, "window, window_form=('povey', 'periodic')"),
        ({"mel_scale": "kaldi"}, "mel_scale, mel_norm=('kaldi', 'slaney')"),
        ({"level_mode": "raise", "level_dbfs": None}, "level_mode, level_dbfs=('raise', None)"),
        ({"center": False, "snip": "window", "crop_ms": 20}, "at least one window where snip is 'window'"),
        ({"features": "mfcc", "n_mfcc": 41}, "n_mfcc=41"),
        ({"features": "mfcc", "n_mels": 13}, "n_mfcc=20"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, named):
    with pytest.raises(ConfigError) as error:
        DEFAULT.replace(**values)
    assert named in str(error.value)


def test_few_mels_need_no_word_about_cepstra():
    assert DEFAULT.replace(n_mels=13).feature_shape == [13, 121]


def test_limits_themselves_are_allowed():
    for name, value in [
        ("sample_rate_hz", 384000),
        ("max_seconds", 86400),
        ("top_db", 200),
        ("level_dbfs", None),
        ("level_dbfs", 0),
        ("silence_dbfs", -200),
        ("pre_emphasis", 1),
        ("floor", 1),
        ("floor", 1e-30),
        ("min_utterance_ms", 0),
        ("max_part_s", 1.2),
        ("crop_ms", 10),
        ("channel", 0),
    ]:
        changed = {"n_fft": 1 << 14} if name == "sample_rate_hz" else {}
        assert DEFAULT.replace(**{name: value}, **changed) != DEFAULT


def test_configs_are_frozen():
    for config in (AudioConfig(), VoiceConfig(), LevelConfig(), FeatureConfig(), SegmentConfig(), DEFAULT):
        name = dataclasses.fields(config)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, getattr(config, name))


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"\\u00e4","b":[1,2.5,null]}'
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json({"a": NAN})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_mels=64", ("n_mels", 64)),
        ("f_max_hz=7600.5", ("f_max_hz", 7600.5)),
        ("level_dbfs=null", ("level_dbfs", None)),
        ("center=false", ("center", False)),
        ("voice=none", ("voice", "none")),
        ('voice="none"', ("voice", "none")),
        (" window = hann ", ("window", "hann")),
        ("channel=1", ("channel", 1)),
        ("floor=1e-10", ("floor", 1e-10)),
        ("a=b=c", ("a", "b=c")),
        ("empty=", ("empty", "")),
        ("n_fft=" + "9" * 5000, ("n_fft", "9" * 5000)),  # longer than Python turns into an integer
    ],
)
def test_settings_are_json_or_text(text, expected):
    name, value = parse_setting(text)
    assert (name, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["n_mels", "", "=64", " =64", "n_mels:64"])
def test_settings_without_a_field_are_refused(text):
    with pytest.raises(ConfigError, match="expected field=value"):
        parse_setting(text)


def test_a_field_called_self_is_an_unknown_field():
    with pytest.raises(ConfigError, match="no recipe field is called 'self'"):
        DEFAULT.replace(**{"self": 3})


def test_the_type_that_is_stored():
    assert [DEFAULT.replace(features=name).dtype for name in ("logmel", "mfcc", "raw")] == [
        "float32",
        "float32",
        "pcm16",
    ]
    assert [DEFAULT.replace(features=name, dtype="float16").dtype for name in ("logmel", "mfcc")] == ["float16"] * 2


@pytest.mark.parametrize("changes", [{"features": "raw"}, {"log": "none"}, {"features": "mfcc", "log": "none"}])
def test_what_does_not_fit_into_float16_is_refused(changes):
    with pytest.raises(
        ConfigError, match=r"^dtype, features, log=\('float16', .*'raw' is PCM16, and power needs float32"
    ):
        DEFAULT.replace(dtype="float16", **changes)


def test_parts_hold_a_crop():
    with pytest.raises(ConfigError, match=r"max_part_s=1.0 .* crop_ms=1200 or more"):
        PRESETS["ge2e"].replace(max_part_s=1)
