"""Voice activity: librosa's intervals, silence, bridged gaps, and positions through the splice."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from synth import speechlike, tone

from ge2e_transforms import voice
from ge2e_transforms.config import VoiceConfig
from ge2e_transforms.errors import SilentAudioError
from ge2e_transforms.sums import hop_energies
from ge2e_transforms.voice import energy_of, frame_power, join, source_position

RATE = 16000
DEFAULT = VoiceConfig()
# Nothing in the way of the comparison: librosa has no idea of silence.
DEAF = VoiceConfig(silence_dbfs=-200)


def voiced_intervals(samples, rate_hz, config):
    energies = hop_energies(samples, np.float32(0), config.voice_hop)
    return voice.voiced_intervals(energies, len(samples), rate_hz, config)


def by_librosa(samples, top_db=30.0, window=2048, hop=512):
    found = librosa.effects.split(samples, top_db=top_db, frame_length=window, hop_length=hop)
    return [list(pair) for pair in found.tolist() if pair[0] < pair[1]]


def bursts(seed, length):
    """Noise whose loudness jumps over 90 dB, so that every frame is a question."""
    rng = np.random.default_rng(seed)
    steps = 10 ** (rng.uniform(-90, 0, size=length // 700 + 1) / 20)
    return (0.3 * np.repeat(steps, 700)[:length] * rng.standard_normal(length)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12000))
def test_intervals_are_librosas_for_any_length(seed, length):
    samples = bursts(seed, length)
    assert voiced_intervals(samples, RATE, DEAF).tolist() == by_librosa(samples)


@pytest.mark.parametrize("length", [1, 2, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 4096, 16000])
@pytest.mark.parametrize("top_db", [10.0, 30.0, 60.0])
def test_intervals_are_librosas_at_the_edges_of_hops(length, top_db):
    for seed in range(4):
        samples = bursts(seed, length)
        found = voiced_intervals(samples, RATE, VoiceConfig(top_db=top_db, silence_dbfs=-200))
        assert found.tolist() == by_librosa(samples, top_db)


@pytest.mark.parametrize(("window", "hop"), [(512, 256), (1024, 512), (2048, 256), (400, 100), (2, 1)])
def test_intervals_are_librosas_for_other_frames(window, hop):
    samples = bursts(5, 6001)
    config = VoiceConfig(voice_window=window, voice_hop=hop, silence_dbfs=-200)
    assert voiced_intervals(samples, RATE, config).tolist() == by_librosa(samples, window=window, hop=hop)


def test_intervals_are_librosas_on_real_speech(librispeech):
    paths = sorted(librispeech.rglob("*.flac"))
    assert len(paths) == 311
    several = 0
    for path in paths[::5]:
        samples, rate = soundfile.read(path, dtype="float32")
        found = voiced_intervals(samples, rate, DEFAULT)
        assert found.tolist() == by_librosa(samples), path
        several += len(found) > 1
    assert several > 30  # the comparison would be of no worth on uncut speech


def test_a_burst_is_found_where_it_is():
    samples = np.zeros(RATE, dtype=np.float32)
    samples[6000:9000] = tone(300, 3000 / RATE)
    (interval,) = voiced_intervals(samples, RATE, DEFAULT)
    assert interval.tolist() == [5120, 10240]  # frames of 2048 around it, on multiples of 512


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9000), st.sampled_from([0.0, 50.0, 100.0, 1000.0]))
def test_intervals_are_sorted_disjoint_within_and_at_least_one(seed, length, gap):
    config = VoiceConfig(min_silence_ms=gap, silence_dbfs=-200)
    intervals = voiced_intervals(bursts(seed, length), RATE, config)
    assert len(intervals) >= 1
    assert intervals.dtype == np.int64
    flat = intervals.ravel()
    assert np.all(np.diff(flat) > 0)
    assert flat[0] >= 0
    assert flat[-1] <= length


def test_gaps_shorter_than_min_silence_are_bridged():
    # Short frames, so that the gaps between the four pieces are seen as three lengths.
    config = VoiceConfig(voice_window=512, voice_hop=256)
    samples = np.zeros(8 * 4096, dtype=np.float32)
    for start in (4096, 8192, 16384, 28672):
        samples[start : start + 2048] = 0.3
    apart = voiced_intervals(samples, RATE, config)
    gaps = (apart[1:, 0] - apart[:-1, 1]).tolist()
    assert gaps == [1792, 5888, 9984]
    for limit, left in [(1792, 4), (1793, 3), (5888, 3), (5889, 2), (9984, 2), (9985, 1)]:
        milliseconds = limit * 1000 / RATE
        bridged = voiced_intervals(
            samples, RATE, VoiceConfig(voice_window=512, voice_hop=256, min_silence_ms=milliseconds)
        )
        assert len(bridged) == left
        assert bridged[0, 0] == apart[0, 0]
        assert bridged[-1, 1] == apart[-1, 1]


def test_without_voice_detection_everything_is_one_interval():
    samples = np.zeros(5000, dtype=np.float32)
    samples[2000:2100] = 0.3
    assert len(samples) > np.diff(voiced_intervals(samples, RATE, VoiceConfig(voice_window=512, voice_hop=256)))
    assert voiced_intervals(samples, RATE, VoiceConfig(voice="none")).tolist() == [[0, 5000]]


@pytest.mark.parametrize(("window", "hop"), [(2, 1), (512, 256), (2048, 512), (2048, 256)])
def test_no_interval_begins_where_the_waveform_ends(window, hop):
    """Ten whole hops of which the last is the loudest, and frames of which all but the loudest are no voice."""
    config = VoiceConfig(voice_window=window, voice_hop=hop, top_db=0.01)
    for seed in range(20):
        energies = np.append(window * np.random.default_rng(seed).uniform(0, 1, 10), 0.0)
        energies[9] = window
        intervals = voice.voiced_intervals(energies, 10 * hop, RATE, config)
        assert np.all(intervals[:, 0] < intervals[:, 1])
    energies[:9] = 0
    assert voice.voiced_intervals(energies, 10 * hop, RATE, config)[-1, 1] == 10 * hop


def test_a_frame_just_top_db_below_the_loudest_is_no_voice():
    """As librosa has it: powers are 1, 1, 0.1 and 0.1, and their neighbours a little more."""
    config = VoiceConfig(voice_window=2, voice_hop=1, top_db=10.0)
    assert voice.voiced_intervals(np.array([2.0, 0.0, 0.2, 0.0]), 3, RATE, config).tolist() == [[0, 2]]
    assert voice.voiced_intervals(np.array([2.0, 0.0, 0.21, 0.0]), 3, RATE, config).tolist() == [[0, 3]]


@pytest.mark.parametrize("voice", ["none", "join", "mask"])
@pytest.mark.parametrize(
    ("samples", "level"),
    [
        (np.zeros(1000, dtype=np.float32), "-inf"),
        (np.zeros(1, dtype=np.float32), "-inf"),
        (tone(200, 1.0, level=1e-4), "-83.0"),
    ],
)
def test_silence_is_refused_with_its_level(voice, samples, level):
    message = f"^the loudest part is at {level} dBFS, below silence_dbfs=-80$"
    with np.errstate(all="raise"), pytest.raises(SilentAudioError, match=message):
        voiced_intervals(samples, RATE, VoiceConfig(voice=voice))


def test_silence_is_a_matter_of_silence_dbfs():
    quiet = tone(200, 1.0, level=1e-4)  # -83 dBFS
    assert len(voiced_intervals(quiet, RATE, VoiceConfig(silence_dbfs=-84))) == 1


def test_what_is_just_as_loud_as_silence_dbfs_is_no_silence():
    config = VoiceConfig(voice_window=2, voice_hop=1, silence_dbfs=-20)
    assert voice.voiced_intervals(np.array([2 * 10**-2.0, 0.0]), 1, RATE, config).tolist() == [[0, 1]]
    with pytest.raises(SilentAudioError, match=r"at -20\.0 dBFS, below silence_dbfs=-20$"):
        voice.voiced_intervals(np.array([1.999 * 10**-2.0, 0.0]), 1, RATE, config)


def test_a_click_of_one_active_bit_is_silence_but_speech_at_minus_60_is_not():
    click = np.zeros(RATE, dtype=np.float32)
    click[5000] = 1 / 32768
    with pytest.raises(SilentAudioError):
        voiced_intervals(click, RATE, DEFAULT)
    assert len(voiced_intervals(speechlike(1, 2.0) * np.float32(1e-3), RATE, DEFAULT))


def test_power_of_a_constant_is_its_square():
    power = frame_power(hop_energies(np.full(8192, 0.5, dtype=np.float32), np.float32(0), 512), 2048, 512)
    assert power.tolist() == [0.125, 0.1875, *[0.25] * 13, 0.1875, 0.125]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5000), st.sampled_from([(2048, 512), (64, 32), (1024, 256)]))
def test_power_is_the_mean_square_of_each_frame(seed, length, geometry):
    window, hop = geometry
    samples = bursts(seed, length)
    padded = np.pad(samples.astype(np.float64), window // 2)
    expected = [np.mean(padded[start : start + window] ** 2) for start in range(0, length + 1, hop)]
    np.testing.assert_allclose(
        frame_power(hop_energies(samples, np.float32(0), hop), window, hop), expected, rtol=1e-5, atol=1e-15
    )


intervals_of_a_wave = st.lists(st.integers(0, 300), min_size=2, max_size=12, unique=True).map(
    lambda cuts: np.array(sorted(cuts)[: len(cuts) // 2 * 2], dtype=np.int64).reshape(-1, 2)
)


@given(intervals_of_a_wave)
def test_positions_lead_back_through_the_splice(intervals):
    source = np.arange(300, dtype=np.float32)
    joined = join(source, intervals.tolist())
    assert joined.tolist() == [i for start, end in intervals.tolist() for i in range(start, end)]
    assert [source_position(intervals, place) for place in range(len(joined))] == joined.tolist()
    assert source_position(intervals, len(joined)) == intervals[-1, 1]


def test_joining_one_interval_copies_nothing():
    source = np.arange(100, dtype=np.float32)
    assert np.shares_memory(join(source, [[10, 90]]), source)


def test_nothing_is_joined_to_nothing():
    assert join(np.ones(3, dtype=np.float32), []).tolist() == []


def test_energy_of_intervals_reaches_to_the_end_of_the_waveform():
    samples = np.random.default_rng(3).normal(0, 0.1, 5000).astype(np.float32)
    energies = hop_energies(samples, np.float32(0), 512)
    for intervals in ([[0, 5000]], [[512, 1024], [4608, 5000]], [[0, 4608]]):
        expected = sum(float(np.sum(samples[a:b].astype(np.float64) ** 2)) for a, b in intervals)
        assert abs(energy_of(energies, 512, np.array(intervals)) / expected - 1) < 1e-5
