"""`report` in a real Chromium: of a real run that lost a worker, and of one to which everything happened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.browser import chromium, visited
from tests.processes import descendants, title
from tests.records import troubled

import foundray as api
from foundray.reports import report
from foundray.reports.story import Story
from foundray.runs.run import Run
from foundray.testing.runs import run_with_records
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def disturbed(own_ray: None, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run on two workers; one is killed on the way, and Ray starts another in its place."""
    folder = tmp_path_factory.mktemp("disturbed")
    changes = {"train__steps": 100, "train__evaluate_every": 40, "train__checkpoint_every": 50}
    scale = {"scale": {"workers": [1, 2], "resources": {"CPU": 0.5}}, "fault": {"mirror_every": 2}}
    spec = write_spec(folder, small_spec(prose, folder / "runs", **changes) | scale)
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(api.train, spec)
        wait_until(lambda: _steps(folder / "runs/small/metrics.jsonl") > 20, 300, "20 steps")
        os.kill(next(pid for pid in descendants(os.getpid()) if "ray::Worker" in title(pid)), signal.SIGKILL)
        assert training.result().state == "finished"
    return Run.open(str(folder / "runs/small"))


def _steps(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.read_bytes().count(b"\n")
    return 0


def test_the_page_of_a_real_run(disturbed: Run, browser: Any, tmp_path: Path) -> None:
    place = report([disturbed])
    story = Story(disturbed)
    broken = [one for one in story.incidents if "group_broken" in one.kinds]
    assert broken and broken[0].still > 0
    assert story.facts.restarts >= 1  # more if the second worker came later than the first step
    assert 0 <= story.facts.steps_repeated <= 2
    with visited(browser, Path(place.path).as_uri()) as visit:
        visit.keep(tmp_path, "report-light")
        assert visit.said == []
        assert visit.asked == [Path(place.path).as_uri()]
        assert visit.page.inner_text("h1") == "small"
        assert visit.page.inner_text(".state") == "finished"
        assert story.facts.weights_sha256 in visit.page.inner_text(".glance")
        _check_marks(visit.page, story, "wide")
        for part, least in (("raw", 80), ("mean", 80), ("validation", 3), ("workers", 3), ("throughput", 5)):
            points = visit.page.locator(f".wide [data-part={part}]").first.evaluate(
                "e => e.querySelectorAll('use').length || e.querySelector('path').getAttribute('d').split(/[ML]/).length - 1"
            )
            assert points >= least, part
        light = visit.style("body", "backgroundColor"), visit.style("body", "color")
    with visited(browser, Path(place.path).as_uri(), dark=True) as visit:
        visit.keep(tmp_path, "report-dark")
        dark = visit.style("body", "backgroundColor"), visit.style("body", "color")
        assert all(one != other for one, other in zip(light, dark, strict=True))
        assert _contrast(*light) > 7 and _contrast(*dark) > 7
    versions = json.loads((Path(disturbed.folder.path) / "events.jsonl").read_text().partition("\n")[0])["environment"]
    assert {"python", "torch", "ray", "foundray", "platform"} <= set(versions)


@pytest.mark.parametrize("width", [360, pytest.param(768, marks=pytest.mark.thorough)])
def test_a_narrow_window_has_no_sideways_scrolling(disturbed: Run, browser: Any, tmp_path: Path, width: int) -> None:
    worst = run_with_records(tmp_path, *troubled(), train__steps=120, source="/" + "a-very-long-name" * 20 + "/*.txt")
    for name, runs in (("real", [disturbed]), ("troubled", [worst]), ("several", [disturbed, worst])):
        place = Path(report(runs, disturbed.folder.parent / f"{name}.html").path)
        with visited(browser, place.as_uri(), width=width) as visit:
            visit.keep(tmp_path, f"report-{name}-{width}")
            assert visit.said == [] and len(visit.asked) == 1
            assert visit.sideways() <= 0, name
            form = ".narrow" if width < 700 else ".wide"
            for svg in visit.page.locator(f"{form} svg").all():
                box = svg.bounding_box()
                assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
                smallest = svg.evaluate(
                    "s => Math.min(...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))"
                )
                assert smallest > 9, "a text of a picture is too small to read"


def test_marks_of_everything_that_happened(browser: Any, tmp_path: Path) -> None:
    run = run_with_records(tmp_path, *troubled(), train__steps=120)
    place = Path(report([run]).path)
    with visited(browser, place.as_uri()) as visit:
        visit.page.emulate_media(media="print")
        visit.keep(tmp_path, "report-print")
        _check_marks(visit.page, Story(run), "wide")
        shapes: dict[str, set[str]] = {}
        for number, one in enumerate(Story(run).incidents, 1):
            shape = visit.page.locator(f".wide [data-part=incident-{number}] use").evaluate(
                "use => document.querySelector(use.getAttribute('xlink:href')).getAttribute('d')"
            )
            shapes.setdefault(one.sort, set()).add(shape)
        assert len(shapes) == 7
        assert all(len(of_sort) == 1 for of_sort in shapes.values())
        assert len(set.union(*shapes.values())) == 7, "a sort of incident is known by its mark's shape alone"


def _check_marks(page: Any, story: Story, form: str) -> None:
    """Each incident has a mark in the picture, in order of time, with its title above it, and a row in the table."""
    across = []
    for number, one in enumerate(story.incidents, 1):
        mark = page.locator(f".{form} [data-part=incident-{number}]")
        assert mark.count() == 1
        assert mark.locator("title").text_content() == f"{number}. {one.title}"
        box = mark.locator("use").bounding_box()
        across.append(round(box["x"] + box["width"] / 2))
        row = page.locator(f"tr[data-incident='{number}']")
        assert one.title in row.inner_text()
        assert row.get_attribute("data-kinds") == " ".join(one.kinds)
    assert across == sorted(across)


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours `rgb(r, g, b)`."""
    light, dark = sorted((_luminance(colour) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
