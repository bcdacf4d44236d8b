"""The configs in the card (README.md) of a dataset of Hugging Face: untrusted YAML and patterns."""

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import yaml

from pipeline.preparation.sources.read_original import plain_name
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

CARD = "README.md"
MAX_BYTES = 2**20  # of what stands before its text
MAX_PATTERNS = 1000  # of a config
FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Config:
    """A part of a dataset.

    Attributes:
        name: What `--config` names it by.
        folder: Its folder, relative to the card, with a slash at its end; or empty.
        patterns: Patterns of files below that folder by split; none if their names decide.
    """

    name: str
    folder: str = ""
    patterns: dict[str, list[str]] = field(default_factory=dict)

    def split_of(self, file: str) -> str | None:
        """Return the split whose patterns match a file of the config's folder, or None.

        Raises:
            ValueError: If two splits have it.
        """
        found = [s for s, names in self.patterns.items() if any(matches(file, n) for n in names)]
        if len(found) > 1:
            raise ValueError(
                f"{CARD}, config {self.name!r}: {file!r} is of the splits {found[0]!r} and "
                f"{found[1]!r}. An image can be in one of them only: correct the patterns."
            )
        return found[0] if found else None


def read_config(folder: Folder, name: str | None) -> Config | None:
    """Read a config of the card in a folder.

    Args:
        name: Which one, if there are several.

    Returns:
        The config; None if the card has none.

    Raises:
        ValueError: If the card cannot be used, has several configs and none is named, or not this
            one.
    """
    where = f"{folder}/{CARD}"
    listed = _front_matter(folder, where).get("configs")
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(
        isinstance(each, dict) and isinstance(each.get("config_name"), str | int) for each in listed
    ):
        raise ValueError(f"{where}: 'configs' must be a list, each with a text as 'config_name'.")
    configs = {str(each["config_name"]): each for each in listed}  # YAML reads 2017 as a number
    return _parsed(folder, choose(where, list(configs), name), configs) if configs else None


def choose(where: str, names: list[str], name: str | None) -> str:
    """Return the config that is named, or the only one.

    Raises:
        ValueError: If there are several and none is named, or if it does not exist.
    """
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        what = f"has {len(names)} configs" if name is None else f"has no config {name!r}"
        there = ", ".join(repr(each[:40]) for each in names[:20])
        raise ValueError(f"{where} {what}. Choose one with --config: {there}.")
    return name


def matches(file: str, pattern: str) -> bool:
    """Return whether a file matches a pattern, in which `**` stands for any folders."""
    parts, wanted = file.split("/"), pattern.split("/")
    ends = {0}  # how many parts of the file the pattern may have matched so far
    for number, each in enumerate(wanted, 1):
        if each == "**":  # at the end it stands for a file
            first = min(ends, default=len(parts)) + (number == len(wanted))
            ends = set(range(first, len(parts) + 1))
        else:
            ends = {n + 1 for n in ends if n < len(parts) and fnmatchcase(parts[n], each)}
    return len(parts) in ends


class _Loader(yaml.SafeLoader):
    """Without merged mappings, a few lines of which can stand for gigabytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it merges mappings with '<<', which is not read")
        super().flatten_mapping(node)


def _front_matter(folder: Folder, where: str) -> dict[str, Any]:
    """Read the YAML before the text of the card; empty if there is none."""
    if not folder.exists(CARD):
        return {}
    text = folder.read(CARD, 0, MAX_BYTES + 1).decode("utf-8-sig", "replace")
    found = FRONT.match(text)
    if found is None:
        if text.lstrip().startswith("---") and len(text) > MAX_BYTES:
            raise ValueError(f"{where}: its front matter has over {MAX_BYTES:,} bytes.")
        return {}
    try:
        front = _Loader(found[1]).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: what stands between its lines '---' is not valid YAML: {error}. Correct it, "
            "or take the file out of the folder."
        ) from error
    return front if isinstance(front, dict) else {}


def _parsed(folder: Folder, name: str, configs: dict[str, dict[str, Any]]) -> Config:
    config, where = configs[name], f"{folder}/{CARD}, config {name!r}"
    below = _plain(folder, where, config.get("data_dir") or "")
    files = config.get("data_files")
    listed = files if isinstance(files, list) else [] if files is None else [files]
    if not all(isinstance(each, dict) for each in listed):
        listed = [{"split": "train", "path": listed}]  # as `datasets` reads files without a split
    patterns: dict[str, list[str]] = {}
    for each in listed:
        paths = each.get("path")
        paths = paths if isinstance(paths, list) else [paths]
        if not isinstance(each.get("split"), str | int):
            raise ValueError(f"{where}: each of 'data_files' needs a text as 'split'.")
        if len(paths) > MAX_PATTERNS or len(patterns) > MAX_PATTERNS:
            raise ValueError(f"{where}: 'data_files' has over {MAX_PATTERNS:,} patterns.")
        patterns.setdefault(str(each["split"]), []).extend(_plain(folder, where, p) for p in paths)
    return Config(name, f"{below}/" if below else "", patterns)


def _plain(folder: Folder, where: str, name: Any) -> str:
    """Check a name or pattern of the card, and return it without parts that mean nothing."""
    if not isinstance(name, str):
        raise ValueError(f"{where} names {str(name)[:40]!r} as a file, which is no text.")
    plain = plain_name(name)
    try:
        return inside(folder, plain, by_links=True) if plain else ""
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
