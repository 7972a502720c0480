"""Decoding in a process of its own: a decoder that crashes, hangs or takes all memory costs one recording.

Parent and child speak over two pipes in frames: four bytes with the length of a JSON object, the object, and as many
bytes of content as its `length` says. Nothing is unpickled and no module of the parent is run again. The child ends
when its standard input does, or when the time for a recording is over; so it does not outlive a parent that was
killed. The content of a request is encoded bytes, that of an answer float32 samples. It must not know how they are
decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ge2e_transforms import audio, errors
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import DataError, DecoderCrashedError, DecoderHungError, OverLimitError

_MIB = 1 << 20
# A machine that is short of memory or was put to sleep also ends children; it hardly does so twice for one recording.
_ATTEMPTS = 2
# From here the modules are those of the parent, wherever the child was started.
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from ge2e_transforms.isolated import serve; serve()"


class IsolatedDecoder:
    """`audio.load` in a child process, which is started on first use and again when it has died.

    For one thread. Close it, or use it in a `with`.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def load(
        self, source: str | bytes, config: AudioConfig, channel: str | int | None = None, name: str = ""
    ) -> Samples:
        """As `audio.load`, to the byte.

        Small files are read here, so that a disk that does not answer is not taken for a decoder that hangs.

        Raises:
            DataError: as `audio.load`.
            DecoderCrashedError: the child died of this recording, twice.
            DecoderHungError: it did not come to an end in its time, twice.
            OSError: the file could not be read, for a reason that may pass.
        """
        name = name or (source if isinstance(source, str) else "audio")
        source = audio.whole(source, name)
        request = _request(source, config, channel, name)
        content = b"" if isinstance(source, str) else source
        for _ in range(_ATTEMPTS):
            answer = self._ask(request, content)
            if answer is not None:
                return _result(*answer)
            status = self._reap()
        raise _death(status, request)

    def close(self) -> None:
        """Ends the child, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._reap()

    def _ask(self, request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], Samples] | None:
        """The answer and its samples; None if the child died over it."""
        if self._child is None:
            self._child = _start()
        requests, answers = _pipes(self._child)
        try:
            _send(requests, request, content)
            answer = _receive(answers)
            samples = np.empty(answer["length"] // 4, dtype=np.float32)
            _fill(answers, samples.view(np.uint8).data)
            return answer, samples
        except (BrokenPipeError, EOFError):
            return None
        except BaseException:  # what is left in the pipes would be taken for the next answer
            self.close()
            raise

    def _reap(self) -> int:
        """Status of the child that has ended its output, with its pipes closed."""
        child, self._child = self._child, None
        if child is None:
            return 0
        for pipe in _pipes(child):
            with contextlib.suppress(OSError):  # what was not sent yet
                pipe.close()
        try:
            return child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def _pipes(child: subprocess.Popen[bytes]) -> tuple[Any, Any]:
    return child.stdin, child.stdout


def _start() -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        requests, answers = _pipes(child)
        try:
            _receive(answers)
        except EOFError:
            requests.close()
            answers.close()
            status = child.wait()
            complaints.seek(0)
            told = complaints.read().decode(errors="replace")
            raise RuntimeError(f"the process for decoders did not start (status {status}): {told}") from None
    return child


def _request(source: str | bytes, config: AudioConfig, channel: str | int | None, name: str) -> dict[str, Any]:
    size = len(source)
    if isinstance(source, str):
        with contextlib.suppress(OSError):
            size = os.stat(source).st_size  # noqa: PTH116 (the child says what is wrong with it)
    return {
        "path": os.path.abspath(source) if isinstance(source, str) else None,  # noqa: PTH100 (Path keeps '..')
        "config": dataclasses.asdict(config),
        "channel": channel,
        "name": name,
        "limit_s": time_limit_s(config, size),
        "memory": memory_limit(config, size),
    }


def time_limit_s(config: AudioConfig, size: int) -> float:
    """Seconds for a recording of `size` bytes: 188 and some with the default limits.

    Opus, the slowest codec (`benchmarks/formats.py`), gives 12 MiB of float32 a second or more, so 1/8 s for each MiB
    that the recipe allows is enough. A second for each MiB of the file is for one that comes over a slow network, and
    the minute bears with a machine that does something else.
    """
    return 60 + config.max_decoded_mib / 8 + size / _MIB


def memory_limit(config: AudioConfig, size: int) -> int:
    """Bytes of address space for a recording of `size` bytes, beside what the child has before.

    Twice the samples, as blocks and then as one array, or once with one channel of them, and what is resampled with
    its copies; the rest is for libraries that are loaded on first use, and for their buffers.
    """
    resampled = 4 * config.max_seconds * config.sample_rate_hz
    return int(3 * config.max_decoded_mib * _MIB + 3 * resampled) + size + 512 * _MIB


def _result(answer: dict[str, Any], samples: Samples) -> Samples:
    kind = answer["kind"]
    if kind == "samples":
        return samples
    if kind == "data":
        found = getattr(errors, answer["error"])
        raise found(answer["detail"]) if issubclass(found, DataError) else RuntimeError(str(answer))
    if kind == "os":
        raise OSError(*answer["arguments"])
    raise RuntimeError(f"the process for decoders met a bug:\n{answer['traceback']}")


def _death(status: int, request: dict[str, Any]) -> DataError:
    name = request["name"]
    if status == -signal.SIGALRM:
        return DecoderHungError(
            f"{name}: not decoded after {request['limit_s']:g} s, twice, in a process of its own: the recording is "
            "damaged, or made to do this; check it with another program, or leave it out"
        )
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return DecoderCrashedError(
        f"{name}: the decoder ended {how}, twice, in a process of its own: the recording is damaged, or made to do "
        "this; check it with another program, or leave it out"
    )


def _send(stream: BinaryIO, header: dict[str, Any], content: bytes | memoryview = b"") -> None:
    text = json.dumps({**header, "length": len(content)}).encode()
    stream.write(struct.pack("<I", len(text)) + text)
    stream.write(content)
    stream.flush()


def _receive(stream: BinaryIO) -> dict[str, Any]:
    (length,) = struct.unpack("<I", _exactly(stream, 4))
    header: dict[str, Any] = json.loads(_exactly(stream, length))
    return header


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _fill(stream: Any, buffer: memoryview) -> None:
    while buffer:
        length = stream.readinto(buffer)
        if not length:
            raise EOFError
        buffer = buffer[length:]


def serve() -> None:
    """The child: answers requests on standard input until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Libraries that print, or read what is not theirs, must not reach the pipes or a terminal.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    _limit("RLIMIT_CORE", 0)
    _send(answers, {"kind": "ready"})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request = _receive(requests)
            content = _exactly(requests, request["length"])
            _send(answers, *_answer(request, content))


