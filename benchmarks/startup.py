"""Seconds of a command that has little to do, beside those that torch and Ray take alone.

    python benchmarks/startup.py            three rounds of all, in turns; medians
    python benchmarks/startup.py --quick    one round

User seconds of a process and of the children it waited for, and seconds by the clock, with files in
the cache of the disk. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
DATA = ["shapes", "--count=159", "--size=32", "--pairs=0", "--image-size=32", "--margin=1"]
TRAINING = [
    "--total-steps=1",
    "--optim.batch-size=16",
    "--model.image-size=32",
    "--model.base-channels=4",
    "--data.no-flip",
]


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Run Python on a command, and return its user seconds and those by the clock.

    Raises:
        RuntimeError: If it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
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
    return used.ru_utime, time.perf_counter() - began


def main() -> None:
    """Print the table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    taken = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").mkdir()
        make_model(Path(folder) / "model")
        for number in range(1 if quick else 3):
            for name, command in commands(f"{folder}/{number}", f"{folder}/model").items():
                taken[name].append(seconds_of(command))
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in taken.items()
    }
    print("| command | user seconds | × import torch | by the clock |\n| --- | --- | --- | --- |")
    for name, (user, clock) in medians.items():
        print(f"| {name} | {user:.2f} | {user / medians[FLOOR][0]:.2f} | {clock:.2f} |")
    print(json.dumps(medians))


def commands(folder: str, model: str) -> dict[str, list[str]]:
    """Return commands by what they are, in an order in which each has what it needs.

    Args:
        folder: For what they write.
        model: A saved model.
    """
    data, runs = f"{folder}/data", f"{folder}/runs"
    train = ["jobs/train_coco.py", f"--data.path={data}", f"--output={runs}", *TRAINING]
    measure = ["--count=440", "--few-images", f"--model={runs}/alone"]
    found = {
        FLOOR: ["-c", FLOOR],
        "generate.py, one picture": [
            "jobs/generate.py",
            f"--model={model}",
            f"--output={folder}/drawn",
            "a red bird",
        ],
        "prepare.py, 159 images": ["jobs/prepare.py", *DATA, f"--output={data}"],
        "train_coco.py, one step in its process": [*train, "--name=alone", "--workers=0"],
        "evaluate.py, 440 images of 32 px": ["jobs/evaluate.py", *measure],
        "Ray and one actor, without what Ray leaves running": ["-c", ACTOR],
        "train_coco.py, one step by a worker": [*train, "--name=worker", "--workers=1"],
    }
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    return found | {f"{job.name} --help": [str(job), "--help"] for job in jobs}


if __name__ == "__main__":
    main()
