"""What a hash of the decoded samples costs an hour of speech, by function.

    python benchmarks/audio_hash.py [--seconds 8] [--rounds 5] [--json FILE]

An hour of 16 kHz float32 samples (230 MB) is hashed utterance by utterance, each just written to memory, as after its
decoding. Seconds are of the processor, the median of the rounds. `chance` is that of any false double among 100 million
utterances of equal length, n^2 / 2 / 2^bits, for a function whose bits are as good as random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

from ge2e_transforms.audio import content_hash

Samples: TypeAlias = npt.NDArray[np.float32]

_RATE = 16_000
_UTTERANCES = 100_000_000


def crc32c(samples: npt.NDArray[Any]) -> int:
    return int(google_crc32c.value(samples.tobytes()))


def two_layouts(samples: Samples) -> int:
    """The crc32c of the samples, and of the same with the two halves of their bits apart."""
    apart = np.ascontiguousarray(samples.view(np.uint16).reshape(-1, 2).T)
    return crc32c(samples) << 32 | crc32c(apart)


def two_polynomials(samples: Samples) -> int:
    """By the Chinese remainder theorem as good as one checksum of 64 bits."""
    return crc32c(samples) << 32 | zlib.crc32(samples.data)


CANDIDATES: dict[str, tuple[int, Callable[[Samples], object]]] = {
    "content_hash (xxh3_64)": (64, content_hash),
    "xxh3_64": (64, lambda samples: xxhash.xxh3_64_intdigest(samples.data)),
    "xxh3_128": (128, lambda samples: xxhash.xxh3_128_intdigest(samples.data)),
    "xxh64": (64, lambda samples: xxhash.xxh64_intdigest(samples.data)),
    "crc32c": (32, crc32c),
    "crc32c of two layouts": (64, two_layouts),
    "crc32c and zlib's crc32": (64, two_polynomials),
    "blake2b, 8 bytes": (64, lambda samples: hashlib.blake2b(samples.data, digest_size=8).digest()),
    "sha256": (256, lambda samples: hashlib.sha256(samples.data).digest()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of an utterance (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name, (bits, function) in CANDIDATES.items():
        spent = statistics.median(seconds_of(function, args.seconds) for _ in range(args.rounds))
        chance = _UTTERANCES**2 / 2 / 2**bits
        rate = 3600 * _RATE * 4 / spent / 1e9
        row = {"function": name, "ms_an_hour": round(1000 * spent, 1), "gb_a_second": round(rate, 1), "bits": bits}
        rows.append(row | {"chance": float(f"{min(1.0, chance):.2g}")})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def seconds_of(function: Callable[[Samples], object], seconds: float) -> float:
    """Processor seconds for an hour of speech."""
    voice = np.random.default_rng(0).standard_normal(round(seconds * _RATE)).astype(np.float32)
    spent = 0.0
    for number in range(round(3600 / seconds)):
        samples = voice * np.float32(1 / (number + 1))
        began = time.process_time()
        function(samples)
        spent += time.process_time() - began
    return spent


if __name__ == "__main__":
    main()
