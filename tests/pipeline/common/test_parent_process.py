"""A child ends with its parent, also where the kernel does not see to it."""

import subprocess
import sys

import psutil
import pytest

from tests.processes import runs
from tests.waiting import wait_until

CHILD = """
import os, sys, threading
from pipeline.common.parent_process import end_with
parent, sys.platform = int(sys.argv[1]), sys.argv[2]
end_with(parent)
print(os.getpid(), flush=True)
threading.Event().wait()
"""
PARENT = """
import os, subprocess, sys
child = [sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]]
subprocess.run(child)
"""


@pytest.mark.parametrize("platform", [sys.platform, "another"])
def test_a_child_ends_with_a_parent_that_is_killed(platform):
    command = [sys.executable, "-c", PARENT, CHILD, platform]

    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            parent.kill()
            parent.wait()

            wait_until(lambda: not runs(child), "the end of the child")
        finally:
            parent.kill()
            if runs(child):
                child.kill()
