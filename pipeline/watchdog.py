"""A decoder that hangs in a worker's own process ends together with that process.

Nothing else can stop a library that does not return, and the job would wait for it without end. What starts the worker
anew, or the same command given again, meets the start mark of the shard and decodes in a process of its own.

Times are seconds; samples are mono float32, as of `audio.load`. It must not know shards.
"""

from __future__ import annotations

import os
import threading
import time

from ge2e_transforms import audio
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Samples

# A recording at the limits of the default recipe takes some seconds. One that is only slow loses nothing but time: the
# next attempt gives it as long as the limits of its recipe may need.
LIMIT_S = 600.0
# Time is counted in looks of the thread, so that a process that was stopped meanwhile has used up none of it.
LOOK_S = 5.0

_looks = 0
_running: dict[int, tuple[int, str]] = {}  # by thread: the last look that may see it, and what is decoded
_starting = threading.Lock()
_watching = False


def load(source: str | bytes, config: AudioConfig, channel: str | int | None = None, name: str = "") -> Samples:
    """As `audio.load`; the process ends if that has not come back after `LIMIT_S`."""
    _watch()
    thread = threading.get_ident()
    _running[thread] = (_looks + round(LIMIT_S / LOOK_S) + 1, name)
    try:
        return audio.load(source, config, channel, name)
    finally:
        del _running[thread]


def _watch() -> None:
    global _watching
    with _starting:
        if not _watching:
            _watching = True
            threading.Thread(name="decoder_watchdog", target=_look, daemon=True).start()


def _look() -> None:
    global _looks
    while True:
        time.sleep(LOOK_S)
        _looks += 1
        for last, name in list(_running.values()):
            if _looks >= last:
                told = (
                    f"ge2e: DecoderHungError: {name}: not decoded after {LIMIT_S:g} s; this process ends. The next "
                    "attempt decodes it in a process of its own: if nothing starts one, run the same command again\n"
                )
                os.write(2, told.encode(errors="replace"))
                os._exit(1)
