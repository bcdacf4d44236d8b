"""Measure how good a model is, by a named protocol.

python jobs/evaluate.py --model outputs/quickstart
python jobs/evaluate.py --model outputs/coco-256 --protocol clean --weights pt_inception-….pth
ray job submit --working-dir . -- python jobs/evaluate.py --model s3://… --data s3://… …
"""

from pipeline.cli.main import Work, run
from pipeline.evaluation.config import EvaluateConfig


def _work() -> Work[EvaluateConfig]:
    from pipeline.evaluation.evaluate import evaluate, plan_evaluation

    return evaluate, plan_evaluation


if __name__ == "__main__":
    run(_work, EvaluateConfig)
