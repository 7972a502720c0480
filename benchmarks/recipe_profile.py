"""The share of each stage of the recipe: functions are wrapped by name while a shard is written.

A stage's time is that of its functions less that of the stages that they call. Functions that a version of the code
does not have are left out, and what they would have taken is part of the stage that calls them.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import timing

if TYPE_CHECKING:
    from ge2e_transforms.utterance import Utterance

_PACKAGE = "ge2e_transforms"
# Stage -> what belongs to it, as module.name or module.Class.name.
STAGES: dict[str, tuple[str, ...]] = {
    "decode": ("audio.decode",),
    "mono and resample": ("audio.to_mono", "audio.resample"),
    "mean and energies": ("sums.mean", "sums.hop_energies"),
    "voice": ("voice.voiced_intervals", "voice.frame_power", "voice.energy_of"),
    "gain": ("extractor.level_gain",),
    "join and level": ("extractor.Level.apply", "voice.join"),
    "window, FFT, mel": ("features.FeatureKernel.__call__",),
    "log": ("features.FeatureKernel._compress", "features.rounded_log"),
    "audio_hash": ("audio.content_hash",),
    "record": ("records.encode_record",),
    "statistics": ("shards.FrameSums.add",),
    "index": ("shards.write_index",),
    "extract, the rest": ("extractor.FeatureExtractor.extract",),
    "write, the rest": ("shards.ShardWriter.write",),
}


class Clock:
    """Seconds by stage, each without those of the stages within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - began
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken - self._inner.pop()
                self._inner[-1] += taken

        return timed


@contextmanager
def wrapped(clock: Clock) -> Iterator[list[str]]:
    """The functions of `STAGES` that there are, wrapped wherever they are known; gives those that there are not."""
    missing, patches = [], []
    for stage, names in STAGES.items():
        for name in names:
            module, *holders, last = name.split(".")
            holder: Any = importlib.import_module(f"{_PACKAGE}.{module}")
            for one in holders:
                holder = getattr(holder, one, None)
            function = vars(holder).get(last) if holder else None
            if not callable(function) or function.__module__ != f"{_PACKAGE}.{module}":
                missing.append(name)
                continue
            timed = clock.wrap(stage, function)
            patches += [mock.patch.object(place, key, timed) for place, key in _places(holder, function)]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield missing


def _places(holder: Any, function: object) -> list[tuple[Any, str]]:
    """Where a function is known: its class, or all modules of the package that imported it."""
    if isinstance(holder, type):
        return [(holder, key) for key, value in vars(holder).items() if value is function]
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == _PACKAGE]
    return [(module, key) for module in modules for key, value in vars(module).items() if value is function]


def profile(rows: Sequence[Utterance]) -> None:
    """Prints the seconds and the share of each stage, records to /dev/null."""
    import recipe

    recipe.write(rows[:20], Path(os.devnull), Path(os.devnull))  # what is loaded at first use
    clock = Clock()
    with wrapped(clock) as missing:
        taken = timing.timed(lambda: recipe.write(rows, Path(os.devnull), Path(os.devnull)))["wall_s"]
    seconds = sum(timing.lengths(rows))
    parts = {stage: clock.seconds[stage] for stage in STAGES if stage in clock.seconds}
    parts["outside of all"] = taken - sum(parts.values())
    print(f"{seconds / 3600:.2f} h of speech, records to /dev/null: {seconds / taken:,.0f} x real time\n")
    lines = [
        (stage, f"{spent:.3f}", f"{spent / taken:.1%}", f"{spent / seconds * 3.6e6:.0f}")
        for stage, spent in parts.items()
    ]
    print(timing.table(["stage", "s", "share", "ms an hour of speech"], lines))
    print(f"\nnot in this version: {', '.join(missing) or 'nothing'}", file=sys.stderr)
