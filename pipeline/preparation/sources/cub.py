"""CUB-200-2011: birds of 200 classes with a box each, and ten captions each by Reed et al."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pipeline.common.console import print_line
from pipeline.preparation.sources.caption_files import find_captions, listed, read_captions
from pipeline.preparation.sources.filename_pickles import PICKLES, pickled_split
from pipeline.preparation.sources.join_on_disk import Catalogue, composed
from pipeline.preparation.sources.left_aside import (
    is_hidden,
    leave_aside,
    leave_beside,
    leave_file,
    walk,
)
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, open_root, read_original, some_names
from pipeline.preparation.sources.source import Record, Source
from pipeline.storage.folder import Folder

# The 50 of 200 classes that Reed et al. 2016 (https://arxiv.org/abs/1605.05396) hold out, from
# AttnGAN's file lists.
TEST_CLASSES = frozenset({
    1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86,
    91, 95, 96, 98, 101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180,
    183, 185, 186, 187, 197,
})  # fmt: skip
CAPTIONS = (
    *("text", "text_c10", "CUB_200_2011/text", "CUB_200_2011/text_c10"),
    *("cvpr2016_cub/text_c10", "birds/text_c10"),  # as Reed's archives unpack
)
FILES = ("images.txt", "bounding_boxes.txt")
Box = tuple[float, float, float, float]


class CubSource(Source):
    """CUB-200-2011 as unpacked, or in AttnGAN's layout, with text/<class>/<name>.txt.

    python jobs/prepare.py cub --root data/birds --image-size 256 --output data/cub-256
    """

    name: ClassVar[str] = "cub"

    root: Root = "data/birds"
    """Folder or bucket with CUB_200_2011 and the captions, or CUB_200_2011 itself. If it has
    train/filenames.pickle and test/filenames.pickle, they are the split; otherwise the 150 and 50
    classes of Reed et al. 2016, which are the same."""
    captions: str | None = None
    """Folder of the captions, below root. Default: text or text_c10, the one that exists."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise images.txt and bounding_boxes.txt with images and captions."""
        for base in ("CUB_200_2011/", ""):
            if look.has(*(base + file for file in FILES)):
                there = {"images": look.images(f"{base}images"), "captions": look.first(CAPTIONS)}
                missing = [name for name, found in there.items() if not found]
                files = " and ".join(base + file for file in FILES)
                if missing:
                    yield f"{files} are there, and no {' and no '.join(missing)} (text or text_c10)"
                else:
                    yield Fit(f"{files}, with captions in {there['captions']}")
                return

    def records(self) -> Iterator[Record]:
        """List the images of both splits in the order of their names."""
        folder = open_root(self.root, "your CUB-200-2011 copy")
        base = self._base(folder)
        texts = find_captions(folder, self.captions, CAPTIONS)
        names, boxes = _images(folder, base)
        splits = pickled_split(folder)
        known = names.union(*splits.values())
        lists = "neither filenames.pickle" if splits else f"no line of {base}images.txt"
        if not splits:
            splits = {"train": set(), "validation": set()}
            for name in names:
                splits[_published_split(name)].add(name)
        with Catalogue(str(folder)) as catalogue:
            unboxed = 0
            for split, members in splits.items():
                for name in members:
                    label = name.rpartition("/")[0] or None
                    location, box = f"{base}images/{name}.jpg", boxes.get(name)
                    catalogue.image(name, location, split=split, label=label, box=box)
                    unboxed += box is None
            if unboxed:
                print_line(
                    f"{unboxed:,} images have no line in {base}bounding_boxes.txt: used whole"
                )
            for file, size in walk(folder / texts):
                name = composed(file.removesuffix(".txt"))
                if not file.endswith(".txt") or is_hidden(file):
                    leave_file(file)
                elif name in known and not any(name in s for s in splits.values()):
                    leave_aside("files", "captions of images in neither filenames.pickle")
                else:
                    catalogue.text_file(name, listed(f"{texts}/{file}", size))
            files = (f"{base}images/{file}" for file, _ in walk(folder / f"{base}images"))
            catalogue.leave_unnamed(files, f"images in {lists}")
            used = [f"{base}{name}" for name in (*FILES, "images")]
            leave_beside(folder, (texts, *used, *PICKLES.values()))
            yield from catalogue.records()

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self.root, record.location)

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Read the lines of the text file of a record."""
        return read_captions(self.root, record)

    def _base(self, folder: Folder) -> str:
        for base in ("CUB_200_2011/", ""):
            if folder.exists(f"{base}{FILES[0]}"):
                missing = [n for n in (FILES[1], "images") if not folder.exists(f"{base}{n}")]
                if missing:
                    raise ValueError(
                        f"{folder}/{base} has no {' and no '.join(missing)}: unpack all of "
                        "CUB_200_2011.tgz there."
                    )
                return base
        raise ValueError(
            f"{folder} is not CUB-200-2011: neither it nor CUB_200_2011 in it has {FILES[0]}. "
            f"It holds {some_names(folder)}. Name the folder with CUB_200_2011 with --root."
        )


def _images(folder: Folder, base: str) -> tuple[set[str], dict[str, Box]]:
    """Read the names of the images, as class/name, and their boxes: x, y, width, height."""
    names: dict[str, str] = {}
    boxes: dict[str, Box] = {}
    for number, (key, name) in _table(folder, f"{base}images.txt", 2):
        if key in names:
            raise ValueError(f"{folder}/{base}images.txt, line {number}: image {key} occurs twice.")
        names[key] = composed(name.removesuffix(".jpg"))
    for number, (key, *values) in _table(folder, f"{base}bounding_boxes.txt", 5):
        try:
            x, y, width, height = (float(value) for value in values)
        except ValueError as error:
            raise ValueError(
                f"{folder}/{base}bounding_boxes.txt, line {number}: {error}. A line is image, x, "
                "y, width, height in pixels, for example '1 60.0 27.0 325.0 304.0'."
            ) from error
        if key in names:
            boxes[names[key]] = (x, y, width, height)
        else:
            leave_aside("boxes", "of no image")
    if not names:
        raise ValueError(f"{folder}/{base}images.txt lists no images.")
    return set(names.values()), boxes


def _table(folder: Folder, file: str, columns: int) -> Iterator[tuple[int, list[str]]]:
    try:
        lines = folder.read(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder}/{file} is not text: {error}") from error
    for number, line in enumerate(lines, 1):
        values = line.split()
        if values and len(values) != columns:
            raise ValueError(
                f"{folder}/{file}, line {number} has {len(values)} words, not {columns}: "
                f"{line[:80]!r}. Is the file complete?"
            )
        if values:
            yield number, values


def _published_split(name: str) -> str:
    number = name.split(".")[0]
    return "validation" if number.isdecimal() and int(number) in TEST_CLASSES else "train"
