"""Other CPUs, as far as libraries can be told to take this one for them: for tests that values do not depend on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def settings() -> list[dict[str, str]]:
    """Environments in which the libraries take other code paths than here."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    old_libm = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-FMA,-FMA4"
    return [
        {
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": " ".join(found),
            "GLIBC_TUNABLES": old_libm,
            "NUMBA_CPU_NAME": "generic",
        },
        # With instructions that multiply and add in one, and round once; and nothing made of vectors.
        {
            "OPENBLAS_CORETYPE": "Haswell",
            "NPY_DISABLE_CPU_FEATURES": " ".join(found[1:]),
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx2,+fma",
        },
        {"OPENBLAS_CORETYPE": "SkylakeX", "NUMBA_OPT": "1", "NUMBA_LOOP_VECTORIZE": "0"},
    ]


def lines_of(code: str) -> list[list[str]]:
    """What a program prints on each of them, line by line; all run at once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent.parent,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in settings()
    ]
    outputs = [process.communicate()[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return outputs
