"""The page about runs: what is on it, what never gets on it, and how large it becomes."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline.evaluation.report import read_report, table
from pipeline.reports import report, sample_pictures
from pipeline.reports.config import ReportConfig
from pipeline.reports.page import MAX_BYTES, page_of
from pipeline.reports.report import write_report
from pipeline.reports.run_history import read_run
from pipeline.storage.folder import Folder
from pipeline.tracking.tracker import Tracker
from tests import corpus
from tests.corpus_runs import lay_run, of_image
from tests.pipeline.reports.runs import evaluation, make_run

ALLOWED = {"html", "head", "meta", "link", "title", "style", "body", "script"}


def page(tmp_path, *runs) -> str:
    """Write the page about runs and return it."""
    output = tmp_path / "report.html"
    write_report(ReportConfig(runs=tuple(map(str, runs)), output=str(output)))
    return output.read_text()


def section(text: str, name: str) -> str:
    """Return a section of a page."""
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def frames(text: str) -> dict:
    return json.loads(text.split('id="frames">')[1].split("</script>")[0])


class Parsed(HTMLParser):
    """The elements, attributes and texts of a page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_a_page_shows_what_differs_and_folds_what_does_not(tmp_path):
    a = make_run(tmp_path / "a", lr="0.1", batch="16")
    b = make_run(tmp_path / "b", lr="0.2", batch="16")

    differs, others = section(page(tmp_path, a, b), "options").split("<details>")

    assert "lr" in differs
    assert "0.1" in differs
    assert "0.2" in differs
    assert "batch" not in differs
    assert "batch" in others