def _answer(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
    source = content if request["path"] is None else request["path"]
    config, name = AudioConfig(**request["config"]), request["name"]
    with contextlib.suppress(OSError):  # where the system does not tell what a process has, it has no limit for it
        _limit("RLIMIT_AS", _address_space() + request["memory"])
    # Not Python's to handle: the system ends this process even while a library does not return, or the parent is gone.
    signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
    try:
        samples = audio.load(source, config, request["channel"], name)
        return {"kind": "samples"}, samples.view(np.uint8).data
    except DataError as error:
        return {"kind": "data", "error": type(error).__name__, "detail": str(error)}, b""
    except MemoryError:
        told = f"{name}: decoding takes more memory than {request['memory'] // _MIB} MiB, which max_decoded_mib allows"
        return {"kind": "data", "error": OverLimitError.__name__, "detail": told}, b""
    except OSError as error:
        arguments = (error.errno, error.strerror, error.filename) if error.errno else (str(error),)
        return {"kind": "os", "arguments": arguments}, b""
    except Exception:
        return {"kind": "bug", "traceback": traceback.format_exc()}, b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _limit("RLIMIT_AS", resource.RLIM_INFINITY)  # the next recording is yet to be taken in, and may be larger


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _limit(name: str, value: int) -> None:
    """Sets a limit of this process as far as it may, where the system has it."""
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, hard))
