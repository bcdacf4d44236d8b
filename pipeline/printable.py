"""Foreign text made fit for a terminal, a log or a table of rejects."""


def printable(text: str, limit: int = 300) -> str:
    r"""Escape what a terminal would obey or hide, and shorten.

    Control, format (text direction, zero width), private and unassigned characters, lone
    surrogates, and blanks other than the space become escapes such as `\x1b`. Markup stays as
    it is: a page escapes it where it is made.

    Args:
        text: From a file, a file name, or the error of a library that repeats them.
        limit: Most characters of `text` that are shown; "…" stands for the rest.
    """
    # Cut first: a text of 10 MB costs no more than one of 300 characters.
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown + "…" if len(text) > limit else shown
