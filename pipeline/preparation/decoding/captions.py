"""Clean captions: one line of visible text, or the reason why it is rejected."""

import unicodedata
from collections.abc import Iterator

MAX_BYTES = 64 * 1024
JOINERS = "\u200c\u200d"  # part of the spelling of some scripts, and of emoji families
# Pointed Hebrew with accents and Tibetan stack up to five; piles beyond that are a prank, and cost
# time that grows with the square of their height when they are put in order.
MAX_MARKS = 6
REASONS = frozenset({"CAP_EMPTY", "CAP_ENCODING", "CAP_TOO_LONG"})


def clean_caption(text: bytes | str) -> str:
    """Normalize a caption.

    Line breaks and runs of blanks become one blank; control, format and private
    characters (escape codes, text direction, zero width) are taken out. Of the marks
    on one letter the first `MAX_MARKS` stay. What is clean already stays as it is.

    Args:
        text: As found in the originals; bytes are UTF-8, with or without its mark in front.

    Returns:
        NFC text of one line.

    Raises:
        ValueError: With a reason code first: `CAP_EMPTY` if no letter, digit or symbol is
            left, `CAP_TOO_LONG`, or `CAP_ENCODING` if it is not valid Unicode.
    """
    if len(text) > MAX_BYTES:  # a character takes a byte or more: 10 MB are not looked at
        unit = "bytes" if isinstance(text, bytes) else "characters"
        raise ValueError(f"CAP_TOO_LONG: {len(text)} {unit}, at most {MAX_BYTES} bytes are taken")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        size = len(text.encode())
    except UnicodeError as error:
        # Whatever else is guessed, some captions would become words that nobody wrote.
        raise ValueError(
            "CAP_ENCODING: the caption is not valid UTF-8; convert it first"
        ) from error
    if size > MAX_BYTES:
        raise ValueError(f"CAP_TOO_LONG: {size} bytes, at most {MAX_BYTES} are taken")
    kept = (c for c in text if c.isspace() or c in JOINERS or unicodedata.category(c)[0] != "C")
    text = " ".join("".join(kept).split())
    if not text.isascii():
        # Before, for the cost of putting them in order; after, for one may have become several.
        text = unicodedata.normalize("NFC", "".join(_few_marks(text)))
        text = "".join(_few_marks(text))
    # Letters, digits and symbols (an emoji may be a caption); punctuation alone says nothing.
    if not any(unicodedata.category(c)[0] in "LNS" for c in text):
        raise ValueError("CAP_EMPTY: no letter, digit or symbol")
    return text


def _few_marks(text: str) -> Iterator[str]:
    """Leave out marks from the seventh on; joiners count, or piles would hide behind them."""
    marks = 0
    for c in text:
        marks = marks + 1 if c in JOINERS or unicodedata.category(c)[0] == "M" else 0
        if marks <= MAX_MARKS:
            yield c
