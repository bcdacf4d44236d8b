"""Captions: what is mended in silence, what is refused, and with which reason."""

import unicodedata

import pytest

from pipeline.preparation.decoding.captions import MAX_MARKS, clean_caption

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
    b"caf\xc3\xa9": "café",
    b"\xef\xbb\xbfwith a mark": "with a mark",
}
REFUSED = {
    "": "CAP_EMPTY",
    "  \n\t": "CAP_EMPTY",
    "...": "CAP_EMPTY",
    "\u200b\u200b": "CAP_EMPTY",
    "lone \ud800 surrogate": "CAP_ENCODING",
    "a " * 40_000: "CAP_TOO_LONG",
    "é" * 40_000: "CAP_TOO_LONG",
    b"\xff\xfea\0": "CAP_ENCODING",
    b"caf\xe9": "CAP_ENCODING",
    b"": "CAP_EMPTY",
}


@pytest.mark.parametrize("text", MENDED, ids=ascii)
def test_captions_become_one_line_of_visible_text(text):
    assert clean_caption(text) == MENDED[text]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:20])
def test_captions_that_say_nothing_are_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=f"^{REFUSED[text]}: "):
        clean_caption(text)


@pytest.mark.parametrize(
    "text", ["\u05e9\u05c1\u05b8\u0596\u05bd", "\u0f67\u0f71\u0f74\u0f83", "1\ufe0f\u20e3"]
)
def test_marks_of_real_scripts_stay(text):
    assert clean_caption(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("between", ["", "\u200d", "\u200b", "\u200c\u200b"])
def test_piles_of_marks_are_cut_whatever_hides_in_them(between):
    cleaned = clean_caption("z" + ("\u0301" + between) * 1000 + "algo")

    assert cleaned.startswith("ź")  # z and the first mark are one letter
    assert len(cleaned) <= 1 + MAX_MARKS + len("algo")
    assert clean_caption(cleaned) == cleaned


def test_a_pile_as_high_as_a_caption_may_be_costs_no_more_than_its_length(monkeypatch):
    lengths = []
    normalize = unicodedata.normalize
    monkeypatch.setattr(
        unicodedata,
        "normalize",
        lambda form, text: lengths.append(len(text)) or normalize(form, text),
    )

    clean_caption("z" + "\u0301\u0323" * 16_000)

    # Putting marks in order takes time that grows with the square of their number.
    assert lengths == [1 + MAX_MARKS]
