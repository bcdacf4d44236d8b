"""Send to MLflow what was measured while it did not answer.

python jobs/sync.py --run outputs/NAME
python jobs/sync.py --run outputs
"""

from pipeline.cli.main import run
from pipeline.cli.sync import SyncConfig, plan_sync, sync

if __name__ == "__main__":
    run(sync, SyncConfig, plan=plan_sync)
