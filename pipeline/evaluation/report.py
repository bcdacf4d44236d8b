"""Write and compare evaluation reports: report.json, report.md, images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common.console import print_result, printable
from pipeline.common.terminal import escaped
from pipeline.evaluation.config import CompareConfig
from pipeline.evaluation.image_sets import DrawnImages
from pipeline.evaluation.measures import Measured
from pipeline.evaluation.protocols import Protocol, differences
from pipeline.storage.folder import Folder
from pipeline.tracking.untrusted_records import number, part
from ratgan.metrics.intervals import LEVEL, Spread, difference
from ratgan.visualize import grid, png

REPORT, REPORT_TEXT = "report.json", "report.md"
SAMPLES, BEST, WORST = "samples.png", "best.png", "worst.png"
NEAREST = "nearest.png"
SHOWN = 16  # images of the sample grid
SHOWN_RETRIEVALS = 8

EvaluationReport = dict[str, Any]

# What each number is, for the report; kinds as `Measured` has them.
MEANINGS = {
    "distance": "Fréchet distance to the real images; lower is better",
    "kernel": "kernel distance to the real images, unbiased; lower is better",
    "cmmd": "CMMD to the real images, by CLIP; lower is better",
    "precision": "share of generated images that lie where real ones do",
    "recall": "share of real images that lie where generated ones do",
    "density": "how densely real images lie around generated ones; 1 for real images",
    "coverage": "share of real images with a generated one among their neighbours",
    "inception_score": "clear images of many kinds; higher is better",
    "inception_score_deviation": "of the score over its parts",
    "diversity": "mean distance of two images of one caption, by the features",
    "diversity_share": "the same as a share of that of images of different captions",
    "nearness": "mean cosine of an image and its caption, by the pair; the CLIP score with CLIP",
    "r_precision": "share of images whose own caption is nearest among the candidates",
    "r_precision_candidates": "captions an image has to choose from",
    **{
        f"caption_recall_{n}": f"share of images whose own caption is among the nearest {n} of all"
        for n in (1, 5, 10)
    },
    **{
        f"image_recall_{n}": f"share of captions whose own image is among the nearest {n} of all"
        for n in (1, 5, 10)
    },
}
HIGHER_IS_BETTER = (  # kinds, and beginnings of kinds; in the others lower is, or neither
    "precision",
    "recall",
    "coverage",
    "density",
    "inception_score",
    "nearness",
    "r_precision",
    "caption_recall",
    "image_recall",
    "agreement",
)
SHARED = (
    "intervals: 90 %. Captions, real images and the noise's seed are the same in all; what they "
    "have in common does not count as a difference, where parts of the images were left out."
)
LOWER_IS_BETTER = ("distance", "kernel", "cmmd")
SPREAD = (
    "An interval is where the number would lie at the same counts for other captions, other noise "
    "and other real images. For want of images, the distance is higher than that of any number of "
    "images would be."
)
PAIR_KINDS = ("r_precision", "r_precision_candidates", "nearness")


def draw_pictures(
    drawn: DrawnImages, found: Measured, chosen: NDArray[np.int64]
) -> dict[str, bytes]:
    """Draw again what is shown: an image is a function of its number.

    Args:
        drawn: The generated images.
        found: Says which found their captions.
        chosen: Numbers of the images that `found` speaks of, [n].

    Returns:
        PNG by file name.
    """
    images = drawn.opened(torch.device("cpu"))
    evenly = np.unique(np.linspace(0, drawn.count - 1, SHOWN).astype(np.int64))
    shown: dict[str, tuple[NDArray[np.int64], dict[int, int]]] = {SAMPLES: (evenly, {})}
    if found.ranks is not None and found.nearness is not None:
        # By rank, and among equal ones by how near they are.
        order = np.lexsort((-found.nearness.numpy(), found.ranks.numpy()))
        ranks = dict(zip(chosen.tolist(), found.ranks.tolist(), strict=True))
        shown[BEST] = (chosen[order[:SHOWN_RETRIEVALS]], ranks)
        shown[WORST] = (chosen[order[::-1][:SHOWN_RETRIEVALS]], ranks)
    pictures = {}
    for name, (numbers, ranks) in shown.items():
        batches = list(images.batches(numbers))
        pixels = torch.cat([b.images for b in batches]).round().clamp(0, 255).to(torch.uint8)
        captions = [caption for batch in batches for caption in batch.captions]
        labels = [
            f"{ranks[number] + 1}. {caption}" if ranks else caption
            for number, caption in zip(numbers.tolist(), captions, strict=True)
        ]
        scale = max(1, 128 // pixels.shape[-1])
        pictures[name] = png(grid(pixels, labels, scale=scale))
    return pictures


def text_of(report: EvaluationReport) -> str:
    """Write the report for people, in Markdown."""
    protocol = Protocol(**report["protocol"])
    model = report["model"]
    lines = [
        f"# {report['name']} by protocol {protocol.name}",
        "",
        f"{protocol.count:,} images of {protocol.image_size} px by `{model['location']}`"
        + (f", step {model['step']:,}" if model["step"] else "")
        + f", for captions of `{report['data']['location']}`.",
        "",
        *([f"**Warning:** {said}", ""] if (said := warning(report)) else []),
        "| number | | 90 % interval | of that for want of images | what it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    kinds = report["kinds"]
    for name, value in report["numbers"].items():
        bias = report.get("spread", {}).get(name, {}).get("bias")
        lines.append(
            f"| {shown_name(name)} | {value:.4g} | {shown_spread(report, name)} | "
            f"{'' if bias is None else f'{bias:.2g}'} | {meaning_of(kinds[name])} |"
        )
    if report.get("spread"):
        lines += ["", SPREAD]
        lines += ["", "Without an interval:", ""] if report["spread_missing"] else []
        lines += [
            f"* {kind}: {reason}" for kind, reason in sorted(report["spread_missing"].items())
        ]
    if report["missing"]:
        lines += ["", "Not measured:", ""]
        lines += [f"* {kind}: {reason}" for kind, reason in report["missing"].items()]
    lines += ["", f"![samples]({SAMPLES})"]
    if BEST in report["pictures"]:
        lines += [
            "",
            "Found best, with the place of their own caption among all, and worst:",
            "",
            f"![best]({BEST})",
            f"![worst]({WORST})",
        ]
    if found := report.get("memorised"):
        lines += [
            "",
            f"Nearest to a training image, of {found['train_images']:,} of them. The median "
            f"distance to the nearest training image is {found['ratio']:.3g} of that to the "
            f"nearest held-out image ({found['compared']:,} of each). {found['near']:.1%} of the "
            f"drawn images are less than half as far from a training image as from a held-out one, "
            f"and {found['far']:.1%} the other way round.",
            "",
            f"![nearest]({NEAREST})",
        ]
    lines += ["", "## Protocol", "", "| | |", "| --- | --- |"]
    lines += [
        f"| {name} | {value} |"
        for name, value in protocol.model_dump(mode="json").items()
        if name != "quirks" and value not in (None, "")
    ]
    lines += ["", *(f"* {quirk}" for quirk in protocol.quirks)]
    if not report["published_weights"]:
        lines += [
            "* The weights are not those the extractor's name is known by: the distance is no FID."
        ]
    rank = report["rank"]
    lines += [
        "",
        f"Features have {rank['features']:,} numbers; the generated images span at most "
        f"{rank['generated']:,} of their directions, the real ones {rank['real']:,}.",
        "",
        "## Cost",
        "",
        *(f"* {name}: {value:,.1f} s" for name, value in report["seconds"].items()),
        "",
        "Drawing and features are summed over all processes.",
    ]
    return escaped("\n".join(lines)) + "\n"


def meaning_of(kind: str) -> str:
    """Say what a kind of number is."""
    if kind.startswith("agreement_real_"):
        return "the same, of real images: the most that can be measured"
    if kind.startswith("agreement_"):
        return "share of images that show what their caption says of it, exactly"
    return MEANINGS.get(kind, "")


def shown_name(name: str) -> str:
    """Write ``fd_builtin`` as fd[builtin], ``fid_clean`` as FID[clean]."""
    kind, _, protocol = name.rpartition("_")
    return printable(f"{kind.upper() if kind in ('fid', 'kid') else kind}[{protocol}]")


def warning(report: EvaluationReport) -> str:
    """Say that images are copies of training images; empty if they are not, or it is unknown."""
    found = report.get("memorised")
    if not found or not found["flagged"]:
        return ""
    return (
        f"{found['near']:.0%} of the drawn images are less than half as far from a training image "
        f"as from any held-out one ({found['far']:.0%} the other way round): they may be copies. "
        f"See {NEAREST}."
    )


def shown_spread(report: EvaluationReport, name: str) -> str:
    """Write the interval of a number as [low, high]; nothing if it has none."""
    found = spread_of(report, name)
    return f"[{found.low:.4g}, {found.high:.4g}]" if found else ""


def spread_of(report: EvaluationReport, name: str) -> Spread | None:
    """Return the interval of a number; None if there is none, or none that can be read."""
    found = part(part(report, "spread"), name)
    low, high = number(found.get("low")), number(found.get("high"))
    if low is None or high is None or low > high or found.get("level", LEVEL) != LEVEL:
        return None
    parts = found.get("left_out")
    left_out = [number(each) for each in parts] if isinstance(parts, list) else []
    known = tuple(each for each in left_out if each is not None)
    known = known if len(known) == len(left_out) else ()
    return Spread(low, high, str(found.get("method", "")), left_out=known)


def read_report(location: str) -> EvaluationReport:
    """Read a report.

    Args:
        location: Folder of an evaluation, or its report.json.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is none of this version.
    """
    place = location.removesuffix(f"/{REPORT}")
    folder = Folder(place)
    if not folder.exists(REPORT):
        raise FileNotFoundError(
            f"{location} holds no {REPORT}: name a folder that jobs/evaluate.py wrote, for example "
            "outputs/NAME/evaluation/…"
        )
    report: EvaluationReport = folder.read_json(REPORT)
    if not {"protocol", "numbers", "name", "pair"} <= report.keys():
        raise ValueError(f"{folder}/{REPORT} is not a report of this version.")
    return report


def compare(config: CompareConfig) -> list[EvaluationReport]:
    """Print the numbers of reports side by side.

    Returns:
        The reports.

    Raises:
        ValueError: If their numbers do not compare; it says in what they differ.
        FileNotFoundError: If one is not there.
    """
    reports = [read_report(location) for location in config.reports]
    refuse_unlike(reports, config.reports)
    print_result(table(reports))
    return reports


def refuse_unlike(reports: list[EvaluationReport], names: tuple[str, ...]) -> None:
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


def table(reports: list[EvaluationReport]) -> str:
    """Lay numbers out, a row for each and a column for each report."""
    pairs = [report["pair"] for report in reports]
    same_pair = all(pair == pairs[0] for pair in pairs)
    kinds: dict[str, str] = {}
    for report in reports:
        kinds |= report["kinds"]
    rows = [name for name, kind in kinds.items() if same_pair or not is_of_pair(kind)]
    titles = [_title(report) for report in reports]
    width = max([len(shown_name(name)) for name in rows], default=0) + 2
    sure = [[shown_spread(report, name) for name in rows] for report in reports]
    columns = [
        max(len(title), 10, *map(len, texts)) + 2 for title, texts in zip(titles, sure, strict=True)
    ]
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
        intervals = [shown_spread(report, name) for report in reports]
        if any(intervals):
            line = "".join(f"{text:>{w}}" for text, w in zip(intervals, columns, strict=True))
            lines.append(f"{'':{width}}{line}".rstrip())
        if len(reports) == 2 and (verdict := told_apart(reports, name, titles)):
            lines.append(f"  {verdict}")
    if any(report.get("spread") for report in reports):
        lines.append(SHARED)
    if not same_pair:
        lines.append("retrieval is left out: it was measured by different pairs of encoders.")
    return "\n".join(lines)


def told_apart(reports: Sequence[EvaluationReport], name: str, titles: Sequence[str]) -> str:
    """Say whether a number of two evaluations differs by more than chance; empty if unknown.

    Args:
        reports: Two by the same protocol, whoever wrote them.
        name: Of the number.
        titles: What the two are called.
    """
    values = [number(part(report, "numbers").get(name)) for report in reports]
    spreads = [spread_of(report, name) for report in reports]
    if values[0] is None or values[1] is None or spreads[0] is None or spreads[1] is None:
        return ""
    apart, chance = abs(values[0] - values[1]), difference(spreads[0], spreads[1])
    if not math.isfinite(apart) or not math.isfinite(chance):
        return ""
    kind = str(part(reports[0], "kinds").get(name, ""))
    if apart <= chance:
        if not apart:
            return "equal"
        alike = "not distinguishable at these counts"
        count = number(part(reports[0], "protocol").get("count")) or 0
        needed = count * (chance / apart) * (chance / apart)
        if kind.startswith(("agreement", "diversity")) or not 0 < needed < math.inf:
            return alike  # of other counts
        return f"{alike}; about {float(f'{needed:.2g}'):,.0f} images would be needed"
    sign = direction(kind)
    if not sign:
        return "they differ"
    if titles[0] == titles[1]:
        titles = ["the first", "the second"]
    return f"{titles[sign * values[1] > sign * values[0]]} is better"


def direction(kind: str) -> int:
    """Return 1 if a higher number of a kind is better, -1 if a lower one is, else 0."""
    if kind in LOWER_IS_BETTER:
        return -1
    return int(kind.startswith(HIGHER_IS_BETTER) and not kind.startswith("agreement_real"))


def is_of_pair(kind: str) -> bool:
    """Tell whether a kind of number compares only for the same pair of encoders."""
    return kind in PAIR_KINDS or kind.startswith(("caption_recall", "image_recall"))


def _title(report: EvaluationReport) -> str:
    step = report["model"]["step"]
    name = printable(str(report["name"]))
    return f"{name}@{step:,}" if step else name
