"""Write the page: one HTML file that loads nothing, with all text from runs escaped.

Its content security policy lets the browser run the one script and use the one style sheet that
are in it, by their hashes, and nothing else: no request leaves the page, whatever a caption says.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from importlib import resources

from pipeline.reports.charts import Line, chart, colour, compact, shown, timeline, when
from pipeline.reports.evaluations import copies, evaluation_pictures, evaluations_of, numbers
from pipeline.reports.run_history import RunHistory
from pipeline.reports.sample_pictures import Samples, read_samples
from pipeline.reports.tables import by_name, head_of, table_of
from pipeline.tracking.untrusted_records import number

GENERATOR = '<meta name="generator" content="ratgan report">'
MAX_BYTES = 15_000_000  # of a page
PICTURES_SHARE = 0.25  # of that, for pictures of evaluations
IMPORTANT = re.compile(
    r"loss/|eval/|health/(sample_distance|text_effect|overfit|discriminator_accuracy)$"
)
MAX_CHARTS = 100  # of the important ones, and of the others


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
    columns = list(evaluations_of(runs))
    pictures, cut = evaluation_pictures(columns, int(MAX_BYTES * PICTURES_SHARE))
    parts: dict[str, Callable[[], str]] = {
        "Options": lambda: _options(runs),
        "Curves": lambda: _curves(runs),
        "Numbers": lambda: numbers(columns),
        "Copies": lambda: copies(columns, pictures),
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


def _options(runs: Sequence[RunHistory]) -> str:
    values = [{k: v for k, v in run.options.items() if k != "name"} for run in runs]
    same = by_name(runs, values, unlike=False)
    folded = f"<details><summary>All other options</summary>{same}</details>" * bool(same)
    if len(runs) == 1:
        return '<p class="muted">One run: there is nothing to compare it with.</p>' + folded
    found = by_name(runs, values, unlike=True)
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
        head_of(n, run, f'<span class="muted" data-step-of="{n}"></span>')
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
    return note + slide + table_of(["<th></th>", *head], rows, ' class="samples"')


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
    unlike, same = (by_name(runs, values, unlike=each) for each in (True, False))
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
    unlike, same = (by_name(runs, values, unlike=each) for each in (True, False))
    alike = f"<details><summary>The same in all</summary>{same}</details>" * bool(same)
    return "".join(commands) + (unlike + alike if len(runs) > 1 else same)
