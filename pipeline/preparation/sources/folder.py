"""Images in a folder of any depth, with captions in files of the same name beside them."""

import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import IMAGES, OTHERS, RejectedError, format_of
from pipeline.preparation.sources.caption_files import (
    ENDINGS,
    LINES,
    key_of_captions,
    listed,
    order,
    read_captions,
)
from pipeline.preparation.sources.join_on_disk import Catalogue, composed
from pipeline.preparation.sources.left_aside import (
    NO_ENDING,
    is_hidden,
    leave_aside,
    leave_beside,
    leave_file,
    walk,
)
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, open_root, read_original, some_names
from pipeline.preparation.sources.source import Record, Source, split_of
from pipeline.preparation.sources.table_rows import METADATA
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

OTHER_JSON = re.compile(r"(^|/)(\d{5,}_stats|dataset_infos?)\.json$")  # of img2dataset and datasets
# Never images: their first bytes are not read.
NO_IMAGES = (
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"),
    *(".arrow", ".zip", ".gz", ".tar", ".md", ".xml", ".html", ".yaml", ".yml", ".log", ".py"),
    *(".ipynb", ".db", ".ini", ".lock", ".dvc", ".pdf", ".mp4", ".wav", ".safetensors"),
)
VALIDATION_FOLDERS = ("validation", "val", "test")


class FolderSource(Source):
    """Your own images: any folders of .jpg, .png, .webp, each with a .txt, .caption or .json file.

    python jobs/prepare.py folder --root data/mine --image-size 256 --output data/mine-256
    """

    name: ClassVar[str] = "folder"
    general: ClassVar[bool] = True

    root: Root
    """Folder or bucket of the images. The captions of a.jpg are in a.txt or a.caption (one on each
    line), otherwise in a.json (a text, a list of texts, or an object with one of these). A file
    with an unknown ending is used if it holds an image; what is left aside is counted."""
    images: str = ""
    """Folder of the images below root, if captions are in another one. Default: root itself."""
    captions: str | None = None
    """Folder of the captions below root, with the layout of the images. Default: the same."""
    caption_key: str | None = None
    """Key of the captions in a JSON object. Default: caption, captions, text or texts."""
    validation: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of images held out, by a hash of their names. If the top folder of the images has
    folders train and validation, val or test, they are the split instead."""
    label: Literal["none", "folder"] = "none"
    """folder: the folder of an image is its class. none: classes are not known."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise images with captions of the same name beside them or in a parallel folder."""
        texts: dict[str, list[str]] = {}
        images = []
        for file in () if look.is_file else look.files:
            ending = posixpath.splitext(file)[1].lower()
            if ending in ENDINGS and not OTHER_JSON.search(file):
                texts.setdefault(_stem(file)[-1], []).append(file)
            elif ending in IMAGES + OTHERS:
                images.append(file)
        trees: Counter[tuple[str, str, bool]] = Counter()
        sample = ""
        for image in images:
            parts = _stem(image)
            pairs = [(_same_end(parts, _stem(text)), text) for text in texts.get(parts[-1], ())]
            if pairs:
                same, text = max(pairs)
                where = "/".join(image.split("/")[:-same]), "/".join(text.split("/")[:-same])
                beside = where[0] == where[1]
                sample = text if text.endswith(".json") else sample
                trees["" if beside else where[0], "" if beside else where[1], beside] += 1
        if not trees:
            if images:
                yield f"{len(images):,} images were seen, and no captions of the same names"
            return
        (first, second, beside), count = trees.most_common(1)[0]
        options: dict[str, Any] = {} if beside else {"images": first, "captions": second}
        options = {name: value for name, value in options.items() if value}
        if sample and not any(text.endswith(LINES) for group in texts.values() for text in group):
            key = key_of_captions(look.head(sample))
            if key is None:
                yield f"{sample} has no caption: name its key with --caption-key"
                return
            options |= {"caption_key": key} if key else {}
        what = "beside them" if beside else f"in {second}"
        reason = f"{count:,} of {len(images):,} images that were seen have their captions {what}"
        yield Fit(reason, options)

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names."""
        folder = open_root(self.root, "your images")
        images, captions = self.images.strip("/"), (self.captions or self.images).strip("/")
        for name, option in ((images, "images"), (captions, "captions")):
            if name:
                inside(folder, name, by_links=True)
            if name and not folder.exists(name):
                raise ValueError(
                    f"{folder}/{name} does not exist: --{option} names a folder in --root, which "
                    f"holds {some_names(folder)}."
                )
        if images and captions:
            leave_beside(folder, (images, captions))
        splits = _split_folders(folder / images if images else folder)
        with Catalogue(str(folder)) as catalogue:
            images_found = 0
            metadata: list[str] = []
            for location, size in _files(folder, images, captions):
                ending = posixpath.splitext(location)[1].lower()
                text = ending in ENDINGS
                file = _within(location, captions if text else images)
                if posixpath.basename(location) in METADATA:
                    metadata.append(location)
                shown = location if file is None else file
                if is_hidden(shown) or file is None or (text and OTHER_JSON.search(location)):
                    leave_file(shown)
                    continue
                top, stem = file.partition("/")[0], posixpath.splitext(file)[0]
                known = ending in IMAGES + OTHERS
                if splits and top not in splits:
                    if text or known:
                        where = " nor ".join(splits)
                        leave_aside("files", f"images and captions in neither {where}")
                    else:
                        leave_file(location)
                    continue
                split = splits[top] if splits else split_of(stem, self.validation)
                if text:
                    entry = listed(location, size)
                    catalogue.text_file(stem, entry, number=order(file), split=split)
                    continue
                about: dict[str, Any] = {
                    "name": file,
                    "label": self._label(file, splits),
                    "size": size,
                }
                if known:
                    catalogue.image(stem, location, split=split, **about)
                    images_found += 1
                    continue
                looks = ending not in NO_IMAGES and _looks_like_an_image(folder, location)
                kind = ending or NO_ENDING
                catalogue.spare(stem, location, kind, is_image=looks, split=split, **about)
            left, found = catalogue.settle(_plain)
            for kind, number in left.items():
                leave_aside("files", kind, number)
            if not images_found + found:
                raise ValueError(
                    f"{folder}/{images} holds no images ({', '.join(IMAGES)}) below. It holds "
                    f"{some_names(folder / images if images else folder)}."
                )
            if metadata:
                print_line(
                    f"{folder}/{min(metadata)} may have the captions. If it lists images, prepare "
                    f"them with jobs/prepare.py huggingface --root {shlex.quote(str(folder))}"
                )
            yield from catalogue.records()

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self.root, record.location)

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Read the text or JSON files of a record."""
        return read_captions(self.root, record, self.caption_key)

    def _label(self, file: str, splits: dict[str, str]) -> str | None:
        if self.label == "none":
            return None
        folders = file.split("/")[:-1]
        return "/".join(folders[1:] if splits else folders) or None


