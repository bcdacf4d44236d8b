"""Look for drawn images that are copies of training images, and show the nearest pairs."""

from typing import Any

import numpy as np
import torch

from pipeline.evaluation.image_sets import (
    DrawnImages,
    OpenPreparedImages,
    PreparedImages,
    StoredRows,
    centre,
)
from pipeline.evaluation.measures import Sums
from pipeline.evaluation.task import Task
from ratgan.metrics.memorised import memorised
from ratgan.visualize import grid, png

MOST = 10_000  # training images that are looked at
PAIRS = 10


def uncompared(task: Task) -> str:
    """Say why copies cannot be looked for; empty if they can."""
    rows, protocol = task.dataset.manifest.rows, task.protocol
    for split in ("train", "validation"):
        if not rows(split):
            return f"the dataset has no {split} images to compare drawn ones with"
    if protocol.reference != "validation":
        return (
            f"the reference is {protocol.reference}, and not images that training never saw "
            "(--reference validation)"
        )
    return ""


def training_images(task: Task) -> PreparedImages:
    """Return the training images that are looked at: no more than are drawn, chosen evenly."""
    rows = task.dataset.manifest.rows("train")
    count = min(rows, MOST, task.protocol.count or MOST)
    crop = task.protocol.image_size if task.protocol.reference_crop == "centre" else None
    location, size = task.dataset.folder.location, task.config.batch_size
    return PreparedImages(location, ("train",), count, crop, size)


def look_for_copies(
    task: Task, generated: Sums, train: Sums, held_out: Sums, drawn: DrawnImages
) -> tuple[dict[str, Any], bytes]:
    """Compare drawn images with training images, and draw the nearest pairs.

    Args:
        task: The evaluation.
        generated: Features of drawn images.
        train: Features of training images.
        held_out: Features of images of the validation split.
        drawn: The drawn images.

    Returns:
        What was found, as JSON types, and a PNG of the pairs: drawn image left, training image
        right.

    Raises:
        TooFewImagesError: If there are too few images.
        ValueError: If a feature is not finite, or an image cannot be read.
    """
    found = memorised(generated.sample, train.sample, held_out.sample)
    # A training image is shown once, beside the drawn image that is nearest to it.
    order = found.distances.argsort(stable=True)
    _, firsts = np.unique(found.nearest[order].numpy(), return_index=True)
    shown = order[np.sort(firsts)[:PAIRS]]
    cpu = torch.device("cpu")
    prepared = training_images(task)
    opened = OpenPreparedImages(prepared, cpu)
    numbers = train.chosen[found.nearest[shown].numpy()]
    rows = StoredRows(task.dataset, prepared.splits, ["captions"])
    batches = list(drawn.opened(cpu).batches(generated.chosen[shown.numpy()]))
    sets = (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.images for batch in opened.batches(numbers)]),
    )
    distances = found.distances[shown].tolist()
    captions = [caption for batch in batches for caption in batch.captions]
    theirs = [rows.row(row)["captions"][0] for row in opened.row_of(numbers).tolist()]
    side = sets[0].shape[-1]  # in pixels; prepared images have a margin
    pixels = torch.stack([sets[0], centre(sets[1], side)], dim=1).flatten(0, 1)
    labels = [
        label
        for own, its, apart in zip(captions, theirs, distances, strict=True)
        for label in (f"{apart:.3g}: {own}", f"training: {its}")
    ]
    picture = grid(pixels.round().clamp(0, 255).to(torch.uint8), labels, scale=max(1, 128 // side))
    return {
        "ratio": found.ratio,
        "near": found.near,
        "far": found.far,
        "flagged": found.flagged,
        "train_images": len(train.sample),
        "held_out_images": len(held_out.sample),
        "compared": min(len(train.sample), len(held_out.sample)),
        "pairs": [
            {"distance": apart, "caption": own, "train_caption": its}
            for own, its, apart in zip(captions, theirs, distances, strict=True)
        ],
    }, png(picture)
