"""Two runs on one machine share its cores: OpenMP's threads sleep when they wait for long."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_the_limit_is_set_before_torch_is_loaded_unless_the_user_has_one(given, found):
    code = "import os, sys, pipeline.cli.main; "
    code += "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | given

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [found, "False"]
