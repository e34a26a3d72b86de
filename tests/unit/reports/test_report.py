"""The page of a run: it reports correctly in every state of the run, and nothing from outside does harm on it."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.records import troubled

import foundray
from foundray.errors import InputError
from foundray.reports import report
from foundray.reports.incidents import incidents
from foundray.reports.series import Clock, parted, smoothed, thinned, throughput
from foundray.reports.story import Story
from foundray.reports.timeline import numbered
from foundray.runs.exported import note_export
from foundray.runs.run import Run
from foundray.storage import Store, redacted
from foundray.testing.records import BEGAN, event_at, step_records
from foundray.testing.runs import run_with_records
from foundray.wording.words import duration


class Page(HTMLParser):
    """Elements of a page, with their attributes and the text inside."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(*runs: Run, out: Path) -> Page:
    return Page(report(runs, Store.at(out)).read_text())


# What happened


def test_every_fault_is_an_incident_with_what_came_of_it() -> None:
    found = incidents(*troubled())
    assert [(one.sort, one.title) for one in found] == [
        ("start", "Started on 3 workers"),
        ("fault", "Lost 1 worker, 3 → 2 workers"),
        ("change", "Grew, 2 → 3 workers"),
        ("change", "A worker on node-1, which had notice, handed its state over and left, 3 → 2 workers"),
        ("storage", "A checkpoint could not be written"),
        ("fault", "The node node-4 computed other bits and was left out, 2 workers as before"),
        ("fault", "Loss spike at step 94: rolled back to step 90"),
        ("numbers", "2 micro-batches not finite, left out; Loss spike, update not made"),
        ("numbers", "The hardware is not of one kind"),
        ("stop", "The command ended: the run failed"),
        ("change", "Resumed after a pause of 16 min 40 s"),
        ("fault", "Resumed after a pause of 33 min 20 s: the previous command ended without a record"),
        ("storage", "A damaged checkpoint was skipped"),
        ("end", "Finished"),
    ]
    lost, left_out = found[1], found[5]
    assert lost.kinds == ["member_lost", "group_broken", "workers_started"]
    assert lost.consequence == "2 workers continued from memory, step 18; 2 steps repeated; 2 s until the next step"
    assert lost.reasons == ["ActorDiedError", "Connection closed by peer"]
    assert left_out.kinds == ["left_out", "too_few", "waiting", "workers_started"]
    assert "55 s until the next step" in left_out.consequence
    assert len(found[4].records) == 2, "storage that fails for long is one incident"
    assert found[3].kinds[-1] == "member_lost", "the one that left is not lost once more"


def test_an_idle_worker_that_is_lost_does_not_swallow_what_comes_later() -> None:
    events = [
        event_at(0, "command"), event_at(1, "workers_started", step=0, workers=2, state="storage"),
        event_at(20, "member_lost", member=3, node="n", reason="its slot is gone"),
        event_at(60, "workers_started", step=58, workers=3, state="memory"),
    ]  # fmt: skip
    found = incidents(events, [*step_records(1, 58, 1), *step_records(59, 60, 60)])
    assert [one.title for one in found][1:] == ["A worker that was not in the group was lost", "Grew, 2 → 3 workers"]


@pytest.mark.parametrize(
    ("reason", "workers", "title"),
    [
        ("the feeder: ActorDiedError", 2, "The data feeder was lost, 2 workers as before"),
        ("Connection closed by peer", 2, "The group broke, 2 workers as before"),
        ("Connection closed by peer", 1, "Lost 1 worker, 2 → 1 workers"),
    ],
)
def test_why_a_group_broke(reason: str, workers: int, title: str) -> None:
    events = [
        event_at(0, "command"), event_at(1, "workers_started", step=0, workers=2, state="storage"),
        event_at(9, "group_broken", step=8, reason=reason),
        event_at(10, "workers_started", step=8, workers=workers, state="memory"),
        event_at(10.1, "member_lost", member=4, node="n", reason="ActorUnschedulableError"),
    ]  # fmt: skip
    assert [one.title for one in incidents(events, step_records(1, 8, 1))][1:] == [title]


