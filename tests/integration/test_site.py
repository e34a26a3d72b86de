"""The documents' site in a real browser, opened from its folder: light, dark, on a phone, and searched, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.browser import chromium, visited
from tests.repository import REPOSITORY

PAGES = (
    "index", "docs/getting-started", "docs/spec", "docs/measured", "docs/comparison", "docs/how-to/trackers", "CHANGELOG",
)  # fmt: skip
LOOKS = {"light": (1280, False), "dark": (1280, True), "phone": (390, False)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'foundray[docs]'")
    folder = tmp_path_factory.mktemp("site")
    pages, website = folder / "pages", REPOSITORY / "website"
    subprocess.run([sys.executable, website / "stage.py", pages], check=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder / "site"]
    environment = {**os.environ, "PAGES": str(pages), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, "-f", website / "mkdocs.yml"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_every_document_is_a_page(site: Path) -> None:
    for page in (REPOSITORY / "docs").rglob("*.md"):
        name = "index.html" if page.name == "README.md" else f"{page.stem}.html"
        assert (site / page.relative_to(REPOSITORY).parent / name).exists(), page
    assert (site / "index.html").exists() and (site / "examples" / "shakespeare" / "index.html").exists()


def test_pages_are_quiet_and_fit_in_light_in_dark_and_on_a_phone(site: Path, tmp_path: Path) -> None:
    papers = {}
    with chromium() as browser:
        for page in PAGES:
            for look, (width, dark) in LOOKS.items():
                with visited(browser, (site / f"{page}.html").as_uri(), width, dark) as visit:
                    visit.page.wait_for_load_state("networkidle")
                    assert visit.said == [], (page, look)
                    assert [url for url in visit.asked if not url.startswith(("file:", "data:", "blob:"))] == []
                    assert visit.sideways() == 0, (page, look)
                    papers[look] = visit.style("body", "backgroundColor")
                    visit.keep(tmp_path, f"site-{page.replace('/', '-')}-{look}")
    assert papers["light"] == papers["phone"] != papers["dark"]


def test_the_search_works_from_a_folder(site: Path) -> None:
    with chromium() as browser, visited(browser, (site / "index.html").as_uri(), 1280) as visit:
        visit.page.locator("input.md-search__input").first.fill("mirror_every")
        visit.page.locator(".md-search-result__item").first.wait_for(state="attached", timeout=20_000)
        assert visit.said == []
