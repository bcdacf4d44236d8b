"""User and password taken out of addresses, for screens and records."""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s\"']*@")


def redacted(text: str) -> str:
    """Take user and password out of every address in a text."""
    return _CREDENTIALS.sub("", text)
