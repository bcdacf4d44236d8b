"""Every item of the corpus of bad input gives exactly what is written down for it."""

import contextlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.preparation.decoding import captions as caption_rules
from pipeline.preparation.decoding import isolated_decoder as decoder_rules
from pipeline.preparation.decoding.captions import clean_caption
from pipeline.preparation.decoding.images import RejectedError, decode, square
from pipeline.preparation.decoding.isolated_decoder import Decoder
from tests.conftest import encoded, photo
from tests.corpus import Refused, captions, images

IMAGES = images()
CAPTIONS = captions()
SIZE = 32
# A machine that is busy with other things is no finding: what counts is the time of the processor.
DECODER = Decoder(SIZE, quality=95, deadline_s=300)
CPU_S = 20.0  # that an image may take, as long as it may take at all where nothing else is said


def difference(image: Image.Image, wanted: Image.Image) -> float:
    """Mean absolute difference of two images of one size, in levels of 0 to 255."""
    return np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).mean()


def cpu_s(decoder: Decoder) -> float:
    """Time of the processor that the child has taken."""
    if decoder.pid is None:
        return 0.0
    taken = psutil.Process(decoder.pid).cpu_times()
    return taken.user + taken.system


def test_the_corpus_holds_every_kind_and_is_the_same_each_time():
    assert (len(IMAGES), len(CAPTIONS)) == (57, 33)
    again = images()
    assert {name: content for name, (content, _) in again.items()} == {
        name: content for name, (content, _) in IMAGES.items()
    }
    reasons = {expected.reason for _, expected in IMAGES.values() if isinstance(expected, Refused)}
    only_elsewhere = {"BOX_INVALID", "IMG_CRASH", "IMG_TIMEOUT"}
    assert reasons == decoder_rules.REASONS - only_elsewhere
    reasons = {e.reason for _, e in CAPTIONS.values() if isinstance(e, Refused)}
    assert reasons == caption_rules.REASONS


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_becomes_what_it_shows_or_is_refused(name):
    content, expected = IMAGES[name]

    if isinstance(expected, Refused):
        with pytest.raises(RejectedError) as refusal:
            decode(content)
        assert refusal.value.reason == expected.reason
        assert refusal.value.detail.isprintable()
    else:
        shown = decode(content)
        assert (shown.mode, shown.size) == ("RGB", expected.size)
        assert difference(shown, expected) < 3


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_gives_the_same_in_the_child(name):
    content, expected = IMAGES[name]
    before_s = cpu_s(DECODER)

    if isinstance(expected, Refused):
        with pytest.raises(RejectedError) as refusal:
            DECODER(content)
        assert refusal.value.reason == expected.reason
    else:
        stored = DECODER(content)
        assert (stored.original_width, stored.original_height) == expected.size
        shown = Image.open(io.BytesIO(stored.jpeg))
        assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", (SIZE, SIZE))
        assert difference(shown, square(expected, SIZE)) < 4
    assert cpu_s(DECODER) - before_s < CPU_S


def test_a_mix_keeps_exactly_the_good_ones():
    rows = {f"good {n}": encoded(photo(seed=n)) for n in range(100)}
    rows |= {name: content for name, (content, _) in IMAGES.items()}
    order = np.random.default_rng(0).permutation(sorted(rows))
    kept, refused = set(), Counter()

    for name in order:
        try:
            DECODER(rows[name])
            kept.add(name)
        except RejectedError as refusal:
            refused[refusal.reason] += 1

    good = {name for name, (_, expected) in IMAGES.items() if not isinstance(expected, Refused)}
    assert kept == good | {f"good {n}" for n in range(100)}
    assert refused == Counter(e.reason for _, e in IMAGES.values() if isinstance(e, Refused))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is read from /proc")
def test_the_child_stays_small():
    decoder = Decoder(SIZE, quality=95, deadline_s=301)  # other options, so a child of its own
    large = Image.new("RGBA", (7000, 7000), "red")  # as many pixels as are taken
    large.paste((0, 0, 255, 0), (0, 0, 3500, 3500))
    contents = [content for content, _ in IMAGES.values()]

    decoder(encoded(large, "PNG", compress_level=1))
    pid = decoder.pid
    for content in contents:
        with contextlib.suppress(RejectedError):
            decoder(content)

    assert decoder.pid == pid
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])
    assert peak < 600 * 1024  # KiB


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_becomes_its_visible_text_or_is_refused(name):
    text, expected = CAPTIONS[name]

    if isinstance(expected, Refused):
        with pytest.raises(ValueError, match=f"^{expected.reason}: ") as refusal:
            clean_caption(text)
        assert len(str(refusal.value)) < 200
    else:
        assert clean_caption(text) == expected
        assert clean_caption(expected) == expected
