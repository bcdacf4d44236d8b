"""MS-COCO captions, 2014 or 2017: a captions JSON and an image folder per split."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from pipeline.sources.source import Record, Source
from pipeline.storage import Folder, absolute


class CocoSource(Source):
    """MS-COCO as downloaded: annotations/captions_<split>.json beside <split>/*.jpg.

    python jobs/prepare.py coco --root data/coco --image-size 256 --output data/coco-256
    """

    name: ClassVar[str] = "coco"

    root: Annotated[str, AfterValidator(absolute), Field(validate_default=True)] = "data/coco"
    """Folder or bucket that holds `annotations` and the image folders."""
    train: str = "train2017"
    """Name of the training split: captions in annotations/captions_NAME.json, images in NAME/."""
    validation: str = "val2017"
    """Name of the validation split, laid out alike."""
    limit: int | None = Field(default=None, ge=2)
    """Take the first images only, of each split."""

    def records(self) -> Iterator[Record]:
        """List the images of both splits in the order of their ids."""
        folder = Folder(self.root)
        if not folder.exists():
            raise ValueError(
                f"{folder} does not exist. Name the folder of your COCO copy with --root."
            )
        seen: set[str] = set()
        for split, name in (("train", self.train), ("validation", self.validation)):
            for record in self._split(folder, split, name):
                if record.id in seen:
                    raise ValueError(
                        f"image {record.id} is in {self.train} and in {self.validation}."
                    )
                seen.add(record.id)
                yield record

    def _split(self, folder: Folder, split: str, name: str) -> Iterator[Record]:
        file = f"annotations/captions_{name}.json"
        if not folder.exists(file):
            found = [n for n in (folder / "annotations").names() if n.startswith("captions_")]
            raise ValueError(
                f"{folder}/{file} does not exist. Caption files there: "
                f"{', '.join(found) or 'none'}. Name the splits with --train and --validation."
            )
        if not (folder / name).exists():
            raise ValueError(f"{folder}/{name} does not exist: {file} needs its image folder.")
        captions, images = _read(folder.read_json(file), f"{folder}/{file}")
        listed = sorted(images.items())[: self.limit]
        for image_id, image_name in listed:
            # Captions in the order of their own ids, so that the order of the file does not matter.
            texts = tuple(text for _, text in sorted(captions.pop(image_id, [])))
            yield Record(
                id=f"{name}-{image_id:012d}",
                split=split,
                location=f"{name}/{image_name}",
                captions=texts,
            )
        if self.limit is None:
            for image_id, orphans in sorted(captions.items()):  # captions of no listed image
                yield Record(
                    id=f"{name}-{image_id:012d}",
                    split=split,
                    location="",
                    captions=tuple(text for _, text in sorted(orphans)),
                )

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record."""
        if not record.location:
            raise FileNotFoundError("the captions file lists no image with this id")
        return Folder(self.root).read(record.location)


def _read(content: Any, where: str) -> tuple[dict[int, list[tuple[int, str]]], dict[int, str]]:
    """Return captions by image id, each with its own id, and file names by image id."""
    try:
        images = {int(image["id"]): _flat(image["file_name"]) for image in content["images"]}
        captions = defaultdict(list)
        for annotation in content["annotations"]:
            text = annotation["caption"]
            if not isinstance(text, str):
                raise TypeError(f"caption {annotation['id']} is {type(text).__name__}, not text")
            captions[int(annotation["image_id"])].append((int(annotation["id"]), text))
    except (KeyError, TypeError, ValueError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{where} is not a COCO captions file ({missing}). It must be a JSON object with "
            "'images' (id, file_name) and 'annotations' (id, image_id, caption)."
        ) from error
    if not images:
        raise ValueError(f"{where} lists no images.")
    return captions, images


def _flat(name: str) -> str:
    """Accept a bare file name only: one with a folder in it could lead anywhere."""
    if not name or not name.isprintable() or "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"file_name {name!r} is not a plain file name")
    return str(name)
