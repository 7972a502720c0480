"""`FeatureExtractor`: equal to independent librosa calls, in every form, and the same bytes on every CPU."""

from __future__ import annotations

import itertools
import math

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from synth import speechlike, tone

from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import EmptyAudioError, NonFiniteAudioError, SilentAudioError, TooShortError
from ge2e_transforms.extractor import FeatureExtractor, dither_seed, to_pcm16, triangular_noise
from ge2e_transforms.features import FeatureKernel
from ge2e_transforms.levels import level_gain
from ge2e_transforms.schema import FLAG_PART, FLAG_SHORT, FLAG_UNVOICED
from ge2e_transforms.sums import mean

GE2E, SEED = PRESETS["ge2e"], PRESETS["seed"]
RATE = 16000
WHOLE = np.array([[0, 1 << 40]])


def remove_dc(samples):
    return samples - mean(samples)


def gain_of(samples, start, end, level_dbfs):
    mean_square = float(np.mean(np.square(samples[start:end], dtype=np.float64)))
    return level_gain(samples, np.float32(0), mean_square, level_dbfs, "set")


def extract(recipe, samples, **options):
    return FeatureExtractor(recipe).extract(samples, **options)


def one(recipe, samples, **options):
    (segment,) = extract(recipe, samples, **options).segments
    return segment


def bursts(*seconds, gap=0.5):
    """Tones of these lengths with silence between them and around them."""
    pieces = [np.zeros(round(gap * RATE), dtype=np.float32)]
    for length in seconds:
        pieces += [tone(440, length, level=0.3), pieces[0]]
    return np.concatenate(pieces)


@pytest.fixture(scope="module")
def utterances(librispeech):
    """20 real utterances: path and samples."""
    paths = sorted(librispeech.rglob("*.flac"))[::15][:20]
    assert len(paths) == 20
    return [(path, soundfile.read(path, dtype="float32")[0]) for path in paths]


# Independent computations with librosa, on real speech.


def log_mel(samples, pad_mode):
    power = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=512, hop_length=160, win_length=400, n_mels=40, pad_mode=pad_mode
    )
    return np.log10(power + 1e-6).T


def test_preset_seed_is_librosas_window_for_window(utterances):
    extractor, windows = FeatureExtractor(SEED), 0
    for path, samples in utterances:
        starts = [
            start
            for first, end in librosa.effects.split(samples, top_db=30).tolist()
            for start in range(first, end - 19200 + 1, 19200)
        ]
        expected = [log_mel(samples[start : start + 19200], "reflect") for start in starts]
        if not starts:
            with pytest.raises(TooShortError):
                extractor.extract(samples)
            continue
        found = extractor.extract(samples).segments
        assert [(segment.start, segment.samples, segment.flags) for segment in found] == [
            (start, 19200, 0) for start in starts
        ], path
        for segment, window in zip(found, expected, strict=True):
            assert segment.values.shape == window.shape == (121, 40)
            assert np.abs(segment.values - window).max() < 1e-4, path
        windows += len(found)
    assert windows > 50


def test_preset_ge2e_is_librosas(utterances):
    extractor = FeatureExtractor(GE2E)
    for path, samples in utterances:
        centred = samples.astype(np.float64) - samples.astype(np.float64).mean()
        intervals = librosa.effects.split(centred, top_db=30)
        voiced = np.concatenate([centred[start:end] for start, end in intervals])
        gain = min(10 ** (-30 / 20) / np.sqrt(np.mean(voiced**2)), 1 / np.abs(centred).max())
        expected = log_mel((voiced * gain).astype(np.float32), "constant")
        found = extractor.extract(samples)
        (segment,) = found.segments
        assert segment.values.shape == expected.shape, path
        assert np.abs(segment.values - expected).max() < 1e-4, path
        assert (segment.start, segment.start + segment.samples) == (intervals[0, 0], intervals[-1, 1])
        assert found.voiced_fraction == len(voiced) / len(samples)
        assert math.isclose(found.gain_db, 20 * math.log10(gain), abs_tol=1e-4)


