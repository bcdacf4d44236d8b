"""Captions as training sees them: one line of visible text, or a reason why not."""

import unicodedata

MAX_BYTES = 64 * 1024
JOINERS = "\u200c\u200d"  # part of the spelling of some scripts, and of emoji families


def clean_caption(text: str) -> str:
    """Normalize a caption.

    Line breaks and runs of blanks become one blank; control, format and private
    characters (escape codes, text direction, zero width) are taken out.

    Args:
        text: As found in the originals.

    Returns:
        NFC text of one line.

    Raises:
        ValueError: With a reason code first: `CAP_EMPTY` if no letter or digit is
            left, `CAP_TOO_LONG`, or `CAP_ENCODING` if it is not valid Unicode.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError("CAP_ENCODING: the caption is not valid Unicode") from error
    if size > MAX_BYTES:
        raise ValueError(f"CAP_TOO_LONG: {size} bytes, at most {MAX_BYTES} are taken")
    kept = (c for c in text if c.isspace() or c in JOINERS or unicodedata.category(c)[0] != "C")
    text = unicodedata.normalize("NFC", " ".join("".join(kept).split()))
    # Letters, digits and symbols (an emoji may be a caption); punctuation alone says nothing.
    if not any(unicodedata.category(c)[0] in "LNS" for c in text):
        raise ValueError("CAP_EMPTY: no letter, digit or symbol")
    return text
