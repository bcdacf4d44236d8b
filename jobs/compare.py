"""Put the numbers of evaluations side by side, if their protocols are the same.

python jobs/compare.py outputs/a/evaluation/builtin-… outputs/b/evaluation/builtin-…
"""

from pipeline.cli.main import run
from pipeline.evaluation.report import CompareConfig, compare

if __name__ == "__main__":
    run(lambda: (compare, compare), CompareConfig)
