"""Foreign text on a terminal: nothing in it is obeyed, and nothing hides."""

import pytest

from pipeline.common.console import printable

SHOWN = {
    "a red bird, un café, 一只鸟 🐦": "a red bird, un café, 一只鸟 🐦",
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "two\r\nlines\u2028three": r"two\r\nlines\u2028three",
    "left\u202eright": r"left\u202eright",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "lone \ud800, private \ue000": r"lone \ud800, private \ue000",
    "\U000e0001tag": r"\U000e0001tag",
}


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_a_terminal_would_obey_is_escaped(text):
    assert printable(text) == SHOWN[text]
    assert printable(text).isprintable()


def test_long_text_is_cut():
    assert printable("x" * 10_000_000, limit=5) == "xxxxx…"
    assert printable("xxxxx", limit=5) == "xxxxx"
