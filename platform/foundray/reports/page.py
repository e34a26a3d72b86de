"""The HTML page: the values for the templates, from one story or several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import resources
from statistics import mean, stdev
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from foundray.data.prepare.quarantine import amount
from foundray.host.environment import environment as versions
from foundray.reports import charts
from foundray.reports.essentials import described
from foundray.reports.links import report_link, run_links
from foundray.reports.reconstructed import reconstructed
from foundray.reports.series import POINTS, window
from foundray.reports.story import Story
from foundray.reports.timeline import timeline
from foundray.spec import Spec, flatten
from foundray.storage import Store, redacted
from foundray.wording import words

Row = TypeVar("Row")
SHOWN = 6
"""Most evaluations whose texts, or measures of a task, are listed."""
SYMBOLS = {"start": "▶", "fault": "▼", "change": "◆", "storage": "■", "numbers": "✖", "stop": "✚", "end": "●"}
"""Text symbols for the pictures' markers."""
MEANINGS = {
    "start": "start", "fault": "workers or a driver lost", "change": "a change, nothing lost", "storage": "storage",
    "numbers": "bad numbers", "stop": "a command failed", "end": "end of a command",
}  # fmt: skip
HEALTH_COLUMNS = {
    "weight_rms": "Weights, RMS", "gradient_rms": "Gradient, RMS", "update_rms": "Update, RMS",
    "attention_logit_max": "Largest attention logit", "dead_units": "Dead units",
}  # fmt: skip
PARTS = {
    "stepping": "steps that count", "data_wait": "waiting for data", "copying": "copying the state", "evaluating": "evaluating",
    "repeated": "repeated steps", "recovery": "recovering from faults", "starting": "starting", "idle": "everything else",
}  # fmt: skip


def page(stories: Sequence[Story], place: Store) -> str:
    """The HTML of one run, or of several side by side; `place` is where it will be, for links from it."""
    name, facts = ("run.html", _one(stories[0], place)) if len(stories) == 1 else ("runs.html", _several(stories, place))
    return rendered(name, facts)


