"""What to do with a run's model: generate, judge, export, embed and search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from foundray.api.arguments import Report, SpecPath, silent, text_of

if TYPE_CHECKING:
    from foundray.evaluation.likelihood import TaskResult
    from foundray.evaluation.probes.task import Judgement
    from foundray.exports import Exported
    from foundray.exports.folder import Loaded
    from foundray.vectors.embed import Embedded
    from foundray.vectors.search import Hit


def sample(
    run: SpecPath,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    step: int | str | None = None,
) -> str:
    """Continue a text with the run's newest weights, or those after `step`; return both. Raises InputError.

    `step="best"` is the checkpoint with the lowest validation loss.
    """
    from foundray.runs.run import Run

    opened = Run.open(text_of(run))
    from foundray.exports.generate import generate  # imports torch, so only after the name is checked

    return generate(opened, prompt, tokens, temperature, top_k, seed, step)


def probe(run: SpecPath, task: SpecPath, overrides: Mapping[str, Any] | None = None) -> Judgement:
    """Judge a run's newest weights on a task, compared with a floor and the same network untrained. Raises InputError."""
    from foundray.host.extras import check_extra

    check_extra("probe")
    from foundray.evaluation.probes import load_task
    from foundray.evaluation.probes import probe as judge
    from foundray.runs.run import Run

    checked = load_task(text_of(task), overrides)
    return judge(Run.open(text_of(run)), checked)


def evaluate(
    run: SpecPath, task: SpecPath, delimiter: str = "", limit: int | None = None, step: int | str | None = None
) -> TaskResult:
    """Judge a run's newest weights, or those after `step`, on a task by likelihood: a file of JSON Lines. Raises InputError.

    `delimiter` stands between a context and what follows it; of the items, at most `limit` are used.
    """
    from foundray.runs.run import Run

    opened = Run.open(text_of(run))
    from foundray.evaluation.likelihood import evaluate as judge  # imports torch, so only after the name is checked

    return judge(opened, text_of(task), delimiter, limit, step)


def export(
    run: SpecPath,
    out: SpecPath,
    step: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = silent,
    gguf: bool = False,
) -> Exported:
    """Write a run's model, after its newest checkpoint or after `step`, as a folder that Hugging Face's classes load.

    `step="best"` is the checkpoint with the lowest validation loss. `gguf` also writes `model.gguf`, for llama.cpp.

    If none of them computes the same, the folder has Foundray's own form, for `load`. `overrides` are fields that do not
    change the result, such as a source's licence. Raises InputError.
    """
    from foundray.host.extras import check_extra

    check_extra("export", *(["gguf"] if gguf else []))
    from foundray.exports import export as write
    from foundray.runs.run import Run
    from foundray.storage import Store

    return write(Run.open(text_of(run)), Store.at(text_of(out)), step, dict(overrides or {}), report, gguf)


def load(folder: SpecPath, layer: int | Literal["last", "all"] = "last") -> Loaded:
    """Load what `export` wrote as an encoder: data in, features of layer `layer` out. Raises InputError."""
    from foundray.exports.folder import load as read

    return read(text_of(folder), layer)


def embed(
    run: SpecPath,
    data: SpecPath,
    out: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    *,
    layer: int | str = "last",
    pool: str = "mean",
    normalise: bool = False,
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    max_bad_rows: int | None = None,
    max_bad_share: float | None = None,
    report: Report = silent,
) -> Embedded:
    """Write a run's vectors of data (a file, folder, glob or URL) as Parquet to `out`; continue after an interruption.

    `overrides` are fields of the data's source. Raises InputError.
    """
    from foundray.host.extras import check_extra
    from foundray.runs.run import Run

    check_extra("embed")
    from foundray.vectors.embed import Options
    from foundray.vectors.embed import embed as embed_data

    options = Options(layer, pool, normalise, workers, resources, max_bad_rows, max_bad_share)
    return embed_data(Run.open(text_of(run)), text_of(data), text_of(out), dict(overrides or {}), options, report)


def search(
    out: SpecPath, query: str | None = None, *, like: str | None = None, top: int = 10, run: SpecPath | None = None
) -> list[Hit]:
    """Return the rows of a folder of vectors nearest to a text, to a file's first row, or to the row with the id `like`.

    `run` locates the run that made them, if it has moved. Raises InputError. For many queries, keep a
    `foundray.vectors.search.Searcher`.
    """
    from foundray.host.extras import check_extra

    check_extra("embed")
    from foundray.vectors.search import Searcher

    return Searcher(text_of(out), None if run is None else text_of(run)).search(query, like, top)
