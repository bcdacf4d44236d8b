"""Report on a prepared dataset: counts, words, sizes, rejects, and a sheet of images."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.cli.config import InspectConfig
from pipeline.common.console import DryRunReport, Progress, print_result, printable
from pipeline.data.dataset import PreparedDataset
from pipeline.preparation.reject_budget import rejects_of, top
from pipeline.preparation.sources.left_aside import describe
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder
from ratgan.visualize import grid, png

BAR = 40  # characters of the longest bar
BINS = 8
WORDS = re.compile(r"\w+")
SHOWN_REJECTS = 5

DatasetReport = dict[str, Any]


def inspect(config: InspectConfig) -> DatasetReport:
    """Print a report on a dataset, and write it to report.json.

    Returns:
        The report, as in report.json.

    Raises:
        ValueError: If it is not a complete dataset, or a file is missing or damaged.
    """
    dataset = _checked(config)
    if config.verify:
        dataset.verify_content(Progress("verified", len(dataset.manifest.shards), "shards").add)
    report = _report(dataset)
    output = Folder(config.output)
    output.write_json("report.json", report)
    lines = _lines(dataset, report)
    if config.samples and dataset.manifest.rows(config.split):
        output.write("contact_sheet.png", contact_sheet(dataset, config))
        lines.append(f"\nsheet       {output}/contact_sheet.png")
    print_result("\n".join([*lines, f"report      {output}/report.json"]))
    return report


def plan_inspection(config: InspectConfig) -> None:
    """Print what would be read and written; raises the errors of the inspection."""
    output = Folder(config.output)
    with leaving_nothing(output):
        dataset, plan = _checked(config), DryRunReport()
        output.check_writable("output")
        size = sum(shard.bytes for shard in dataset.manifest.shards)
        what = "every byte of" if config.verify else "all columns but images and vectors of"
        plan.line(
            "data",
            f"{dataset.folder}: {what} {dataset.manifest.written:,} images in "
            f"{len(dataset.manifest.shards):,} files, {readable(size)}",
        )
        plan.line("output", f"{output}/report.json" + ", contact_sheet.png" * bool(config.samples))
        plan.end()


def _checked(config: InspectConfig) -> PreparedDataset:
    """Return the dataset, if it is complete and has the split."""
    dataset = PreparedDataset(config.data)
    if config.split not in dataset.manifest.splits:
        known = ", ".join(dataset.manifest.splits)
        raise ValueError(f"split={config.split!r} does not exist. Splits: {known}.")
    dataset.verify()
    return dataset


def contact_sheet(dataset: PreparedDataset, config: InspectConfig) -> bytes:
    """Draw some images of a split with their first captions, as PNG."""
    units = dataset.units(config.split)
    total = sum(unit.rows for unit in units)
    rng = np.random.default_rng(config.seed)
    chosen = sorted(rng.choice(total, min(config.samples, total), replace=False).tolist())
    examples = list(dataset.at(config.split, chosen))
    images = torch.stack([example.image for example in examples])
    return png(grid(images, [example.caption for example in examples], columns=6))


def _report(dataset: PreparedDataset) -> DatasetReport:
    """Read every column but images and vectors, shard by shard."""
    manifest = dataset.manifest
    words: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    per_image: Counter[int] = Counter()
    sides: Counter[tuple[int, int]] = Counter()
    labels: Counter[str] = Counter()
    columns = ["captions", "label", "original_width", "original_height"]
    for split in manifest.splits:
        for unit in dataset.units(split):
            table = dataset.read(unit, columns)
            for texts in table["captions"].to_pylist():
                per_image[len(texts)] += 1
                for text in texts:
                    found = WORDS.findall(text.lower())
                    lengths[len(found)] += 1
                    words.update(found)
            labels.update(label for label in table["label"].to_pylist() if label)
            pairs = zip(table["original_width"], table["original_height"], strict=True)
            sides.update((width.as_py(), height.as_py()) for width, height in pairs)
    return {
        "digest": dataset.digest,
        "images": {split: manifest.rows(split) for split in manifest.splits},
        "seen": manifest.seen,
        "rejected": manifest.rejected,
        "reasons": manifest.reasons,
        "left_aside": manifest.left_aside,
        "reject_examples": _reject_examples(dataset),
        "captions": manifest.captions,
        "dropped_captions": manifest.dropped_captions,
        "captions_per_image": _summary(per_image),
        "words_per_caption": _summary(lengths),
        "words_per_caption_histogram": _histogram(lengths),
        "vocabulary": len(words),
        "commonest_words": dict(words.most_common(20)),
        "labels": len(labels),
        "images_per_label": _summary(Counter(labels.values())),
        "original_width": _summary(_marginal(sides, 0)),
        "original_height": _summary(_marginal(sides, 1)),
        "shorter_side_histogram": _histogram(_shorter(sides)),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "shards": len(manifest.shards),
    }


def _marginal(sides: Counter[tuple[int, int]], axis: int) -> Counter[int]:
    counts: Counter[int] = Counter()
    for side, count in sides.items():
        counts[side[axis]] += count
    return counts


def _shorter(sides: Counter[tuple[int, int]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for side, count in sides.items():
        counts[min(side)] += count
    return counts


def _summary(counts: Counter[int]) -> dict[str, float]:
    """Return minimum, median, mean and maximum of counted values."""
    if not counts:
        return {}
    values = np.array(sorted(counts))
    weights = np.array([counts[int(value)] for value in values])
    middle = int(np.searchsorted(np.cumsum(weights), (weights.sum() + 1) // 2))
    return {
        "min": int(values[0]),
        "median": int(values[middle]),
        "mean": round(float((values * weights).sum() / weights.sum()), 2),
        "max": int(values[-1]),
    }


def _histogram(counts: Counter[int]) -> dict[str, int]:
    """Count values in bins of equal width; the last bin also has all of the largest 1 %."""
    if not counts:
        return {}
    values = np.array(sorted(counts))
    weights = np.array([counts[int(value)] for value in values])
    top_value = int(values[np.searchsorted(np.cumsum(weights), 0.99 * weights.sum())])
    low, width = int(values[0]), -(-(top_value - int(values[0]) + 1) // BINS)
    bins: Counter[int] = Counter()
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        bins[min((value - low) // width, BINS - 1)] += weight
    names = [f"{low + n * width}–{low + (n + 1) * width - 1}" for n in range(max(bins) + 1)]
    if int(values[-1]) > low + (max(bins) + 1) * width - 1:
        names[-1] = f"{low + max(bins) * width}+"
    if width == 1:
        names = [name.split("–")[0] for name in names]
    return {name: bins[n] for n, name in enumerate(names)}


def _reject_examples(dataset: PreparedDataset) -> dict[str, list[str]]:
    """Return some rejects of each reason."""
    examples: dict[str, list[str]] = {}
    for shard in dataset.manifest.shards:
        for row in rejects_of(dataset.folder, shard):
            shown = examples.setdefault(row["reason"], [])
            if len(shown) < SHOWN_REJECTS:
                place = printable(row["location"] or row["id"], 80)
                shown.append(f"{place}: {printable(row['detail'], 120)}")
    return dict(sorted(examples.items()))


def _lines(dataset: PreparedDataset, report: DatasetReport) -> list[str]:
    manifest = dataset.manifest
    counts = ", ".join(f"{split} {rows:,}" for split, rows in report["images"].items())
    transform = f"{manifest.transform.kind} to {manifest.transform.dim}"
    lines = [
        f"dataset     {dataset.folder} ({manifest.source['name']})",
        f"images      {counts}; stored {manifest.cache_size} × {manifest.cache_size} px",
        f"encoder     {manifest.encoder.name}, {manifest.encoder.dim} numbers, {transform}",
        f"files       {report['shards']:,} shards, {report['bytes'] / 2**20:,.1f} MiB",
        f"rejected    {report['rejected']:,} of {report['seen']:,} originals"
        + (f": {top(Counter(report['reasons']))}" if report["reasons"] else ""),
        f"left aside  {describe(manifest.left_aside)}",
    ]
    if manifest.overlapping_splits:
        lines.append("note        the validation images are training images")
    for reason, examples in report["reject_examples"].items():
        lines += [f"  {reason:18}{example}" for example in examples[:1]]
    dropped: Counter[str] = Counter(report["dropped_captions"])
    lines += [
        f"captions    {report['captions']:,}; {_said(report['captions_per_image'])} an image"
        + (f"; dropped: {top(dropped)}" if dropped else ""),
        f"words       {_said(report['words_per_caption'])} a caption; {report['vocabulary']:,} "
        "different ones",
        f"            {', '.join(f'{printable(w, 30)} {n:,}' for w, n in _first(report, 10))}",
    ]
    if report["labels"]:
        lines.append(
            f"classes     {report['labels']:,}; {_said(report['images_per_label'])} images each"
        )
    width, height = report["original_width"], report["original_height"]
    if width:
        lines.append(
            f"originals   {width['min']:,} to {width['max']:,} px wide, {height['min']:,} to "
            f"{height['max']:,} px high; the median is {width['median']:,} × {height['median']:,}"
        )
    lines += ["", "words in a caption", *_bars(report["words_per_caption_histogram"])]
    lines += ["", "shorter side of the originals, px", *_bars(report["shorter_side_histogram"])]
    return lines


def _first(report: DatasetReport, count: int) -> Iterable[tuple[str, int]]:
    return list(report["commonest_words"].items())[:count]


def _said(summary: dict[str, float]) -> str:
    if not summary:
        return "none"
    if summary["min"] == summary["max"]:
        return f"{summary['min']:,}"
    return f"{summary['min']:,} to {summary['max']:,} (mean {summary['mean']:,})"


def _bars(histogram: dict[str, int]) -> Sequence[str]:
    most = max(histogram.values(), default=0)
    return [
        f"  {name:>12} {'█' * round(BAR * count / most):{BAR}} {count:,}"
        for name, count in histogram.items()
    ]
