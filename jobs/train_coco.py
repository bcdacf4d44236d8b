"""Train RAT-GAN on MS-COCO at 256 px.

python jobs/train_coco.py --data.path data/coco-256
ray job submit --working-dir . -- python jobs/train_coco.py --data.path s3://… --output s3://…
"""

from pipeline.cli.main import run
from pipeline.config import TrainConfig
from pipeline.training.dry_run import plan_training
from pipeline.training.train import train

if __name__ == "__main__":
    run(train, TrainConfig, preset="coco", plan=plan_training)
