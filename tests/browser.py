"""A headless Chromium, and all on a page of it that should not be."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 120_000  # a busy machine takes its time


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start one; skip the test where there is none, which a CI must not."""
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: make browser installs it")
        pytest.skip("no Chromium here: make browser installs it")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def note_faults(page: Page, wrong: list[str], *own: str) -> None:
    """Note every message, dialog, and request for an address that starts like none of `own`."""
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: None if request.url.startswith(own) else wrong.append(request.url),
    )
