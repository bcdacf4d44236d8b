"""Put the numbers of evaluations side by side, if their protocols are the same.

python jobs/compare.py outputs/a/evaluation/builtin-… outputs/b/evaluation/builtin-…
"""

from pipeline.cli.main import Work, run
from pipeline.evaluation.config import CompareConfig


def _work() -> Work[CompareConfig]:
    from pipeline.evaluation.report import compare

    return compare, compare


if __name__ == "__main__":
    run(_work, CompareConfig)