def test_raw_is_the_source_bit_for_bit(utterances):
    extractor = FeatureExtractor(GE2E.replace(features="raw"))
    for path, samples in utterances[:8]:
        stored, _ = soundfile.read(path, dtype="int16")
        intervals = librosa.effects.split(remove_dc(samples), top_db=30)
        (segment,) = extractor.extract(samples).segments
        assert segment.values.dtype == np.int16
        assert segment.values[:, 0].tolist() == np.concatenate([stored[a:b] for a, b in intervals]).tolist(), path


# Every form with all features.


@pytest.mark.parametrize("features", ["logmel", "mfcc", "raw"])
@pytest.mark.parametrize("voice", ["none", "join", "mask"])
@pytest.mark.parametrize("segments", ["utterance", "windows"])
def test_forms_and_features(features, voice, segments):
    recipe = GE2E.replace(features=features, voice=voice, segments=segments)
    samples = bursts(1.7, 2.6)
    found = extract(recipe, samples).segments
    rows = {"raw": 19200}.get(features, 121)
    if segments == "windows":
        count = {"none": 4}.get(voice, 3)  # 5.8 s; else one window in 1.7 s and two in 2.6 s
        assert [segment.values.shape for segment in found] == [(rows, recipe.n_bins)] * count
        assert {segment.samples for segment in found} == {19200}
    else:
        (segment,) = found
        samples_kept = {"none": len(samples)}.get(voice, 2 * 512 * round(4.3 * RATE / 1024))
        assert abs(len(segment.values) * recipe.row_samples - samples_kept) < 5000
        assert segment.values.shape[1] == recipe.n_bins
    assert all(segment.values.dtype == (np.int16 if features == "raw" else np.float32) for segment in found)
    assert all(segment.flags == 0 for segment in found)


def test_windows_lie_side_by_side_in_each_interval():
    found = extract(SEED, bursts(2.6, 1.0, 1.3, gap=0.4)).segments
    starts = [segment.start for segment in found]
    assert len(starts) == 3
    assert starts[1] == starts[0] + 19200
    assert all(start % 512 == 0 for start in (starts[0], starts[2]))
    assert 6400 - 1024 <= starts[0] <= 6400


@pytest.mark.parametrize(("length", "windows"), [(19200, 1), (38399, 1), (38400, 2), (38401, 2)])
def test_a_window_may_end_where_its_interval_ends(length, windows):
    samples = tone(300, length / RATE)
    assert len(extract(SEED.replace(voice="none"), samples).segments) == windows


def test_without_voice_detection_the_whole_is_the_segment():
    samples = bursts(1.0)
    segment = one(GE2E.replace(voice="none", level_dbfs=None, remove_dc=False), samples)
    assert (segment.start, segment.samples) == (0, len(samples))
    assert np.array_equal(segment.values, FeatureKernel(GE2E)(samples))


@pytest.mark.parametrize("center", [True, False])
def test_mask_keeps_the_frames_whose_centre_is_voiced(center):
    recipe = GE2E.replace(voice="mask", center=center)
    samples = bursts(0.7, 0.31, 1.2)
    joined = one(recipe.replace(voice="join", features="raw"), samples)
    whole = one(recipe.replace(voice="none"), samples, keep_all=True)
    found = one(recipe, samples)
    intervals = librosa.effects.split(remove_dc(samples), top_db=30).tolist()
    assert len(intervals) == 3
    offset = 0 if center else 256
    kept = [n for n in range(len(whole.values)) if any(a <= 160 * n + offset < b for a, b in intervals)]
    voiced = np.concatenate([remove_dc(samples)[a:b] for a, b in intervals]).astype(np.float64)
    gain = level_gain(samples, mean(samples), float(np.mean(voiced**2)), -30, "set")
    expected = FeatureKernel(recipe)(remove_dc(samples) * gain)[kept]
    assert np.abs(found.values - expected).max() < 1e-5  # the mean square is another sum
    assert (found.start, found.samples) == (joined.start, joined.samples)
    assert (found.start, found.start + found.samples) == (intervals[0][0], intervals[-1][1])


