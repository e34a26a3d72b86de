"""A real Chromium for tests: what a page says, asks for and shows."""

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
"""An environment variable: a folder in which pictures are kept, in place of the test's own."""


@dataclass
class Visit:
    """A page that is open, and what it did since."""

    page: Any
    """Of playwright."""
    said: list[str] = field(default_factory=list)
    """On the console, and errors."""
    asked: list[str] = field(default_factory=list)
    """URLs that it asked for, its own first."""

    def sideways(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def style(self, selector: str, name: str) -> str:
        """What a property of the first such element is in the end."""
        return str(self.page.eval_on_selector(selector, "(element, name) => getComputedStyle(element)[name]", name))

    def keep(self, folder: Path, name: str) -> Path:
        """A picture of the whole page."""
        place = Path(os.environ.get(ARTEFACTS) or folder) / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=place, full_page=True)
        return place


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
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
    """A page, opened in a window of this width."""
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