def rendered(template: str, facts: Mapping[str, Any]) -> str:
    """A page from a template and its values."""
    environment = Environment(
        loader=PackageLoader("foundray.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (words.count, words.duration, words.loss, words.moment, words.percent, words.size)
    environment.filters |= {one.__name__: one for one in filters} | {"short": _short, "spread": _spread}
    style = Markup((resources.files("foundray.reports") / "templates/style.css").read_text())
    common = {"style": style, "version": versions()["foundray"], "written": words.moment(time.time())}
    return environment.get_template(template).render(**common, **facts)


def _safe(value: Any) -> Any:
    """Remove credentials from every value on the page."""
    return type(value)(redacted(value)) if isinstance(value, str) else value


def _one(story: Story, place: Store) -> dict[str, Any]:
    facts = story.facts
    sorts = dict.fromkeys(one.sort for one in story.incidents)
    whole = facts.seconds or 1.0
    return {
        "title": f"{story.name}: Foundray run report",
        "story": story,
        "facts": facts,
        "described": described(story.spec, story.parameters),
        "worlds": _worlds(story),
        "faults": sum(one.alarming for one in story.incidents),
        "incidents": story.incidents,
        "symbols": SYMBOLS,
        "marks": [(SYMBOLS[sort], MEANINGS[sort], sort) for sort in SYMBOLS if sort in sorts],
        "timeline": timeline(story) if story.events else None,
        "timeline_caption": _timeline_caption(story),
        "loss": charts.loss(story) if story.metrics else None,
        "loss_caption": _loss_caption(story),
        "parts": PARTS,
        "account": sorted(
            ((part, seconds, seconds / whole) for part, seconds in facts.account.items() if seconds > 0),
            key=lambda row: -row[1],
        ),
        "data_words": _data_words(story),
        "forecast_words": _forecast_words(story),
        "law": charts.scaling_law(story),
        "search": charts.search(story.search, story.loss_unit),
        "search_words": _search_words(story),
        "probes": story.probes,
        "spread_over": _spread_over,
        "samples": reconstructed(story.reconstructions(_spread_over(story.looked_at))),
        "health_columns": {name: title for name, title in HEALTH_COLUMNS.items() if any(name in one for one in story.health)},
        "links": run_links(story, place),
    }


def _several(stories: Sequence[Story], place: Store) -> dict[str, Any]:
    rows = [
        {
            "name": story.name,
            "facts": story.facts,
            "worlds": _worlds(story),
            "faults": sum(one.alarming for one in story.incidents),
            "described": described(story.spec, story.parameters),
            "fingerprint": story.spec.fingerprint(),
            "yaml": story.spec.to_yaml(),
            "link": report_link(story.run.folder, place),
        }
        for story in stories
    ]
    return {
        "title": f"{len(stories)} runs: Foundray run report",
        "stories": stories,
        "rows": rows,
        "verdict": _verdict(stories),
        "curves": charts.compared(stories),
        "curves_caption": "Training losses are running means over 2 % of a run's steps, of steps that count.",
        "differing": _differing([story.spec for story in stories]),
    }


def _differing(specs: Sequence[Spec]) -> list[tuple[str, bool, list[str]]]:
    """(field, whether it decides the result, each spec's value) of the fields that differ, without `name` and `storage`."""
    fields = [flatten(spec.model_dump(mode="json")) for spec in specs]
    names = [name for name in dict.fromkeys(name for one in fields for name in one) if name not in ("name", "storage")]
    values = [(name, [one.get(name) for one in fields]) for name in names]
    return [
        (name, Spec.decides(name), ["not set" if value is None else _short(value) for value in found])
        for name, found in values
        if any(value != found[0] for value in found)
    ]


def _verdict(stories: Sequence[Story]) -> str:
    finished = [story for story in stories if story.facts.weights_sha256]
    hashes = {story.facts.weights_sha256 for story in finished}
    if len(finished) > 1 and len(hashes) == 1:
        which = "All" if len(finished) == len(stories) else f"{len(finished)} of them are finished, and"
        return f"{which} ended with the same weights, bit for bit: SHA-256 {hashes.pop()}."
    best = min((s for s in stories if s.facts.val_loss is not None), key=lambda s: s.facts.val_loss or 0.0, default=None)
    if best is None:
        return "None has a validation loss yet."
    alike = len({story.spec.fingerprint() for story in stories}) == 1
    specs = "Their specs differ only in what never changes a result" if alike else "Their specs differ"
    return f"{specs}. The lowest validation loss is {words.loss(best.facts.val_loss)}, of {best.name}."


def _worlds(story: Story) -> str:
    sizes = sorted({world["workers"] for world in story.facts.worlds})
    return "—" if not sizes else f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _timeline_caption(story: Story) -> str:
    pauses = int((story.clock.paused > 1).sum())
    cut = f" {words.plural(pauses, 'pause')} between commands {'is' if pauses == 1 else 'are'} left out." if pauses else ""
    start = f" The first {words.duration(story.begun)}, before the first step, are left out." if story.begun >= 0.1 else ""
    return (
        f"Time counts while a command works on the run.{start} Lines mark the incidents, numbered above and listed "
        "below; grey is time without a step."
        f"{cut}{_thinned(len(story.metrics))}"
    )


def _loss_caption(story: Story) -> str:
    length = len(story.steps.step)
    mean_of = f", and the mean of {window(length):,} steps around each" if window(length) > 1 else ""
    again = " Of repeated steps, the last is drawn." if story.facts.steps_repeated else ""
    return f"The loss of every step{mean_of}; circles are validation losses.{again}{_thinned(length)}"


def _thinned(length: int) -> str:
    if length <= POINTS:
        return ""
    return f" Of {length:,} steps at most {POINTS:,} points are drawn: the smallest and the largest of each interval."


def _data_words(story: Story) -> str:
    if not (manifest := story.manifest):
        return ""
    vocabulary = f", vocabulary {manifest.vocabulary:,}" if manifest.vocabulary else ""
    epochs = story.facts.step * story.spec.samples_per_step / max(1, sum(source.training for source in story.sources))
    return (
        f"{manifest.tokens:,} tokens in {words.plural(manifest.rows, 'sample')} of {manifest.context:,}{vocabulary}; "
        f"{amount(manifest.balance().lost)} in quarantine. The run has seen {epochs:.3g} times the number of "
        f"training samples. Recipe {manifest.recipe_sha256[:16]}."
    )


def _forecast_words(story: Story) -> str:
    if not (stated := story.forecast):
        return ""
    low, high, measured = stated["interval"]["low"], stated["interval"]["high"], story.facts.val_loss
    text = f"Stated before the run began: {stated['loss']:.4f}, 90 % interval {low:.4f} to {high:.4f}."
    text += "".join(f" Caution: {caution}." for caution in stated.get("cautions", ()))
    if story.facts.state != "finished" or measured is None:
        return text
    return f"{text} Measured: {measured:.4f}, {'inside' if low <= measured <= high else 'outside'} it."


def _search_words(story: Story) -> str:
    if not (found := story.search):
        return ""
    best = found.trials[0]
    values = ", ".join(f"{name} {_short(value)}" for name, value in best.values.items())
    return (
        f"This run's hyperparameters come from a search of {words.plural(len(found.trials), 'trial')} on smaller networks, "
        f"which with its ladder took {words.percent(found.flops / found.full)} of this run's FLOPs. "
        f"Best there: {values} ({found.metric} {words.loss(best.score)})."
    )


def _spread_over(rows: Sequence[Row]) -> list[Row]:
    """At most `SHOWN` rows, evenly spread, with the first and the last."""
    if len(rows) <= SHOWN:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (SHOWN - 1))] for index in range(SHOWN)]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spread(values: Sequence[float]) -> str:
    return words.loss(mean(values)) + (f" ± {words.loss(stdev(values))}" if len(values) > 1 else "")
