"""The Ray layer around `ratgan`: prepare, train, track, generate."""

import os

# How often an OpenMP thread looks for work before it sleeps; read when torch is loaded. By default
# it looks without end: of two trainings on two cores each did 4 images a second, and one alone 88.
# With this number two do 28 each, and one alone 88.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
