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

import numpy as np
import pytest
from tests.browser import chromium, visited
from tests.processes import descendants, title
from tests.records import troubled

import foundray as api
from foundray.records.values import HEALTH
from foundray.reports import report
from foundray.reports.story import Story
from foundray.runs.reconstructions import Reconstruction, file_of, packed
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
    changes = {
        "train__steps": 100, "train__evaluate_every": 40, "train__checkpoint_every": 50,
        "data__sources": [{"path": str(prose)}, {"path": _other_texts(folder, prose)}], "evaluate": _judged(folder),
    }  # fmt: skip
    scale = {"scale": {"workers": [1, 2], "resources": {"CPU": 0.5}}, "fault": {"mirror_every": 2}}
    spec = write_spec(folder, small_spec(prose, folder / "runs", **changes) | scale)
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(api.train, spec)
        wait_until(lambda: _steps(folder / "runs/small/metrics.jsonl") > 20, 300, "20 steps")
        os.kill(next(pid for pid in descendants(os.getpid()) if "ray::Worker" in title(pid)), signal.SIGKILL)
        assert training.result().state == "finished"
    return Run.open(str(folder / "runs/small"))


def _other_texts(folder: Path, prose: Path) -> str:
    """A second source, and a further validation set beside it."""
    text = prose.read_text()
    (folder / "loud.txt").write_text(text.upper())
    (folder / "further.txt").write_text(text[-20_000:])
    return str(folder / "loud.txt")


def _judged(folder: Path) -> dict[str, Any]:
    """Everything that an evaluation can judge besides the loss."""
    items = [
        {"context": "def f(", "choices": ["self):", "xqzj"], "answer": 0},
        {"context": "a", "choices": ["nd", "Q"], "answer": 1},
    ]
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, items)))
    return {
        "tasks": {"choices": {"path": str(folder / "choices.jsonl"), "every": 80}},
        "sets": {"validation": {"samples": 128}, "further": {"path": str(folder / "further.txt"), "samples": 32}},
        "prompts": ["import ", "def <b>"],
        "text_tokens": 6,
    }


def _steps(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.read_bytes().count(b"\n")
    return 0


def test_what_the_run_judged_itself_by(disturbed: Run) -> None:
    evaluated = {event["step"]: event for event in disturbed.records("events.jsonl") if event["event"] == "evaluated"}
    assert sorted(evaluated) == [40, 80, 100]
    for step, event in evaluated.items():
        assert [one["name"] for one in event["sources"]] == ["0 stdlib.txt", "1 loud.txt"]
        [further] = event["sets"]
        assert (further["name"], further["samples"]) == ("further", 32) and 0 < further["bits_per_byte"] < 9
        assert [one["prompt"] for one in event["texts"]] == ["import ", "def <b>"]
        assert [task["name"] for task in event.get("tasks", [])] == ([] if step == 40 else ["choices"])
        health = {one["layer"]: one for one in event["health"]}
        assert list(health) == ["embed_tokens", "layers.0", "layers.1", "lm_head", "norm"]
        assert all(set(HEALTH) <= set(health[f"layers.{number}"]) for number in (0, 1))
    [task] = evaluated[100]["tasks"]
    assert (task["kind"], task["items"]) == ("choice", 2) and 0 <= next(iter(task["measures"].values())) <= 1


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
        for section in ("happened", "loss", "health", "texts", "tasks", "time", "data"):
            assert visit.page.locator(f"#h-{section}").count() == 1, section
        assert "def <b>" in visit.page.inner_text("#h-texts ~ table >> nth=1"), "a prompt is text, not markup"
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
    worst = looked_at(tmp_path, source="/" + "a-very-long-name" * 20 + "/*.txt")
    for name, runs in (("real", [disturbed]), ("troubled", [worst]), ("several", [disturbed, worst])):
        place = Path(report(runs, disturbed.folder.parent / f"{name}.html").path)
        with visited(browser, place.as_uri(), width=width) as visit:
            visit.keep(tmp_path, f"report-{name}-{width}")
            assert visit.said == [] and len(visit.asked) == 1
            assert visit.sideways() <= 0, name
            for look in visit.page.locator(".looks img, .looks svg").all():
                box = look.bounding_box()
                assert box and box["width"] > 0 and box["x"] + box["width"] <= width
            form = ".narrow" if width < 700 else ".wide"
            for svg in visit.page.locator(f"{form} svg").all():
                box = svg.bounding_box()
                assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
                smallest = svg.evaluate(
                    "s => Math.min(...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))"
                )
                assert smallest > 9, "a text of a picture is too small to read"


def looked_at(storage: Path, **changes: Any) -> Run:
    """The run to which everything happened, which also kept a picture, a recording and a series at its evaluations."""
    events, metrics = troubled()
    events = [{**one, "reconstructions": 3} if one["event"] == "evaluated" else one for one in events]
    run = run_with_records(storage, events, metrics, train__steps=120, **changes)
    rng = np.random.default_rng(0)
    picture, recording, series = rng.random((16, 16, 3)), rng.random((20, 300)), np.cumsum(rng.standard_normal(800))
    hidden = picture.copy(), series.copy()
    hidden[0][4:12], hidden[1][300:500] = np.nan, np.nan
    for step, noise in ((100, 0.3), (120, 0.1)):
        found = {
            0: Reconstruction(picture, np.clip(picture + noise, 0, 1), hidden[0]),
            1: Reconstruction(recording, recording * (1 - noise), None),
            2: Reconstruction(series, series + 9 * noise, hidden[1]),
        }
        file_of(run.folder, step).write_bytes(packed(found))
    return run


@pytest.mark.parametrize("dark", [False, True])
def test_what_a_model_predicts_is_seen(dark: bool, browser: Any, tmp_path: Path) -> None:
    place = Path(report([looked_at(tmp_path)]).path)
    with visited(browser, place.as_uri(), dark=dark) as visit:
        visit.keep(tmp_path, f"report-looks-{'dark' if dark else 'light'}")
        assert visit.said == [] and visit.asked == [place.as_uri()]
        samples = visit.page.locator(".looks")
        labels = [samples.nth(number).locator("figcaption").all_inner_texts() for number in range(samples.count())]
        assert labels == [
            ["input", "what the model sees", "step 100", "step 120"],
            ["input", "step 100", "step 120"],
            ["step 100", "step 120"],
        ]
        assert visit.page.eval_on_selector_all(".looks img", "all => all.every(img => img.naturalWidth > 0)")
        assert visit.page.locator(".looks svg polyline").count() == 4
        paper = visit.style("body", "backgroundColor")
        for line in ("given", "predicted"):
            assert _contrast(visit.style(f".looks .{line}", "stroke"), paper) > 3


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
