"""Oxford-102 Flowers: images of 102 kinds, and ten captions each by Reed et al."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.common.console import print_line
from pipeline.preparation.sources.caption_files import find_captions, listed, read_captions
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.left_aside import is_hidden, leave_beside, leave_file, walk
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, open_root, read_original, some_names
from pipeline.preparation.sources.source import SPLITS, Record, Source
from pipeline.storage.folder import Folder
from ratgan.weights.restricted_pickle import load_foreign_pickle

CAPTIONS = ("text", "text_c10", "cvpr2016_flowers/text_c10", "flowers/text_c10")
LABELS = "flower_cat_dic.pkl"
LISTS = ("trainvalclasses.txt", "testclasses.txt")
HELD_OUT = 20 / 102  # classes; 82 and 20 in Reed et al. 2016 (https://arxiv.org/abs/1605.05396)


class Oxford102Source(Source):
    """Oxford-102 as unpacked: jpg/image_00001.jpg, and captions in text_c10 by class or in text.

    python jobs/prepare.py oxford102 --root data/flowers --image-size 256 --output data/flowers-256
    """

    name: ClassVar[str] = "oxford102"

    root: Root = "data/flowers"
    """Folder or bucket with jpg and the captions."""
    captions: str | None = None
    """Folder of the captions, below root. Default: text or text_c10, the one that exists."""
    split: Literal["class-disjoint", "published-none"] = "class-disjoint"
    """class-disjoint: the classes in Reed's testclasses.txt are held out; without this file, a
    fifth of the classes by the seed, which is not the published split. published-none: all images
    are training and validation images, as in RAT-GAN's published code."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the held-out classes, if there is no testclasses.txt."""

    @property
    def overlapping(self) -> bool:
        """Whether all images are in both splits, as in the published code."""
        return self.split == "published-none"

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise jpg/image_00001.jpg with captions of the same names."""
        texts = look.first(CAPTIONS)
        if not any(re.fullmatch(r"image_\d+\.jpg", name) for name in look.inside("jpg")):
            if look.has(LABELS) or look.has("imagelabels.mat"):
                yield f"{LABELS} or imagelabels.mat is there, and jpg/image_00001.jpg is not"
        elif texts is None:
            yield f"jpg/image_00001.jpg is there, and {' or '.join(CAPTIONS[:2])} is not"
        else:
            by_class = any(f"{texts}/class_" in folder for folder in look.folders)
            labelled = by_class or look.has(LABELS)
            reason = f"jpg/image_00001.jpg and the like, with captions in {texts}"
            split = {} if labelled else {"split": "published-none"}
            yield Fit(reason + (", without classes" if split else ""), split)

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names."""
        folder = open_root(self.root, "your Oxford-102 copy")
        if not folder.exists("jpg"):
            raise ValueError(
                f"{folder}/jpg does not exist: unpack 102flowers.tgz there. It holds "
                f"{some_names(folder)}."
            )
        texts = find_captions(folder, self.captions, CAPTIONS)
        labels = _labels_of_folders(folder / texts) or _labels_of_pickle(folder)
        classes = self._held_out(folder, texts, set(labels.values()))
        with Catalogue(str(folder)) as catalogue:
            images = 0
            for file, size in walk(folder / "jpg"):
                name = file.removesuffix(".jpg")
                if file == name or is_hidden(file):
                    leave_file(file)
                    continue
                label = labels.get(name)
                split = "validation" if label in classes else "train"
                catalogue.image(name, f"jpg/{file}", split=split, label=label, size=size)
                images += 1
            if not images:
                raise ValueError(f"{folder}/jpg holds no image_00001.jpg or the like.")
            for file, size in walk(folder / texts):
                key = _stem(file)
                if key is None:
                    leave_file(file)
                    continue
                split = "validation" if labels.get(key) in classes else "train"
                catalogue.text_file(key, listed(f"{texts}/{file}", size), split=split)
            lists = [place for name in LISTS for place in _places(texts, name)]
            leave_beside(folder, ("jpg", texts, LABELS, *lists))
            for record in catalogue.records():
                if self.overlapping:
                    for split in SPLITS:
                        yield replace(record, id=f"{split}-{record.id}", split=split)
                else:
                    yield record

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        return read_original(self.root, record.location)

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Read the lines of the text file of a record."""
        return read_captions(self.root, record)

    def _held_out(self, folder: Folder, texts: str, classes: set[str]) -> set[str]:
        """Choose the classes of the validation split, and print how."""
        if self.overlapping:
            print_line("all images are in the training and in the validation split, as published")
            return set()
        if not classes:
            raise ValueError(
                f"{folder} has no classes of images: its captions are not in folders "
                f"such as {texts}/class_00001, and there is no {LABELS}. Use Reed's text_c10, or "
                "no split with --split published-none."
            )
        train, test = (_class_list(folder, texts, name) for name in LISTS)
        if test is None and train is None:
            count = max(1, round(HELD_OUT * len(classes)))
            drawn = sorted(
                classes, key=lambda c: hashlib.sha256(f"{self.seed} {c}".encode()).hexdigest()
            )
            print_line(
                f"{count} of {len(classes)} classes are held out, drawn from seed {self.seed}: not "
                f"the published ones. To use these, put Reed's {LISTS[1]} into {folder}."
            )
            return set(drawn[:count])
        if both := (train or set()) & (test or set()):
            raise ValueError(f"{folder}: {min(both)!r} is in both {' and '.join(LISTS)}.")
        chosen = test if test is not None else classes - (train or set())
        if not chosen & classes:
            raise ValueError(
                f"{folder}: the split lists hold out no class of the images. They name classes "
                f"such as {min(chosen, default='none')!r}, and the images have classes such as "
                f"{min(classes)!r}."
            )
        print_line(
            f"{len(chosen & classes)} of {len(classes)} classes are held out, by Reed's lists"
        )
        return chosen


def _stem(file: str) -> str | None:
    """Return the image's name of a caption file, which may be in a folder of its class."""
    name = file.rsplit("/", 1)[-1]
    return (
        name.removesuffix(".txt") if name.startswith("image_") and name.endswith(".txt") else None
    )


