"""WebDataset: tar files in which members with the same name before the first dot are one sample.

Listing reads only headers; reading an image is one read of some bytes of its tar. Names of members
never become paths, and nothing is unpacked.
"""

import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.preparation.decoding.images import IMAGES, OTHERS, RejectedError
from pipeline.preparation.sources.caption_files import (
    ENDINGS,
    captions_of,
    first_captions,
    key_of_captions,
    listed,
    order,
)
from pipeline.preparation.sources.file_patterns import base_folder, check_pattern, matching_files
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.left_aside import is_enough, is_hidden, leave_aside
from pipeline.preparation.sources.look import HEAD, Fit, Look, held_out_files
from pipeline.preparation.sources.read_original import Root, read_original
from pipeline.preparation.sources.source import Record, Source, raise_refusals, refusal, split_of
from pipeline.storage.folder import Folder

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LOOKED_AT, MAX_TREES = 64, 20  # members of a tar, and folders of tars, for `recognise`
MAX_HEADER = 2**20  # bytes of what stands before a member: its name, and notes
PLACE = re.compile(r"(?P<tar>.+)#(?P<start>\d+)\+(?P<size>\d+)(?P<ending>\.\w+)")


class WebDatasetSource(Source):
    """Tar files in WebDataset's layout, as img2dataset writes: KEY.jpg with KEY.txt or .json.

    python jobs/prepare.py webdataset --root "data/tars/{00000..00041}.tar" --output data/web-256
    """

    name: ClassVar[str] = "webdataset"
    general: ClassVar[bool] = True
    later: ClassVar[frozenset[str]] = frozenset({"image_ending", "caption_ending", "text_lines"})

    root: Root
    """A .tar, a folder of .tar, or a pattern such as "s3://b/x/{00000..00041}.tar" or "x/*.tar".
    The captions of KEY.jpg, .png or .webp are in KEY.txt or KEY.caption (one on each line),
    otherwise in KEY.json (a text, a list of texts, or an object with one of these)."""
    caption_key: str | None = None
    """Key of the captions in a JSON object, a.b for one deeper. Default: caption, captions, text or
    texts."""
    image_ending: str | None = None
    """What follows KEY in the names of images, for example input.jpg. Default: jpg, png, webp."""
    caption_ending: str | None = None
    """What follows KEY in the names of caption files. Default: txt, caption, json."""
    text_lines: Literal["captions", "one-caption"] | None = None
    """captions: each line of a text file is a caption. one-caption: the file is one. Default:
    captions."""
    validation: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of images held out, by a hash of their names."""
    validation_files: str | None = None
    """Pattern of the held-out tars, instead of a share: "val-*.tar"."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise tars by the names of the first members of one in each folder."""
        tars = [name for name in look.files if name.lower().endswith((".tar", *COMPRESSED))]
        first = {posixpath.dirname(tar): tar for tar in reversed(tars)}
        found = [
            (tree, first[tree], _kinds(look, first[tree])) for tree in sorted(first)[:MAX_TREES]
        ]
        alike = all(options == found[0][2] for _, _, options in found)
        for tree, tar, options in found[:1] if alike else found:
            if isinstance(options, str):
                yield f"{tar} {options}"
                continue
            inside = [name for name in tars if alike or posixpath.dirname(name) == tree]
            root = {} if alike else {"root": look.place(tree)}
            held = held_out_files(
                [posixpath.relpath(name, "" if alike else tree) for name in inside]
            )
            reason = f"{len(inside):,} tar files were seen, and {tar} holds images with captions"
            yield Fit(reason, {**root, **options, **held})

    def records(self) -> Iterator[Record]:
        """List the samples in the order of their tars and names."""
        folder, tars = matching_files(self.root, (".tar", *COMPRESSED))
        check_pattern(self.validation_files, tars)
        images, left = 0, Counter[str]()
        for number, tar in enumerate(tars):
            if is_enough():  # the headers of a tar in a bucket cost as much as all of it
                leave_aside("files", "beyond --limit, not opened", len(tars) - number)
                break
            if tar.lower().endswith(COMPRESSED):
                raise ValueError(
                    f"{folder}/{tar} is compressed, so its members cannot be read separately. "
                    "Unpack it to a .tar: compression does not make images smaller."
                )
            with Catalogue(f"{folder}/{tar}") as catalogue:
                images += self._list(folder, tar, catalogue, left)
                yield from catalogue.records()
        if not images:
            there = ", ".join(f"{count:,} {kind}" for kind, count in left.most_common(8))
            raise ValueError(
                f"{folder}: no tar holds an image ({', '.join(self._image_kinds()[:4])}). Other "
                f"members: {there or 'none'}. Choose endings with --image-ending and "
                "--caption-ending."
            )

    def read_image(self, record: Record) -> bytes:
        """Read the image of a record from its tar."""
        raise_refusals(record)
        return self._read(record.location)[1]

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Read the captions of a record from its tar."""
        raise_refusals(record)
        # Messages name the member, not its bytes.
        stem = posixpath.splitext(record.id)[0]

        def read(text: str) -> list[str | bytes]:
            name, whole = stem + posixpath.splitext(text)[1], self.text_lines == "one-caption"
            return captions_of(name, self._read(text)[1], self.caption_key, whole=whole)

        return first_captions(record.texts, read)

    def _read(self, location: str) -> tuple[str, bytes]:
        place = PLACE.fullmatch(location)
        if place is None:
            raise RejectedError("PATH_UNSAFE", f"{location!r} is no place in a tar")
        start, size = int(place["start"]), int(place["size"])
        if not size:  # an empty range is invalid
            return location, b""
        folder = base_folder(self.root)
        return location, read_original(folder.location, place["tar"], start, start + size)

    def _image_kinds(self) -> Sequence[str]:
        named = self.image_ending
        return IMAGES + OTHERS if named is None else [f".{named.lower().lstrip('.')}"]

    def _caption_kinds(self) -> Sequence[str]:
        named = self.caption_ending
        return ENDINGS if named is None else [f".{named.lower().lstrip('.')}"]

    def _list(self, folder: Folder, tar: str, catalogue: Catalogue, left: Counter[str]) -> int:
        """Add the members of a tar to the catalogue, and count its images."""
        images = 0
        with folder.open(tar) as stream:
            try:
                for member in _members(stream):
                    parent, slash, base = member.name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    kind, key = f".{ending.lower()}", f"{tar}/{parent}{slash}{stem}"
                    is_text = kind in self._caption_kinds()
                    is_image = not is_text and kind in self._image_kinds()
                    hidden = is_hidden(base)
                    # `0.seg.png` too: another image of its sample, without captions.
                    if hidden or not (is_image or is_text):
                        left[kind if len(left) < 100 else "others"] += 1
                        leave_aside("members", "hidden" if hidden else kind)
                        continue
                    split = split_of(key, self.validation, tar, self.validation_files)
                    place = f"{tar}#{member.offset_data}+{member.size}{kind[kind.rindex('.') :]}"
                    if is_text:
                        text = listed(place, member.size, f"{tar}/{member.name}")
                        catalogue.text_file(key, text, number=order(kind), split=split)
                    else:
                        name = f"{tar}/{member.name}"
                        catalogue.image(key, place, name=name, split=split, size=member.size)
                        images += 1
            except tarfile.ReadError as error:
                raise ValueError(
                    f"{folder}/{tar} is not a tar file that can be read: {error}. Copy it again, "
                    "or remove it."
                ) from error
            except EOFError as cut:
                split = split_of(tar, 0, tar, self.validation_files)
                catalogue.image(tar, tar, split=split)
                catalogue.text_file(tar, refusal("TAR_CUT", f"{folder}/{tar} {cut}"))
        return images


def _kinds(look: Look, tar: str) -> dict[str, str] | str:
    """Return the options that a tar needs, or what is wrong with it."""
    if tar.lower().endswith(COMPRESSED):
        return "is compressed: unpack it to a .tar"
    kinds: Counter[str] = Counter()
    sample = b""
    try:
        with look.folder.open(tar) as stream:
            for member in islice(_members(stream), LOOKED_AT):
                kind = "." + posixpath.basename(member.name).partition(".")[2].lower()
                kinds[kind] += 1
                if kind == ".json" and not sample:
                    start = member.offset_data
                    sample = look.folder.read(tar, start, start + min(member.size, HEAD))
    except (tarfile.ReadError, EOFError) as error:
        if not kinds:
            return f"is not a tar file that can be read: {error}"
    image, caption = _best(kinds, IMAGES + OTHERS), _best(kinds, ENDINGS)
    if image is None or caption is None:
        there = ", ".join(kind for kind, _ in kinds.most_common(8))
        return f"has no {'captions' if image else 'images'}: its members are {there or 'none'}"
    named = {"image_ending": image, "caption_ending": caption}
    options = {name: kind[1:] for name, kind in named.items() if kind.count(".") > 1}
    if caption == ".json":
        key = key_of_captions(sample)
        if key is None:
            return "has no caption in its .json: name its key with --caption-key"
        options |= {"caption_key": key} if key else {}
    return options


def _best(kinds: Counter[str], endings: Sequence[str]) -> str | None:
    """Return the kind of members with one of some endings: a plain one, or the most frequent."""
    found = [kind for kind, _ in kinds.most_common() if kind.endswith(tuple(endings))]
    return next((e for e in endings if e in found), found[0] if found else None)


class _Headers:
    """A tar of which headers are read, and no header of more than a megabyte."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:  # a name of gigabytes, as the header of a header may say
            raise tarfile.ReadError(f"a header of {size:,} bytes, at most {MAX_HEADER:,} are taken")
        return self._stream.read(size)


def _members(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar that are complete.

    Raises:
        tarfile.ReadError: If it is not a tar.
        EOFError: At the end, if the tar is damaged or truncated.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    headers: Any = _Headers(stream)
    with tarfile.open(fileobj=headers, mode="r:") as tar:
        count = 0
        while True:
            try:
                member = tar.next()
            except (tarfile.ReadError, EOFError, ValueError) as error:
                if not count:
                    raise tarfile.ReadError(str(error)) from error
                raise EOFError(f"is damaged after {count:,} members: {error}") from error
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
            plain = member.isreg() and not member.issparse()  # no links, no devices
            if plain and not 0 <= member.size <= size - member.offset_data:
                raise EOFError(f"is cut short: {member.name!r} is its last member, and incomplete")
            count += 1
            if plain:
                yield member
            elif not member.isdir():
                leave_aside("members", "links and devices")
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise EOFError(f"is damaged after {count:,} members: no header follows")
