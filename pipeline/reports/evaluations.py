"""Evaluations on the page about runs: numbers by protocol, and the nearest training images."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from pipeline.evaluation.protocols import Protocol, differences
from pipeline.evaluation.report import (
    NEAREST,
    SAMPLES,
    direction,
    is_of_pair,
    meaning_of,
    shown_name,
    spread_of,
    told_apart,
)
from pipeline.reports.charts import colour, compact, shown
from pipeline.reports.run_history import ODD, Evaluation, RunHistory, whole
from pipeline.reports.sample_pictures import TALL, DecodingBudget, data_uri, read_picture
from pipeline.reports.tables import head_of, table_of
from pipeline.tracking.untrusted_records import number, part

MAX_PICTURE = 900  # pixels, of a picture of an evaluation

Column = tuple[int, RunHistory, Evaluation]  # number of the run


def evaluations_of(runs: Sequence[RunHistory]) -> Iterator[Column]:
    """Yield every evaluation of every run."""
    for n, run in enumerate(runs):
        for evaluation in run.evaluations:
            yield n, run, evaluation


def _protocol(evaluation: Evaluation) -> Protocol | None:
    try:
        return Protocol(**evaluation.report.get("protocol", {}))
    except (ValueError, TypeError, ValidationError):
        return None


def _step(evaluation: Evaluation) -> str:
    model = evaluation.report.get("model")
    step = whole(model.get("step")) if isinstance(model, dict) else None
    return "" if step is None else f"step {step:,}"


def numbers(columns: Sequence[Column]) -> str:
    """Lay numbers out by protocol: those by different ones never stand beside each other."""
    groups: list[tuple[Protocol, list[Column]]] = []
    unread = 0
    for column in columns:
        protocol = _protocol(column[2])
        if protocol is None:
            unread += 1
            continue
        for other, group in groups:
            if not differences(other, protocol):
                group.append(column)
                break
        else:
            groups.append((protocol, [column]))
    parts = []
    for place, (protocol, group) in enumerate(groups):
        parts.append(
            f"<h3>{shown(protocol.name, 60)}: {protocol.count or 0:,} images of "
            f"{protocol.image_size} px, extractor {shown(protocol.extractor, 40)}, reference "
            f"{shown(protocol.reference, 40)}</h3>"
        )
        if place:
            unlike = "; ".join(differences(groups[0][0], protocol))
            parts.append(
                '<p class="muted">Measured by another protocol than those above, so these numbers '
                f"do not compare with them: {shown(unlike, 600)}.</p>"
            )
        parts.append(_one_protocol(group))
    if unread:
        parts.append(f'<p class="muted">{unread} reports are of another version: not shown.</p>')
    return "".join(parts) or '<p class="muted">No evaluation yet: jobs/evaluate.py makes one.</p>'


def _one_protocol(group: Sequence[Column]) -> str:
    """Lay out the numbers of one protocol, a row for each and a column for each evaluation."""
    reports = [evaluation for _, _, evaluation in group]
    kinds: dict[str, str] = {}
    for each in reports:
        kinds |= {str(k): str(v) for k, v in list(part(each.report, "kinds").items())[:100]}
    same_pair = all(each.report.get("pair") == reports[0].report.get("pair") for each in reports)
    names = sorted(
        {str(name) for each in reports for name in list(part(each.report, "numbers"))[:100]},
        key=lambda name: (list(kinds).index(name) if name in kinds else len(kinds), name),
    )
    names = [name for name in names if same_pair or not is_of_pair(kinds.get(name, ""))]
    rows, methods = [], set()
    for name in names:
        cells = []
        for each in reports:
            value = number(part(each.report, "numbers").get(name))
            text = "–" if value is None else compact(value)
            if spread := spread_of(each.report, name):
                ends = f"{compact(spread.low)} to {compact(spread.high)}"
                text += f' <span class="muted">{ends}</span>'
                methods.add(f"{spread.level * 100:.0f} % by {spread.method}")
            cells.append(f'<td class="number">{text}</td>')
        kind = kinds.get(name, "")
        note = "; ".join(filter(None, (meaning_of(kind), _verdict(group, name, direction(kind)))))
        label = f'<b>{shown(shown_name(name), 80)}</b><br><span class="muted">{shown(note)}</span>'
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    head = [
        head_of(n, run, f'<br><span class="muted">{_step(evaluation)}</span>')
        for n, run, evaluation in group
    ]
    said = "" if same_pair else "Retrieval is left out: measured by different pairs of encoders. "
    if methods:
        said += f"Ranges are intervals: {shown('; '.join(sorted(methods)), 300)}."
    else:
        said += "No spread was measured: small differences may be chance."
    return table_of(["<th></th>", *head], rows) + f'<p class="muted">{said}</p>'


def _verdict(group: Sequence[Column], name: str, sign: int) -> str:
    """Say what `jobs/compare.py` says of two evaluations; of more, of the two best."""
    known = [
        (-sign * value, column)
        for column in group
        if (value := number(part(column[2].report, "numbers").get(name))) is not None
    ]
    if len(known) < 2 or (len(known) > 2 and not sign):
        return ""
    best = sorted(known, key=lambda each: each[0])[:2] if len(known) > 2 else known
    two = [column for _, column in best]
    reports = [evaluation.report for _, _, evaluation in two]
    titles = [f"{run.name[:60]} {_step(evaluation)}".strip() for _, run, evaluation in two]
    verdict = told_apart(reports, name, titles)
    if not verdict and any(part(report, "spread").get(name) for report in reports):
        verdict = "whether they differ is unknown: both need an interval that can be read"
    return f"of the two best: {verdict}" if verdict and len(known) > 2 else verdict


def evaluation_pictures(
    columns: Sequence[Column], budget: int
) -> tuple[dict[tuple[int, str], str], list[str]]:
    """Read pictures of evaluations, by place of the evaluation and file, within a budget of bytes.

    Returns:
        The pictures as figures, and what was left out.
    """
    found: dict[tuple[int, str], str] = {}
    cut, decoding = 0, DecodingBudget()
    for file in (NEAREST, SAMPLES):
        for place, (n, run, evaluation) in enumerate(columns):
            listed = evaluation.report.get("pictures")
            if not isinstance(listed, list) or file not in listed:
                continue
            if decoding.left < 0:
                cut += 1
                continue
            try:
                picture = read_picture(evaluation.folder, file, decoding)
            except ODD as error:
                run.problems.append(str(error))
                continue
            picture.thumbnail((MAX_PICTURE, TALL * MAX_PICTURE))
            what = "Generated images and the training images nearest to them" * (file == NEAREST)
            what = what or "Generated images with their captions"
            text = shown(f"{run.name[:60]}, {_step(evaluation)}: {what}", 300)
            figure = (
                f'<figure><img alt="{text}" src="{data_uri(picture)}"><figcaption>'
                f'<span class="key {colour(n)}"></span>{text}</figcaption></figure>'
            )
            budget -= len(figure)
            if budget < 0:
                cut += 1
                continue
            found[place, file] = figure
    return found, [f"{cut} pictures of evaluations: too large together"] * bool(cut)


def copies(columns: Sequence[Column], pictures: dict[tuple[int, str], str]) -> str:
    """Say which evaluations found copies of training images, with the nearest pairs."""
    lines = []
    for n, run, evaluation in columns:
        measured = part(evaluation.report, "memorised")
        if not measured:
            continue
        ratio, flagged = number(measured.get("ratio")), measured.get("flagged") is True
        verdict = (
            '<b class="bad">images may be copies of training images</b>'
            if flagged
            else '<span class="good">no sign of copies</span>'
        )
        known = "" if ratio is None else f", ratio {compact(ratio)}"
        lines.append(
            f'<p><span class="key {colour(n)}"></span>{shown(run.name, 60)} {_step(evaluation)}: '
            f"{verdict}{known}</p>"
        )
    nearest = "".join(text for (_, file), text in pictures.items() if file == NEAREST)
    drawn = "".join(text for (_, file), text in pictures.items() if file == SAMPLES)
    none = '<p class="muted">No evaluation of these runs looked for nearest training images.</p>'
    return (
        ("".join(lines) + f'<div class="pictures">{nearest}</div>' * bool(nearest) or none)
        + f"<details><summary>Images that were evaluated</summary>"
        f'<div class="pictures">{drawn}</div></details>' * bool(drawn)
    )
