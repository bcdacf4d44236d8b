"""Pickles from elsewhere, read as plain values: lists, dictionaries, text, numbers; nothing runs.

A pickle is a program. Here it can name only containers, and numbers and arrays of NumPy, which are
rebuilt by code of this file; any other name is refused before it is looked up. Reading happens in a
process of its own with a limit of memory and time: a few bytes can ask for gigabytes. That process
runs this file alone, hence only the standard library here.
"""

import codecs
import collections
import io
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

MAX_BYTES = 64 * 2**20
MAX_VALUES = 2**24  # values and characters: shared parts count each time they are met
CONTAINER = 8  # values that a list or dictionary counts for: empty ones take memory, too
MAX_TEXT = 2**27  # bytes of what crosses to the parent; MS-COCO's captions.pickle becomes 60 MB
MEMORY = 2 * 2**30  # bytes of address space
TIMEOUT_S = 60
REFUSED = 3  # exit status

# NumPy's names of numbers, and those of struct.
FORMATS = {
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f4": "f", "f8": "d", "b1": "?",
}  # fmt: skip


def load_foreign_pickle(content: bytes, what: str) -> Any:
    """Read a pickle of Python 2 or 3 that somebody else wrote.

    Args:
        content: The pickle; bytes of Python 2 become text by Latin-1.
        what: Its name, for errors.

    Returns:
        Lists (for tuples, sets and arrays, too), dictionaries, text, numbers, True, False and None.

    Raises:
        ValueError: If it is damaged, too large, or asks for anything else.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"{what} is refused: {len(content):,} bytes, at most {MAX_BYTES:,} are taken."
        )
    from ratgan.file_kind import HEAD, PICKLE, refusal  # not in the process that runs this file

    if not PICKLE.match(content) and (problem := refusal(content[:HEAD], "it", "a pickle")):
        raise ValueError(f"{what} is refused: {problem}")
    command = [sys.executable, "-I", "-S", __file__]
    try:
        child = subprocess.run(
            command, input=content, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{what} is refused: reading it takes over {TIMEOUT_S} s.") from error
    if child.returncode == REFUSED:
        raise ValueError(f"{what} is refused: {child.stdout.decode(errors='replace').rstrip('.')}.")
    if child.returncode:
        end = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(
            f"{what} is refused: reading it ended with status {child.returncode} {' '.join(end)}."
        )
    try:
        return json.loads(child.stdout, object_hook=lambda entry: dict(entry["items"]))
    except RecursionError as error:
        raise ValueError(f"{what} is refused: it is nested too deeply.") from error


class PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, text and numbers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up an allowed global.

        Raises:
            pickle.UnpicklingError: With the name of one that is not allowed.
        """
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class Dtype:
    """NumPy's dtype as far as numbers and text need it."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def values(self, data: Any) -> list[Any]:
        """Read the values in the memory of an array."""
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin-1")
        if self.code in FORMATS:
            each = struct.iter_unpack(self.order + FORMATS[self.code], data)
            return [value for (value,) in each]
        kind, size = self.code[:1], int(self.code[1:] or 0) * (4 if self.code[:1] == "U" else 1)
        if kind not in ("S", "U") or size <= 0 or len(data) % size:
            raise pickle.UnpicklingError(f"it holds an array of dtype {self.code!r}")
        encoding = "latin-1" if kind == "S" else f"utf-32-{'be' if self.order == '>' else 'le'}"
        parts = (data[i : i + size] for i in range(0, len(data), size))
        return [part.decode(encoding).rstrip("\0") for part in parts]


class Array(list[Any]):
    """NumPy's array of one dimension, as a list."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        if len(shape) != 1:
            raise pickle.UnpicklingError(f"it holds an array of {len(shape)} dimensions")
        self[:] = data if isinstance(data, list) else dtype.values(data)
        if len(self) != shape[0]:
            raise pickle.UnpicklingError("it holds an array of another length than it says")


def _scalar(dtype: Dtype, data: Any) -> Any:
    (value,) = dtype.values(data)
    return value


def _array(*_: Any) -> Array:
    return Array()


def _from_buffer(data: Any, dtype: Dtype, shape: tuple[int, ...], _order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, dtype, False, data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2; other codecs could blow up."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin-1")


# Python 3 and Python 2 names of what holds words and numbers.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): Array,
    **{
        (f"numpy.{core}.{module}", name): ours
        for core in ("core", "_core")
        for module, name, ours in (
            ("multiarray", "scalar", _scalar),
            ("multiarray", "_reconstruct", _array),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset, int, str)
    },
}


def _plain(value: Any) -> Any:
    """Turn what was read into what JSON can hold.

    Raises:
        pickle.UnpicklingError: If there is anything else in it, or too much of it.
    """
    left = MAX_VALUES
    done: dict[int, tuple[Any, int]] = {}  # containers: what each became, and what it counts for

    def take(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise pickle.UnpicklingError(f"it holds over {MAX_VALUES:,} values and characters")

    def turned(value: Any) -> Any:
        if id(value) in done:  # one that others hold, too: a few bytes can ask for millions of it
            plain, count = done[id(value)]
            take(count)
            return plain
        before = left
        if isinstance(value, str | bytes):
            take(1 + len(value))
        elif isinstance(value, int):
            take(1 + value.bit_length() // 32)
        else:
            take(1 if value is None or isinstance(value, float) else CONTAINER)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return value.decode("latin-1")
        if isinstance(value, dict):
            if any(isinstance(key, tuple | frozenset) for key in value):
                raise pickle.UnpicklingError("it holds a dictionary by anything but text or number")
            plain = {"items": [[turned(key), turned(of)] for key, of in value.items()]}
        elif isinstance(value, list | tuple | set | frozenset):
            plain = [turned(each) for each in value]
        else:
            raise pickle.UnpicklingError(f"it holds {type(value).__name__}")
        done[id(value)] = plain, before - left
        return plain

    return turned(value)


def _read(content: bytes) -> str:
    value = PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    text = json.dumps(_plain(value))
    if len(text) > MAX_TEXT:
        raise pickle.UnpicklingError(f"it becomes {len(text):,} characters, at most {MAX_TEXT:,}")
    return text


def main() -> None:
    """Read a pickle from standard input and write it as JSON, within limits."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
    try:
        said, status = _read(sys.stdin.buffer.read()), 0
    except MemoryError:
        said, status = f"it asks for over {MEMORY / 2**30:.0f} GiB of memory", REFUSED
    except RecursionError:
        said, status = "it is nested too deeply", REFUSED
    except Exception as error:  # a damaged pickle can raise anything
        said, status = str(error) or type(error).__name__, REFUSED
    sys.stdout.write(said)
    sys.exit(status)


if __name__ == "__main__":
    main()
