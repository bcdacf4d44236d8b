#!/usr/bin/env bash
# Submit a job to the cluster that RAY_API_SERVER_ADDRESS names, after a look at token, address and size:
# cluster/submit.sh -- python jobs/train_coco.py …
# The work is done by pipeline/ray_cluster/submit.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
test -x "$python" || python=python
exec "$python" -m pipeline.ray_cluster.submit "$@"