def test_a_run_that_was_asked_to_stop() -> None:
    events = [
        event_at(0, "command"),
        event_at(1, "workers_started", step=0, workers=1, state="storage"),
        event_at(9, "stopped", step=8, by="me"),
    ]
    events += [event_at(99, "command"), event_at(100, "workers_started", step=8, workers=1, state="storage")]
    found = incidents(events, [*step_records(1, 8, 1), *step_records(9, 10, 100)])
    assert [one.title for one in found][1:] == ["Stopped, asked to by me", "Resumed after a pause of 1 min 30 s"]
    assert not any(one.alarming for one in found)


def test_an_event_of_a_new_kind_is_shown_by_its_name() -> None:
    assert incidents([event_at(0, "command"), event_at(1, "comet_struck", reason="it fell")], [])[1].title == "Comet struck"


# Series


def test_the_clock_leaves_pauses_out() -> None:
    events, metrics = troubled()
    clock = Clock.of(events, metrics)
    assert clock.paused.tolist() == [1000.0, 2000.0]
    assert clock.at([BEGAN, BEGAN + 185, BEGAN + 1185, BEGAN + 3231]).tolist() == [0, 185, 185, 231]


def test_throughput_is_of_steps_that_count_and_adds_up() -> None:
    events, metrics = troubled()
    edges, rates = throughput(metrics, Clock.of(events, metrics), 320)
    assert np.sum(rates * np.diff(edges)) == pytest.approx(120 * 320)
    assert rates[(edges[:-1] > 100) & (edges[1:] < 145)].tolist() == [0] * len(rates[(edges[:-1] > 100) & (edges[1:] < 145)])


def test_thinning_keeps_extremes_and_smoothing_leaves_out_what_is_no_number() -> None:
    values = np.sin(np.arange(100_000) / 3000)
    values[777], values[55_555], values[9] = 40, -40, np.nan
    x, y = thinned(np.arange(100_000), values, 1000)
    assert len(x) <= 1000
    assert {(777, 40.0), (55_555, -40.0)} <= set(zip(x.tolist(), y.tolist(), strict=True))
    assert smoothed(np.array([1.0, np.nan, 3.0, 5.0]), 3).tolist() == [1, 2, 4, 4]
    x, y = parted(np.array([1.0, 3.0]), np.array([5.0, 6.0]), [2.0])
    assert x.tolist() == [1, 2, 3]
    assert np.isnan(y).tolist() == [False, True, False]


def test_durations() -> None:
    assert [duration(s) for s in (-1, 0.04, 9.97, 59.4, 59.6, 60, 200, 3725, 7500, 90_000, 280_000)] == [
        "0 s", "0.04 s", "10 s", "59 s", "1 min 00 s", "1 min 00 s", "3 min 20 s", "1 h 02 min",
        "2 h 05 min", "1 d 1 h", "3 d 5 h",
    ]  # fmt: skip


# Pages


def test_the_page_of_a_troubled_run(tmp_path: Path) -> None:
    run = run_with_records(tmp_path, *troubled(), train__steps=120)
    place = report([run])
    assert place.path == str(tmp_path / "small" / "report.html")
    page = Page(place.read_text())
    rows = [row for row in page.all("tr") if "data-incident" in row]
    for form in ("wide", "narrow"):
        assert f'id="timeline-{form}-title"' in place.read_text()
    parts = [group["data-part"] for group in page.all("g") if "data-part" in group]
    for row in rows:
        assert parts.count(f"incident-{row['data-incident']}") == 2, "in the wide picture, and in the narrow one"
    assert parts.count("raw") == parts.count("mean") == 4
    for words in ("finished", "abab", "2.0500", "Goodput", "Connection closed by peer", "2.14.0", "AVX512", "the disk is full"):
        assert words in page.text, words


def test_the_page_is_sound_for_machines_and_for_readers_who_listen(tmp_path: Path) -> None:
    page = page_of(run_with_records(tmp_path, *troubled(), train__steps=120), out=tmp_path / "x.html")
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    pictures = page.all("svg")
    assert pictures
    for svg in pictures:
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= set(names)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(depth_mult <= level + 1 for level, depth_mult in pairwise(levels))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert not page.all("script") and not page.all("link") and not page.all("img") and not page.all("iframe")
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


