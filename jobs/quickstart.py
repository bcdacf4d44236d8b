"""The whole way in minutes, on a laptop: shapes, prepare, train, generate.

python jobs/quickstart.py
"""

from pipeline.cli import run
from pipeline.dry_run import plan_quickstart
from pipeline.quickstart import QuickstartConfig, quickstart

if __name__ == "__main__":
    run(quickstart, QuickstartConfig, preset="quickstart", plan=plan_quickstart)
