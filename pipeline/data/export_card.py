"""The README.md of an exported dataset: a head that hubs and `datasets` read, and what to know.

It is published: no place of this machine stands in it, and no secret.
"""

import json
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.common.redaction import redacted
from pipeline.data.dataset import PreparedDataset
from pipeline.data.export_layouts import Layout

LICENCE = (
    "The images and captions have the licence of their originals, which this export does not "
    "change: read it before you share or publish them."
)


@dataclass
class Count:
    """What was written of a split."""

    images: int = 0
    captions: int = 0
    files: int = 0


def card(dataset: PreparedDataset, layout: Layout, counts: dict[str, Count]) -> str:
    """Return the card.

    Args:
        counts: What was written, by split.
    """
    manifest, side = dataset.manifest, dataset.manifest.cache_size
    files = [{"split": split, "path": layout.files.format(split=split)} for split in counts]
    features = layout.features()
    head = {
        "license": "other",
        "task_categories": ["text-to-image"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            **({"features": features} if features else {}),
            "splits": [{"name": name, "num_examples": n.images} for name, n in counts.items()],
        },
    }
    notes = [layout.content]
    if layout.captions == "first":
        notes.append(f"Of {manifest.captions:,} captions, the first of each image is here.")
    if manifest.overlapping_splits:
        notes.append("The validation images are training images.")
    origin = {
        "source": _without_places(manifest.source),
        "options": _without_places(manifest.options),
        "originals": manifest.seen,
        "rejected": manifest.reasons,
        "digest": dataset.digest,
    }
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False) + "---",
            "# Captioned images",
            "",
            f"JPEGs of {side} × {side} pixels with captions, exported from a prepared dataset.",
            "",
            "| split | images | captions | files |",
            "| --- | --- | --- | --- |",
            *(
                f"| {split} | {n.images:,} | {n.captions:,} | {n.files:,} |"
                for split, n in counts.items()
            ),
            "",
            " ".join(notes),
            "",
            "```python",
            *(layout.usage("FOLDER", split, n.files) for split, n in counts.items()),
            "```",
            "",
            "## Licence",
            "",
            LICENCE,
            "",
            "## Origin",
            "",
            "Source and options of the preparation, its counts, and the digest of its manifest:",
            "",
            "```json",
            redacted(json.dumps(origin, indent=1, ensure_ascii=False)),
            "```",
            "",
        ]
    )


def _without_places(value: Any) -> Any:
    """Keep of paths and addresses the last part alone."""
    if isinstance(value, dict):
        return {name: _without_places(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    if not isinstance(value, str) or not any(slash in value for slash in "/\\"):
        return value
    place = value.partition("?")[0] if "://" in value else value  # keys of an address follow
    return "…/" + place.replace("\\", "/").rstrip("/").rpartition("/")[2]
