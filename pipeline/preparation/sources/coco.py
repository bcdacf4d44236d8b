"""MS-COCO captions, 2014 or 2017: a captions JSON and an image folder per split."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import ijson

from pipeline.common.console import print_line
from pipeline.preparation.sources.attngan_coco import attngan_records
from pipeline.preparation.sources.caption_files import read_captions
from pipeline.preparation.sources.filename_pickles import PICKLES, pickled_split
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.json_items import json_items
from pipeline.preparation.sources.left_aside import leave_beside, walk
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import (
    Root,
    below,
    is_there,
    open_root,
    read_original,
)
from pipeline.preparation.sources.source import Record, Source
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

CAPTIONS = re.compile(r"^captions_(\w+)\.json$", re.MULTILINE)
ATTNGAN = re.compile(r"(?:[^/]+/){1,2}COCO_(?:train|val)2014_\d+\.jpg")
TEXTS = re.compile(r"(?:text|train|test)/(?:.+/)?COCO_.*\.txt$")
USUAL = ("images", "train", "data")  # folders in which others put the image folders


class CocoSource(Source):
    """MS-COCO as downloaded: annotations/captions_<split>.json, <split>/*.jpg; or as AttnGAN has.

    python jobs/prepare.py coco --root data/coco --image-size 256 --output data/coco-256
    """

    name: ClassVar[str] = "coco"
    later: ClassVar[frozenset[str]] = frozenset({"images"})

    root: Root = "data/coco"
    """Folder or bucket with `annotations` and the image folders. If it has no such captions, but
    train/filenames.pickle and test/filenames.pickle, these are the split, and the captions are in
    text/<name>.txt, or in train and test: AttnGAN's layout."""
    train: str = "train2017"
    """Name of the training split: captions in annotations/captions_NAME.json, images in NAME/."""
    validation: str = "val2017"
    """Name of the validation split, with the same layout."""
    images: str | None = None
    """Folder of the image folders, below root. Default: root itself; images in AttnGAN's layout."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise captions files with image folders of their names, and AttnGAN's layout."""
        found = sorted(CAPTIONS.findall("\n".join(look.inside("annotations"))), reverse=True)
        for split in found:
            other = split.replace("train", "val")
            if not split.startswith("train") or other not in found:
                continue
            file = f"annotations/captions_{split}.json and captions_{other}.json"
            place = look.first([f"{p}/{split}".lstrip("/") for p in ("", *USUAL)])
            if place is None or not look.has(place.removesuffix(split) + other):
                yield f"{file} are there, and folders {split} and {other} with the images are not"
                continue
            names = {"train": split, "validation": other, "images": place.rpartition("/")[0]}
            options = {k: v for k, v in names.items() if v != (cls.model_fields[k].default or "")}
            yield Fit(
                f"{file}, with images in {place} and {place.removesuffix(split)}{other}", options
            )
        if any(CAPTIONS.match(name) for name in look.files):
            yield "captions of COCO: name the folder above, which has the folders of the images too"
        if found and not any(split.startswith("train") for split in found):
            yield f"annotations has no captions_train2017.json or the like, only of {found[0]}"
        if look.has(*PICKLES.values()) and not look.first(
            ("images.txt", "CUB_200_2011/images.txt")
        ):
            files = " and ".join(PICKLES.values())
            found_there = {
                "images of COCO": any(ATTNGAN.fullmatch(name) for name in look.files),
                "texts": any(TEXTS.match(name) for name in look.files),
            }
            missing = [what for what, there in found_there.items() if not there]
            if missing:
                yield f"{files} are there, and {' and '.join(missing)} are not"
            else:
                yield Fit(f"{files} of AttnGAN, with images of COCO")

    def records(self) -> Iterator[Record]:
        """List the images of both splits in the order of their ids."""
        folder = open_root(self.root, "your COCO copy")
        if self.train == self.validation:
            raise ValueError(f"--train and --validation name the same split {self.train!r}.")
        official = folder.exists(f"annotations/captions_{self.train}.json")
        if not official and (splits := pickled_split(folder)):
            yield from attngan_records(folder, splits, self.images)
            return
        used: list[str] = []
        for split, name in (("train", self.train), ("validation", self.validation)):
            file = f"annotations/captions_{name}.json"
            if not folder.exists(file):
                found = [n for n in (folder / "annotations").names() if n.startswith("captions_")]
                raise ValueError(
                    f"{folder}/{file} does not exist. Caption files there: "
                    f"{', '.join(found) or 'none'}. Name the splits with --train and --validation."
                )
            place = self._place(folder, name, file)
            used += [file, place]
            with Catalogue(f"{folder}/{file}") as catalogue:
                _read(folder, file, name, place, split, catalogue)
                files = (f"{place}/{each}" for each, _ in walk(folder / place))
                catalogue.leave_unnamed(files, f"in {place}, and not in {file}")
                yield from catalogue.records()
        leave_beside(folder, used)

    def _place(self, folder: Folder, name: str, file: str) -> str:
        """Return the folder of the images of a split, which archives may unpack one level deeper.

        Raises:
            ValueError: If it does not exist; says where it is, if it is in a usual place.
        """
        images = (self.images or "").strip("/")
        if images:
            inside(folder, images, by_links=True)
        place = f"{images}/{name}" if images else name
        if not folder.exists(place):
            usual = next((p for p in USUAL if folder.exists(f"{p}/{name}")), None)
            advice = f" It is in {usual}: add --images {usual}." if usual else ""
            raise ValueError(
                f"{folder}/{place} does not exist: {file} needs its image folder.{advice}"
            )
        deeper = f"{place}/{name}"
        first = None
        with contextlib.suppress(ijson.JSONError):  # said where all of it is read
            if folder.exists(deeper):
                first = next(json_items(folder, file, "images"), None)
        if isinstance(first, dict) and isinstance(shown := first.get("file_name"), str):
            found = [p for p in (place, deeper) if is_there(folder, below(p, shown))]
            if found == [deeper]:
                print_line(f"the images of {name} are in {folder}/{deeper}")
                return deeper
        return place

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self.root, record.location)

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Return the captions of a record, or read them in AttnGAN's layout."""
        return read_captions(self.root, record) if record.texts else record.captions


def _read(
    folder: Folder, file: str, name: str, place: str, split: str, catalogue: Catalogue
) -> None:
    """Stream a captions file: first images, then captions, joined by their ids."""
    images = captions = 0
    entry = "its start"
    try:
        for image in json_items(folder, file, "images"):
            entry = f"images[{images}]"
            catalogue.where = f"{folder}/{file}, {entry}"
            location = image["file_name"]
            if not isinstance(location, str):
                raise TypeError(f"file_name {location!r} is not text")
            key = _key(name, image["id"])
            catalogue.image(key, below(place, location), split=split, again=True)
            images += 1
        for annotation in json_items(folder, file, "annotations"):
            entry = f"annotations[{captions}]"
            text, number = annotation["caption"], _whole(annotation["id"])
            if not isinstance(text, str):
                raise TypeError(f"caption {number!r} is {type(text).__name__}, not text")
            # Captions are sorted by their own ids: the order in the file has no effect.
            key = _key(name, annotation["image_id"])
            catalogue.caption(key, text, number=number, split=split)
            captions += 1
    except ijson.JSONError as error:
        raise ValueError(f"{folder}/{file} is not valid JSON, after {entry}: {error}") from error
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{folder}/{file} is not a COCO captions file ({entry}: {missing}). It must be a JSON "
            "object with 'images' (id, file_name) and 'annotations' (id, image_id, caption)."
        ) from error
    catalogue.where = f"{folder}/{file}"
    if not images or not captions:
        raise ValueError(
            f"{folder}/{file} is not a COCO captions file: it lists {images:,} 'images' and "
            f"{captions:,} 'annotations'."
        )


def _key(name: str, number: Any) -> str:
    return f"{name}-{_whole(number):012d}"


def _whole(number: Any) -> int:
    """Return a whole number, which tools also write as 7.0 or "7"."""
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, str) and re.fullmatch(r"[0-9]{1,18}", number):
        return int(number)
    if not isinstance(number, int):
        raise TypeError(f"id {number!r} is not a whole number")
    return number
