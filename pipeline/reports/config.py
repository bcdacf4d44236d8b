"""Options of the page about runs."""

from typing import Annotated

import tyro
from pydantic import Field

from pipeline.common.settings import Settings


class ReportConfig(Settings):
    """Write one page about runs: options, samples, curves, numbers, faults, and how each was made.

    python jobs/report.py outputs/a outputs/b --output report.html
    """

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], Field(min_length=1)]]
    """Folders or bucket addresses of runs; that of a sweep stands for its trials."""
    output: str = "report.html"
    """File for the page, or its address. An earlier page there is replaced."""