def test_a_caption_is_a_row_with_a_picture_of_each_run_at_each_step(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", steps=(0, 30))

    text = page(tmp_path, a, b)

    assert section(text, "samples").count('<th scope="row">') == 3, "equal captions are two rows"
    found = frames(text)
    assert found["steps"] == [0, 10, 20, 30]
    assert [[each["step"] for each in run] for run in found["runs"]] == [[0, 10, 20], [0, 30]]
    first = found["runs"][0][0]["pictures"]
    assert sorted(first) == ["0", "1", "2"]
    assert first["0"] != first["2"]
    assert first["0"] == found["runs"][1][0]["pictures"]["0"], "the same image of the same size"


def test_a_grid_of_an_earlier_version_is_shown_whole(tmp_path):
    text = page(tmp_path, make_run(tmp_path / "a", layout=False))

    assert "the whole grid" in section(text, "samples")
    assert all(list(each["pictures"]) == ["0"] for each in frames(text)["runs"][0])


def test_numbers_of_one_protocol_stand_side_by_side_with_their_spread(tmp_path):
    spread = {"fd_builtin": {"low": 1.0, "high": 2.0, "level": 0.9, "method": "jackknife"}}
    a = evaluation(make_run(tmp_path / "a"), "x", {"fd_builtin": 1.5}, spread=spread)
    b = evaluation(make_run(tmp_path / "b"), "x", {"fd_builtin": 1.75}, spread=spread)

    numbers = section(page(tmp_path, a, b), "numbers")

    assert numbers.count("<table") == 1
    assert "1 to 2" in numbers
    assert "90 % by jackknife" in numbers
    assert "not distinguishable at these counts; about 510 images would be needed" in numbers


def interval(value: float, **more) -> dict:
    found = {"low": value - 1, "high": value + 1, "level": 0.9, "method": "jackknife", **more}
    return {"spread": {"fd_builtin": found}}


def test_page_and_comparison_judge_two_evaluations_by_one_rule(tmp_path):
    runs = []
    for name, value in {"a": 1.5, "b": 1.75}.items():
        # What the two have in common varies much; their difference does not.
        parts = [value + shift for shift in (-0.4, 0.1, 0.3)]
        numbers = {"fd_builtin": value}
        more = interval(value, left_out=parts)
        runs.append(evaluation(make_run(tmp_path / name), "x", numbers, **more))
    reports = [read_report(str(run / "evaluation" / "x")) for run in runs]

    assert "a@20 is better" in table(reports)
    assert "a step 20 is better" in section(page(tmp_path, *runs), "numbers")


def test_of_three_evaluations_the_two_best_are_compared(tmp_path):
    runs = [
        evaluation(make_run(tmp_path / name), "x", {"fd_builtin": value}, **interval(value))
        for name, value in {"a": 9.0, "b": 1.0, "c": 5.0}.items()
    ]

    assert "of the two best: b step 20 is better" in section(page(tmp_path, *runs), "numbers")


def test_an_interval_that_cannot_be_read_decides_nothing_and_it_is_said(tmp_path):
    a = evaluation(make_run(tmp_path / "a"), "x", {"fd_builtin": 1.5}, **interval(1.5))
    b = evaluation(make_run(tmp_path / "b"), "x", {"fd_builtin": 9.5}, **interval(9.5, low="<b>"))

    numbers = section(page(tmp_path, a, b), "numbers")

    assert "whether they differ is unknown: both need an interval" in numbers


def test_numbers_of_different_protocols_are_kept_apart_and_it_is_said(tmp_path):
    a = evaluation(make_run(tmp_path / "a"), "x", {"fd_builtin": 1.5})
    b = evaluation(make_run(tmp_path / "b"), "x", {"fd_builtin": 1.75}, count=32)

    numbers = section(page(tmp_path, a, b), "numbers")

    assert numbers.count("<table") == 2
    assert "count: 64 → 32" in numbers
    assert "do not compare" in numbers
    assert "No spread was measured" in numbers


def test_copies_of_training_images_are_flagged_with_their_picture(tmp_path):
    found = {"ratio": 0.2, "flagged": True}
    run = evaluation(make_run(tmp_path / "a"), "x", {"fd_builtin": 1.5}, memorised=found)

    copies = section(page(tmp_path, run), "copies")

    assert "may be copies" in copies
    assert "ratio 0.2" in copies
    assert 'src="data:image/jpeg;base64,' in copies


def test_restarts_and_warnings_are_on_the_time_axis(tmp_path):
    run = make_run(tmp_path / "a", status="KILLED")
    again = Tracker(Folder(str(run)))
    again.resume()
    again.tag("resumed.20", "workers 2 → 1")
    again.tag("health.mode_collapse", "step 30")
    again.metrics(30, {"loss/generator": 0.1})
    again.finish("FINISHED")

    faults = section(page(tmp_path, run), "faults")

    for said in ("killed", "resumed.20: workers 2 → 1", "health.mode_collapse", "of step 30"):
        assert said in faults
    assert faults.count('class="mark fault"') == 2, "the kill and the warning"


def test_a_step_that_was_trained_again_stands_once(tmp_path):
    run = make_run(tmp_path / "a", steps=(0, 10, 20))
    again = Tracker(Folder(str(run)))
    again.metrics(20, {"loss/generator": 7.0})
    again.flush()

    history = read_run(Folder(str(run)).closed())

    assert list(history.curves["loss/generator"]) == [0, 10, 20]
    assert history.curves["loss/generator"][20] == 7.0


def test_a_run_that_goes_on_has_a_page(tmp_path):
    text = page(tmp_path, make_run(tmp_path / "a", steps=(), status="RUNNING"))

    assert "still going" in text
    assert "Nothing was measured yet" in text
    assert "There are no samples yet" in text
    assert "No evaluation yet" in text


def test_rejects_of_the_dataset_are_those_of_the_runs_own_record(tmp_path):
    data = section(page(tmp_path, make_run(tmp_path / "a")), "data")

    assert "rejected image: IMG_EMPTY" in data


def test_the_name_of_a_sweep_stands_for_its_trials(tmp_path):
    sweep = make_run(tmp_path / "lr")
    (sweep / "sweep.json").write_text("{}")
    for number in (0, 1):
        make_run(sweep / f"lr-{number:03d}", lr=str(number))

    text = page(tmp_path, sweep)

    assert "lr-000 and lr-001" in text


def test_a_sweep_whose_folder_was_renamed_stands_for_its_trials(tmp_path):
    sweep = make_run(tmp_path / "lr")
    (sweep / "sweep.json").write_text("{}")
    make_run(sweep / "lr-000")
    (sweep / "mine").symlink_to(tmp_path)

    text = page(tmp_path, sweep.rename(tmp_path / "kept"))

    assert "<title>lr-000</title>" in text


def test_a_page_says_which_runs_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_RUNS", 1)

    text = page(tmp_path, make_run(tmp_path / "a"), make_run(tmp_path / "b"))

    assert "1 runs: a page has at most 1" in text


def test_what_is_no_run_and_what_is_no_page_is_refused(tmp_path):
    run, other = make_run(tmp_path / "a"), tmp_path / "thesis.html"
    other.write_text("<p>my thesis")

    with pytest.raises(ValueError, match="is no run and no sweep"):
        page(tmp_path, tmp_path / "none")
    with pytest.raises(ValueError, match="is there and is no report"):
        write_report(ReportConfig(runs=(str(run),), output=str(other)))
    with pytest.raises(ValueError, match="is no name of a page"):
        write_report(ReportConfig(runs=(str(run),), output=str(tmp_path)))
    assert other.read_text() == "<p>my thesis"


HOSTILE = [
    text.decode(errors="replace") if isinstance(text, bytes) else text[:2000]
    for text, _ in corpus.captions().values()
] + [
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "<!--",
    "javascript:alert(1)",
    "\u202egnp.exe",
]


def test_no_text_of_a_run_becomes_markup_or_turns_the_text_after_it(tmp_path):
    plain = make_run(tmp_path / "plain")
    evaluation(plain, "x", {"fd": 1.0})
    hostile = make_run(tmp_path / "a", status=HOSTILE[-4], **{text: text for text in HOSTILE})
    captions = [text.encode(errors="replace").decode() for text in HOSTILE]
    for start in range(0, len(captions), 3):
        make_run(tmp_path / f"c{start}", captions=captions[start : start + 3], steps=(0,))
    tracker = Tracker(Folder(str(hostile)))
    for text in HOSTILE:
        tracker.tag(text, text)
        tracker.tag(f"health.{text}", text)
        tracker.metrics(0, {text: 1.0})
        tracker.json({"reasons": {text: text}, "seen": text}, "dataset_manifest.json")
        tracker.note(f"* from the last checkpoint: `{text}`")
    tracker.flush()
    evaluation(
        hostile,
        "x",
        dict.fromkeys(HOSTILE, 1.0),
        kinds={text: text for text in HOSTILE},
        spread={HOSTILE[0]: {"low": 1, "high": 2, "method": HOSTILE[-6], "level": 0.9}},
        memorised={"ratio": "<b>", "flagged": "<b>"},
    )
    runs = [hostile, *(tmp_path / f"c{start}" for start in range(0, len(captions), 3))]

    text = page(tmp_path, *runs)

    found, known = Parsed(text), Parsed(page(tmp_path, plain, plain))
    assert set(found.elements) <= set(known.elements) | {"pre", "circle", "b", "i"}
    assert found.elements.count("script") == 2
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert {v for n, v in found.attributes if n == "href"} <= {
        v for n, v in known.attributes if n == "href"
    }
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00\x1b\ud800-\udfff]", text)
    assert "\\u202egnp.exe" in text


