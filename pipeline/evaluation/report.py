"""What an evaluation writes for people and programs: report.json, report.md, pictures."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.images import DrawnImages
from pipeline.evaluation.numbers import Measured
from pipeline.evaluation.protocols import Protocol
from pipeline.printable import printable
from pipeline.storage import Folder
from ratgan.pictures import grid, png

REPORT, REPORT_TEXT = "report.json", "report.md"
SAMPLES, BEST, WORST = "samples.png", "best.png", "worst.png"
SHOWN = 16  # images of the sample grid
SHOWN_RETRIEVALS = 8

Report = dict[str, Any]

# What each number is, for the report; kinds as `Measured` has them.
MEANINGS = {
    "distance": "Fréchet distance to the real images; lower is better",
    "kernel": "kernel distance to the real images, unbiased; lower is better",
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


def text_of(report: Report) -> str:
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
        "| number | | what it is |",
        "| --- | --- | --- |",
    ]
    kinds = report["kinds"]
    lines += [
        f"| {shown_name(name)} | {value:.4g} | {meaning_of(kinds[name])} |"
        for name, value in report["numbers"].items()
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
    return "\n".join(printable(line, 2000) if "\x1b" in line else line for line in lines) + "\n"


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
    return f"{kind.upper() if kind in ('fid', 'kid') else kind}[{protocol}]"


def read_report(location: str) -> Report:
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
    report: Report = folder.read_json(REPORT)
    if not {"protocol", "numbers", "name", "pair"} <= report.keys():
        raise ValueError(f"{folder}/{REPORT} is not a report of this version.")
    return report