def _labels_of_folders(texts: Folder) -> dict[str, str]:
    labels: dict[str, str] = {}
    for file, _ in texts.walk(links=True):
        name, parent = _stem(file), file.rpartition("/")[0].rsplit("/", 1)[-1]
        if name is None or not parent.startswith("class_"):
            continue
        if labels.setdefault(name, parent) != parent:
            both = " and ".join(sorted((labels[name], parent)))
            raise ValueError(f"{texts}: {name}.txt is in {both}. An image has one class.")
    return labels


def _labels_of_pickle(folder: Folder) -> dict[str, str]:
    if not folder.exists(LABELS):
        return {}
    value = load_foreign_pickle(folder.read(LABELS), f"{folder}/{LABELS}")
    names, labels = (value.get(k) if isinstance(value, dict) else None for k in ("img", "cat"))
    if (
        not isinstance(names, list)
        or not isinstance(labels, list)
        or len(names) != len(labels)
        or not all(isinstance(text, str) for text in (*names, *labels))
    ):
        raise ValueError(
            f"{folder}/{LABELS} is not RAT-GAN's: it must have two lists of texts of the same "
            "length, 'img' and 'cat'."
        )
    return dict(zip(names, labels, strict=True))


def _places(texts: str, name: str) -> list[str]:
    beside = texts.rpartition("/")[0]
    return list(dict.fromkeys((name, f"{beside}/{name}".lstrip("/"))))


def _class_list(folder: Folder, texts: str, name: str) -> set[str] | None:
    """Read a list of classes, one on each line, in the root or beside the captions."""
    for file in _places(texts, name):
        if folder.exists(file):
            words = folder.read(file).decode("utf-8-sig", errors="replace").split()
            if not words:
                raise ValueError(f"{folder}/{file} is empty: each line must name a class.")
            return set(words)
    return None
