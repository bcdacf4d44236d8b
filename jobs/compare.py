"""Put the numbers of evaluations side by side, if their protocols are the same.

python jobs/compare.py outputs/a/evaluation/builtin-… outputs/b/evaluation/builtin-…
"""

from pipeline.cli import run
from pipeline.evaluation.compare import CompareConfig, compare

if __name__ == "__main__":
    run(compare, CompareConfig, plan=compare)
