"""Write the page: one HTML file that loads nothing, with all text from runs escaped.

Its content security policy lets the browser run the one script and use the one style sheet that
are in it, by their hashes, and nothing else: no request leaves the page, whatever a caption says.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

from pydantic import ValidationError

from pipeline.evaluation.protocols import Protocol, differences
from pipeline.evaluation.report import is_of_pair, meaning_of, shown_name
from pipeline.reports.charts import Line, chart, colour, compact, shown, timeline, when
from pipeline.reports.run_history import ODD, Evaluation, RunHistory, number, whole
from pipeline.reports.sample_pictures import TALL, Samples, data_uri, read_picture, read_samples

GENERATOR = '<meta name="generator" content="ratgan report">'
MAX_BYTES = 15_000_000  # of a page
PICTURES_SHARE = 0.25  # of that, for pictures of evaluations
MAX_PICTURE = 900  # pixels, of a picture of an evaluation
NEAREST, DRAWN = "nearest.png", "samples.png"
IMPORTANT = re.compile(
    r"loss/|eval/|health/(sample_distance|text_effect|overfit|discriminator_accuracy)$"
)
MAX_CHARTS = 100  # of the important ones, and of the others

Column = tuple[int, RunHistory, Evaluation]  # number of the run


def page_of(runs: Sequence[RunHistory], notes: Sequence[str] = ()) -> str:
    """Write a page about runs.

    Args:
        runs: With names of their own.
        notes: What the page leaves out already, for people.

    Returns:
        HTML of at most `MAX_BYTES`, as UTF-8.

    Raises:
        ValueError: If it would be larger with no picture at all.
    """
    columns = list(_evaluations(runs))
    pictures, cut = _evaluation_pictures(columns, int(MAX_BYTES * PICTURES_SHARE))
    parts: dict[str, Callable[[], str]] = {
        "Options": lambda: _options(runs),
        "Curves": lambda: _curves(runs),
        "Numbers": lambda: _numbers(columns),
        "Copies": lambda: _copies(columns, pictures),
        "Faults": lambda: _times(runs),
        "Data": lambda: _data(runs),
        "Origin": lambda: _origins(runs),
    }
    built = {name: build() for name, build in parts.items()}
    # The rest is texts of bounded length, of which each character may become ten.
    left = MAX_BYTES - 200_000 - 150_000 * len(runs) - len("".join(built.values()).encode())
    if left < 0:
        raise ValueError(
            f"the page would have over {MAX_BYTES:,} bytes without any sample: name other runs, or "
            "fewer."
        )
    samples = read_samples(list(runs), left)
    notes = [*notes, *cut, *(f"samples: {each}" for each in samples.cut)]
    built = {"Options": built.pop("Options"), "Samples": _samples(runs, samples), **built}
    return _document(runs, built, notes, samples)


def _document(
    runs: Sequence[RunHistory], parts: dict[str, str], notes: Sequence[str], samples: Samples
) -> str:
    files = resources.files("pipeline.reports") / "page"
    style, script = ((files / name).read_text() for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = " and ".join(run.name[:60] for run in runs[:3]) + " …" * (len(runs) > 3)
    now = when(time.time_ns() // 1_000_000)
    problems = [f"{run.name}: {each}" for run in runs for each in run.told()]
    left_out = "".join(f"<li>{shown(each, 400)}</li>" for each in [*notes, *problems])
    sections = "".join(
        f'<section id="{name.lower()}" aria-labelledby="{name.lower()}-title">'
        f'<h2 id="{name.lower()}-title">{TITLES[name]}</h2>{content}</section>'
        for name, content in parts.items()
    )
    links = "".join(f'<a href="#{name.lower()}">{TITLES[name]}</a>' for name in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        f'<meta http-equiv="content-security-policy" content="{policy}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{shown(title, 250)}</title>'
        f"<style>{style}</style></head><body>"
        f"<header><h1>{shown(title, 250)}</h1>"
        f'<p class="muted">As of {now}.</p><nav aria-label="Sections">{links}</nav>'
        f'<ul class="runs">{"".join(_card(n, run) for n, run in enumerate(runs))}</ul></header>'
        f"<main>{sections}"
        + (
            f'<section><h2>Left out</h2><ul class="notes">{left_out}</ul></section>'
            * bool(left_out)
        )
        + f'</main><script type="application/json" id="frames">{_frames(samples)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


TITLES = {
    "Options": "What differs",
    "Samples": "The same captions, step by step",
    "Curves": "Curves",
    "Numbers": "Numbers",
    "Copies": "Nearest training images",
    "Faults": "Faults and restarts",
    "Data": "Data",
    "Origin": "How each was made",
}


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _card(number: int, run: RunHistory) -> str:
    step = max((step for _, step in run.progress), default=0)
    status = run.status.lower()
    # The record of a run that was killed says the same as that of one that goes on.
    last = max((time for time, _ in run.progress), default=None)
    state = "still going, or cut off" if status == "running" else status
    state += f"; last metrics {when(last)}" if last is not None else ""
    return (
        f'<li><b><i class="key {colour(number)}"></i>{shown(run.name, 80)}</b>'
        f"<span>{step:,} steps, {shown(state, 60)}</span>"
        f"<span>{len(run.evaluations)} evaluations, {len(run.kept)} checkpoints</span></li>"
    )


def _head(number: int, run: RunHistory, more: str = "") -> str:
    key = f'<span class="key {colour(number)}"></span>'
    return f'<th scope="col">{key}{shown(run.name, 60)}{more}</th>'


def _table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table{kind}>'
        f"<thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _by_name(runs: Sequence[RunHistory], values: Sequence[dict[str, str]], *, unlike: bool) -> str:
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
    head = [_head(n, run) for n, run in enumerate(runs)]
    if not unlike and len(runs) > 1:
        head = ['<th scope="col">all</th>']
    return _table(["<th></th>", *head], rows) if rows else ""


def _options(runs: Sequence[RunHistory]) -> str:
    values = [{k: v for k, v in run.options.items() if k != "name"} for run in runs]
    same = _by_name(runs, values, unlike=False)
    folded = f"<details><summary>All other options</summary>{same}</details>" * bool(same)
    if len(runs) == 1:
        return '<p class="muted">One run: there is nothing to compare it with.</p>' + folded
    found = _by_name(runs, values, unlike=True)
    return (found or '<p class="muted">The options are the same.</p>') + folded


def _curves(runs: Sequence[RunHistory]) -> str:
    names = sorted({name for run in runs for name in run.curves})
    first = [name for name in names if IMPORTANT.match(name)]
    others = [name for name in names if name not in first]

    def drawn(name: str) -> str:
        return chart(
            name,
            [
                Line(run.name, n, sorted((float(x), y) for x, y in run.curves[name].items()))
                for n, run in enumerate(runs)
                if name in run.curves
            ],
        )

    # The losses first, then what was measured, then health.
    order = ("loss/", "eval/", "health/")
    first.sort(key=lambda name: next(n for n, kind in enumerate(order) if name.startswith(kind)))
    shown_first, more = first[:MAX_CHARTS], (first[MAX_CHARTS:] + others)[:MAX_CHARTS]
    unseen = len(names) - len(shown_first) - len(more)
    if not names:
        return '<p class="muted">Nothing was measured yet.</p>'
    return (
        f'<div class="charts">{"".join(map(drawn, shown_first))}</div>'
        + f"<details><summary>{len(more)} more: scores, gradients, speed, memory, …</summary>"
        f'<div class="charts">{"".join(map(drawn, more))}</div></details>'
        * bool(more)
        + f'<p class="muted">{unseen} more metrics are left out.</p>' * bool(unseen)
    )


def _samples(runs: Sequence[RunHistory], samples: Samples) -> str:
    steps = sorted({step for frames in samples.frames for step in frames})
    if not steps:
        return '<p class="muted">There are no samples yet.</p>'
    head = [
        _head(n, run, f'<span class="muted" data-step-of="{n}"></span>')
        for n, run in enumerate(runs)
    ]
    rows = []
    for row, key in enumerate(samples.keys):
        said = "the whole grid, as it has no record of its layout" if key is None else key[0]
        cells = []
        for n, frames in enumerate(samples.frames):
            last = next(
                (frames[s][key] for s in sorted(frames, reverse=True) if key in frames[s]), ""
            )
            # A picture that was kept as it is was small.
            kind = "whole" if key is None else "square small" if "image/png" in last else "square"
            alt = shown(f"{runs[n].name[:60]}: {said}", 300)
            image = f'<img class="{kind}" data-run="{n}" data-row="{row}" alt="{alt}" src="{last}">'
            cells.append(f"<td>{image if last else ''}</td>")
        rows.append(f'<tr><th scope="row">{shown(said, 160)}</th>{"".join(cells)}</tr>')
    slide = (
        '<div class="slide"><label for="step">Step</label>'
        f'<input id="step" type="range" min="0" max="{len(steps) - 1}" step="1" '
        f'value="{len(steps) - 1}" disabled><output id="step-now" for="step">'
        f"step {steps[-1]:,}</output></div>"
    )
    note = (
        '<p class="muted">Within a run, captions and noise are the same at each step; a run '
        "with another seed has other noise. Arrow keys move the slider.</p>"
        ""
    )
    return note + slide + _table(["<th></th>", *head], rows, ' class="samples"')


def _frames(samples: Samples) -> str:
    """Write the pictures for the script: nothing of it is text from a run."""
    rows = {key: str(row) for row, key in enumerate(samples.keys)}
    value = {
        "steps": sorted({step for frames in samples.frames for step in frames}),
        "runs": [
            [
                {"step": step, "pictures": {rows[key]: uri for key, uri in found.items()}}
                for step, found in sorted(frames.items())
            ]
            for frames in samples.frames
        ],
    }
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _evaluations(runs: Sequence[RunHistory]) -> Iterator[Column]:
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


def _numbers(columns: Sequence[Column]) -> str:
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
        parts.append(_table_of(group))
    if unread:
        parts.append(f'<p class="muted">{unread} reports are of another version: not shown.</p>')
    return "".join(parts) or '<p class="muted">No evaluation yet: jobs/evaluate.py makes one.</p>'


def _part(evaluation: Evaluation, name: str) -> dict[str, Any]:
    found = evaluation.report.get(name)
    return found if isinstance(found, dict) else {}


def _table_of(group: Sequence[Column]) -> str:
    """Lay out the numbers of one protocol, a row for each and a column for each evaluation."""
    reports = [evaluation for _, _, evaluation in group]
    kinds: dict[str, str] = {}
    for each in reports:
        kinds |= {str(k): str(v) for k, v in list(_part(each, "kinds").items())[:100]}
    same_pair = all(each.report.get("pair") == reports[0].report.get("pair") for each in reports)
    names = sorted(
        {str(name) for each in reports for name in list(_part(each, "numbers"))[:100]},
        key=lambda name: (list(kinds).index(name) if name in kinds else len(kinds), name),
    )
    names = [name for name in names if same_pair or not is_of_pair(kinds.get(name, ""))]
    rows, methods = [], set()
    for name in names:
        cells, ranges = [], []
        for each in reports:
            value = number(_part(each, "numbers").get(name))
            spread = _part(each, "spread").get(name)
            text = "–" if value is None else compact(value)
            if isinstance(spread, dict):
                low, high = number(spread.get("low")), number(spread.get("high"))
                if low is not None and high is not None:
                    ranges.append((low, high))
                    text += f' <span class="muted">{compact(low)} to {compact(high)}</span>'
                    level, method = number(spread.get("level")), spread.get("method")
                    methods.add(f"{(level or 0) * 100:.0f} % by {method}")
            cells.append(f'<td class="number">{text}</td>')
        overlap = len(ranges) == len(reports) > 1 and (
            max(low for low, _ in ranges) <= min(high for _, high in ranges)
        )
        note = meaning_of(kinds.get(name, "")) + "; the intervals overlap" * overlap
        label = f'<b>{shown(shown_name(name), 80)}</b><br><span class="muted">{shown(note)}</span>'
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    head = [
        _head(n, run, f'<br><span class="muted">{_step(evaluation)}</span>')
        for n, run, evaluation in group
    ]
    said = "" if same_pair else "Retrieval is left out: measured by different pairs of encoders. "
    if methods:
        said += f"Ranges are intervals: {shown('; '.join(sorted(methods)), 300)}."
    else:
        said += "No spread was measured: small differences may be chance."
    return _table(["<th></th>", *head], rows) + f'<p class="muted">{said}</p>'


def _evaluation_pictures(
    columns: Sequence[Column], budget: int
) -> tuple[dict[tuple[int, str], str], list[str]]:
    """Read pictures of evaluations, by place of the evaluation and file, within a budget of bytes.

    Returns:
        The pictures as figures, and what was left out.
    """
    found: dict[tuple[int, str], str] = {}
    cut = 0
    for file in (NEAREST, DRAWN):
        for place, (n, run, evaluation) in enumerate(columns):
            listed = evaluation.report.get("pictures")
            if not isinstance(listed, list) or file not in listed:
                continue
            try:
                picture = read_picture(evaluation.folder, file)
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


def _copies(columns: Sequence[Column], pictures: dict[tuple[int, str], str]) -> str:
    lines = []
    for n, run, evaluation in columns:
        measured = _part(evaluation, "memorised")
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
    drawn = "".join(text for (_, file), text in pictures.items() if file == DRAWN)
    none = '<p class="muted">No evaluation of these runs looked for nearest training images.</p>'
    return (
        ("".join(lines) + f'<div class="pictures">{nearest}</div>' * bool(nearest) or none)
        + f"<details><summary>Images that were evaluated</summary>"
        f'<div class="pictures">{drawn}</div></details>' * bool(drawn)
    )


def _times(runs: Sequence[RunHistory]) -> str:
    each = "".join(
        f'<div><h3><span class="key {colour(n)}"></span>{shown(run.name, 60)}</h3>'
        f"{timeline(run, n)}</div>"
        for n, run in enumerate(runs)
    )
    return (
        '<p class="muted">Steps over hours since the start. Lines stand for events; red ones for '
        f'warnings and ends before the last step.</p><div class="times">{each}</div>'
    )


def _data(runs: Sequence[RunHistory]) -> str:
    """Say what the datasets are and what was rejected, as the runs recorded it."""
    values = []
    for run in runs:
        found = {
            f"dataset: {name}": str(run.manifest[name])
            for name in ("seen", "written", "rejected", "captions", "cache_size")
            if name in run.manifest
        }
        for title, part in (
            ("rejected image", "reasons"),
            ("dropped caption", "dropped_captions"),
            ("left aside", "left_aside"),
        ):
            reasons = run.manifest.get(part)
            if isinstance(reasons, dict):
                found |= {f"{title}: {k}": str(v) for k, v in list(reasons.items())[:50]}
        found |= {name: v for name, v in run.tags.items() if name.startswith(("dataset.", "text_"))}
        values.append(found)
    unlike, same = (_by_name(runs, values, unlike=each) for each in (True, False))
    if len(runs) == 1:
        return same or '<p class="muted">The run has no record of its dataset.</p>'
    text = unlike or '<p class="muted">All runs have the same data.</p>'
    return text + f"<h3>The same in all</h3>{same}" * bool(same)


def _origins(runs: Sequence[RunHistory]) -> str:
    values = []
    commands = []
    for n, run in enumerate(runs):
        versions = run.checkpoint.get("versions")
        found = {k: v for k, v in run.tags.items() if not k.startswith(("dataset.", "text_"))}
        if isinstance(versions, dict):
            found |= {f"last checkpoint: {k}": str(v) for k, v in list(versions.items())[:30]}
        found |= {
            f"last checkpoint: {name}": str(run.checkpoint[name])
            for name in ("step", "images", "workers", "threads", "device")
            if name in run.checkpoint
        }
        best = run.checkpoint.get("best")
        if isinstance(best, dict) and (value := number(best.get("value"))) is not None:
            found["best checkpoint"] = (
                f"step {best.get('step')}, {best.get('metric')} {compact(value)}"
            )
        found["folder"] = run.folder.location
        values.append(found)
        # The description of the run has the command in a line of its own.
        if told := re.search(r"from the last checkpoint: `([^`\n]+)`", run.note):
            commands.append(
                f'<p><span class="key {colour(n)}"></span>{shown(run.name, 60)}</p>'
                f"<pre>{shown(told[1], 2000)}</pre>"
            )
    unlike, same = (_by_name(runs, values, unlike=each) for each in (True, False))
    alike = f"<details><summary>The same in all</summary>{same}</details>" * bool(same)
    return "".join(commands) + (unlike + alike if len(runs) > 1 else same)
