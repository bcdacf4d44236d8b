"""The whole way in minutes, on a laptop: shapes, prepare, train, generate.

python jobs/quickstart.py
"""

from pipeline.cli.main import run
from pipeline.cli.quickstart import QuickstartConfig, plan_quickstart, quickstart

if __name__ == "__main__":
    run(lambda: (quickstart, plan_quickstart), QuickstartConfig, preset="quickstart")
