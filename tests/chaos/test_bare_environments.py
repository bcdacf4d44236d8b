"""Jobs in environments that have less than a person's: of containers and batch systems."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.chaos.commands import PATIENCE_S, ROOT
from tests.chaos.test_training_faults import options
from tests.jobs.test_readme import SMALL_QUICKSTART
from tests.pipeline.training.test_train import status

pytestmark = [pytest.mark.slow, pytest.mark.rest]

# In mounts of its own: a system that knows no user, and shared memory as Docker gives it.
BARE = [
    *("unshare", "--mount", *(() if os.getuid() == 0 else ("--map-root-user",)), "sh", "-ec"),
    "for file in passwd nsswitch.conf; do mount --bind /dev/null /etc/$file; done; "
    "mount -t tmpfs -o size=64m,mode=1777 none /dev/shm; "
    'PATH=${ONLY:-$PATH}; export PATH; exec "$@"',
    "sh",
]


@functools.cache
def why_not() -> str:
    """Return why such an environment cannot be made here, or ""."""
    try:
        done = subprocess.run(
            [*BARE, sys.executable, "-c", ""], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return str(error)
    return done.stderr if done.returncode else ""


def in_bare(environment: dict[str, str], job: str, *flags: str) -> subprocess.CompletedProcess:
    """Run a job in such an environment, in which TMPDIR is made if it is missing."""
    if why := why_not():
        pytest.skip(f"this machine lets no bare environment be made: {why}")
    Path(environment["TMPDIR"]).mkdir(exist_ok=True)
    return subprocess.run(
        [*BARE, sys.executable, str(ROOT / f"jobs/{job}.py"), *flags],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("workers", "environment"),
    # Without PATH there is no git; Ray starts a worker by bash, which must be found.
    [
        (1, {"TMPDIR": "short"}),
        (0, {"HOME": "/proc", "TMPDIR": "long" * 20, "ONLY": "/proc/missing"}),
    ],
    ids=["no home", "no home to write to, and a path too long for a socket"],
)
def test_a_user_without_anything_trains(workers, environment, shapes, tmp_path):
    temporary = tmp_path / environment["TMPDIR"]
    run, preset = options(shapes, tmp_path, workers=workers, total_steps=2), tmp_path / "a.yaml"
    preset.write_text(yaml.safe_dump(run.model_dump(mode="json")))

    done = in_bare(environment | {"TMPDIR": str(temporary)}, "train_coco", f"--preset={preset}")

    said, home = done.stdout + done.stderr, temporary / f"ratgan-home-{os.getuid()}"
    assert done.returncode == 0, said
    assert status(tmp_path) == "FINISHED"
    assert not re.search("Traceback|getpwuid|GIT_PYTHON", said), said
    assert (f"has no home folder: {home} is used. Set HOME" in said) == ("HOME" not in environment)
    assert home.exists() == ("HOME" not in environment)


def test_a_user_without_anything_does_the_rest(shapes, tmp_path):
    outputs, model = tmp_path / "outputs", tmp_path / "outputs/quickstart"
    run, preset = options(shapes, outputs, workers=0, total_steps=2), tmp_path / "a.yaml"
    train = run.model_dump(mode="json") | {"name": "tiny"}
    space = ["optim.generator_lr=choice(0.001,0.002)"]
    study = {"name": "rates", "space": space, "search": "grid", "concurrent": 1, "train": train}
    preset.write_text(yaml.safe_dump(study))
    jobs = {
        "quickstart": [f"--train.output={outputs}", *SMALL_QUICKSTART.split()],
        "evaluate": [f"--model={model}", "--count=20", "--few-images", "--actors=1"],
        "sweep": [f"--preset={preset}"],
    }

    for job, flags in jobs.items():
        done = in_bare({"TMPDIR": str(tmp_path / "short")}, job, *flags)

        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not re.search("Traceback|getpwuid|GIT_PYTHON", said), said
        assert "has no home folder: " in said

    assert (model / "grid.png").exists()
    assert list(model.glob("evaluation/*/report.json"))
    assert "2 finished" in (outputs / "rates/table.md").read_text()