def _split_folders(images: Folder) -> dict[str, str]:
    """Find the folders of the split: train, and the first of `VALIDATION_FOLDERS`."""
    other = next((name for name in VALIDATION_FOLDERS if images.exists(name)), None)
    if other is None or not images.exists("train"):
        return {}
    return {"train": "train", other: "validation"}


def _files(folder: Folder, *trees: str) -> Iterator[tuple[str, int]]:
    """Yield the files of some folders once each, also if one lies within another: name, bytes."""
    outer = [tree for tree in dict.fromkeys(trees) if not any(_encloses(t, tree) for t in trees)]
    for tree in outer:
        for file, size in walk(folder / tree if tree else folder):
            yield (f"{tree}/{file}" if tree else file), size


def _encloses(outer: str, tree: str) -> bool:
    return outer != tree and _within(tree, outer) is not None


def _within(location: str, tree: str) -> str | None:
    """Return a name relative to a folder, or None if it is not below it."""
    if not tree:
        return location
    return location.removeprefix(f"{tree}/") if location.startswith(f"{tree}/") else None


def _looks_like_an_image(folder: Folder, location: str) -> bool:
    try:
        return format_of(read_original(folder.location, location, 0, 64)) is not None
    except (FileNotFoundError, RejectedError):  # a link to nowhere, or a name that leads out
        return False


def _stem(file: str) -> list[str]:
    """Return the parts of a name without its ending, in their common form."""
    return _plain(posixpath.splitext(file)[0]).split("/")


def _same_end(parts: list[str], others: list[str]) -> int:
    """Count the last parts that two names share."""
    both = zip(reversed(parts), reversed(others), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))


def _plain(key: str) -> str:
    """Return the common form of `a`, `a.jpg` in `a.jpg.txt`, and a name in decomposed Unicode."""
    key = composed(key).rstrip()
    stem, ending = posixpath.splitext(key)
    return stem if ending.lower() in IMAGES + OTHERS else key
