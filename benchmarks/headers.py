"""Headers of recordings a second, by the number of threads: what `ge2e manifest --headers` and `ge2e plan` wait for.

    python benchmarks/headers.py SPEECH [--threads 1 4 16] [--times 10] [--rounds 3] [--json FILE]

SPEECH is a folder in LibriSpeech's layout or a manifest. Its files are read once before, so this is the price of the
code, not of the disk.
"""

from __future__ import annotations

import statistics

import timing


def main() -> None:
    parser = timing.arguments(__doc__, "headers", rounds=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    from ge2e_transforms.errors import DataError
    from ge2e_transforms.headers import read_headers

    places = [row.location for row in timing.speech(args.speech)[: args.files]] * args.times

    def read(threads: int) -> timing.Run:
        def all_of_them() -> None:
            if any(isinstance(header, DataError) for header in read_headers(places, threads)):
                raise SystemExit("a recording cannot be read")

        return timing.timed(all_of_them)

    contestants = {str(threads): lambda threads=threads: read(threads) for threads in args.threads}
    runs = timing.in_turn(contestants, args.rounds, warm_up=1)
    rates = {name: len(places) / statistics.median(run["wall_s"] for run in taken) for name, taken in runs.items()}
    print(timing.table(["threads", "headers a second"], [(name, f"{rate:,.0f}") for name, rate in rates.items()]))
    timing.save(args.json, {**timing.about(), "headers": len(places), "headers_a_second": rates, "rounds": runs}, [])


if __name__ == "__main__":
    main()
