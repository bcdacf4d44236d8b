"""Which files hold the rows of a dataset of Hugging Face, and in which split each is.

As the package `datasets` decides: by what `save_to_disk` wrote, by the configs of the dataset card,
or by the names of files and folders. What JSON and the card name is looked up below the root, and
nothing else is ever opened.
"""

import json
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import IMAGES, OTHERS
from pipeline.preparation.sources.huggingface_card import CARD, Config, choose, matches, read_config
from pipeline.preparation.sources.left_aside import is_hidden
from pipeline.preparation.sources.read_original import some_names
from pipeline.preparation.sources.table_rows import METADATA
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
TABLES = (".parquet", ".arrow")
MAX_JSON = 16 * 2**20  # bytes
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<rest>\D[^/]*)")
SPLIT_SHARD = re.compile(r"data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\D[^/]*")
CONVERTED = re.compile(r"(?P<config>[^/]+)/(?:partial-)?(?P<split>[^/]+)/\d{4}\.parquet")
# A word in a name, as `datasets` knows it: `train_2` and `my-train` are train, `trains` is not.
WORD = re.compile(
    r"(?:^|[-._ 0-9/])(?:(?P<train>train(?:ing)?)|(?P<validation>validation|valid|val|dev)|"
    r"(?P<test>test(?:ing)?|eval(?:uation)?))(?=$|[-._ 0-9/])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """The files of a dataset.

    Attributes:
        tables: Files of rows with their split, if it has a name, in the order of the rows.
        splits: Splits that there are.
        read: Other files that were read.
        base: Folder of the dataset below the root, with a slash at its end; or empty.
        pictures: Whether the rows name image files, whose paths may name the split.
        config: Names the splits of files, if the card does.
    """

    tables: tuple[tuple[str, str | None], ...]
    splits: tuple[str, ...]
    read: frozenset[str]
    base: str = ""
    pictures: bool = False
    config: Config | None = None

    def split_of(self, file: str) -> str | None:
        """Return the split that the path of an image names, or None."""
        return _split_of(file.removeprefix(self.base), self.config)


def find_dataset(root: Folder, config: str | None) -> Found:
    """Find the files of rows in a folder.

    Args:
        config: Name of the config, if there are several.

    Raises:
        ValueError: If there are none, or if the card or a JSON file cannot be used.
    """
    base = _snapshot(root)
    found = _saved(root, base)
    if found is not None and config is not None:
        raise ValueError(f"{root} was written by save_to_disk and has no configs: {config!r}.")
    found = found or _by_names(root, base, config)
    _report_missing(table for table, _ in found.tables)
    return found


def _snapshot(root: Folder) -> str:
    """Return the folder of the only snapshot, if the root is a cache of the hub."""
    if not (root.exists("snapshots") and root.exists("blobs")):
        return ""
    names = (root / "snapshots").names()
    if len(names) != 1:
        raise ValueError(
            f"{root} is a cache of the hub with {len(names)} snapshots. Name one of them with "
            f"--root: {', '.join(shlex.quote(f'{root}/snapshots/{name}') for name in names[:8])}"
        )
    return f"snapshots/{names[0]}/"


def _saved(root: Folder, base: str) -> Found | None:
    """Find what `save_to_disk` wrote: a dataset, or one for each split."""
    parts: dict[str, str | None] = {"": None}
    if is_dict := root.exists(base + DICT):
        splits = read_json(root, base + DICT).get("splits")
        if not isinstance(splits, list) or not all(isinstance(each, str) for each in splits):
            raise ValueError(f"{root}/{base}{DICT} has no list of texts as 'splits'.")
        parts = {f"{_inside(root, base + DICT, each)}/": each for each in splits}
    elif not (root.exists(base + STATE) and root.exists(base + INFO)):
        return None
    tables: dict[str, str | None] = {}
    for part, split in parts.items():
        state = f"{base}{part}{STATE}"
        files = read_json(root, state).get("_data_files")
        if not isinstance(files, list) or not all(isinstance(each, dict) for each in files):
            raise ValueError(f"{root}/{state} has no list of files as '_data_files'.")
        for each in files:
            table = base + part + _inside(root, state, each.get("filename"))
            if not root.exists(table):
                raise ValueError(f"{root}/{state} names {table}, which does not exist.")
            tables[table] = split
    read = {f"{base}{part}{name}" for part in parts for name in (STATE, INFO)}
    read |= {base + DICT} if is_dict else set()
    return Found(
        tuple(tables.items()), tuple(s for s in parts.values() if s), frozenset(read), base
    )


def _by_names(root: Folder, base: str, name: str | None) -> Found:
    """Find the files by the config of the card, or by their names."""
    home = root / base.rstrip("/") if base else root
    config = read_config(home, name)
    read = frozenset({base + CARD} if config else ())
    base += config.folder if config else ""
    patterns = config if config and config.patterns else None
    unmatched = {each for names in config.patterns.values() for each in names} if config else set()
    tables: list[str] = []
    folders: Counter[str | None] = Counter()  # images by what the names of their folders say
    for path, _ in root.walk(links=True):
        file = path.removeprefix(base)
        if not path.startswith(base) or is_hidden(file):
            continue
        unmatched = {pattern for pattern in unmatched if not matches(file, pattern)}
        ending = posixpath.splitext(file)[1].lower()
        if ending in IMAGES + OTHERS:
            if patterns is None or patterns.split_of(file):
                folders[_split_of(file, None)] += 1
        elif posixpath.basename(file) in METADATA or (
            ending in TABLES and not posixpath.basename(file).startswith("cache-")
        ):
            tables.append(file)
    if config and unmatched:
        raise ValueError(
            f"{home}/{CARD}, config {config.name!r}: no file matches {min(unmatched)!r}. It is "
            "wrong, or the download is not complete."
        )
    tables.sort()
    metadata = [name for name in tables if posixpath.basename(name) in METADATA]
    tables = [name for name in tables if name.lower().endswith(TABLES)]
    if patterns:
        tables = [name for name in tables if patterns.split_of(name)]
    # As in `datasets`, what there is more of decides: a repository of tables may show some images.
    pictures = bool(metadata) and folders.total() > len(set(tables).difference(metadata))
    tables = metadata if pictures else tables
    if not tables:
        raise ValueError(_nothing(root, base))
    if name is not None and config is None and not _configs(tables):
        raise ValueError(f"{root} has no configs: leave out --config {name}.")
    splits: dict[str, str | None]
    if pictures or patterns:  # a metadata file in no folder of a split has rows of several
        splits = {table: _split_of(table, patterns) for table in tables}
    else:
        splits = _split_tables(root, tables, name)
    images = folders if pictures else ()
    there = [*patterns.patterns] if patterns else [*splits.values(), *images]
    return Found(
        tuple((base + table, split) for table, split in splits.items()),
        tuple(dict.fromkeys(split for split in there if split)),
        read,
        base,
        pictures,
        patterns,
    )


def _split_of(file: str, config: Config | None) -> str | None:
    """Return the split of a file by the card, otherwise by the names of its folders."""
    return config.split_of(file) if config is not None else _word(posixpath.dirname(file))


def _word(text: str) -> str | None:
    """Return the split that the first word in a name means, or None."""
    found = WORD.search(text)
    return found.lastgroup if found else None


def _split_tables(root: Folder, tables: list[str], config: str | None) -> dict[str, str | None]:
    """Return the tables of one config by their split; the first rule that fits one decides."""
    if configs := _configs(tables):
        chosen = choose(str(root), list(dict.fromkeys(configs.values())), config)
        return {n: CONVERTED.sub(r"\g<split>", n) for n in tables if configs[n] == chosen}
    rules: list[dict[str, str | None]] = [
        {n: shard["split"] for n in tables if (shard := SPLIT_SHARD.fullmatch(n))},
        {n: word for n in tables if (word := _word(posixpath.dirname(n)))},
        {n: word for n in tables if (word := _word(posixpath.basename(n)))},
    ]
    return next(filter(None, rules), dict.fromkeys(tables))


def _configs(tables: list[str]) -> dict[str, str]:
    """Return the config of each table, if all are named as the hub converts datasets."""
    found = {n: each["config"] for n in tables if (each := CONVERTED.fullmatch(n))}
    return found if len(found) == len(tables) else {}


def _report_missing(tables: Iterable[str]) -> None:
    """Print which numbered files are not there: some are left out of a download on purpose."""
    found = Counter((m["stem"], m["count"], m["rest"]) for n in tables if (m := SHARD.fullmatch(n)))
    for (stem, count, rest), there in found.items():
        if there != int(count):
            print_line(f"{stem}-*-of-{count}{rest}: {there} of {int(count)} files are there")


def _nothing(root: Folder, base: str) -> str:
    place = f"{root}/{base}".rstrip("/")
    return (
        f"{place} holds no images with one of {', '.join(METADATA)}, no parquet, and nothing that "
        f"save_to_disk wrote. It holds {some_names(Folder(place))}. Prepare CSV and JSON lines "
        "with jobs/prepare.py table and tars with jobs/prepare.py webdataset; unpack zip archives."
    )


def read_json(root: Folder, file: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If it does not exist, is too large or is none.
    """
    if not root.exists(file):
        raise ValueError(f"{root}/{file} does not exist, and save_to_disk writes it.")
    content = root.read(file, 0, MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise ValueError(f"{root}/{file} has over {MAX_JSON:,} bytes.")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{root}/{file} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{root}/{file} is a JSON {type(found).__name__}, not an object.")
    return found


def _inside(root: Folder, file: str, name: Any) -> str:
    try:
        return inside(root, name, by_links=True)
    except ValueError as error:
        raise ValueError(f"{root}/{file}: {error}") from error
