"""Send to MLflow what was measured while it did not answer, or write it for TensorBoard.

python jobs/sync.py --run outputs/NAME
python jobs/sync.py --run outputs
python jobs/sync.py --run outputs/NAME --to tensorboard
"""

from pipeline.cli.main import run
from pipeline.cli.sync import SyncConfig, plan_sync, sync

if __name__ == "__main__":
    run(sync, SyncConfig, plan=plan_sync)
