"""Karpathy's split files: a JSON file of images with their sentences, and the images elsewhere."""

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, ClassVar

import ijson
from pydantic import AfterValidator

from pipeline.preparation.sources.file_patterns import base_folder, matching_files
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.json_items import json_items
from pipeline.preparation.sources.left_aside import leave_aside
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, below, is_there, read_original
from pipeline.preparation.sources.source import Record, Source
from pipeline.preparation.sources.table_format import table_format
from pipeline.storage.folder import Folder, absolute

LOOKED_AT = 100  # images that are searched in their folders
KEYS = re.compile(rb'"(\w+)"\s*:')
LAYOUT = {b"images", b"sentences", b"filename", b"split", b"raw"}
FILE = re.compile(rb'"filename"\s*:\s*"([^"\\]+)"')
YEARS = ("train2014", "val2014")  # folders that the file names
PLACES = ("", *(f"{year}/" for year in YEARS))


class KarpathySource(Source):
    """Karpathy's split of COCO or Flickr: dataset_coco.json, and a folder with the images it names.

    python jobs/prepare.py karpathy --root data/dataset_coco.json --images data/coco --output data/k
    """

    name: ClassVar[str] = "karpathy"

    root: Root
    """The split file: dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json."""
    images: Annotated[str, AfterValidator(absolute)] | None = None
    """Folder or bucket of the images, with or without the folders train2014 and val2014. Default:
    the folder of the split file."""
    train_values: tuple[str, ...] = ("train", "restval")
    """Splits of the file whose images are training images."""
    validation_values: tuple[str, ...] = ("val", "test")
    """Splits whose images are held out. Images of other splits are counted and left out."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise a split file by its start, and find the folder of the images it names."""
        for file in [f for f in look.files if f.endswith(".json") and "/" not in f][:LOOKED_AT]:
            head = look.head(file)
            if not head.lstrip().startswith(b"{") or LAYOUT - set(KEYS.findall(head)):
                continue
            names = [name.decode(errors="replace") for name in FILE.findall(head)]
            folders = [f for f in look.folders if f.rpartition("/")[2] not in YEARS]
            for tree in ("", *folders[:LOOKED_AT]):
                if any(
                    is_there(look.folder, below(tree, p + n)) for n in names[:2] for p in PLACES
                ):
                    images = {"images": f"{look.folder}/{tree}"} if tree else {}
                    where = f"in {tree}" if tree else "beside it"
                    reason = f"{file} is Karpathy's split file, with its images {where}"
                    yield Fit(reason, {"root": look.place(file), **images})
                    break
            else:
                command = f"--root {shlex.quote(look.place(file))} --images FOLDER"
                yield f"{file} is Karpathy's split file, and its images are elsewhere: {command}"

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names."""
        splits = dict.fromkeys(self.validation_values, "validation")
        if both := splits.keys() & set(self.train_values):
            raise ValueError(f"split {min(both)!r} is in --train-values and --validation-values.")
        splits |= dict.fromkeys(self.train_values, "train")
        folder, files = matching_files(self.root, (".json",))
        left: Counter[str] = Counter()
        with Catalogue(str(folder)) as catalogue:
            for file in files:
                self._enter(catalogue, folder, file, splits, left)
            for split, count in left.items():
                leave_aside("images", f"of split {split!r}", count)
            yield from catalogue.records()

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self._images(), record.location)

    def _images(self) -> str:
        return base_folder(self.root).location if self.images is None else self.images

    def _enter(
        self,
        catalogue: Catalogue,
        folder: Folder,
        file: str,
        splits: dict[str, str],
        left: Counter[str],
    ) -> None:
        """Enter the images of a file."""
        table_format(folder, file, "json")  # says what a file is that is no JSON
        catalogue.where, known = f"{folder}/{file}", 0
        try:
            flat = self._is_flat(folder, file)
            for image in json_items(folder, file, "images"):
                known += 1
                name, location = _names(image, flat=flat)
                sentences = [_text(sentence["raw"]) for sentence in image["sentences"]]
                split = splits.get(_text(image["split"]))
                if split is None:
                    left[image["split"] if len(left) < 100 else "others"] += 1
                    continue
                catalogue.image(name, location, split=split, again=True)
                for sentence in sentences:
                    catalogue.caption(name, sentence, split=split)
        except ijson.JSONError as error:
            raise ValueError(f"{folder}/{file} is not valid JSON: {error}") from error
        except (KeyError, TypeError) as error:
            missing = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{folder}/{file} is not Karpathy's split file: image {known} has {missing}. It "
                "must be a JSON object with 'images' (filename, split, sentences with raw)."
            ) from error
        if not known:
            raise ValueError(f"{folder}/{file} is not Karpathy's split file: it has no 'images'.")

    def _is_flat(self, folder: Folder, file: str) -> bool:
        """Return whether the images lie in one folder, though the file names folders of them."""
        images = Folder(self._images())
        with contextlib.suppress(KeyError, TypeError):  # said where all of it is read
            for image in islice(json_items(folder, file, "images"), LOOKED_AT):
                if is_there(images, _names(image, flat=False)[1]):
                    return False
                if is_there(images, _names(image, flat=True)[1]):
                    return True
        return False


def _names(image: Any, *, flat: bool) -> tuple[str, str]:
    """Return the name of an image, and its place below the folder of the images."""
    file = _text(image["filename"])
    name = below(_text(image.get("filepath") or ""), file)
    return name, below("", file) if flat else name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r}, not a text")
    return value
