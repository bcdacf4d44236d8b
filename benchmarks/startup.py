"""CPU seconds until a command has started, beside those that torch and Ray take alone.

    python benchmarks/startup.py            three rounds of all, in turns; medians
    python benchmarks/startup.py --quick    one round, without Ray

User seconds of a process and of the children it waited for, with files in the cache of the disk.
The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import make_model

FLOOR = "import torch"
ACTOR = """import ray
ray.init(num_cpus=1, include_dashboard=False)
ray.get(ray.remote(type("One", (), {"one": lambda self: 1})).remote().one.remote())
"""


def user_seconds(command: list[str]) -> float:
    """Run Python on a command, and return its user seconds.

    Raises:
        RuntimeError: If it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{command} failed:\n{errors.read().decode()}")
    return used.ru_utime


def main() -> None:
    """Print the table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        draw = ["jobs/generate.py", f"--model={folder}", f"--output={folder}/drawn", "a red bird"]
        commands = {FLOOR: ["-c", FLOOR], "generate.py, one picture": draw}
        if not quick:
            commands["Ray and one actor, without what Ray leaves running"] = ["-c", ACTOR]
        for job in sorted((ROOT / "jobs").glob("*.py")):
            commands[f"{job.name} --help"] = [str(job), "--help"]
        taken = defaultdict(list)
        for _ in range(1 if quick else 3):
            for name, command in commands.items():
                taken[name].append(user_seconds(command))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print("| command | user seconds | × import torch |\n| --- | --- | --- |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {seconds / medians[FLOOR]:.2f} |")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
