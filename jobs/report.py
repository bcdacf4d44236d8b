"""Write one page about some runs: what differs, samples, curves, numbers, faults, origin.

python jobs/report.py outputs/a outputs/b --output report.html
"""

from pipeline.cli.main import Work, run
from pipeline.reports.config import ReportConfig


def _work() -> Work[ReportConfig]:
    from pipeline.reports.report import plan_report, write_report

    return write_report, plan_report


if __name__ == "__main__":
    run(_work, ReportConfig)
