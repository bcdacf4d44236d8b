"""Files with the captions of one image: one caption on each line, or JSON."""

import codecs
import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.preparation.decoding.captions import MAX_BYTES
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.read_original import read_original
from pipeline.preparation.sources.source import Record, raise_refusals, refusal
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

LINES = (".txt", ".caption")
ENDINGS = (*LINES, ".json")
# Its mark, or line ends of two bytes: lines in it could be words that nobody wrote.
UTF16 = re.compile(rb"\A\xff\xfe|\A\xfe\xff|\0[\r\n]|[\r\n]\0|\A(\0[^\0]|[^\0]\0){2}")
KEYS = ("caption", "captions", "text", "texts")


def listed(name: str, size: int, shown: str | None = None) -> str:
    """Return the entry of a caption file among a record's texts.

    Args:
        name: Place of the file for the source.
        size: Size in bytes; a file too large for captions is never read.
        shown: Name for messages; by default `name`.
    """
    if size > MAX_BYTES:
        return refusal(
            "CAP_TOO_LONG", f"{shown or name} has {size:,} bytes, at most {MAX_BYTES:,} are taken"
        )
    return name


def order(name: str) -> int:
    """Return the rank of an ending: JSON beside a text file has other data too, and is last."""
    return next((i for i, ending in enumerate(ENDINGS) if name.lower().endswith(ending)), 0)


def find_captions(folder: Folder, given: str | None, usual: Sequence[str]) -> str:
    """Find the folder of the caption files by Reed et al., which are distributed separately.

    Args:
        given: The user's option, below it.
        usual: Usual names of the folder.

    Raises:
        ValueError: If it does not exist.
    """
    if given is not None:
        inside(folder, given, by_links=True)
    found = next((n for n in ([given] if given else usual) if folder.exists(n)), None)
    if found is None:
        raise ValueError(
            f"{folder}/{given or usual[0]} does not exist, so there are no captions. They are not "
            f"distributed with the images: put <class>/<name>.txt by Reed et al. 2016, one caption "
            f"on each line, into {usual[0]}/ there, or name their folder below --root with "
            "--captions."
        )
    return found.strip("/")


def read_captions(
    root: str, record: Record, key: str | None = None, *, whole: bool = False
) -> list[str | bytes]:
    """Read the caption files of a record: text files, or JSON files if there are no others.

    Args:
        root: Folder or bucket address of the originals.
        record: Its texts are names below `root`.
        key: As for `captions_of`.
        whole: As for `captions_of`.

    Raises:
        OSError: If a file cannot be read.
        RejectedError: If one must not be read, or is damaged.
    """
    raise_refusals(record)
    return first_captions(
        record.texts, lambda name: captions_of(name, read_original(root, name), key, whole=whole)
    )


def first_captions(
    names: Sequence[str], read: Callable[[str], list[str | bytes]]
) -> list[str | bytes]:
    """Read the text files of an image; its JSON files if there are no others, or these are empty.

    Args:
        names: Caption files of the image.
        read: Reads one of them.
    """
    texts = [name for name in names if not name.lower().endswith(".json")]
    found = [caption for name in texts or names for caption in read(name)]
    if found or not texts:
        return found
    with contextlib.suppress(RejectedError):  # JSON beside a text file may hold other data
        return [caption for name in names if name not in texts for caption in read(name)]
    return []


def captions_of(
    name: str, content: bytes, key: str | None = None, *, whole: bool = False
) -> list[str | bytes]:
    """Read the captions in a file.

    Args:
        name: Name of the file; its ending is the format.
        key: Key of the captions in a JSON object, `a.b` for one deeper; by default the first of
            `KEYS` that exists.
        whole: Take a text file as one caption, instead of each of its lines.

    Raises:
        RejectedError: If JSON is damaged, or has no captions; if a text is UTF-16.
    """
    if name.lower().endswith(".json"):
        return list(_from_json(name, content, key))
    if UTF16.search(content):
        raise RejectedError("CAP_ENCODING", f"{name} is UTF-16: save it as UTF-8")
    text = content.removeprefix(codecs.BOM_UTF8)
    lines = [b" ".join(text.split())] if whole else text.splitlines()
    return [line for line in lines if line.strip()]  # many files end with a blank line


def key_of_captions(head: bytes) -> str | None:
    """Find the key of the captions in a JSON file: dotted, empty if no option is needed, or None.

    Args:
        head: The file, or its start if it is large.
    """
    try:
        queue = [("", json.loads(head.removeprefix(codecs.BOM_UTF8)))]
    except (ValueError, RecursionError):
        return None
    while queue:
        place, value = queue.pop(0)
        if not isinstance(value, dict):
            if not place and isinstance(value, str | list):
                return ""
            continue
        for key in KEYS:
            if value.get(key) and isinstance(value[key], str | list):
                return f"{place}{key}" if place else ""
        queue += [(f"{place}{key}.", inner) for key, inner in list(value.items())[:100]]
    return None


def _from_json(name: str, content: bytes, key: str | None) -> list[str]:
    try:
        value = json.loads(content.removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise RejectedError("CAP_ENCODING", f"{name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RejectedError("CAP_FORMAT", f"{name} is not valid JSON: {error}") from error
    keys = KEYS if key is None else (key,)
    if isinstance(value, dict):
        found = sorted(
            (value[each] is None, n, each) for n, each in enumerate(keys) if each in value
        )
        if found:  # the first that has a value
            return _texts(name, value[found[0][2]])
        there = ", ".join(map(repr, list(value)[:12])) or "none"
        try:
            value = _at(value, key.split(".") if key is not None else KEYS[:1])
        except (KeyError, TypeError) as error:
            missing = f"{name} has no {' or '.join(map(repr, keys))}. Keys there: {there}"
            raise RejectedError("CAP_FORMAT", missing) from error
    return _texts(name, value)


def _at(value: Any, path: Sequence[str]) -> Any:
    """Return the value at a path of keys; of a list, the values of its items."""
    if not path:
        return value
    if isinstance(value, list):
        return [_at(each, path) for each in value]
    return _at(value[path[0]], path[1:])


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str | None) else value
    texts = [t for t in texts if t is not None] if isinstance(texts, list) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RejectedError(
            "CAP_FORMAT", f"{name} holds {str(value)[:40]!r}, not a text or a list of texts"
        )
    return texts
