"""Jobs in environments that have less than a person's: of containers and batch systems."""

import functools
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.chaos.commands import PATIENCE_S, ROOT
from tests.chaos.test_training_faults import options
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
    if why := why_not():
        pytest.skip(f"this machine lets no bare environment be made: {why}")
    temporary = tmp_path / environment["TMPDIR"]
    temporary.mkdir()
    run, preset = options(shapes, tmp_path, workers=workers, total_steps=2), tmp_path / "a.yaml"
    preset.write_text(yaml.safe_dump(run.model_dump(mode="json")))

    done = subprocess.run(
        [*BARE, sys.executable, str(ROOT / "jobs/train_coco.py"), f"--preset={preset}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        | environment
        | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    said, home = done.stdout + done.stderr, temporary / f"ratgan-home-{os.getuid()}"
    assert done.returncode == 0, said
    assert status(tmp_path) == "FINISHED"
    assert not re.search("Traceback|getpwuid|GIT_PYTHON", said), said
    assert (f"has no home folder: {home} is used. Set HOME" in said) == ("HOME" not in environment)
    assert home.exists() == ("HOME" not in environment)
