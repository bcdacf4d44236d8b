"""A command that only shows its options imports none of the libraries that take seconds."""

import os
import subprocess
import sys
from pathlib import Path

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


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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
