#!/usr/bin/env bash
# A Ray cluster on this machine, shut to everybody without its token: cluster/start-local.sh 2 starts a
# head and two workers, cluster/start-local.sh --stop ends them.
# The work is done by pipeline/ray_cluster/local_cluster.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
test -x "$python" || python=python
exec "$python" -m pipeline.ray_cluster.local_cluster "$@"
