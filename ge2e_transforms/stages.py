"""What may be chosen at each stage, one frozen dataclass for each: fields, units, reasons, and what is refused.

Units live in the names (`window_ms`, `sample_rate_hz`, `level_dbfs`). `config.Recipe` joins the stages. It must not
know how any stage does its work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ge2e_transforms.checks import Stage, check, check_number, check_one_of
from ge2e_transforms.feature_kinds import FEATURE_KINDS


@dataclass(frozen=True)
class AudioConfig(Stage):
    """Encoded audio to mono float32 samples in [-1, 1] at one rate.

    sample_rate_hz: every recording is resampled to this (16 kHz is what speaker corpora hold).
    channel: 'mean' of all channels, or the number of one channel counted from 0.
    remove_dc: subtract the mean of the utterance; a constant offset would count as voice.
    max_seconds: longest decoded recording.
    max_decoded_mib: most that all channels of a recording may take as float32 at its own rate. It bounds a worker's
        memory; 600 s of stereo at 48 kHz are 220 MiB.
    max_channels, max_input_rate_hz: wider or faster headers are damage, not recordings.
    """

    sample_rate_hz: int = 16000
    channel: str | int = "mean"
    remove_dc: bool = True
    max_seconds: float = 600.0
    max_decoded_mib: float = 1024.0
    max_channels: int = 16
    max_input_rate_hz: int = 384000

    def _check_values(self) -> None:
        check_number("sample_rate_hz", self.sample_rate_hz, 1000, 384000)
        check(
            self.channel == "mean" or (type(self.channel) is int and self.channel >= 0),
            "channel",
            self.channel,
            "'mean' or a channel number from 0",
        )
        check_number("max_seconds", self.max_seconds, 0, 86400, open_low=True)
        check_number("max_decoded_mib", self.max_decoded_mib, 1, 65536)
        check_number("max_channels", self.max_channels, 1, 1024)
        check_number("max_input_rate_hz", self.max_input_rate_hz, 1000, 10_000_000)


@dataclass(frozen=True)
class VoiceConfig(Stage):
    """Which samples are voice: frames within `top_db` of the loudest frame, as `librosa.effects.split`.

    voice: 'none' keeps everything, 'join' splices the voiced intervals, 'mask' keeps the waveform whole
        and drops the unvoiced *frames* afterwards (no spliced waveform).
    top_db: 30 dB, as the project's origin had it.
    min_silence_ms: voiced intervals that are closer than this are joined with the gap between them.
    voice_window, voice_hop: samples; librosa's defaults. The window is a whole number of hops.
    silence_dbfs: a recording whose loudest frame is below this holds no speech at all (16-bit audio
        with one active bit is at -90 dBFS).
    """

    voice: str = "join"
    top_db: float = 30.0
    min_silence_ms: float = 0.0
    voice_window: int = 2048
    voice_hop: int = 512
    silence_dbfs: float = -80.0

    def _check_values(self) -> None:
        check_one_of("voice", self.voice, ("none", "join", "mask"))
        check_number("top_db", self.top_db, 0, 200, open_low=True)
        check_number("min_silence_ms", self.min_silence_ms, 0, 60000)
        check_number("voice_hop", self.voice_hop, 1, 1 << 16)
        whole = 0 < self.voice_window <= 1 << 20 and self.voice_window % (2 * self.voice_hop) == 0
        expected = f"an even multiple of voice_hop={self.voice_hop}, at most {1 << 20}"
        check(whole, "voice_window", self.voice_window, expected)
        check_number("silence_dbfs", self.silence_dbfs, -200, 0)


@dataclass(frozen=True)
class LevelConfig(Stage):
    """Loudness: the root mean square of the voiced part is set to `level_dbfs` (None leaves it alone).

    -30 dBFS, the level of Resemblyzer's preprocessing; a fixed level lifts quiet speech off the floor of
    the logarithm. The gain is limited so that no sample leaves [-1, 1], and stands in the index as `gain_db`.
    level_mode: 'set', or 'raise', which leaves louder speech as it is.
    """

    level_dbfs: float | None = -30.0
    level_mode: str = "set"

    def _check_values(self) -> None:
        if self.level_dbfs is not None:
            check_number("level_dbfs", self.level_dbfs, -100, 0)
        check_one_of("level_mode", self.level_mode, ("set", "raise"))
        needless = self.level_mode == "raise" and self.level_dbfs is None
        check(not needless, "level_mode, level_dbfs", ("raise", None), "'set' where no level is asked for")


@dataclass(frozen=True)
class FeatureConfig(Stage):
    """Waveform to features: framing, FFT, mel filterbank, logarithm.

    features: a kind of `feature_kinds`: 'logmel', 'mfcc' (orthonormal DCT-II of the log-mel) or 'raw' (the PCM16
        waveform).
    window_ms, hop_ms, n_fft: 25 ms Hann window every 10 ms, zero-padded in its middle to 512 points, as
        in Wan et al. 2018 (GE2E) and as librosa does with win_length < n_fft.
    window_form: 'periodic', or 'symmetric', whose last weight is its first, as in Kaldi. 'povey' is Kaldi's default
        window, a Hann window to the power of 0.85; it is symmetric by definition.
    center, pad_mode: frames are centred on multiples of the hop; the ends are padded with zeros
        ('constant') or mirrored ('reflect', librosa's default in 2020).
    snip: which must lie within the waveform where frames are not centred: the whole 'fft', as in librosa, or the
        'window' alone, with the zeros of the FFT behind it, as in Kaldi (its snip_edges).
    scale: 'unit', samples in [-1, 1], or 'pcm16', these times 32768, as Kaldi takes them; not of raw samples.
    frame_dc: subtract from each frame its own mean, before all else is done to it, as Kaldi does.
    pre_emphasis, pre_emphasis_in: y[n] = x[n] - pre_emphasis * x[n-1]; 0 is off (0.97 is usual). Within the
        'utterance', or within each 'frame' apart, as Kaldi does. What comes first has a copy of itself before it.
    n_mels: 40, as Wan et al. have.
    f_min_hz, f_max_hz, mel_scale, mel_norm: filterbank as `librosa.filters.mel`, or 'kaldi': HTK's scale with
        triangles that are straight in mels instead of in Hz, of height 1. f_max_hz None is half the sample rate.
    log, floor, floor_kind: 'log10', 'ln' or 'db' (10 log10) of max(power, floor) or power + floor; 'none' keeps power.
        log10(power + 1e-6) is that of the project's origin.
    dither: amplitude, in units of one 16-bit step, of triangular noise seeded by the utterance id; 0 is off.
    n_mfcc: coefficients kept, librosa's default.
    dtype: 'float32', or 'float16' for half the bytes: then a value is off by up to 2^-9 = 0.002 for log10 (one in
        2^11 for larger values). Raw samples are PCM16 always. Power without a logarithm spans more than float16 does.
    """

    features: str = "logmel"
    pre_emphasis: float = 0.0
    dither: float = 0.0
    window: str = "hann"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    n_fft: int = 512
    center: bool = True
    pad_mode: str = "constant"
    n_mels: int = 40
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    mel_scale: str = "slaney"
    mel_norm: str = "slaney"
    log: str = "log10"
    floor: float = 1e-6
    floor_kind: str = "add"
    n_mfcc: int = 20
    dtype: str = "float32"
    window_form: str = "periodic"
    snip: str = "fft"
    scale: str = "unit"
    frame_dc: bool = False
    pre_emphasis_in: str = "utterance"

    def _check_values(self) -> None:
        check_one_of("features", self.features, tuple(FEATURE_KINDS))
        check_number("pre_emphasis", self.pre_emphasis, 0, 1)
        check_number("dither", self.dither, 0, 1000)
        check_one_of("window", self.window, ("hann", "hamming", "blackman", "boxcar", "povey"))
        check_number("window_ms", self.window_ms, 0, 1000, open_low=True)
        check_number("hop_ms", self.hop_ms, 0, 1000, open_low=True)
        check_number("n_fft", self.n_fft, 2, 1 << 16)
        check(self.n_fft % 2 == 0, "n_fft", self.n_fft, "an even number")
        check_one_of("pad_mode", self.pad_mode, ("constant", "reflect"))
        check_number("n_mels", self.n_mels, 1, 1024)
        check_one_of("mel_scale", self.mel_scale, ("slaney", "htk", "kaldi"))
        check_one_of("mel_norm", self.mel_norm, ("slaney", "none"))
        check_one_of("log", self.log, ("log10", "ln", "db", "none"))
        check_number("floor", self.floor, 1e-30, 1)
        check_one_of("floor_kind", self.floor_kind, ("add", "max"))
        check_number("n_mfcc", self.n_mfcc, 1, self.n_mels if self.features == "mfcc" else 1024)
        check_one_of("dtype", self.dtype, ("float32", "float16"))
        check_one_of("window_form", self.window_form, ("periodic", "symmetric"))
        check_one_of("snip", self.snip, ("fft", "window"))
        check_one_of("scale", self.scale, ("unit", "pcm16"))
        check_one_of("pre_emphasis_in", self.pre_emphasis_in, ("utterance", "frame"))
        self._check_together()

    def _check_together(self) -> None:
        if self.dtype != "float32":
            fits = self.features != "raw" and self.log != "none"
            expected = "features 'logmel' or 'mfcc' with a logarithm; 'raw' is PCM16, and power needs float32"
            check(fits, "dtype, features, log", (self.dtype, self.features, self.log), expected)
        periodic = self.window == "povey" and self.window_form == "periodic"
        check(not periodic, "window, window_form", (self.window, self.window_form), "'symmetric' for a Povey window")
        normed = self.mel_scale == "kaldi" and self.mel_norm != "none"
        check(
            not normed, "mel_scale, mel_norm", (self.mel_scale, self.mel_norm), "mel_norm 'none' for Kaldi's triangles"
        )
        free = not self.center or self.snip == "fft"
        check(free, "center, snip", (self.center, self.snip), "snip 'fft' where frames are centred: nothing is snipped")

    def logarithm(self, power: float) -> float:
        """Of one positive value, as `log` says; power itself for 'none'. `features.rounded_log` is for arrays."""
        if self.log == "none":
            return power
        return math.log(power) if self.log == "ln" else math.log10(power) * (10 if self.log == "db" else 1)


@dataclass(frozen=True)
class SegmentConfig(Stage):
    """What of an utterance becomes a record.

    segments: 'utterance' stores the whole voiced part as one spectrogram, crops are chosen when reading;
        'windows' stores fixed windows of `crop_ms` inside each voiced interval, as the project's origin did.
    crop_ms: 1.2 s, as the project's origin had it: the length that the stored `feature_shape` speaks of, 121 frames by
        default.
    min_utterance_ms: less voice than this in a train utterance is filtered; 0.3 s is a policy, and not measured.
    max_part_s: longer utterances are cut into parts, each a record with its own checksum; of 60 s and 40 bands it takes
        less than a megabyte.
    """

    segments: str = "utterance"
    crop_ms: float = 1200.0
    min_utterance_ms: float = 300.0
    max_part_s: float = 60.0

    def _check_values(self) -> None:
        check_one_of("segments", self.segments, ("utterance", "windows"))
        check_number("crop_ms", self.crop_ms, 0, 60000, open_low=True)
        check_number("min_utterance_ms", self.min_utterance_ms, 0, 60000)
        check_number("max_part_s", self.max_part_s, 1, 3600)
