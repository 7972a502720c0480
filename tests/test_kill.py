"""SIGKILL at seeded random moments, to the program and apart to a worker: the same command goes on as if nothing was.

Twenty programs and a few workers; `benchmarks/kills.py` kills as many as it is told.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import kills
import pytest
from killed_jobs import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SEED = 20
KILLS = 10  # of each case
WORKER_KILLS = 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with kills.drivers() as drivers:
        yield Bench(drivers, tmp_path_factory.mktemp("bench"))


def test_moments_are_of_all_stages(bench: Bench) -> None:
    for older in (False, True):
        found = bench.operations(older=older)
        expected = [stage for stage in kills.STAGES if older or stage != "planning"]  # that opens what stands there
        drawn = kills.draw(found, KILLS, SEED)
        assert drawn == kills.draw(found, KILLS, SEED) != kills.draw(found, KILLS, SEED + 1)
        assert {found[moment.operation - 1].stage for moment in drawn} == set(expected)


@pytest.mark.parametrize("older", [False, True], ids=["first", "overwrite"])
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_program_goes_on_by_the_same_command(number: int, older: bool, bench: Bench) -> None:
    """With an older dataset in the folder, which must stand until the new one does, and without."""
    moment = kills.draw(bench.operations(older=older), KILLS, SEED)[number]
    bench.kill_program(f"killed-{number}-{older}", moment, older=older)


@pytest.mark.parametrize("number", range(WORKER_KILLS))
def test_a_job_goes_on_when_a_worker_is_killed(number: int, bench: Bench) -> None:
    """Real worker processes. The job waited without end, or ended with Beam's traceback of a channel that was closed.

    The same command afterwards finds nothing left to do.
    """
    moment = kills.Moment(random.Random(SEED + number).randint(1, 40), 0.0)  # each worker has more operations than that
    assert bench.kill_worker(f"worker-{number}", moment) is not None
