"""The page of a search: trials, what was found, and the forecast."""

from __future__ import annotations

from foundray.reports import charts
from foundray.reports.links import href, report_link
from foundray.reports.page import rendered
from foundray.reports.searches import TUNED, read_search
from foundray.reports.story import law_of
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.wording.words import plural


def search_page(folder: Store, place: Store) -> str:
    """The HTML of the search in `folder`, for a page at `place`. Raises InputError."""
    search = read_search(folder)
    tuned = (folder / TUNED).read_text()
    spec = parse_spec(tuned, str(folder / TUNED))
    run = folder.parent / spec.name
    law = law_of(search.forecast)
    links = [("the spec that was written", href(folder / TUNED, place))]
    if run.exists():
        links.append((f"the run {run.name} with these values", report_link(run, place) or href(run, place)))
    facts = {
        "title": f"{folder.name}: Foundray search report",
        "name": folder.name,
        "lede": f"Hyperparameters by {plural(len(search.trials), 'trial')} on small proxies, judged by {search.metric}.",
        "search": search,
        "picture": charts.search(search, spec.objective.build().loss_unit),
        "law": None if law is None else charts.law(law),
        "links": links,
        "tuned": tuned,
    }
    return rendered("search.html", facts)
