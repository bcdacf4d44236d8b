"""Send to MLflow what was measured while it did not answer, or write it for TensorBoard.

python jobs/sync.py --run outputs/NAME
python jobs/sync.py --run outputs
python jobs/sync.py --run outputs/NAME --to tensorboard
"""

from pipeline.cli.config import SyncConfig
from pipeline.cli.main import Work, run


def _work() -> Work[SyncConfig]:
    from pipeline.cli.sync import plan_sync, sync

    return sync, plan_sync


if __name__ == "__main__":
    run(_work, SyncConfig)
