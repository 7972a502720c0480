"""Ctrl-C: the job ends as interrupted, and nothing is published that it may have spoilt.

With one worker the job runs in the main thread, where Ctrl-C raises KeyboardInterrupt anywhere. In a callback of a C
library (libsndfile reads through one) Python can only print and drop it, and the recording seems to be cut off.

It must not know what is interrupted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressed = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C in the block ends it as KeyboardInterrupt, whatever a runner or a library makes of that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _pressed.clear()
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
        raise_if_interrupted()
    except Exception as error:
        if _pressed.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        _pressed.clear()


def _note(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raises the KeyboardInterrupt that was dropped since the block of `interruptible` began."""
    if _pressed.is_set():
        raise KeyboardInterrupt
