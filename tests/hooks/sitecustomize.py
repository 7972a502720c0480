"""On the PYTHONPATH of a test: recordings that begin with certain words do to any Python what broken decoders do.

Recordings that are such a word and nothing else have a second in a process of their own. The hook is never on the path
of the test's own process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from typing import Any

from ge2e_transforms import audio, isolated
from pipeline import watchdog

FOREVER_S = 10**6
right = audio.decode_any


def decode_any(stream: Any, config: Any) -> Any:
    word = stream.read(8)
    stream.seek(0)
    match word:
        case b"SEGFAULT":
            ctypes.string_at(0)
        case b"SLEEPING":
            time.sleep(FOREVER_S)
        case b"GIL HELD":  # no other thread of Python runs any more
            ctypes.PyDLL(None).sleep(FOREVER_S)
        case b"EXITING!":
            os._exit(3)
        case b"BLOATED!":
            bytearray(1 << 40)
        case b"PRINTING":
            os.write(1, b"to standard output\n" * 100)
            os.write(2, b"to standard error\n" * 100)
            os.read(0, 1)
        case b"A BUG!!!":
            raise RuntimeError("a bug in the decoder")
        case b"EIO EIO!":
            raise OSError(5, "Input/output error", "a.wav")
    return right(stream, config)


resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
audio.decode_any = decode_any
isolated.time_limit_s = lambda config, size: 1.0 if size == 8 else 600.0
watchdog.LIMIT_S, watchdog.LOOK_S = 1.0, 0.1
