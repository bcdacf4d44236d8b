"""Write a prepared dataset into a folder in another layout, one file at a time, its card last.

A folder without the card is not complete. Until then it holds `UNFINISHED`, by which the same
export knows its own folder when it is repeated.
"""

import json
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.common.console import Progress
from pipeline.data.dataset import MEND, PreparedDataset
from pipeline.data.export_card import Count, card
from pipeline.data.export_layouts import COLUMNS, Layout
from pipeline.data.manifest import Shard
from pipeline.data.sample_order import RowGroup
from pipeline.storage.disk_space import check_room
from pipeline.storage.folder import Folder

CARD = "README.md"
UNFINISHED = "export-unfinished.json"
SPLIT = re.compile(r"\w+", re.ASCII)


class Export:
    """An export of a dataset to a folder.

    Args:
        dataset: Complete.
        folder: New or empty, or with the same export, unfinished.
        layout: Of the files.

    Raises:
        ValueError: If a split has a name that can be no file's.
    """

    def __init__(self, dataset: PreparedDataset, folder: Folder, layout: Layout) -> None:
        self.dataset, self.folder, self.layout = dataset, folder, layout
        self._identity = {
            "data": dataset.digest,
            "to": layout.name,
            "captions": layout.captions,
        }
        for split in dataset.manifest.splits:  # names of a stranger, for files and members of tars
            if not SPLIT.fullmatch(split):
                raise ValueError(
                    f"{dataset.folder} has a split named {split!r}: only letters, digits and _ can "
                    "be exported. Prepare it again."
                )

    def refuse_strangers(self) -> None:
        """Refuse a folder with anything but this export, unfinished.

        Raises:
            ValueError: If it has.
        """
        inner, outer = f"{self.folder}/", f"{self.dataset.folder}/"
        if inner.startswith(outer) or self.folder.is_file():
            what = "in the dataset itself" if inner.startswith(outer) else "a file"
            raise ValueError(f"{self.folder} is {what}. Name a new folder with --output.")
        names = self.folder.names()
        if UNFINISHED in names:
            if self.folder.read_json(UNFINISHED) != self._identity:
                raise ValueError(
                    f"{self.folder} has an unfinished export of another dataset, or with other "
                    "options. Name another folder with --output, or delete this one."
                )
        elif names:
            has = "a complete export" if CARD in names else "files"
            raise ValueError(
                f"{self.folder} is not empty: it has {has} ({', '.join(names[:3])}"
                f"{', …' if len(names) > 3 else ''}). Name a new or empty folder with --output, or "
                "delete this one."
            )

    def most_bytes(self) -> int:
        """Return a bound of what is written."""
        shards = self.dataset.manifest.shards
        return sum(shard.bytes + shard.rows * self.layout.extra_bytes for shard in shards)

    def check_room(self) -> None:
        """Find out whether it fits; raises DiskFullError if not."""
        there = sum(size for _, size in self.folder.walk()) if self.folder.exists() else 0
        check_room(
            self.folder, self.most_bytes() - there, "the export", "name another disk by --output"
        )

    def write(self) -> dict[str, Count]:
        """Write all files, then the card.

        Returns:
            What was written of each split that has images.

        Raises:
            ValueError: If a shard is damaged, or has other counts than the manifest.
            OSError: If a file cannot be written.
        """
        # Only one of two exports that start in the same moment makes the file.
        if not self.folder.create(UNFINISHED, json.dumps(self._identity).encode()):
            self.refuse_strangers()
            self.folder.remove_abandoned()
        progress = Progress("exported", self.dataset.manifest.written, "images")
        counts: dict[str, Count] = {}
        for split, all_shards in self.dataset.manifest.splits.items():
            shards = [shard for shard in all_shards if shard.rows]
            for index, shard in enumerate(shards):
                count = counts.setdefault(split, Count())
                before = Count(count.images, count.captions)
                content = self.layout.pack(self._tables(shard, count), split, before.images)
                found = count.images - before.images, count.captions - before.captions
                if found != (shard.rows, shard.captions):
                    raise ValueError(
                        f"{self.dataset.folder}/{shard.file} has {found[0]:,} images with "
                        f"{found[1]:,} captions, and the manifest says {shard.rows:,} with "
                        f"{shard.captions:,}. {MEND}"
                    )
                self.folder.write(self.layout.file(split, index, len(shards)), content)
                count.files += 1
                progress.add(shard.rows)
        if self.layout.captions == "first":
            for count in counts.values():
                count.captions = count.images
        self.folder.write(CARD, card(self.dataset, self.layout, counts).encode())
        self.folder.delete(UNFINISHED)
        return counts

    def _tables(self, shard: Shard, count: Count) -> Iterator[pa.Table]:
        """Read a shard, and count what is in it."""
        for number, rows in enumerate(shard.row_groups):
            table = self.dataset.read(RowGroup(shard.file, number, rows), COLUMNS)
            each = pc.list_value_length(table["captions"])
            if pc.min(each).as_py() == 0:
                raise ValueError(
                    f"{self.dataset.folder}/{shard.file} has an image without captions. {MEND}"
                )
            count.images += len(table)
            count.captions += pc.sum(each).as_py()
            yield table
