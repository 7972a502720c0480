"""Beam starts local worker processes by a shell with the path of Python unquoted.

A job under a path with a space waited for its workers without end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobs import LIMIT_S, ROOT, pids
from synth import small_corpus


def test_workers_start_where_the_environment_has_a_space_in_its_path(tmp_path: Path) -> None:
    environment = tmp_path / "my environment"
    environment.symlink_to(sys.prefix)
    manifest = small_corpus(tmp_path / "corpus", speakers=4, utterances=2)
    python = environment / "bin" / "python"
    flags = ["--manifest", str(manifest), "--output", str(tmp_path / "out"), "--direct_num_workers=2"]
    subprocess.run([str(python), "-m", "pipeline", "run", *flags], cwd=ROOT, timeout=LIMIT_S, check=True)
    assert len(pids(tmp_path / "out")) == 2
