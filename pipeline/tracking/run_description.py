"""The description of a run in MLflow: what it is, how to resume it, where its result is."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.commands import job_command
from pipeline.tracking.best_version import Quality

QUALITY = "* Quality: "
NOT_MEASURED = "not measured under a named protocol yet"


@dataclass(frozen=True)
class Purpose:
    """What a run is for.

    Attributes:
        trains: What comes of it, as a sentence begins.
        uses: What can be done with that, in Markdown, a line each.
    """

    trains: str
    uses: tuple[str, ...]


def note(purpose: Purpose, *, on: str, state: str, run: str) -> str:
    """Write the note, in Markdown."""
    again = command()
    lines = [
        f"* State: {state}",
        f"{QUALITY}{NOT_MEASURED}",
        f"* Folder: `{run}` (checkpoints, sample grids, and all that is in MLflow)",
        "* After a stop the same command goes on from the last checkpoint"
        + (f": `{again}`" if again else ""),
        *(f"* {use}" for use in purpose.uses),
    ]
    return f"{purpose.trains}, trained on {on}.\n\n" + "\n".join(lines) + "\n"


def with_qualities(text: str, found: Sequence[Quality]) -> str:
    """Put what was measured into a note."""
    measured = "; ".join(str(each) for each in found) or NOT_MEASURED
    return re.sub(rf"^{re.escape(QUALITY)}.*$", lambda _: QUALITY + measured, text, flags=re.M)


def command() -> str:
    """Return the command that started this job; empty in a process that no job file started."""
    file = Path(sys.argv[0])
    if file.parent.name != "jobs":
        return ""
    return job_command(file.stem, *sys.argv[1:])
