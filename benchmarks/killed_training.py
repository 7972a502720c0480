"""A training run that is killed at step 700 and started again, beside one that is left alone.

    python benchmarks/killed_training.py ../shared/data [--json FILE]

Runs of `examples/train_ge2e train` on real speech, with a checkpoint every 200 steps. The killed one sends itself a
SIGKILL after step 700, which nothing can catch; the plain command then goes on from step 600. Losses are compared as
numbers, not nearly.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import timing

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "train_ge2e"
STEPS, KILLED_AT, EVERY = 800, 700, 200
_KILLED = f"""
import os, runpy, signal, sys
sys.path.insert(0, sys.argv[1])
import training
train = training.train
def killed(*arguments):
    for step in train(*arguments):
        if step.number == {KILLED_AT}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield step
training.train = killed
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of real speech in LibriSpeech's layout, or a manifest")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    sys.path.insert(0, str(EXAMPLE))
    from training import read_steps

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        timing.write_rows(work / "speech.csv", timing.speech(args.speech))
        timing.ge2e_run(work / "speech.csv", work / "features", 2)
        flags = ["train", str(work / "features"), "--steps", str(STEPS), "--checkpoint_every", str(EVERY), "--output"]
        plain, killed = [sys.executable, str(EXAMPLE)], [sys.executable, "-c", _KILLED, str(EXAMPLE)]
        subprocess.run([*plain, *flags, str(work / "undisturbed")], check=True)
        ended = subprocess.run([*killed, *flags, str(work / "killed")], check=False).returncode
        if ended != -signal.SIGKILL:
            raise SystemExit(f"the run that was to be killed ended with status {ended}")
        subprocess.run([*plain, *flags, str(work / "killed")], check=True)
        one, other = (read_steps(work / name) for name in ("undisturbed", "killed"))
    equal = sum(a.number == b.number and a.loss == b.loss for a, b in zip(one, other, strict=True))
    print(f"killed after step {KILLED_AT} of {STEPS}: {equal} losses are equal")
    result = {
        "killed_at": KILLED_AT,
        "equal_losses": equal,
        "undisturbed_s": sum(s.waited_s + s.trained_s for s in one),
    }
    timing.save(args.json, {**timing.about(), **result}, [timing.Goal("equal losses", equal, STEPS)])


if __name__ == "__main__":
    main()
