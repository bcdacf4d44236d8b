"""Write one page about some runs, for who has to decide between them."""

import re

from pipeline.common.console import print_line
from pipeline.reports.config import ReportConfig
from pipeline.reports.page import GENERATOR, page_of
from pipeline.reports.run_history import RunHistory, is_run, read_run
from pipeline.storage.folder import Folder, absolute
from pipeline.sweeps.study_folder import STUDY

MAX_RUNS = 24


def write_report(config: ReportConfig) -> None:
    """Read the runs and write the page; nothing else is changed.

    Raises:
        ValueError: If a folder holds no run, or another file is where the page is to be.
        OSError: If the page cannot be written.
    """
    folder, name = _place(config.output)
    folders = _run_folders(config)
    notes = []
    if len(folders) > MAX_RUNS:
        notes.append(f"{len(folders) - MAX_RUNS} runs: a page has at most {MAX_RUNS}")
    runs: list[RunHistory] = []
    for each in folders[:MAX_RUNS]:
        runs.append(read_run(each))
        same = sum(run.name == runs[-1].name for run in runs[:-1])
        runs[-1].name += f" ({same + 1})" * bool(same)
    content = page_of(runs, notes).encode()
    folder.write(name, content)
    print_line(f"{folder}/{name}: {len(runs)} runs, {len(content) / 1e6:.1f} MB")
    for problem in [problem for run in runs for problem in run.told()] + notes:
        print_line(f"  left out: {problem}")


def plan_report(config: ReportConfig) -> None:
    """Print what the page would be about.

    Raises:
        ValueError: As writing it would.
    """
    folder, name = _place(config.output)
    for each in _run_folders(config)[:MAX_RUNS]:
        print_line(f"run  {each}")
    print_line(f"page {folder}/{name}")


def _place(output: str) -> tuple[Folder, str]:
    """Return where the page goes.

    Raises:
        ValueError: If something else is there.
    """
    above, _, name = absolute(output, "output").rpartition("/")
    folder = Folder(above)
    if not name.endswith((".html", ".htm")):
        raise ValueError(f"output={output!r} is no name of a page: use, for example, report.html.")
    if folder.exists(name) and GENERATOR.encode() not in folder.read(name, 0, 1000):
        raise ValueError(
            f"output={output!r}: {folder}/{name} is there and is no report. Name another file."
        )
    return folder, name


def _run_folders(config: ReportConfig) -> list[Folder]:
    """Return the folders of the runs; those of the trials for a sweep.

    Raises:
        ValueError: If one holds no run.
    """
    found: list[Folder] = []
    for location in config.runs:
        place = Folder(absolute(location, "runs")).closed()
        if place.exists(STUDY):
            # Its folder may have another name than when the trials began.
            trials = [place / name for name in place.names() if re.search(r"-\d{3,}$", name)]
            of_place = [trial for trial in trials if is_run(trial)]
        else:
            of_place = [place] * is_run(place)
        if not of_place:
            raise ValueError(
                f"runs={location!r}: {place} is no run and no sweep with trials. Name the folder "
                "of a run, for example outputs/NAME."
            )
        found += [each for each in of_place if each.location not in {f.location for f in found}]
    return found