def test_a_name_that_leads_out_of_the_run_is_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(
        (make_run(tmp_path / "b") / "samples" / "samples-00000000.png").read_bytes()
    )
    run = tmp_path / "a"
    lay_run(run, [of_image("../secret.png"), of_image(str(tmp_path / "secret.png"))], uri="x")
    (run / "evaluation").symlink_to(tmp_path)
    (run / "checkpoints").symlink_to(tmp_path)

    text = page(tmp_path, run)

    assert "There are no samples yet" in text
    assert text.count("PATH_UNSAFE") == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG",
        corpus.png_of(60_000, 60_000, 8, 2, b""),
        corpus.png(np.zeros((12_000, 12_000), np.uint8), 0, bits=1),
        corpus.png_of(8, 8, 8, 2, corpus.png_of(60_000, 60_000, 8, 2, b"")[8:]),
        corpus.png_of(0, 0, 8, 2, b""),
        b"GIF89a" + bytes(40),
    ],
)
def test_a_picture_that_is_none_is_left_out_and_it_is_said(tmp_path, content):
    run = make_run(tmp_path / "a")
    (run / "samples" / "samples-00000020.png").write_bytes(content)

    text = page(tmp_path, run)

    assert frames(text)["steps"] == [0, 10]
    assert "samples-00000020.png" in text.split("<h2>Left out</h2>")[1]


