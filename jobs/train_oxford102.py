"""Train RAT-GAN on Oxford-102 at 256 px.

python jobs/train_oxford102.py --data.path data/oxford102-256
ray job submit --working-dir . -- python jobs/train_oxford102.py --data.path s3://… --output s3://…
"""

from pipeline.cli.main import run
from pipeline.config import TrainConfig
from pipeline.training.dry_run import plan_training
from pipeline.training.train import train

if __name__ == "__main__":
    run(train, TrainConfig, preset="oxford102", plan=plan_training)