# Long utterances.


@pytest.mark.parametrize("voice", ["none", "join", "mask"])
@pytest.mark.parametrize("features", ["logmel", "raw"])
def test_long_utterances_are_cut_in_parts_that_make_up_the_whole(voice, features):
    samples = speechlike(5, 23.0)
    recipe = GE2E.replace(voice=voice, features=features)
    whole = one(recipe, samples)
    parts = extract(recipe.replace(max_part_s=3), samples).segments
    assert len(parts) == -(-len(whole.values) // recipe.rows(48000)) >= 7
    assert np.array_equal(np.concatenate([part.values for part in parts]), whole.values)
    lengths = [len(part.values) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert {part.flags for part in parts} == {FLAG_PART}
    assert parts[0].start == whole.start
    assert parts[-1].start + parts[-1].samples == whole.start + whole.samples
    for part, following in itertools.pairwise(parts):
        assert part.start < part.start + part.samples <= following.start


@pytest.mark.parametrize("voice", ["join", "mask"])
def test_parts_say_where_in_the_source_they_begin(voice):
    """With raw samples the source itself tells; frames of the other forms begin within a hop of them."""
    samples = speechlike(6, 23.0)
    recipe = GE2E.replace(voice=voice, max_part_s=3, level_dbfs=None, remove_dc=False)
    intervals = librosa.effects.split(samples, top_db=30).tolist()
    assert len(intervals) > 20
    raw = extract(recipe.replace(features="raw"), samples).segments
    for part in raw:
        inside = np.concatenate(
            [samples[max(a, part.start) : max(a, part.start, min(b, part.start + part.samples))] for a, b in intervals]
        )
        assert np.array_equal(to_pcm16(inside), part.values[:, 0])
    kernel = FeatureKernel(recipe)(samples)
    for part in extract(recipe, samples).segments[1:]:
        if voice == "mask":  # the first frame is centred on the start
            assert part.start % 160 == 0
            assert np.array_equal(part.values[0], kernel[part.start // 160])


@pytest.mark.parametrize("features", ["logmel", "raw"])
@pytest.mark.parametrize(("seconds", "parts"), [(59.99, 1), (60.0, 1), (60.01, 2), (120.0, 2), (121.0, 3)])
def test_only_what_is_longer_than_a_part_is_cut(features, seconds, parts):
    recipe = GE2E.replace(voice="none", features=features, n_mels=8)
    assert len(extract(recipe, tone(300, seconds)).segments) == parts


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["none", "join", "mask"]),
    st.sampled_from(["logmel", "raw"]),
    st.booleans(),
    st.sampled_from([0.0, 300.0]),
    st.sampled_from([10.0, 100.0, 700.0]),
)
def test_no_length_or_geometry_breaks_it(seed, voice, features, center, least, hop):
    rng = np.random.default_rng(seed)
    samples = np.repeat(10 ** rng.uniform(-4, 0, size=24), 512)[: rng.integers(1, 12000)]
    samples = (0.5 * samples * rng.uniform(-1, 1, size=len(samples))).astype(np.float32)
    samples[len(samples) // 2] = 0.5  # never silent
    recipe = GE2E.replace(
        voice=voice, features=features, center=center, min_utterance_ms=least, hop_ms=hop, max_part_s=1.2, n_mels=4
    )
    try:
        kept = extract(recipe, samples, keep_all=True)
    except EmptyAudioError:
        assert recipe.rows(len(samples)) == 0
        return
    assert sum(len(segment.values) for segment in kept.segments) > 0
    for segment in kept.segments:
        assert len(segment.values)
        assert segment.start >= 0
        assert segment.samples >= 1
        assert segment.start + segment.samples <= len(samples)
    try:
        found = extract(recipe, samples)
    except TooShortError:
        assert all(segment.flags & FLAG_UNVOICED for segment in kept.segments)
    else:
        for ours, theirs in zip(found.segments, kept.segments, strict=True):
            assert np.array_equal(ours.values, theirs.values)
            assert ours.flags == theirs.flags


# What is left out, and what is kept all the same.


def test_too_little_voice_is_filtered_in_train_and_kept_whole_elsewhere():
    samples = bursts(0.1)
    with pytest.raises(TooShortError, match=r"^\d+ ms of voice hold no segment of min_utterance_ms=300$"):
        extract(GE2E, samples)
    kept = one(GE2E, samples, keep_all=True)
    assert kept.flags == FLAG_UNVOICED | FLAG_SHORT
    assert (kept.start, kept.samples, len(kept.values)) == (0, len(samples), 1 + len(samples) // 160)
    assert extract(GE2E, samples, keep_all=True).voiced_fraction < 0.25  # as it was found


def test_the_limit_itself_is_enough():
    samples = tone(300, 0.3)
    assert one(GE2E.replace(voice="none"), samples).flags == FLAG_SHORT
    with pytest.raises(TooShortError):
        extract(GE2E.replace(voice="none"), samples[:-1])


def test_no_whole_window_is_filtered_in_train_and_kept_and_flagged_elsewhere():
    samples = bursts(0.8, 0.8, 0.8)
    with pytest.raises(TooShortError, match=r"^\d+ ms of voice hold no window of crop_ms=1200$"):
        extract(SEED, samples)
    kept = one(SEED, samples, keep_all=True)
    assert kept.flags == FLAG_SHORT  # although the joined pieces are longer than a crop
    assert len(kept.values) > 121


def test_less_than_a_crop_is_flagged():
    assert one(GE2E.replace(voice="none"), tone(300, 1.1999)).flags == FLAG_SHORT
    assert one(GE2E.replace(voice="none"), tone(300, 1.2)).flags == 0


def test_voice_without_a_frame_is_too_short():
    click = np.zeros(RATE, dtype=np.float32)
    click[5000:5100] = 0.5
    for changes in ({"voice": "mask", "hop_ms": 500}, {"center": False, "n_fft": 4096}):
        recipe = GE2E.replace(min_utterance_ms=0, **changes)
        with pytest.raises(TooShortError, match="ms of voice hold no frame"):
            extract(recipe, click)
        assert one(recipe, click, keep_all=True).flags & FLAG_UNVOICED


@pytest.mark.parametrize("keep_all", [False, True])
def test_nothing_and_silence_are_refused_everywhere(keep_all):
    with pytest.raises(EmptyAudioError, match="0 samples hold no frame"):
        extract(GE2E, np.zeros(0, dtype=np.float32), keep_all=keep_all)
    with pytest.raises(EmptyAudioError, match="511 samples hold no frame"):
        extract(GE2E.replace(center=False), tone(300, 511 / RATE), keep_all=keep_all)
    with pytest.raises(SilentAudioError):
        extract(GE2E, np.zeros(RATE, dtype=np.float32), keep_all=keep_all)


# Conditioning.


def test_dc_is_removed_before_voice_is_looked_for():
    samples = bursts(1.0)
    offset = samples + np.float32(0.2)
    assert one(GE2E, offset).samples == one(GE2E, samples).samples < len(samples)
    assert one(GE2E.replace(remove_dc=False), offset).samples == len(samples)
    assert abs(remove_dc(offset).mean()) < 1e-6


def test_level_does_not_depend_on_how_loud_the_recording_was():
    samples = speechlike(2, 2.0)
    loud, quiet = one(GE2E, samples), one(GE2E, samples * np.float32(0.125))
    assert np.array_equal(loud.values, quiet.values)  # a power of two: no rounding differs
    gains = [extract(GE2E, samples * np.float32(scale)).gain_db for scale in (1, 0.125)]
    assert math.isclose(gains[1] - gains[0], 20 * math.log10(8), abs_tol=1e-4)
    off = GE2E.replace(level_dbfs=None)
    assert not np.array_equal(one(off, samples).values, one(off, samples * np.float32(0.125)).values)
    assert extract(off, samples).gain_db == 0


def test_gain_sets_the_level_of_the_intervals_only():
    samples = np.concatenate([np.full(1000, 0.5), np.full(1000, 0.01)]).astype(np.float32)
    gain = gain_of(samples, 1000, 2000, -50.0)
    assert math.isclose(gain * 0.01, 10 ** (-50 / 20), rel_tol=1e-6)


def test_gain_is_limited_by_the_peak():
    samples = np.zeros(10000, dtype=np.float32)
    samples[::100] = 0.7
    samples[50] = -0.9  # below the axis
    gain = gain_of(samples, 0, 10000, -5.0)
    assert math.isclose(gain, 1 / 0.9, rel_tol=1e-6)
    assert np.abs(samples * gain).max() <= 1


@given(st.floats(2.0**-20, 1.0, width=32))
def test_a_limited_gain_never_leaves_the_range(peak):
    samples = np.array([peak, 0, 0, 0, 0, 0, 0, 0], dtype=np.float32)
    assert (samples * gain_of(samples, 0, 8, 0.0)).max() <= 1


def test_pre_emphasis_is_a_difference():
    samples = speechlike(3, 1.0)
    recipe = GE2E.replace(voice="none", remove_dc=False, level_dbfs=None, pre_emphasis=0.97)
    expected = samples.astype(np.float64)
    expected[1:] -= 0.97 * samples[:-1]
    expected[0] -= 0.97 * samples[0]
    found = one(recipe, samples).values
    assert np.abs(found - FeatureKernel(recipe)(expected.astype(np.float32))).max() < 1e-4


def test_dither_follows_from_the_id_and_its_size_from_the_recipe():
    samples = speechlike(4, 1.0)
    recipe = GE2E.replace(dither=2.0)
    first = one(recipe, samples, utterance_id="a").values
    assert np.array_equal(one(recipe, samples, utterance_id="a").values, first)
    assert not np.array_equal(one(recipe, samples, utterance_id="b").values, first)
    assert not np.array_equal(one(GE2E, samples, utterance_id="a").values, first)
    assert np.array_equal(one(GE2E, samples, utterance_id="a").values, one(GE2E, samples, utterance_id="b").values)


def test_dither_noise_is_triangular_and_pinned():
    noise = triangular_noise(dither_seed("utterance"), 100_000)
    assert noise.dtype == np.float32
    assert noise[:3].tolist() == [0.7577810883522034, 0.11549431085586548, 0.7155256271362305]
    assert np.abs(noise).max() < 1
    assert abs(noise.mean()) < 4 / np.sqrt(6 * 100_000)
    assert abs(noise.var() - 1 / 6) < 0.005
    assert abs((np.abs(noise) < 0.5).mean() - 0.75) < 0.01
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.02


def test_raw_is_neither_levelled_nor_changed_otherwise():
    samples = to_pcm16(speechlike(7, 2.0)).astype(np.float32) / 32768
    recipe = GE2E.replace(features="raw", voice="none", dither=3.0, pre_emphasis=0.97)
    assert np.array_equal(one(recipe, samples).values[:, 0] / np.float32(32768), samples)


def test_pcm16_is_exact_rounds_and_clips():
    steps = np.arange(-32768, 32768)
    assert np.array_equal(to_pcm16((steps / 32768).astype(np.float32)), steps)
    values = np.array([1.0, 1.5, -1.0, -1.5, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768], dtype=np.float32)
    assert to_pcm16(values).tolist() == [32767, 32767, -32768, -32768, 1, 2, -2]


def test_the_input_is_left_alone():
    samples = speechlike(8, 2.0)
    before = samples.copy()
    for recipe in (GE2E, SEED, GE2E.replace(dither=1, pre_emphasis=0.9), GE2E.replace(features="raw")):
        extract(recipe, samples)
    assert np.array_equal(samples, before)


# For users.


def test_a_call_gives_what_is_stored():
    samples = speechlike(9, 5.0)
    for recipe in (GE2E, GE2E.replace(features="mfcc"), GE2E.replace(features="raw"), GE2E.replace(max_part_s=2)):
        stored = extract(recipe, samples, utterance_id="u").segments
        found = FeatureExtractor(recipe)(samples, RATE, "u")
        assert np.array_equal(found, np.concatenate([segment.values for segment in stored]))
    windows = FeatureExtractor(SEED.replace(voice="none"))(samples, RATE)
    assert windows.shape == (4, 121, 40)
    assert windows.dtype == np.float32


@pytest.mark.parametrize(
    "changes", [{}, {"features": "mfcc"}, {"segments": "windows", "voice": "none"}, {"voice": "mask"}, {"log": "ln"}]
)
def test_halves_are_the_nearest_to_the_floats(changes):
    samples, recipe = speechlike(9, 5.0), GE2E.replace(max_part_s=2, **changes)
    half = recipe.replace(dtype="float16")
    floats, halves = (extract(r, samples).segments for r in (recipe, half))
    for one, other in zip(floats, halves, strict=True):
        assert other.values.dtype == np.float16
        assert np.array_equal(other.values, one.values.astype(np.float16))
        assert (other.start, other.samples, other.flags) == (one.start, one.samples, one.flags)
        off = np.abs(other.values.astype(np.float64) - one.values)
        assert 0 < off.max() <= np.spacing(np.abs(one.values).max().astype(np.float16)) / 2
    # What users compute is what readers give: float32 with the values that are stored.
    found = FeatureExtractor(half)(samples, RATE)
    assert found.dtype == np.float32
    assert np.array_equal(found, FeatureExtractor(recipe)(samples, RATE).astype(np.float16).astype(np.float32))


def test_a_call_takes_lists_float64_channels_and_other_rates():
    extractor, samples = FeatureExtractor(GE2E), speechlike(10, 1.5)
    expected = extractor(samples, RATE)
    assert np.array_equal(extractor(samples.tolist(), RATE), expected)
    assert np.array_equal(extractor(samples.astype(np.float64), RATE), expected)
    assert np.array_equal(extractor(np.stack([samples, samples], axis=1), RATE), expected)
    second = FeatureExtractor(GE2E.replace(channel=1))
    assert np.array_equal(second(np.stack([0 * samples, samples], axis=1), RATE), expected)
    upsampled = librosa.resample(samples, orig_sr=RATE, target_sr=44100, res_type="soxr_vhq")
    again = extractor(upsampled, 44100)
    assert again.shape == expected.shape
    assert np.abs(again - expected)[:, :35].mean() < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_call_refuses_what_is_no_number(value):
    samples = speechlike(11, 1.0)
    samples[100] = value
    with pytest.raises(NonFiniteAudioError):
        FeatureExtractor(GE2E)(samples, RATE)


def test_an_extractor_comes_from_metadata():
    recipe = SEED.replace(n_mels=64)
    extractor = FeatureExtractor.from_metadata({"recipe": recipe.to_dict(), "files": []})
    assert extractor.recipe == recipe


@pytest.mark.parametrize("segments", ["utterance", "windows"])
def test_a_short_held_out_utterance_can_be_extracted_as_it_is_stored(segments):
    extractor = FeatureExtractor(PRESETS["ge2e"].replace(segments=segments))
    short = speechlike(3, 0.25)
    with pytest.raises(TooShortError):
        extractor(short, 16000)
    stored = extractor.extract(short, keep_all=True).segments
    assert len(stored) == 1
    np.testing.assert_array_equal(np.squeeze(extractor(short, 16000, keep_all=True)), stored[0].values)