def test_a_picture_of_another_kind_of_pixels_is_shown(tmp_path):
    run = make_run(tmp_path / "a", layout=False, steps=(0,))
    grey = corpus.png(np.full((20, 20), 40_000, np.uint16), 0)
    (run / "samples" / "samples-00000000.png").write_bytes(grey)

    assert frames(page(tmp_path, run))["steps"] == [0]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 100_000,
        b"[]",
        b"\xff",
        b" " * (2**22 + 1),
        b'{"captions": 1}',
        b'{"captions": ["a"], "boxes": [[0, 0, 99999999, 5]], "scale": 4}',
        b'{"captions": ["a"], "boxes": [[0, 0, "1", 5]], "scale": 4}',
        b'{"captions": ["a"], "boxes": [[-5, 0, 1, 5]], "scale": 4}',
        b'{"captions": ["a"], "boxes": [], "scale": 4}',
    ],
)
def test_a_layout_that_is_none_leaves_the_grid_whole(tmp_path, content):
    run = make_run(tmp_path / "a", steps=(0,))
    (run / "samples" / "samples-00000000.json").write_bytes(content)

    assert "the whole grid" in section(page(tmp_path, run), "samples")


WRONG = [None, True, [], {}, "x", -1, 1e999, 10**400, float("nan")]


@pytest.mark.parametrize("value", WRONG)
def test_records_of_wrong_types_are_passed_over(tmp_path, value):
    run = make_run(tmp_path / "a")
    fields = ("step", "values", "params", "tags", "key", "file", "status", "text", "value", "time")
    kinds = ("options", "points", "measured", "image", "status", "note", "json")
    writer = run / "spool" / "records" / "000009-00000000"
    writer.mkdir()
    lines = [json.dumps({"kind": k, **dict.fromkeys(fields, value)}) for k in kinds]
    lines += [
        json.dumps({"kind": k, "time": 5, **dict.fromkeys(fields[:-1], value)}) for k in kinds
    ]
    lines += [json.dumps({"kind": value, "time": 5}), "[" * 100_000, "nothing"]
    (writer / "00000000.jsonl").write_text("".join(f"{line}\n" for line in lines))
    evaluation(run, "x", {"fd": value}, spread=value, memorised=value, pictures=value)
    evaluation(run, "y", {"fd": value}, protocol=value, kinds=value, model=value)
    (run / "run.json").write_text(json.dumps({"status": value}))
    (run / "checkpoints" / "step-00000004").mkdir(parents=True)
    (run / "checkpoints" / "step-00000004" / "COMMITTED").write_text("")
    (run / "checkpoints" / "step-00000004" / "state.json").write_text(
        json.dumps(dict.fromkeys(("versions", "best", "step"), value))
    )

    text = page(tmp_path, run)

    assert frames(text)["steps"] == [0, 10, 20]
    assert "lines of the spool are no records" in text


def test_values_as_far_apart_as_numbers_go_are_drawn(tmp_path):
    run = make_run(tmp_path / "a")
    tracker = Tracker(Folder(str(run)))
    for step, value in enumerate((1e308, -1e308, 5e-324, 0.0)):
        tracker.metrics(step, {"loss/x": value, "loss/y": 1e308, "loss/z": value * 1e-300})
    tracker.flush()

    curves = section(page(tmp_path, run), "curves")

    assert not re.search(r"\b(nan|inf)\b", curves)


