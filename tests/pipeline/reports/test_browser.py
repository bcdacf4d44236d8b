"""The page about runs in a real browser: no message, nothing too wide, a slider that works."""

import pytest
from playwright.sync_api import expect

from pipeline.reports.config import ReportConfig
from pipeline.reports.report import write_report
from tests.browser import chromium, note_faults
from tests.pipeline.reports.runs import evaluation, make_run

pytestmark = [pytest.mark.slow, pytest.mark.rest]


def test_a_page_works_at_both_widths_in_light_and_dark_without_a_message(tmp_path):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    long = "a" * 300
    captions = (hostile, long, "a red circle")
    a = make_run(tmp_path / "a", captions=captions, **{hostile: long, long: hostile})
    b = make_run(tmp_path / "b", captions=captions, steps=(0, 20))
    evaluation(a, "x", {"fd_builtin": 1.0, long: 2.0})
    output = tmp_path / "report.html"
    write_report(ReportConfig(runs=(str(a), str(b)), output=str(output)))
    wrong: list[str] = []

    with chromium() as browser:
        grounds = set()
        for width in (360, 1280):
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": 800}, color_scheme=scheme
                )
                note_faults(page, wrong, "data:", output.as_uri())
                page.goto(output.as_uri())
                for folded in page.locator("details").all():
                    folded.evaluate("each => each.open = true")

                wide = page.evaluate("document.documentElement.scrollWidth")
                grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
                slider, now = page.get_by_role("slider"), page.locator("#step-now")
                expect(now).to_have_text("step 20")
                pictures = page.locator("img[data-run='0'][data-row='2']")
                last = pictures.get_attribute("src")
                slider.press("ArrowLeft")
                expect(now).to_have_text("step 10")
                before = pictures.get_attribute("src")
                slider.press("Home")
                expect(now).to_have_text("step 0")

                assert wide <= width
                assert len({last, before, pictures.get_attribute("src")}) == 3
                assert page.locator("[data-step-of='1']").inner_text() == "step 0"
                assert not page.locator("img:not([alt]), svg:not([aria-label])").count()
                page.close()

    assert not wrong
    assert len(grounds) == 2, "dark is another colour than light"
