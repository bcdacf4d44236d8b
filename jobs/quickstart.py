"""The whole way in minutes, on a laptop: shapes, prepare, train, generate.

python jobs/quickstart.py
"""

from pipeline.cli.main import Work, run
from pipeline.cli.quickstart_config import QuickstartConfig


def _work() -> Work[QuickstartConfig]:
    from pipeline.cli.quickstart import plan_quickstart, quickstart

    return quickstart, plan_quickstart


if __name__ == "__main__":
    run(_work, QuickstartConfig, preset="quickstart")
