"""Prepare a dataset: originals to parquet shards with images and sentence vectors.

python jobs/prepare.py auto --root data/mine     # says which of the layouts it is
python jobs/prepare.py coco --root data/coco --image-size 256 --output data/coco-256
ray job submit --working-dir . -- python jobs/prepare.py coco --root s3://… --output s3://…
"""

from pipeline.cli.main import Work, run
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.recognise import AutoConfig, recognise


def _work() -> Work[PrepareConfig]:
    from pipeline.preparation.dry_run import plan_preparation
    from pipeline.preparation.prepare import prepare

    return prepare, plan_preparation


if __name__ == "__main__":
    run(_work, PrepareConfig, words={"auto": (lambda: (recognise, recognise), AutoConfig)})
