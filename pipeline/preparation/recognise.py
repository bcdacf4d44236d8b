"""Say which source fits what lies in a folder, and print its command; nothing is decoded."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated, get_args

from pydantic import Field

from pipeline.common.commands import command, job_command
from pipeline.common.console import print_line, printable
from pipeline.common.settings import Settings
from pipeline.data.manifest import MANIFEST, PROGRESS
from pipeline.preparation.sources import AnySource
from pipeline.preparation.sources.look import Fit, Look, look_at
from pipeline.preparation.sources.read_original import Root, open_root
from pipeline.preparation.sources.source import Source

SOURCES: list[type[Source]] = [get_args(kind)[0] for kind in get_args(AnySource)]
MAX_INNER = 20  # folders that are looked at one by one
ENDING = re.compile(r"(\.(csv|tsv|jsonl?|ndjson|parquet|arrow|tar|gz))+$")


class AutoConfig(Settings):
    """Say which layout the originals in a folder have, and the command that prepares them."""

    root: Root
    """Folder, file or bucket to look at. Names and the start of some files are read, no more."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 256
    """For the command: image size of the training in pixels."""
    output: str | None = None
    """For the command: folder or bucket for the prepared dataset."""


def recognise(config: AutoConfig) -> None:
    """Print each source that fits, those of a certain layout first.

    Raises:
        ValueError: If none fits; says what lies there and what the sources need.
    """
    look = look_at(config.root, open_root(config.root, "your originals"))
    refuse_own(look)
    look = _without_prepared(look)
    certain, almost = _tried(look, [source for source in SOURCES if not source.general])
    fits, general_almost = _tried(look, [source for source in SOURCES if source.general])
    fits = (certain or _inner(look, general=False)) + fits or _inner(look, general=True)
    almost += general_almost
    if not fits:
        raise ValueError(_explained(look, almost))
    if len(fits) > 1:
        print_line(f"{len(fits)} ways to prepare it; the most specific one first:")
    for name, fit in fits:
        print_line(f"{name}: {printable(fit.reason)}\n    {preparation(name, fit, config)}")


def preparation(name: str, fit: Fit, config: AutoConfig) -> str:
    """Return a command that can be pasted into a shell.

    Args:
        name: Name of the source.
    """
    size = str(config.image_size)
    last = ENDING.sub("", fit.options["root"].rstrip("/").rpartition("/")[2])
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-.") or "originals"
    output = config.output or f"data/{plain}-{size}"
    flags = {**fit.options, "image_size": size, "output": output}
    words = [(f"--{key.replace('_', '-')}", value) for key, value in flags.items()]
    # A value that starts with a dash is no option of its own.
    pairs = [["=".join(pair)] if pair[1].startswith("-") else pair for pair in words]
    return job_command("prepare", name, *chain.from_iterable(pairs))


def refuse_own(look: Look) -> None:
    """Raise ValueError if a folder is what this project wrote."""
    if look.has(MANIFEST) and _is_prepared(look, MANIFEST):
        raise ValueError(
            f"{look.root} is a prepared dataset, with {MANIFEST}: show it with "
            f"`{job_command('inspect_data', '--data', look.root)}`, or train with "
            f"`{command('--data.path', look.root)}`."
        )
    if look.has(PROGRESS) and any(n.endswith("-records.parquet") for n in look.inside(PROGRESS)):
        raise ValueError(
            f"{look.root} is a prepared dataset that is not finished: the command that made it "
            "resumes it."
        )
    if look.has("checkpoints") and look.first(("spool", "model", "samples")):
        raise ValueError(
            f"{look.root} is the folder of a run: draw with its model by "
            f"`{job_command('generate', '--model', look.root)}`."
        )


def _is_prepared(look: Look, manifest: str) -> bool:
    return re.search(rb'"schema_version"', look.head(manifest)) is not None


def _without_prepared(look: Look) -> Look:
    """Leave prepared datasets aside that lie between originals."""
    manifests = [name for name in look.files if name.endswith(f"/{MANIFEST}")]
    own = tuple(n.removesuffix(MANIFEST) for n in manifests if _is_prepared(look, n))
    for name in own:
        print_line(f"{look.root}/{name} is a prepared dataset: left aside")
    return replace(
        look,
        files=tuple(name for name in look.files if not name.startswith(own)),
        folders=tuple(name for name in look.folders if not f"{name}/".startswith(own)),
    )


def _tried(look: Look, sources: Sequence[type[Source]]) -> tuple[list[tuple[str, Fit]], list[str]]:
    """Try some sources.

    Returns:
        Names and fits; and what is missing for others.
    """
    found = [(source.name, each) for source in sources for each in source.recognise(look)]
    fits = [(name, each.at(look.root)) for name, each in found if isinstance(each, Fit)]
    return fits, [f"{name}: {each}" for name, each in found if isinstance(each, str)]


def _inner(look: Look, *, general: bool) -> list[tuple[str, Fit]]:
    """Try the folders in a folder, but none within one that has a layout."""
    fits: list[tuple[str, Fit]] = []
    done: tuple[str, ...] = ()
    for name in [name for name in look.folders if name.count("/") < 2][:MAX_INNER]:
        if not name.startswith(done):
            inner = look.below(name)
            if not look.whole:
                inner = look_at(inner.root, inner.folder)
            found, _ = _tried(inner, [s for s in SOURCES if s.general == general])
            done += (f"{name}/",) if found else ()
            fits += found
    return fits


def _explained(look: Look, almost: list[str]) -> str:
    """Say what lies there, what is almost a layout, and what each source needs."""
    lines = [f"no layout fits {look.root}. It holds {look.kinds()}."]
    lines += ["Almost:", *(f"  {printable(line, 1000)}" for line in almost)] if almost else []
    lines.append("Layouts (python jobs/prepare.py NAME --help explains one):")
    for source in SOURCES:
        lines.append(f"  {source.name}: {(source.__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)
