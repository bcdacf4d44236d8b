"""Train the paper's text encoder (DAMSM) on a prepared dataset.

python jobs/pretrain_damsm.py --data.path data/cub-256
ray job submit --working-dir . -- python jobs/pretrain_damsm.py --data.path s3://… --output s3://…
"""

from pipeline.cli.main import Work, run
from pipeline.training.damsm.config import PretrainConfig


def _work() -> Work[PretrainConfig]:
    from pipeline.training.damsm.pretrain import pretrain
    from pipeline.training.dry_run import plan_pretraining

    return pretrain, plan_pretraining


if __name__ == "__main__":
    run(_work, PretrainConfig, preset="damsm")
