"""What the fuzzers share: seeded damage to bytes, and checks in child processes that may crash, hang or grow.

Everything follows from a seed and the number of a mutant, so that each one can be made again by its number.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

# Of addresses, beyond what a child has when it begins; what it really takes is limited far below.
_ADDRESS_BYTES = 4 << 30
_EXTREMES = (0, 1, 2, -1, -2, 0x7F, 0x80, 0x7FFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0x7FFFFFFFFFFFFFFF, 1 << 63)


# Damage.


def draw_of(seed: int, number: int) -> random.Random:
    """The source of chance of one mutant."""
    return random.Random(f"{seed} {number}")


def damaged(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Data with one to three damages, and what they are; `other` is what it may be spliced with."""
    told = []
    for _ in range(draw.choices((1, 2, 3), (6, 3, 1))[0]):
        damage = draw.choice(_DAMAGES)
        data, what = damage(data, other, draw)
        told.append(what)
    return data, "; ".join(told)


def _place(size: int, draw: random.Random) -> int:
    """A place in so many bytes; half of them near the start, where headers are."""
    if size < 2 or draw.random() < 0.5:
        return draw.randrange(max(1, size))
    return min(size - 1, int(math.exp(draw.uniform(0, math.log(min(size, 4096))))) - 1)


def _length(size: int, draw: random.Random) -> int:
    return min(size, int(math.exp(draw.uniform(0, math.log(max(2, size))))))


