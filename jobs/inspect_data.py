"""Show what is in a prepared dataset: counts, words, sizes, rejects, and pictures with captions.

python jobs/inspect_data.py --data data/coco-256

Not named inspect.py: Python looks beside a job for modules first, and its own is called that.
"""

from pipeline.cli.inspect_data import InspectConfig, inspect, plan_inspection
from pipeline.cli.main import run

if __name__ == "__main__":
    run(inspect, InspectConfig, plan=plan_inspection)