STATES: list[tuple[list[Any], list[Any], list[str]]] = [
    ([], [], ["Nothing yet", "new"]),
    ([event_at(0, "command", workers=[1, 1])], [], ["interrupted", "no step is recorded yet"]),
    (
        [event_at(0, "command"), event_at(1, "workers_started", step=0, workers=1, state="storage")],
        step_records(1, 1, 1),
        ["interrupted", "Started on 1 worker"],
    ),
    (
        [event_at(0, "command"), event_at(9, "failed", step=0, reason="the source x is empty", exit_status=2)],
        [],
        ["failed", "the source x is empty"],
    ),
    (
        [event_at(0, "command"), event_at(1, "workers_started", step=0, workers=1, state="storage")],
        step_records(1, 9, 1, loss=float("nan")),
        ["interrupted"],
    ),
]  # fmt: skip
"""Events, steps, and what their page says."""


def run_whose_writer_was_killed(folder: Path, events: list[Any], metrics: list[Any], **changes: Any) -> Run:
    run = run_with_records(folder, events, metrics, **changes)
    with (Path(run.folder.path) / "metrics.jsonl").open("a") as stream:
        stream.write('{"time": 1800000')
    return run


@pytest.mark.parametrize(("events", "metrics", "words"), STATES)
def test_a_run_in_any_state_has_a_page(events: list[Any], metrics: list[Any], words: list[str], tmp_path: Path) -> None:
    page = page_of(run_whose_writer_was_killed(tmp_path, events, metrics), out=tmp_path / "x.html")
    for word in words:
        assert word in page.text, word


def test_runs_in_any_states_are_compared(tmp_path: Path) -> None:
    runs = [run_whose_writer_was_killed(tmp_path, *state[:2], name=f"run-{n}") for n, state in enumerate(STATES)]
    assert page_of(*runs, out=tmp_path / "all.html").all("svg")
    for run in (runs[0], runs[-1]):  # not one step in any of them, and not one number
        assert page_of(run, run, out=tmp_path / "two.html").all("svg")


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run's folder"):
        report([Run.open(str(tmp_path))])
    with pytest.raises(InputError, match="no run is named"):
        report([])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report([run_with_records(tmp_path)], Store.at(tmp_path / "file" / "x.html"))


