"""A command imports none of the libraries that take seconds unless its work needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Their options are the fields of sources of originals, which read tables.
READ_TABLES = ["prepare", "quickstart"]
HELP_OF_ALL = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(f"jobs/{name}.py", run_name="__main__")
    assert "--debug" in shown.getvalue(), name
    heavy = {"matplotlib", "mlflow", "pyarrow", "ray", "scipy", "torch", "transformers"}
    if name in ("prepare", "quickstart"):
        heavy.remove("pyarrow")
    found = sorted(heavy & set(sys.modules))
    assert not found, f"jobs/{name}.py --help imports {', '.join(found)}"
"""
IN_ORDER = """
import runpy, shlex, sys
for line in sys.argv[1:]:
    sys.argv = shlex.split(line)
    runpy.run_path(sys.argv[0], run_name="__main__")
    found = sorted({"ray", "transformers"} & set(sys.modules))
    assert not found, f"{line} imports {', '.join(found)}"
"""


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        # With a GPU an evaluation is on Ray.
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_of_a_job_imports_no_heavy_library():
    names = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert len(names) == 18

    run(HELP_OF_ALL, *sorted(names - set(READ_TABLES)), *READ_TABLES)


@pytest.mark.slow
@pytest.mark.rest
def test_small_work_on_one_machine_needs_neither_ray_nor_transformers(tmp_path):
    prepare = "jobs/prepare.py shapes --count=100 --size=32 --pairs=0 --image-size=32 --margin=1"
    train = "jobs/train_coco.py --workers=0 --total-steps=1 --data.no-flip --name=small"
    networks = "--model.image-size=32 --model.base-channels=2 --optim.batch-size=4"
    small = f"{tmp_path}/runs/small"

    run(
        IN_ORDER,
        f"{prepare} --sentence-dim=8 --output={tmp_path}/data",
        f"{train} {networks} --data.path={tmp_path}/data --output={tmp_path}/runs",
        f"jobs/generate.py --model={small} --output={tmp_path}/drawn 'a red circle'",
        f"jobs/evaluate.py --model={small} --count=20 --few-images",
    )

    assert (tmp_path / "drawn" / "grid.png").exists()
    assert list(Path(small, "evaluation").glob("*/report.md"))
