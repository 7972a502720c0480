"""Whole jobs of two processes that reach the moment of publication together, whichever runs faster."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

LIMIT_S = 120


def race(rounds: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[list[tuple[int, str]]]:
    """Runs pairs of `ge2e` commands, those of a pair at once in two processes.

    Both have read what is published in their output before either of them replaces it. Returns exit status and what
    was printed to stderr, for both commands of each pair.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_run, args=(number, [pair[number] for pair in rounds], barrier, results))
        for number in range(2)
    ]
    for process in processes:
        process.start()
    try:
        by_process = dict(results.get(timeout=LIMIT_S) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [list(pair) for pair in zip(by_process[0], by_process[1], strict=True)]


def _run(number: int, commands: list[list[str]], barrier: Barrier, results: Any) -> None:
    from pipeline import publishing
    from pipeline.__main__ import main

    really = publishing.write

    def together(*arguments: Any) -> None:
        barrier.wait(LIMIT_S)
        really(*arguments)

    publishing.write = together
    told = []
    for command in commands:
        barrier.wait(LIMIT_S)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = main(command)
        told.append((status, said.getvalue()))
    results.put((number, told))
