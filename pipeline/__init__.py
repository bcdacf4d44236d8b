"""The Ray layer around `ratgan`: prepare, train, track, generate."""

import os

from pipeline.common.own_home import ensure_home
from pipeline.common.screen import open_closed_streams

# Before anything else is imported: libraries open files, and ask for the home folder.
open_closed_streams()
ensure_home()
# Otherwise the first call of some functions of Ray starts one, with ports open to the network.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# How often an OpenMP thread looks for work before it sleeps, read when torch is loaded. By default
# 300,000 times, on cores that another training could use: of two at once on two cores each did 5.6
# images a second, and one alone 88. With 10,000 two do 28 each, and one alone 88.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
