"""MS-COCO as AttnGAN and DF-GAN lay it out: two lists of names, and a text file for each image."""

import posixpath
from collections.abc import Iterator, Mapping
from itertools import chain

from pipeline.common.console import print_line
from pipeline.preparation.sources.caption_files import listed
from pipeline.preparation.sources.filename_pickles import PICKLES
from pipeline.preparation.sources.join_on_disk import Catalogue, composed
from pipeline.preparation.sources.left_aside import is_hidden, walk
from pipeline.preparation.sources.read_original import is_there, some_names
from pipeline.preparation.sources.source import Record
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

# Where {name} is: COCO_train2014_000000000009 is in images/, images/train2014/ or train2014/.
IMAGES = (
    "images/{name}.jpg",
    "images/{year}/{name}.jpg",
    "{year}/{name}.jpg",
    "{split}/{name}.jpg",
)
LOOKED_AT = 100  # images of a split that are searched in these places


def attngan_records(
    folder: Folder, splits: Mapping[str, set[str]], images: str | None
) -> Iterator[Record]:
    """List the images of both splits in the order of their names.

    Args:
        folder: Root of the originals.
        splits: Names of the images of each split.
        images: The user's folder of the images, below it.

    Raises:
        ValueError: If images or captions are in no known place.
    """
    places: tuple[str, ...] = IMAGES
    if images and (named := images.strip("/")):
        inside(folder, named, by_links=True)
        places = (f"{named}/{{name}}.jpg", f"{named}/{{year}}/{{name}}.jpg")
    print_line(
        f"COCO in AttnGAN's layout: {len(splits['train']):,} training and "
        f"{len(splits['validation']):,} validation images, by train and test/filenames.pickle"
    )
    with Catalogue(str(folder)) as catalogue:
        some = [(name, split) for split in splits for name in sorted(splits[split])[:LOOKED_AT]]
        if not some:
            raise ValueError(f"{folder}: both filenames.pickle list no images.")
        found = (p for p in places if any(is_there(folder, _place(p, *each)) for each in some))
        place = next(found, None)
        if place is None:
            raise ValueError(
                f"{folder} has no {', '.join(_place(p, *some[0]) for p in places)}. It holds "
                f"{some_names(folder)}. Name the folder of the images, below root, with --images."
            )
        for split, names in splits.items():
            for name in names:
                catalogue.image(name, _place(place, name, split), split=split)
        known = set(chain.from_iterable(splits.values()))
        texts: set[str] = set()
        for tree in ("text",) if folder.exists("text") else ("train", "test"):
            for file, size in (folder / tree).walk(links=True):
                name, ending = posixpath.splitext(posixpath.basename(file))
                if ending == ".txt" and composed(name) in known and not is_hidden(file):
                    catalogue.text_file(composed(name), listed(f"{tree}/{file}", size))
                    texts.add(f"{tree}/{file}")
        if not texts:
            raise ValueError(
                f"{folder} has no captions of these images, such as text/{some[0][0]}.txt. Unpack "
                "the texts of AttnGAN's coco.zip there."
            )
        read = texts.union(PICKLES.values())
        catalogue.leave_unnamed(file for file, _ in walk(folder) if file not in read)
        yield from catalogue.records()


def _place(pattern: str, name: str, split: str) -> str:
    year = "val2014" if name.startswith("COCO_val2014") else "train2014"
    folder = "train" if split == "train" else "test"
    return pattern.replace("{year}", year).replace("{split}", folder).replace("{name}", name)
