"""Write one page about some runs: what differs, samples, curves, numbers, faults, origin.

python jobs/report.py outputs/a outputs/b --output report.html
"""

from pipeline.cli.main import run
from pipeline.reports.report import ReportConfig, plan_report, write_report

if __name__ == "__main__":
    run(write_report, ReportConfig, plan=plan_report)