def _flip(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    changed, places = bytearray(data), []
    for _ in range(draw.choice((1, 1, 2, 8))):
        place, bit = _place(len(data), draw), draw.randrange(8)
        if data:
            changed[place] ^= 1 << bit
        places.append(f"{place}.{bit}")
    return bytes(changed), "flip " + " ".join(places)


def _fill(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    start = _place(len(data), draw)
    length = _length(len(data) - start, draw)
    kind = draw.choice(("zeros", "ones", "noise"))
    run = {"zeros": bytes(length), "ones": b"\xff" * length}.get(kind) or draw.randbytes(length)
    return data[:start] + run + data[start + length :], f"{kind} [{start}, {start + length})"


def _integer(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    """An integer of a header at an extreme, or a little off."""
    width, order = draw.choice((1, 2, 2, 4, 4, 4, 8)), draw.choice(("little", "big"))
    start = _place(len(data), draw)
    if draw.random() < 0.7:
        start -= start % width
    there = int.from_bytes(data[start : start + width], order)  # type: ignore[arg-type]
    value = draw.choice((draw.choice(_EXTREMES), there + draw.choice((-2, -1, 1, 2)), draw.getrandbits(8 * width)))
    value %= 1 << 8 * width
    written = value.to_bytes(width, order)  # type: ignore[arg-type]
    return data[:start] + written + data[start + width :], f"{order} {8 * width} bit {value} at {start}"


def _cut(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    length = draw.choice((_place(len(data), draw), len(data) - _length(len(data), draw)))
    return data[:length], f"cut to {length}"


def _delete(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    start = _place(len(data), draw)
    length = _length(len(data) - start, draw)
    return data[:start] + data[start + length :], f"delete [{start}, {start + length})"


def _double(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    start = _place(len(data), draw)
    length, times = _length(len(data) - start, draw), draw.choice((1, 1, 3))
    return data[:start] + data[start : start + length] * times + data[start:], f"{times} x [{start}, {start + length})"


def _swap(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    first, second = sorted((_place(len(data), draw), _place(len(data), draw)))
    length = min(second - first, _length(len(data) - second, draw)) if data else 0
    parts = (data[:first], data[second : second + length], data[first + length : second])
    swapped = b"".join((*parts, data[first : first + length], data[second + length :]))
    return swapped, f"swap {length} at {first} and {second}"


def _splice(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    first, second = _place(len(data), draw), _place(len(other), draw)
    return data[:first] + other[second:], f"[0, {first}) and the other from {second}"


def _append(data: bytes, other: bytes, draw: random.Random) -> tuple[bytes, str]:
    length = _length(4096, draw)
    kind = draw.choice(("zeros", "noise", "itself", "the other"))
    behind = {"zeros": bytes(length), "itself": data, "the other": other}.get(kind) or draw.randbytes(length)
    return data + behind, f"append {len(behind)} of {kind}"


_DAMAGES = (_flip, _flip, _fill, _integer, _integer, _integer, _cut, _delete, _double, _swap, _splice, _append)


# Checks in child processes.


class Limits(NamedTuple):
    """What the check of one mutant may take: seconds, and MiB of memory beyond what is held between mutants."""

    seconds: float
    mib: float


class Result(NamedTuple):
    """What became of one mutant.

    outcome: what the check says, or how the child ended.
    finding: what is wrong with that; '' if nothing.
    mib: memory that the check took at most.
    """

    number: int
    outcome: str
    finding: str
    mib: float


# Outcome and finding ('' for none) of a number.
Check = Callable[[int], tuple[str, str]]


def run(
    numbers: Iterable[int], prepare: Callable[[], Check], limits: Limits, workers: int, folder: Path
) -> Iterator[Result]:
    """Checks mutants by number in child processes, in any order; a child that ends or is too slow is replaced.

    Args:
        numbers: of the mutants.
        prepare: called in each child once; it makes the check.
        limits: of each check.
        workers: children at once.
        folder: for what children print.
    """
    waiting = iter(numbers)
    children = [_Child(prepare, limits, folder / f"child-{place}.log") for place in range(workers)]
    try:
        busy = [child for child in children if child.begin(waiting)]
        while busy:
            patience = max(0.0, min(child.deadline for child in busy) - time.monotonic())
            ready = wait([child.pipe for child in busy], patience)
            late = time.monotonic()
            for child in list(busy):
                if child.pipe in ready or late >= child.deadline:
                    yield child.take(child.pipe in ready)
                    if not child.begin(waiting):
                        busy.remove(child)
    finally:
        for child in children:
            child.end()


class _Child:
    """One child process, begun anew after it has ended."""

    def __init__(self, prepare: Callable[[], Check], limits: Limits, log: Path) -> None:
        self._prepare, self._limits, self._log = prepare, limits, log
        self._start()

    def _start(self) -> None:
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        arguments = (theirs, self.pipe, self._prepare, self._limits, self._log)
        self._process = fork.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.pipe.recv()  # ready
        except EOFError:
            raise SystemExit(f"a child could not begin:\n{self._said()}") from None

    def begin(self, numbers: Iterator[int]) -> bool:
        """Gives the child the next number, if there is one."""
        self.number = next(numbers, -1)
        if self.number < 0:
            return False
        self.deadline = time.monotonic() + self._limits.seconds
        self.pipe.send(self.number)
        return True

    def take(self, ready: bool) -> Result:
        with contextlib.suppress(EOFError, ConnectionResetError):
            if ready:
                return Result(self.number, *self.pipe.recv())
        if ready:
            self._process.join()
            status = self._process.exitcode or 0
            name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            result = Result(self.number, f"crash: {name}", f"the process ended by {name}\n{self._said()}", 0)
        else:
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGABRT)  # whereupon it prints where it stands
            self._process.join()
            result = Result(self.number, "hang", f"not done in {self._limits.seconds} s\n{self._said()}", 0)
        self.end()
        self._start()
        return result

    def _said(self) -> str:
        """The end of what the child printed: where it stood."""
        return self._log.read_bytes()[-3000:].decode(errors="replace")

    def end(self) -> None:
        self.pipe.close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _serve(pipe: Connection, others: Connection, prepare: Callable[[], Check], limits: Limits, log: Path) -> None:
    others.close()
    os.nice(5)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)  # decoders print what they think of a file
    faulthandler.enable(descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    check = prepare()
    most = (_status_kib("VmSize") << 10) + _ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(_checked(check, pipe.recv(), limits))


def _checked(check: Check, number: int, limits: Limits) -> tuple[str, str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status_kib("VmRSS")
    try:
        outcome, finding = check(number)
    except BaseException as error:
        outcome, finding = f"unnamed: {type(error).__name__}", "".join(traceback.format_exception(error)[-6:])
    mib = max(0.0, (_status_kib("VmHWM") - before) / 1024)
    if mib > limits.mib and not finding:
        finding = f"took {mib:.0f} MiB, more than {limits.mib:g}"
    return outcome, finding, mib


def _status_kib(name: str) -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))


# Reports.


class Tally:
    """Outcomes by group, the most memory, and all findings."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.findings: list[dict[str, Any]] = []
        self.peak_mib = 0.0

    def add(self, group: str, result: Result, what: str) -> None:
        self.outcomes.setdefault(group, Counter())[result.outcome] += 1
        self.peak_mib = max(self.peak_mib, result.mib)
        if result.finding:
            entry = {"number": result.number, "group": group, "mutation": what, "outcome": result.outcome}
            self.findings.append({**entry, "finding": result.finding, "mib": round(result.mib)})

    @property
    def tried(self) -> int:
        return sum(outcomes.total() for outcomes in self.outcomes.values())

    def table(self, columns: Sequence[tuple[str, Callable[[str], bool]]], first: str) -> str:
        """Rows by group, columns by outcome."""
        lines = [f"| {first} | mutants | " + " | ".join(name for name, _ in columns) + " |"]
        lines.append("|" + "---|" * (len(columns) + 2))
        groups = {**dict(sorted(self.outcomes.items())), "all": sum(self.outcomes.values(), Counter())}
        for group, outcomes in groups.items():
            cells = [sum(count for name, count in outcomes.items() if wanted(name)) for _, wanted in columns]
            lines.append(f"| {group} | {outcomes.total():,} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
        return "\n".join(lines)

    def save(self, path: Path, about: dict[str, Any]) -> None:
        outcomes = {group: dict(sorted(found.items())) for group, found in sorted(self.outcomes.items())}
        content = {**about, "peak_mib": round(self.peak_mib, 1), "outcomes": outcomes, "findings": self.findings}
        path.write_text(json.dumps(content, indent=1) + "\n")
