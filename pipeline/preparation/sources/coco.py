"""MS-COCO captions, 2014 or 2017: a captions JSON and an image folder per split."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from typing import Any, ClassVar

import ijson

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.left_aside import leave_beside, walk
from pipeline.preparation.sources.read_original import (
    Root,
    below,
    open_root,
    read_original,
    safe_name,
)
from pipeline.preparation.sources.source import Record, Source
from pipeline.preparation.sources.table_format import without_mark
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
USUAL = ("images", "train", "data")  # folders in which others put the image folders
BEFORE, AFTER = 6, 12  # bytes around an escape that may have its other half


class CocoSource(Source):
    """MS-COCO as downloaded: annotations/captions_<split>.json beside <split>/*.jpg.

    python jobs/prepare.py coco --root data/coco --image-size 256 --output data/coco-256
    """

    name: ClassVar[str] = "coco"
    later: ClassVar[frozenset[str]] = frozenset({"images"})

    root: Root = "data/coco"
    """Folder or bucket with `annotations` and the image folders."""
    train: str = "train2017"
    """Name of the training split: captions in annotations/captions_NAME.json, images in NAME/."""
    validation: str = "val2017"
    """Name of the validation split, with the same layout."""
    images: str | None = None
    """Folder of the image folders, below root. Default: root itself."""

    def records(self) -> Iterator[Record]:
        """List the images of both splits in the order of their ids."""
        folder = open_root(self.root, "your COCO copy")
        if self.train == self.validation:
            raise ValueError(f"--train and --validation name the same split {self.train!r}.")
        used: list[str] = []
        for split, name in (("train", self.train), ("validation", self.validation)):
            file = f"annotations/captions_{name}.json"
            if not folder.exists(file):
                found = [n for n in (folder / "annotations").names() if n.startswith("captions_")]
                if folder.exists("train/filenames.pickle") and folder.exists("text"):
                    raise ValueError(
                        f"{folder} is COCO as AttnGAN lays it out. Prepare it with jobs/prepare.py "
                        f"folder --root {shlex.quote(str(folder))} --images images --captions text"
                    )
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
                first = next(_items(folder, file, "images"), None)
        if isinstance(first, dict) and isinstance(shown := first.get("file_name"), str):
            found = [p for p in (place, deeper) if _is_there(folder, below(p, shown))]
            if found == [deeper]:
                print_line(f"the images of {name} are in {folder}/{deeper}")
                return deeper
        return place

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self.root, record.location)


def _is_there(folder: Folder, name: str) -> bool:
    try:
        return folder.exists(safe_name(folder, name))
    except (OSError, RejectedError):
        return False


def _read(
    folder: Folder, file: str, name: str, place: str, split: str, catalogue: Catalogue
) -> None:
    """Stream a captions file: first images, then captions, joined by their ids."""
    images = captions = 0
    entry = "its start"
    try:
        for image in _items(folder, file, "images"):
            entry = f"images[{images}]"
            catalogue.where = f"{folder}/{file}, {entry}"
            location = image["file_name"]
            if not isinstance(location, str):
                raise TypeError(f"file_name {location!r} is not text")
            key = _key(name, image["id"])
            catalogue.image(key, below(place, location), split=split, again=True)
            images += 1
        for annotation in _items(folder, file, "annotations"):
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


def _items(folder: Folder, file: str, name: str) -> Iterator[Any]:
    # The fast parser silently replaces half a surrogate pair by a question mark.
    parser = ijson.get_backend("python") if _has_half_pairs(folder, file) else ijson
    with without_mark(folder.open(file)) as stream:
        yield from parser.items(stream, f"{name}.item", use_float=True)


def _has_half_pairs(folder: Folder, file: str) -> bool:
    """Return whether a JSON file escapes half a surrogate pair, which is no character."""
    window = b" " * BEFORE
    with folder.open(file) as stream:
        while chunk := stream.read(2**22):
            window = window[-BEFORE - AFTER :] + chunk
            if _half_pair(window):
                return True
    return _half_pair(window + b" " * AFTER)


def _half_pair(window: bytes) -> bool:
    """Search a window except its ends, where the other half may be missing."""
    found = HALF_PAIR.finditer(window, BEFORE)
    return any(match.start() < len(window) - AFTER for match in found)


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
