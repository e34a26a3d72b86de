"""A real Chromium for tests: a page's messages, requests and appearance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ARTEFACTS = "FOUNDRAY_ARTEFACTS"
"""Environment variable: the folder in which to keep pictures, instead of the test's own."""


@dataclass
class Visit:
    """An open page, and what it has done since."""

    page: Any
    """Playwright's page."""
    said: list[str] = field(default_factory=list)
    """Messages on the console, and errors."""
    asked: list[str] = field(default_factory=list)
    """URLs that it requested, its own first."""

    def sideways(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def style(self, selector: str, name: str) -> str:
        """Computed style property of the first element that matches."""
        return str(self.page.eval_on_selector(selector, "(element, name) => getComputedStyle(element)[name]", name))

    def keep(self, folder: Path, name: str) -> Path:
        """Save a picture of the whole page."""
        place = Path(os.environ.get(ARTEFACTS) or folder) / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=place, full_page=True)
        return place


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser; skip the test if there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visited(browser: Any, url: str, width: int = 1200, dark: bool = False) -> Iterator[Visit]:
    """Open a page in a window of this width."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
    try:
        visit = Visit(context.new_page())
        visit.page.on("console", lambda message: visit.said.append(message.text))
        visit.page.on("pageerror", lambda error: visit.said.append(str(error)))
        visit.page.on("request", lambda request: visit.asked.append(request.url))
        visit.page.goto(url)
        yield visit
    finally:
        context.close()
