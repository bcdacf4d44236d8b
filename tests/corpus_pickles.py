"""Pickles that must be refused: what each is, and what the refusal says."""

import os
import pickle
import random
from pathlib import Path


class Attack:
    """Makes a folder when it is unpickled by the common way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _many(value: bytes, powers: int) -> bytes:
    """Repeat a value ten to some power times, in lists of ten of the same."""
    content = b"\x80\x02" + value
    for level in range(powers):
        kept = bytes([level])
        content += b"q" + kept + b"0]" + (b"h" + kept + b"a") * 10
    return content + b"."


def bad_pickles(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Name → content, and a pattern of its refusal; running one would create `marker`."""
    good = pickle.dumps(["001.A/a", "002.B/b"] * 100, protocol=2)
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    laughs = b"\x80\x02]q\x00(" + b"X\x01\x00\x00\x00a" * 9 + b"e"
    for level in range(12):
        laughs += b"q" + bytes([level + 1]) + b"0]" + (b"h" + bytes([level + 1]) + b"a") * 10
    empty = _many(b"}", 7)  # ten million dictionaries, each of them of no value
    digits = _many(b"I" + b"9" * 4000 + b"\n", 5)
    return {
        **{
            f"runs code, protocol {protocol}": (
                pickle.dumps(["a/b", Attack(marker)], protocol=protocol),
                r"asks for posix\.mkdir",
            )
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        },
        "os.system": (b"cos\nsystem\n(S'touch executed'\ntR.", r"asks for os\.system"),
        "eval": (b"cbuiltins\neval\n(S'1'\ntR.", r"asks for builtins\.eval"),
        "attribute of a name": (
            b"\x80\x04\x8c\x08builtins\x8c\x0adict.clear\x93.",
            r"asks for builtins\.dict\.clear",
        ),
        "numpy's loader": (b"cnumpy\nload\n(S'x.npy'\ntR.", r"asks for numpy\.load"),
        "another codec": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "asks for the codec 'rot13'"),
        "persistent id": (b"Pid\n.", "persistent"),
        "extension": (b"\x80\x02\x82\x01.", "extension"),
        "cut short": (good[:-20], "truncated|ran out|Ran out"),
        "empty": (b"", "is an empty file. Copy or download it again"),
        "random": (random.Random(0).randbytes(4000), "invalid load key"),
        "web page": (
            b"<!DOCTYPE html><html>404</html>",
            "is a web page, not a pickle. Open the link",
        ),
        "huge": (b"\x80\x02" + b"N0" * (33 * 2**20) + b"N.", "bytes, at most 67,108,864"),
        "asks for memory": (b"\x80\x02Nr\xff\xff\xff\x7f.", "2 GiB of memory"),
        "nested deeply": (nested, "nested too deeply"),
        "empty dictionaries": (empty, "over 16,777,216 values"),
        "numbers of many digits": (digits, "over 16,777,216 values"),
        "grows when written out": (laughs + b".", "over 16,777,216 values"),
        "array of objects with code": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1\ntNI00\n(lp0\ncos\ngetcwd\n(tRatb.",
            r"asks for os\.getcwd",
        ),
    }
