r"""Escape what a terminal would obey or hide; text of every script stays as it is.

Control characters, marks that turn the direction of text, zero-width, private and unassigned
characters, lone surrogates and line separators become escapes such as `\x1b`. Names, captions and
records are of strangers, and a screen would take orders from them.
"""

import re

# What Unicode counts among these, but scripts and emoji cannot do without.
_NEEDED = re.compile(
    "("
    "(?<=[^\x00-\x7f\u200c\u200d])[\u200c\u200d]"  # joiners of Persian, Indic scripts and emoji
    "|\U0001f3f4[\U000e0061-\U000e007a]{2,6}\U000e007f"  # the flag of England
    "|[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2]"  # signs around Arabic numbers, which are seen
    "|[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]"  # blanks
    "|[\U0001f000-\U0001faff\U00020000-\U0003fffd]"  # emoji and ideographs newer than Python
    ")"
)
_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")


def escaped(text: str, keep: str = "\n\t") -> str:
    """Escape a text.

    Args:
        text: From anywhere.
        keep: Control characters that stay.
    """
    if text.isprintable():  # most texts
        return text
    return "".join(
        part
        if number % 2
        else "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in part)
        for number, part in enumerate(_NEEDED.split(text))
    )


def escaped_but_colours(text: str) -> str:
    """Escape what libraries write: colours stay, and returns to the start of the line."""
    parts = _COLOUR.split(text)
    return "".join(p if n % 2 else escaped(p, "\n\t\r") for n, p in enumerate(parts))


def without_colours(text: str) -> str:
    """Take colours out of a text and escape the rest."""
    return escaped(_COLOUR.sub("", text))
