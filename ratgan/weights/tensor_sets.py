"""The sets of named tensors in a file of weights: training scripts save several, nested in others.

A set is named by the keys that lead to it, `model.netG`; the file itself is the set without a name.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name
MAX_LOOKS = 1000  # dictionaries
SHOWN = 8  # names, and of each
LONGEST = 100  # characters


def find_sets(found: Any) -> dict[str, Tensors]:
    """Find the dictionaries that hold tensors only, by the keys that lead there.

    Args:
        found: What a file holds.
    """
    sets: dict[str, Tensors] = {}
    looked = 0

    def look(value: Any, keys: tuple[str, ...], around: tuple[int, ...]) -> None:
        nonlocal looked
        # A file of a stranger may hold itself, or one dictionary very often.
        if not isinstance(value, dict) or id(value) in around or looked == MAX_LOOKS:
            return
        looked += 1
        if not all(isinstance(key, str) for key in value):  # as the state of an optimizer
            return
        if value and all(isinstance(each, Tensor) for each in value.values()):
            sets[".".join(keys)] = without_wrappers(value)
            return
        for key, each in value.items():
            look(each, (*keys, key), (*around, id(value)))

    look(found, (), ())
    return sets


def without_wrappers(tensors: Tensors) -> Tensors:
    """Take off what wrappers of a network put before each name, if all names have it."""
    for prefix in WRAPPERS * 2:  # one may wrap the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def parts(sets: dict[str, Tensors]) -> dict[str, Tensors]:
    """Part each set by the first word of its names: of a module that holds several networks."""
    found: dict[str, Tensors] = {}
    for key, tensors in sets.items():
        for name, tensor in tensors.items():
            word, dot, rest = name.partition(".")
            if dot:
                found.setdefault(f"{key}.{word}" if key else word, {})[rest] = tensor
    return {key: without_wrappers(tensors) for key, tensors in found.items()}


def select(sets: dict[str, Tensors], key: str, where: str, option: str) -> Tensors:
    """Return the set that a user names, or the part of one.

    Args:
        sets: As `find_sets` returns them.
        key: `model.netG`; the last words may be those that the tensors' names begin with.
        where: Name of the file.
        option: The user's, for the error.

    Raises:
        ValueError: If there is none.
    """
    if key in sets:
        return sets[key]
    for name, tensors in sets.items():
        if not name or key.startswith(f"{name}."):
            prefix = key.removeprefix(f"{name}." if name else "") + "."
            if part := {
                n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
            }:
                return without_wrappers(part)
    raise ValueError(f"{option} {key!r} is not in {where}. It holds {listed(sets)}.")


def listed(sets: dict[str, Tensors]) -> str:
    """Name some sets, for a message; of a file that is a set itself, its parts."""
    shown = parts(sets) if list(sets) == [""] else sets
    names = [f"{key[:LONGEST]} ({_count(len(tensors))})" for key, tensors in shown.items()]
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _count(number: int) -> str:
    return f"{number:,} tensor{'' if number == 1 else 's'}"


def describe(found: Any) -> Iterator[str]:
    """Yield what a file without a set of tensors holds, for a message."""
    if not isinstance(found, dict):
        yield type(found).__name__
        return
    for key, value in found.items():
        yield f"{key!r:.{LONGEST}}: {type(value).__name__}"
