"""Before a run: a first spec, an example's data, what training will take, and prepared data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundray.api.arguments import Report, SpecPath, silent, text_of

if TYPE_CHECKING:
    from pathlib import Path

    from foundray.data.prepare.manifest import Prepared
    from foundray.inspection.quarantined import Quarantine
    from foundray.planning import Plan
    from foundray.proposing import Written


def init(
    data: SpecPath | None = None,
    out: SpecPath | None = None,
    minutes: float = 5.0,
    example: str | None = None,
    report: Report = silent,
) -> Written:
    """Look at data (a file, folder, glob or URL; default: data/), and write a spec that trains on it for about `minutes` here.

    The time holds if nothing else runs. With `example`, start from that example instead. `out` is the spec's file, which must
    not exist. Raises InputError.
    """
    target = None if out is None else text_of(out)
    if example is not None:
        from foundray.proposing.starting import from_example

        return from_example(example, target, report)
    place = "data" if data is None else text_of(data)
    from foundray.wording.sentences import plain

    report(f"looking at {plain(place)}")  # at once: the imports take a second
    from foundray.proposing import init as propose

    return propose(place, target, minutes, report)


def fetch(name: str, to: SpecPath = "data", mirror: SpecPath | None = None, report: Report = silent) -> Path:
    """Get an example's data into its folder inside `to`; return that folder. Raises InputError."""
    from pathlib import Path

    from foundray.examples import fetch as fetch_data

    return fetch_data(name, Path(to), None if mirror is None else Path(mirror), report)


def plan(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    tokenizers: Sequence[SpecPath] = (),
    gpus: Sequence[str] = (),
    prices: Sequence[str] = (),
    because: Sequence[str] = (),
    peak_flops: float | None = None,
    sample_bytes: int | None = None,
    mfu: float | None = None,
    mtbf_hours: float | None = None,
    machines: int | None = None,
    seconds_a_gigabyte: float | None = None,
    report: Report = silent,
) -> Plan:
    """Estimate whether to pre-train on the spec's data, and what it will take. Starts nothing. Raises InputError.

    `tokenizers` are tokenizer.json files of models to start from, `gpus` such as `H100:8`, `prices` such as `H100=2.5`,
    `because` any of `architecture`, `control` and `research`. For each None, the plan names the value that it assumes.
    """
    from foundray.spec.loading import load_spec

    checked = load_spec(text_of(spec), overrides)
    from foundray.planning import plan as make  # imports torch, so only after the spec is checked
    from foundray.planning.cost import assume

    assumptions = assume(mfu, mtbf_hours, machines, seconds_a_gigabyte)
    files = [text_of(file) for file in tokenizers]
    return make(checked, files, gpus, prices, because, peak_flops, sample_bytes, assumptions, report)


def prepare(spec: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = silent) -> Prepared:
    """Turn the spec's raw sources into prepared shards. Raises InputError."""
    from foundray.cluster.connect import connected
    from foundray.data.prepare.prepare import prepare as prepare_data
    from foundray.data.prepare.recipe import prepared_folder
    from foundray.preflight.admission import admit
    from foundray.spec.loading import load_spec
    from foundray.storage import Store

    checked = load_spec(text_of(spec), overrides)
    Store.at(checked.storage).check_writable()
    prepared_folder(checked)
    with connected(report) as ray:
        admit(ray, checked, report)
        return prepare_data(checked, report)


def quarantine(what: SpecPath, overrides: Mapping[str, Any] | None = None, source: int | None = None) -> Quarantine:
    """Return which data of a run, a spec, or a folder of prepared data or vectors could not be used; of one source, if given.

    `overrides` are fields of the spec. Raises InputError.
    """
    from foundray.inspection.quarantined import quarantine as look

    return look(text_of(what), dict(overrides or {}), source)
