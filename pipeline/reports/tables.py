"""Tables of the page about runs: a column for each run."""

from collections.abc import Sequence

from pipeline.reports.charts import colour, shown
from pipeline.reports.run_history import RunHistory


def head_of(number: int, run: RunHistory, more: str = "") -> str:
    """Write the head of a run's column; `more` is HTML."""
    key = f'<span class="key {colour(number)}"></span>'
    return f'<th scope="col">{key}{shown(run.name, 60)}{more}</th>'


def table_of(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Write a table of heads and rows, which are HTML."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table{kind}>'
        f"<thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def by_name(runs: Sequence[RunHistory], values: Sequence[dict[str, str]], *, unlike: bool) -> str:
    """Lay values out, a row for each name; empty if there are none.

    Args:
        values: By name, for each run.
        unlike: Only those that are not the same in all runs, or only the others.
    """
    names = sorted({name for each in values for name in each})
    rows = []
    for name in names:
        row = [each.get(name) for each in values]
        if (len(set(row)) > 1) == unlike:
            cells = row if unlike or len(runs) == 1 else row[:1]
            rows.append(
                f'<tr><th scope="row">{shown(name, 80)}</th>'
                + "".join(f"<td>{'–' if each is None else shown(each, 160)}</td>" for each in cells)
                + "</tr>"
            )
    head = [head_of(n, run) for n, run in enumerate(runs)]
    if not unlike and len(runs) > 1:
        head = ['<th scope="col">all</th>']
    return table_of(["<th></th>", *head], rows) if rows else ""
