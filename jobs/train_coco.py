"""Train RAT-GAN on MS-COCO at 256 px.

python jobs/train_coco.py --data.path data/coco-256
ray job submit --working-dir . -- python jobs/train_coco.py --data.path s3://… --output s3://…
"""

from pipeline.cli.main import Work, run
from pipeline.config import TrainConfig


def _work() -> Work[TrainConfig]:
    from pipeline.training.dry_run import plan_training
    from pipeline.training.train import train

    return train, plan_training


if __name__ == "__main__":
    run(_work, TrainConfig, preset="coco")
