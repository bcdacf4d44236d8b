"""The page of pictures, in a real browser: as people use it, and as strangers would misuse it."""

import re
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from pipeline.serving.config import ServeConfig
from tests.browser import chromium, note_faults
from tests.pipeline.serving.server import make_run, served

pytestmark = [pytest.mark.slow, pytest.mark.rest]

HOSTILE = ("<script>alert(1)</script>", "\u202egnp.exe", "a" * 1999, "<img src=x onerror=alert(1)>")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run") / "birds")
    other = make_run(tmp_path_factory.mktemp("other") / "others", seed=1)
    with served(ServeConfig(model=(str(run), str(other)), port=0)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@contextmanager
def opened(browser, address: str, width: int = 1280, expected: str = "none", **options):
    """Open the page; nothing but `expected` is seen: no message, dialog or foreign address."""
    wrong: list[str] = []
    with browser.new_context(viewport={"width": width, "height": 900}, **options) as context:
        page = context.new_page()
        note_faults(page, wrong, address, "blob:")
        page.goto(f"{address}/")
        expect(page.locator("#examples button")).to_have_count(2)
        yield page
    assert not [each for each in wrong if expected not in each]


def ask(page, caption: str, strips: int = 1):
    """Type a caption; return the strip of its pictures when they are there."""
    page.get_by_label("Caption", exact=True).fill(caption)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator(".strip")).to_have_count(strips)
    strip = page.locator(".strip").first
    expect(strip.locator("img")).to_have_count(8)
    return strip


def image_of(page, picture) -> list[int]:
    """Return the pixels of an image that is shown."""
    return picture.evaluate(
        """async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [...canvas.getContext("2d").getImageData(0, 0, 8, 8).data];
        }"""
    )


def test_a_caption_is_typed_pictures_appear_and_a_seed_repeats_them(browser, address):
    with opened(browser, address) as page:
        strip = ask(page, "a red bird")
        seed = re.search(r"\d+", strip.locator(".seed").first.inner_text())[0]
        first = image_of(page, strip.locator("img").first)
        page.get_by_text("Options").click()
        page.get_by_label("First seed").fill(seed)

        again = ask(page, "a red bird", strips=2)

        assert image_of(page, again.locator("img").first) == first
        expect(page.locator("#status")).to_have_text("8 pictures drawn.")
        page.locator("#asked button").last.click()
        expect(page.locator(".strip")).to_have_count(3)


def test_everything_of_a_picture_can_be_done(browser, address):
    with opened(browser, address) as page:
        ask(page, "a red bird").locator(".picture").nth(2).click()
        image, shown = page.locator("#detail-image"), page.get_by_role("dialog")
        plain = image_of(page, image)

        page.get_by_role("button", name="Where it looks").click()
        expect(image).to_have_attribute("alt", re.compile("discriminator looks"))
        assert image_of(page, image) != plain
        page.get_by_role("button", name="Where it looks").click()
        expect(image).to_have_attribute("alt", "a red bird")

        page.get_by_label("Another caption").fill("two cats")
        page.get_by_role("button", name="Way to it").click()
        slider = page.get_by_role("slider")
        expect(slider).to_be_focused()
        assert image_of(page, image) == plain, "the way begins at the picture"
        page.keyboard.press("End")
        expect(slider).to_have_attribute("aria-valuetext", "100 % of the way to two cats")
        end = image_of(page, image)
        assert end != plain

        with page.expect_download() as download:
            page.get_by_text("Download").click()
        assert download.value.suggested_filename == "a-red-bird.png"

        page.get_by_role("button", name="Same noise").click()
        expect(shown).to_be_hidden()
        pair = page.locator(".strip").first.locator("img")
        expect(pair).to_have_count(2)
        assert [image_of(page, pair.nth(0)), image_of(page, pair.nth(1))] == [plain, end]

        page.locator(".strip").first.locator(".picture").first.click()
        page.get_by_role("button", name="More like this").click()
        near = page.locator(".strip").first.locator("img")
        expect(near).to_have_count(8)
        assert image_of(page, near.nth(0)) != image_of(page, near.nth(1))


def test_the_keyboard_is_enough(browser, address):
    with opened(browser, address) as page:
        expect(page.get_by_label("Caption", exact=True)).to_be_focused()
        page.keyboard.type("a red bird")
        page.keyboard.press("Enter")
        expect(page.locator(".picture:not([disabled]) img")).to_have_count(8)
        page.locator(".picture").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator(".picture").first).to_be_focused()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read_by_all(browser, address, width, scheme):
    with opened(browser, address, width, color_scheme=scheme, bypass_csp=True) as page:
        ask(page, "a red bird")

        def check() -> None:
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            page.wait_for_function(  # axe would see colours on their way
                "() => document.getAnimations().every(each => each.playState == 'finished')"
            )
            found = Axe().run(page).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, [(e["id"], [n["html"] for n in e["nodes"]]) for e in serious]

        check()
        page.locator(".picture").first.click()
        check()


@pytest.mark.parametrize("caption", HOSTILE, ids=["script", "bidi", "long", "image"])
def test_a_hostile_caption_is_a_text(browser, address, caption):
    with opened(browser, address) as page:
        strip = ask(page, caption)

        assert strip.locator("h2").inner_text() == caption
        assert page.locator("#results script, #results img[src='x']").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 1280


def test_models_can_be_switched(browser, address):
    with opened(browser, address) as page:
        page.get_by_text("Options").click()
        page.get_by_label("First seed").fill("1")
        first = image_of(page, ask(page, "a red bird").locator("img").first)

        page.get_by_label("Model", exact=True).select_option("others")

        other = image_of(page, ask(page, "a red bird", strips=2).locator("img").first)
        assert other != first
        expect(page.locator("#facts")).to_contain_text("others")


def test_an_error_is_a_sentence(browser, address):
    with opened(browser, address, expected="net::ERR_FAILED") as page:
        page.get_by_label("Caption", exact=True).fill("...")
        page.route("**/imagine?*", lambda route: route.abort())
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#status")).to_have_text("The server does not answer.")
