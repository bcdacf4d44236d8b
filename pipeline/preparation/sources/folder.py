"""Images in a folder of any depth, with captions in files of the same name beside them."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import IMAGES, OTHERS
from pipeline.preparation.sources.caption_files import ENDINGS, listed, order, read_captions
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.read_original import Root, open_root, read_original, some_names
from pipeline.preparation.sources.source import Record, Source, split_of
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

VALIDATION_FOLDERS = ("validation", "val", "test")


class FolderSource(Source):
    """Your own images: any folders of .jpg, .png, .webp, each with a .txt, .caption or .json file.

    python jobs/prepare.py folder --root data/mine --image-size 256 --output data/mine-256
    """

    name: ClassVar[str] = "folder"

    root: Root
    """Folder or bucket of the images. The captions of a.jpg are in a.txt or a.caption (one on each
    line), otherwise in a.json (a text, a list of texts, or an object with one of these). Hidden
    files are ignored."""
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

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names."""
        folder = open_root(self.root, "your images")
        images, captions = self.images.strip("/"), (self.captions or self.images).strip("/")
        for name, option in ((images, "images"), (captions, "captions")):
            if name:
                inside(folder, name, links=True)
            if name and not folder.exists(name):
                raise ValueError(
                    f"{folder}/{name} does not exist: --{option} names a folder in --root, which "
                    f"holds {some_names(folder)}."
                )
        splits = _split_folders(folder / images if images else folder)
        with Catalogue(str(folder)) as catalogue:
            count: Counter[str] = Counter()
            for place in dict.fromkeys((images, captions)):
                for file, size in (folder / place if place else folder).walk(links=True):
                    stem, ending = posixpath.splitext(file)
                    kind = ending.lower()
                    is_image = place == images and kind in IMAGES + OTHERS
                    is_caption = place == captions and kind in ENDINGS
                    if _hidden(file) or not (is_image or is_caption):
                        continue
                    top = file.partition("/")[0]
                    if splits and top not in splits:
                        count[f"in neither {' nor '.join(splits)}"] += 1
                        continue
                    split = splits[top] if splits else split_of(stem, self.validation)
                    location = f"{place}/{file}" if place else file
                    if is_caption:
                        text = listed(location, size)
                        catalogue.text_file(stem, text, number=order(file), split=split)
                        continue
                    label = self._label(file, splits)
                    catalogue.image(stem, location, name=file, split=split, label=label, size=size)
                    count["images"] += 1
            if not count.pop("images", 0):
                raise ValueError(
                    f"{folder}/{images} holds no images ({', '.join(IMAGES)}) below. It holds "
                    f"{some_names(folder / images if images else folder)}."
                )
            for what, number in count.items():
                print_line(f"{number:,} images and captions are {what}: left out")
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


def _hidden(file: str) -> bool:
    """Return whether a file is hidden or left by an operating system."""
    return any(part.startswith(".") or part == "__MACOSX" for part in file.split("/"))
