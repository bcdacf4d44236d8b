"""All tests again and again, in random order and beside busy loops: `make flaky RUNS=10`.

    python -m tests.flaky --runs 10 --seed 7

A test that depends on a schedule, or on the tests before it, fails sooner or later. What a run
printed is kept where it failed. Each run's order comes from its seed, which is printed:
`--runs 1 --seed SEED` repeats it.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUSY = "while True: pass"


def run_once(seed: int, extra: Sequence[str], log: Path) -> tuple[int, str]:
    """Run the tests in the order of a seed; return the exit status and pytest's closing line."""
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "3",
            "--dist",
            "loadscope",
            "--no-loadscope-reorder",
            "-m",
            "not thorough",
        ),
        *("--random-order", "--random-order-bucket=global", f"--random-order-seed={seed}", *extra),
    ]
    with log.open("wb") as file:
        status = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    closing = [line.strip("= ") for line in lines if re.search(r"\d+ (passed|failed|error)", line)]
    return status, closing[-1] if closing else "no closing line"


def main() -> int:
    """Run what the flags say; the exit status says whether every run passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", type=int, default=2, help="loops beside the tests")
    parser.add_argument("--seed", type=int, help="of the first run's order; the others follow")
    options, extra = parser.parse_known_args()
    first = random.randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="flaky-"))
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    failed = 0
    try:
        for number in range(options.runs):
            seed, started = first + number, time.monotonic()
            log = folder / f"seed-{seed}.log"
            status, closing = run_once(seed, extra, log)
            minutes = (time.monotonic() - started) / 60
            where = f"  {log}" if status else ""
            sys.stdout.write(
                f"run {number + 1} of {options.runs}, seed {seed}, {minutes:.1f} min: "
                f"{closing}{where}\n"
            )
            sys.stdout.flush()
            failed += status != 0
    finally:
        for process in busy:
            process.kill()
            process.wait()
    sys.stdout.write(f"{options.runs - failed} of {options.runs} runs passed\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
