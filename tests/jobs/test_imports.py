"""A command that only shows its options imports none of the libraries that take seconds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Their options are defined beside what does the work.
NOT_YET = {"compare", "export_data", "quickstart"}
HELP_OF_ALL = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(f"jobs/{name}.py", run_name="__main__")
    assert "--debug" in shown.getvalue(), name
    heavy = {"matplotlib", "mlflow", "pyarrow", "ray", "scipy", "torch", "transformers"}
    if name == "prepare":  # whose options are the fields of sources, which read tables
        heavy.remove("pyarrow")
    found = sorted(heavy & set(sys.modules))
    assert not found, f"jobs/{name}.py --help imports {', '.join(found)}"
"""


def test_help_of_a_job_imports_no_heavy_library():
    names = {path.stem for path in (ROOT / "jobs").glob("*.py")} - NOT_YET
    assert len(names) == 15

    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *sorted(names - {"prepare"}), "prepare"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
