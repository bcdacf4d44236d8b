"""A file of JSON that cannot be nested deeply, for a parser that streams it.

ijson keeps a path for each level, so its memory grows with the square of the depth: some hundred
kilobytes of brackets take all the memory of a machine.
"""

import re
from typing import IO

import ijson

MAX_DEPTH = 200
ESCAPE = re.compile(rb"\\.", re.DOTALL)
OTHERS = bytes(set(range(256)) - set(b'[]{}"'))


class ShallowJson:
    """A file for reading from its start; fails where it is nested too deeply."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._depth = self._in_text = 0
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Read some bytes.

        Raises:
            ijson.JSONError: If they are nested too deeply.
        """
        chunk = self._stream.read(size)
        plain = ESCAPE.sub(b"", self._rest + chunk)
        self._rest = plain[-1:] if plain.endswith(b"\\") else b""
        parts = plain.translate(None, OTHERS).split(b'"')
        for bracket in b"".join(parts[self._in_text :: 2]):
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > MAX_DEPTH:
                raise ijson.JSONError(f"it is nested more than {MAX_DEPTH} deep")
        self._in_text = (self._in_text + len(parts) - 1) % 2
        return chunk