def test_a_page_of_three_runs_of_256_px_is_cut_to_its_size_and_says_so(tmp_path, monkeypatch):
    # Noise is the most that pictures can have; a fifth of the size, to be quick.
    monkeypatch.setattr("pipeline.reports.page.MAX_BYTES", MAX_BYTES // 5)
    runs = []
    for name in "abc":
        steps = range(10) if name == "a" else (0, 10)
        run = make_run(tmp_path / name, size=256, scale=1, noise=True, steps=steps)
        runs.append(read_run(Folder(str(run)).closed()))

    text = page_of(runs)

    assert len(text.encode()) <= MAX_BYTES // 5
    assert "steps of each run, evenly chosen" in text or "px wide" in text
    found = frames(text)
    assert all(run for run in found["runs"]), "each run has samples"
    assert found["steps"][0] == 0, "the first is kept"
    assert found["steps"][-1] == 10, "and the last"


def test_boxes_that_lie_over_each_other_leave_the_grid_whole(tmp_path):
    run = make_run(tmp_path / "a", steps=(0,))
    layout = {"captions": ["a", "b"], "boxes": [[0, 0, 8, 8]] * 2000, "scale": 1}
    layout["captions"] = [str(n) for n in range(2000)]
    (run / "samples" / "samples-00000000.json").write_text(json.dumps(layout))

    assert "the whole grid" in section(page(tmp_path, run), "samples")


def test_grids_of_too_many_pixels_together_are_not_all_decoded_and_it_is_said(
    tmp_path, monkeypatch
):
    runs = [make_run(tmp_path / name, steps=range(4)) for name in "ab"]
    size = Image.open(runs[0] / "samples" / "samples-00000000.png").size
    decoded, load = [], PngImageFile.load

    def counted(picture):
        if picture.tile:  # is not decoded yet
            decoded.append(picture.size)
        return load(picture)

    monkeypatch.setattr(PngImageFile, "load", counted)
    monkeypatch.setattr(sample_pictures, "MAX_DECODED", 5 * size[0] * size[1])
    fewer = page(tmp_path, *runs)
    monkeypatch.setattr(sample_pictures, "MAX_DECODED", size[0] * size[1])
    decoded.clear()
    some = page(tmp_path, *runs)

    assert [len(run) for run in frames(fewer)["runs"]] == [2, 2]
    assert "at most 2 steps of each run, evenly chosen" in fewer
    assert [len(run) for run in frames(some)["runs"]] == [1, 0]
    assert "3 grids: over" in some.split("<h2>Left out</h2>")[1]
    assert len(decoded) == len(sample_pictures.LADDER), "one at each rung"


def test_pictures_of_evaluations_of_too_many_pixels_are_left_out_and_it_is_said(
    tmp_path, monkeypatch
):
    run = make_run(tmp_path / "a")
    for name in "xyz":
        evaluation(run, name, {"fd_builtin": 1.0}, memorised={"flagged": False})
    monkeypatch.setattr(sample_pictures, "MAX_DECODED", 1)

    text = page(tmp_path, run)

    assert section(text, "copies").count("<img") == 1
    assert "2 pictures of evaluations: too large together" in text


@pytest.mark.parametrize("name", ["run.json", "samples/samples-00000010.png"])
def test_a_pipe_or_a_folder_by_the_name_of_a_file_does_not_end_or_hold_the_page(tmp_path, name):
    piped, folder = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for run in (piped, folder):
        (run / name).unlink(missing_ok=True)
    os.mkfifo(piped / name)
    (folder / name).mkdir()

    text = page(tmp_path, piped, folder)

    assert {0, 20} <= set(frames(text)["steps"])
    left_out = text.split("<h2>Left out</h2>")[1].split("</ul>")[0]
    assert all(f"/{run.name}/{name}" in left_out for run in (piped, folder))


def test_runs_with_captions_of_their_own_have_as_many_rows_each(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.reports.sample_pictures.MAX_CAPTIONS", 4)
    runs = [make_run(tmp_path / name, steps=(0,)) for name in ("a", "b")]
    for run in runs:
        file = run / "samples" / "samples-00000000.json"
        layout = json.loads(file.read_text())
        layout["captions"] = [f"{run.name} {n}" for n in range(3)]
        file.write_text(json.dumps(layout))

    text = page(tmp_path, *runs)

    assert [len(run[0]["pictures"]) for run in frames(text)["runs"]] == [2, 2]
    assert "2 captions: at most 4 are shown" in text
