"""Reports side by side, if their numbers compare."""

from typing import Annotated

import tyro
from pydantic import Field

from pipeline.evaluation.protocols import Protocol, differences
from pipeline.evaluation.report import Report, read_report, shown_name
from pipeline.progress import say
from pipeline.settings import Settings

PAIR_KINDS = ("r_precision", "r_precision_candidates", "nearness")


class CompareConfig(Settings):
    """Put the numbers of evaluations side by side; refused if their protocols are not the same.

    python jobs/compare.py outputs/a/evaluation/… outputs/b/evaluation/…
    """

    reports: tyro.conf.Positional[Annotated[tuple[str, ...], Field(min_length=2)]]
    """Folders of evaluations, or their report.json."""


def compare(config: CompareConfig) -> list[Report]:
    """Print the numbers of reports side by side.

    Returns:
        The reports.

    Raises:
        ValueError: If their numbers do not compare; it says in what they differ.
        FileNotFoundError: If one is not there.
    """
    reports = [read_report(location) for location in config.reports]
    refuse_unlike(reports, config.reports)
    say(table(reports))
    return reports


def refuse_unlike(reports: list[Report], names: tuple[str, ...]) -> None:
    """Refuse reports whose numbers do not compare.

    Args:
        reports: Two or more.
        names: What the user calls them.

    Raises:
        ValueError: With each difference.
    """
    first = Protocol(**reports[0]["protocol"])
    for report, name in zip(reports[1:], names[1:], strict=True):
        if unlike := differences(first, Protocol(**report["protocol"])):
            raise ValueError(
                f"the numbers of {names[0]} and {name} do not compare: they were measured by "
                "different protocols.\n" + "\n".join(unlike) + "\n"
                "Evaluate one of them again by the other's protocol."
            )


def table(reports: list[Report]) -> str:
    """Lay numbers out, a row for each and a column for each report."""
    pairs = [report["pair"] for report in reports]
    same_pair = all(pair == pairs[0] for pair in pairs)
    kinds: dict[str, str] = {}
    for report in reports:
        kinds |= report["kinds"]
    rows = [name for name, kind in kinds.items() if same_pair or not _is_of_pair(kind)]
    titles = [_title(report) for report in reports]
    width = max([len(shown_name(name)) for name in rows], default=0) + 2
    columns = [max(len(title), 10) + 2 for title in titles]
    protocol = Protocol(**reports[0]["protocol"])
    lines = [
        f"protocol {protocol.name}: {protocol.count:,} images of {protocol.image_size} px, "
        f"extractor {protocol.extractor}, reference {protocol.reference}",
        " " * width + "".join(f"{t:>{w}}" for t, w in zip(titles, columns, strict=True)),
    ]
    for name in rows:
        values = [report["numbers"].get(name) for report in reports]
        shown = ["–" if value is None else f"{value:.4g}" for value in values]
        lines.append(
            f"{shown_name(name):{width}}"
            + "".join(f"{text:>{w}}" for text, w in zip(shown, columns, strict=True))
        )
    if not same_pair:
        lines.append("retrieval is left out: it was measured by different pairs of encoders.")
    return "\n".join(lines)


def _is_of_pair(kind: str) -> bool:
    return kind in PAIR_KINDS or kind.startswith(("caption_recall", "image_recall"))


def _title(report: Report) -> str:
    step = report["model"]["step"]
    return f"{report['name']}@{step:,}" if step else str(report["name"])
