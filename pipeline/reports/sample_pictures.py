"""Cut the sample grids of runs into one picture for each caption, within a number of bytes.

A grid has its layout in a JSON file beside it. One of an earlier version has none and is shown
whole. If all steps at full size are too many bytes, there are fewer steps, then smaller pictures.
"""

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from PIL import Image

from pipeline.reports.run_history import ODD, RunHistory, read_json
from pipeline.storage.folder import Folder
from pipeline.tracking.sample_grid import captions_in, cut, layout_file
from pipeline.tracking.untrusted_records import RefusedError, open_png

MAX_PNG = 64 * 2**20  # bytes of a grid
# Pixels and bytes together that are read for all samples at one rung of the ladder, and for all
# pictures of evaluations: many large grids must not take hours.
MAX_DECODED = 1_000_000_000
MAX_CAPTIONS = 16  # rows
PIXELATED = 64  # pixels; smaller images are kept as they are, without loss
WHOLE = 2.5  # width of a whole grid, in pictures
TALL = 8  # times its width that a picture may be high
JPEG_QUALITY = 85
# Most steps of a run, and width of a picture in pixels: the first that fits is taken.
LADDER = (
    (24, 256),
    (16, 256),
    (12, 256),
    (12, 192),
    (8, 192),
    (8, 128),
    (5, 128),
    (3, 96),
    (2, 64),
)

Key = tuple[str, int] | None  # caption, and which of those with the same words; None: whole grid
Frames = dict[int, dict[Key, str]]  # step → picture as data: URI


@dataclass
class DecodingBudget:
    """How many more pixels and bytes of pictures may be read."""

    left: int = field(default_factory=lambda: MAX_DECODED)

    def spend(self, amount: int) -> None:
        """Count what is read, before it is."""
        self.left -= amount


@dataclass
class Samples:
    """The samples of all runs.

    Attributes:
        keys: Rows, in the order of the first run that has each.
        frames: One for each run.
        cut: What was left out, for people.
    """

    keys: list[Key] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def read_samples(runs: list[RunHistory], budget: int) -> Samples:
    """Read as many samples as fit.

    Args:
        runs: Their problems are noted in them.
        budget: Bytes for all pictures, as text in the page.
    """
    counted = [len(run.samples) for run in runs]
    for most, width in LADDER:
        samples = _at(runs, most, width, budget)
        if samples is not None:
            if any(count > most for count in counted):
                samples.cut.append(f"at most {most} steps of each run, evenly chosen")
            return samples
    return Samples(frames=[{} for _ in runs], cut=["all samples: they do not fit"])


def data_uri(picture: Image.Image, *, lossless: bool = False) -> str:
    """Encode a picture for a page."""
    stream = io.BytesIO()
    if lossless:
        picture.save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def read_picture(folder: Folder, file: str, budget: DecodingBudget) -> Image.Image:
    """Read a PNG of a run; whether it can be or not is counted in the budget.

    Raises:
        ValueError: If it is none, too large, or not in the folder.
        FileNotFoundError: If it is not there.
    """
    size = folder.size(file)
    if not size:  # a named pipe too, and reading that would wait for ever
        raise FileNotFoundError(f"{folder}/{file} is not there any more, or empty")
    if size > MAX_PNG:
        raise RefusedError(f"{folder}/{file} has {size:,} bytes, over {MAX_PNG:,}")
    budget.spend(size)
    try:
        return open_png(io.BytesIO(folder.read(file)), budget.spend).convert("RGB")
    except ValueError as error:
        raise RefusedError(f"{folder}/{file}: {error}") from error


def chosen_steps(steps: list[int], most: int) -> list[int]:
    """Choose steps evenly by their place, the first and the last among them."""
    if len(steps) <= most:
        return steps
    return [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]


def _at(runs: list[RunHistory], most: int, width: int, budget: int) -> Samples | None:
    """Read the samples at one rung of the ladder; None if they do not fit."""
    found, left = Samples(), budget
    rows, other = _rows(runs)
    if other:
        found.cut.append(
            f"{other:,} captions: at most {MAX_CAPTIONS} are shown, of each run as many"
        )
    shrunk, unread, decoding = False, 0, DecodingBudget()
    for run in runs:
        frames: Frames = {}
        first_shown: dict[Key, int] = {}  # bytes of what is in the table too, without a script
        for step in chosen_steps(sorted(run.samples), most):
            if decoding.left < 0:
                if (most, width) != LADDER[-1]:
                    return None
                unread += 1
                continue
            try:
                cells = _cells(run, run.samples[step], decoding)
            except ODD as error:
                if (problem := str(error)) not in run.problems:
                    run.problems.append(problem)
                continue
            frames[step] = {}
            for key, picture in cells.items():
                if key is not None and key not in rows:
                    continue
                if key not in found.keys:
                    found.keys.append(key)
                room = int(WHOLE * width) if key is None else width
                if picture.width > room or picture.height > TALL * room:
                    shrunk = True
                    picture.thumbnail((room, TALL * room))
                uri = data_uri(picture, lossless=key is not None and picture.width <= PIXELATED)
                left -= len(uri)
                if left < 0:
                    return None
                frames[step][key] = uri
                first_shown[key] = len(uri)
        found.frames.append(frames)
        left -= sum(first_shown.values())
        if left < 0:
            return None
    if unread:
        found.cut.append(f"{unread:,} grids: over {MAX_DECODED:,} pixels together")
    if shrunk:
        found.cut.append(f"pictures are at most {width} px wide")
    return found


def _rows(runs: list[RunHistory]) -> tuple[set[Key], int]:
    """Choose captions, those that most runs have first, of each run in turn; count the others."""
    of_each: list[list[Key]] = []
    for run in runs:
        last = run.samples[max(run.samples)] if run.samples else ""
        layout = read_json(run.folder, layout_file(last), []) if last else {}
        times = Counter[str]()
        of_each.append([])
        for caption in captions_in(layout):
            of_each[-1].append((caption, times[caption]))
            times[caption] += 1
    runs_of = Counter(key for keys in of_each for key in keys)
    for keys in of_each:
        keys.sort(key=lambda key: -runs_of[key])
    in_turn = (key for keys in zip_longest(*of_each) for key in keys if key is not None)
    rows = set(islice(dict.fromkeys(in_turn), MAX_CAPTIONS))
    return rows, len(runs_of) - len(rows)


def _cells(run: RunHistory, file: str, budget: DecodingBudget) -> dict[Key, Image.Image]:
    """Return the pictures of a grid by caption, each as large as the run drew it."""
    grid = read_picture(run.folder, file, budget)
    layout = read_json(run.folder, layout_file(file), run.problems)
    cells: dict[Key, Image.Image] = {}
    times = Counter[str]()
    scale = layout.get("scale")
    for caption, cell in cut(grid, layout):
        if isinstance(scale, int) and 1 < scale <= min(cell.size):
            smaller = (cell.width // scale, cell.height // scale)
            cell = cell.resize(smaller, Image.Resampling.NEAREST)
        cells[caption, times[caption]] = cell
        times[caption] += 1
    return cells or {None: grid}
