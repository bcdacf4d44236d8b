"""Captions: what is mended in silence, what is refused, and with which reason."""

import pytest

from pipeline.captions import clean_caption

MENDED = {
    " a red  bird\n on a branch ": "a red bird on a branch",
    "a\x00b \x1b[31mred": "ab [31mred",
    "left \u202eright\u202c": "left right",
    "zero\u200bwidth": "zerowidth",
    "\ufeffwith a mark": "with a mark",
    "cafe\u0301": "café",
    "cafe\u200b\u0301": "café",
    "می\u200cخواهم": "می\u200cخواهم",
    "👨\u200d👩\u200d👧 family": "👨\u200d👩\u200d👧 family",
    "طائر أحمر": "طائر أحمر",
    "一只红色的小鸟": "一只红色的小鸟",
    "=HYPERLINK(1) <script>": "=HYPERLINK(1) <script>",
    "🐦": "🐦",
}
REFUSED = {
    "": "CAP_EMPTY",
    "  \n\t": "CAP_EMPTY",
    "...": "CAP_EMPTY",
    "\u200b\u200b": "CAP_EMPTY",
    "lone \ud800 surrogate": "CAP_ENCODING",
    "a " * 40_000: "CAP_TOO_LONG",
}


@pytest.mark.parametrize("text", MENDED)
def test_captions_become_one_line_of_visible_text(text):
    assert clean_caption(text) == MENDED[text]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:20])
def test_captions_that_say_nothing_are_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=f"^{REFUSED[text]}: "):
        clean_caption(text)
