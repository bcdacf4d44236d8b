"""Show what is in a prepared dataset: counts, words, sizes, rejects, and pictures with captions.

python jobs/inspect_data.py --data data/coco-256

Not named inspect.py: Python looks beside a job for modules first, and its own is called that.
"""

from pipeline.cli.config import InspectConfig
from pipeline.cli.main import Work, run


def _work() -> Work[InspectConfig]:
    from pipeline.cli.inspect_data import inspect, plan_inspection

    return inspect, plan_inspection


if __name__ == "__main__":
    run(_work, InspectConfig)