def test_texts_from_outside_are_inert(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&]]>"
    events = [
        event_at(0, "command", environment={evil: evil}),
        event_at(1, "member_ready", member=1, node=evil, device=evil),
        event_at(2, evil, reason=evil),
        event_at(3, "failed", step=0, reason=evil),
    ]
    run = run_with_records(tmp_path, events, step_records(1, 3, 1), source=f"/data/{evil}")
    judged = {"time": 1.0, "step": 3, "task": {"kind": evil}, "measure": evil, "higher_is_better": True}
    numbers = {"floor": [0.1], "random": [0.2, 0.3], "ours": [0.4], "facts": {evil: evil}}
    (run.folder / "probes" / "x.json").write_text(json.dumps(judged | numbers))
    page = page_of(run, out=tmp_path / "x.html")
    assert not page.all("script") and not page.all("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("alert(1)") >= 7


def test_credentials_are_not_on_the_page(tmp_path: Path) -> None:
    leaky = "s3://AKIAKEY:wJal%2Fr@bucket/a.txt?region=eu-central-1"
    events = [
        event_at(0, "command"),
        event_at(1, "failed", step=0, reason=f"{leaky} cannot be read: https://me:pass/w@host/x?a=1&sas_token=sesame"),
    ]
    text = report([run_with_records(tmp_path, events)]).read_text()
    assert "s3://bucket/a.txt" in text
    for secret in ("AKIAKEY", "wJal", "sesame", "me:pass", "pass/w"):
        assert secret not in text, secret
    assert redacted("http://127.0.0.1:8265/a@b and me@example.org") == "http://127.0.0.1:8265/a@b and me@example.org"


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    one = run_with_records(tmp_path / "a", *troubled(), train__steps=120, name="one")
    two = run_with_records(tmp_path / "b", *troubled(), train__steps=120, name="two", scale__workers=2)
    page = page_of(one, two, out=tmp_path / "x.html")
    assert "2 runs side by side" in page.text
    assert "ended with the same weights, bit for bit" in page.text
    assert "scale.workers.0 1 2" in page.text and "★" not in page.text
    assert [group["data-part"] for group in page.all("g") if "data-part" in group] == ["run-0", "run-1"] * 2
    other = run_with_records(tmp_path / "c", name="three", optimizer__lr=0.1)
    assert "optimizer.lr ★ 0.004 0.1" in page_of(one, other, out=tmp_path / "y.html").text


def test_data_its_licence_and_its_quarantine(tmp_path: Path) -> None:
    (tmp_path / "prepared" / "0").mkdir(parents=True)
    rows = [{"source": "x", "position": n, "reason": reason} for n, reason in enumerate(["empty", "broken JSON", "empty"])]
    rows += [{**rows[0], "reason": "damaged", "lost": 1000, "unit": "case"}, {**rows[0], "reason": "left out", "lost": 0}]
    (tmp_path / "prepared/0/quarantine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = {"url": "https://example.org/a", "bytes": 1, "sha256": "0" * 64}
    noted = {"set": "words", "origin": "o", "licence": "CC-BY-4.0, by Somebody", "files": {"a.txt": file}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".words.yaml").write_text(json.dumps(noted))
    run = run_with_records(tmp_path, source=str(tmp_path / "data/words/*.txt"))
    page = page_of(run, out=tmp_path / "x.html")
    assert "CC-BY-4.0, by Somebody" in page.text
    assert "1,000 cases: damaged 2 rows: empty 1 row: broken JSON 1 note: left out" in page.text
    assert "2 rows in quarantine" in page.text and "foundray quarantine small" in page.text
    assert "32,000 tokens in 1,000 samples of 32" in page.text


def test_a_long_run_is_a_small_page_made_in_seconds(tmp_path: Path) -> None:
    count = 12_000
    dealer = np.random.default_rng(0)
    metrics = [
        record | {"loss": 2 + 4 / (1 + record["step"] / 1000) + noise, "takers": []}
        for record, noise in zip(step_records(1, count, 5), dealer.normal(0, 0.1, count).tolist(), strict=True)
    ]
    events = [event_at(0, "command"), event_at(5, "workers_started", step=0, workers=3, state="storage")]
    for step in range(60, count, 120):
        events += [
            event_at(5 + step, "group_broken", step=step, reason="x"),
            event_at(5.1 + step, "workers_started", step=step, workers=3, state="memory"),
        ]
    run = run_with_records(tmp_path, events, metrics, train__steps=count)
    began = time.process_time()
    place = report([run])
    assert time.process_time() - began < 12, "seconds of CPU, a few times what it takes: it does not grow faster than the run"
    assert place.info().size < 1_000_000
    assert "at most 1,200 points are drawn" in place.read_text()
    assert len(Story(run).incidents) == 101


def test_numbers_that_would_run_into_each_other_are_one_label() -> None:
    assert numbered([0, 10, 11, 50, 90], 2) == [(0, "1"), (10.5, "2–3"), (50, "4"), (90, "5")]
    assert numbered([0, 5, 10, 15], 3) == [(5, "1–3"), (15, "4")]
    assert numbered([], 1) == []


# Short runs, searches and links


def test_a_run_too_short_for_a_mean_has_its_steps_drawn_strongly(tmp_path: Path) -> None:
    events = [event_at(0, "command"), event_at(8, "workers_started", step=0, workers=1), event_at(20, "finished", step=10)]
    run = run_with_records(tmp_path, events, step_records(1, 10, 9))
    text = report([run], Store.at(tmp_path / "short.html")).read_text()
    drawn = re.findall(r'<g data-part="raw">.*?</g>\s*</g>', text, re.DOTALL)
    assert len(drawn) == 4, "two pictures in two formats"
    assert all("var(--series-0)" in one and "<use" in one for one in drawn), "in the page's colour, with dots"
    assert 'data-part="mean"' not in text
    assert "The first 9 s, before the first step, are left out." in text
    long = run_with_records(tmp_path, events, step_records(1, 200, 0, 0.1), name="long")
    text = report([long], Store.at(tmp_path / "long.html")).read_text()
    assert 'data-part="mean"' in text and "are left out" not in text


def searched(storage: Path, forecast: dict[str, Any] | None = None) -> Run:
    """A run whose hyperparameters a search beside it found."""
    run = run_with_records(storage, [event_at(0, "command")], step_records(1, 4, 1), name="found-tuned")
    (folder := storage / "found-tune").mkdir()
    (folder / "tuned.yaml").write_text(run.spec().to_yaml())
    trials = [
        {"number": number, "values": {"optimizer.lr": rate}, "rungs": [{"tokens": 9600, "val_loss": loss}], "state": "done"}
        for number, rate, loss in ((1, 3e-3, 2.5), (0, 1e-3, 3.25))
    ]
    ranking = {
        "metric": "val_loss", "trials": trials, "flops": 1e9, "full": 1e11, "allowed": 7e9, "values": {"optimizer.lr": 3e-3},
        "score": 2.5, "forecast": forecast, "ladder": [],
    }  # fmt: skip
    (folder / "ranking.json").write_text(json.dumps(ranking))
    return run


def test_a_search_has_a_page(tmp_path: Path) -> None:
    run = searched(tmp_path)
    place = Path(foundray.report([str(tmp_path / "found-tune")]))
    assert place == tmp_path / "found-tune" / "report.html"
    page = Page(place.read_text())
    assert "Hyperparameters by 2 trials on small proxies, judged by val_loss." in page.text
    assert "2.5000" in page.text and "1.0 %" in page.text and "none could be made" in page.text
    links = {link["href"] for link in page.all("a")}
    assert links == {"tuned.yaml", "../found-tuned"}
    report([run])
    links = {link["href"] for link in Page(Path(foundray.report([str(tmp_path / "found-tune")])).read_text()).all("a")}
    assert links == {"tuned.yaml", "../found-tuned/report.html"}, "to the page, once there is one"


def test_a_run_links_to_what_it_came_from(tmp_path: Path) -> None:
    parent = run_with_records(tmp_path, name="parent")
    run = searched(tmp_path)
    (tmp_path / "prepared" / "0").mkdir(parents=True)
    page = page_of(run, out=tmp_path / "found-tuned" / "report.html")
    assert {link["href"] for link in page.all("a")} == {"../found-tune", "../prepared/0"}
    child = run_with_records(tmp_path, name="child", init_from={"run": str(parent.folder)})
    links = {link["href"] for link in page_of(child, out=tmp_path / "pages" / "child.html").all("a")}
    assert links == {"../parent", "../prepared/0"}, "relative to where the page is"
    assert all((tmp_path / "pages" / link).exists() for link in links)


def test_a_run_links_to_what_came_of_it(tmp_path: Path) -> None:
    run_with_records(tmp_path, name="parent")
    origin = {"run": str(tmp_path / "parent"), "step": 1200, "state_sha256": "0" * 64}
    run = run_with_records(tmp_path, name="branch", branch_from=origin)
    for name, form in (("model", "LlamaForCausalLM"), ("deleted", "LlamaForCausalLM")):
        note_export(run, Store.at(tmp_path / name), 3, form)
    (tmp_path / "model").mkdir()
    page = page_of(run, out=tmp_path / "branch" / "report.html")
    assert {link["href"] for link in page.all("a")} == {"../parent", "../prepared/0", "../model"}
    assert "branched from, at step 1,200" in page.text and "its export as LlamaForCausalLM, step 3" in page.text


def test_a_layers_health_is_shown_as_far_as_it_is_recorded(tmp_path: Path) -> None:
    earlier = {"layer": "layers.0", "weight_rms": 0.5}
    layer = earlier | {"gradient_rms": 1e-3, "update_rms": 2e-4, "attention_logit_max": 7.25, "dead_units": 0.125}
    for health, columns in (([earlier], 1), ([layer, {"layer": "norm", "weight_rms": 1.0}], 5)):
        evaluated = event_at(9, "evaluated", step=8, val_loss=2.0, health=health)
        page = page_of(
            run_with_records(tmp_path / f"{columns}", [evaluated], step_records(1, 8, 1)), out=tmp_path / "page.html"
        )
        assert "After 8 steps." in page.text
        assert ("Dead units" in page.text) == ("12.5 %" in page.text) == (columns == 5)


def test_a_damaged_search_is_one_sentence(tmp_path: Path) -> None:
    searched(tmp_path)
    (tmp_path / "found-tune" / "ranking.json").write_text("{}")
    with pytest.raises(InputError, match=r"ranking\.json is damaged .*; the same `foundray tune` writes it again"):
        foundray.report([str(tmp_path / "found-tune")])
