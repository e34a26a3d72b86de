"""Exports of runs that others can load: a folder for Hugging Face's own classes, or for `foundray.load`.

config.json              configuration of the stock class, or of Foundray's own form
model.safetensors        the weights; more than 5 GB are in several files, with an index
tokenizer.json, tokenizer_config.json
generation_config.json   if the model continues texts
model.gguf               the same model for llama.cpp, if it is asked for
README.md                the model card
foundray.json            identity of the export, and what `foundray.load` needs
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundray.exports.destination import all_or_nothing, check_free
from foundray.runs.exported import note_export
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.wording.shown import Shown

IDENTITY = "foundray.json"


@dataclass
class Exported(Shown):
    """Result of an export, for programs: the last line of `export` with `--json`."""

    out: str
    """URL of the export's folder."""
    run: str
    """The run's name."""
    step: int
    """Optimizer steps done."""
    stock_class: str | None
    """The Hugging Face class that loads it; None if only `foundray.load` does."""
    reason: str | None
    """Why no stock class loads it; None if one does."""
    parameters: int
    """Number of parameters of the run's model."""
    weights_sha256: str
    """SHA-256 of the run's weights after that step; if it is the last step, the finished run's own."""
    file_sha256: str | None
    """SHA-256 of model.safetensors; None if the weights are in several files."""
    files_sha256: dict[str, str]
    """SHA-256 of each file of weights, by its name."""
    gguf_sha256: str | None
    """SHA-256 of model.gguf, the same model for llama.cpp; None if it was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(
    run: Run,
    out: Store,
    step: int | str | None,
    overrides: dict[str, Any],
    report: Callable[[str], None],
    gguf: bool = False,
) -> Exported:
    """Write the run's model at its newest checkpoint, or at `step`, into the folder `out`.

    Step `best` is the one with the lowest validation loss. `overrides` are fields that do not change the result, such as a
    source's licence. `gguf` adds a file for llama.cpp. Raises InputError.
    """
    check_free(out)
    spec, step = run.spec(overrides), run.checkpoint_step(step)
    if gguf:
        from foundray.exports.gguf_vocabulary import check

        check(run, spec)
    with all_or_nothing(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent, prefix=".weights.") as scratch:
        from foundray.exports.trained import Trained
        from foundray.exports.writing import write

        exported = write(Trained.of(run, spec, step, Path(scratch)), folder, out, gguf)
    note_export(run, out, exported.step, exported.stock_class or "Foundray’s own form")
    report(
        f"exported: {run.folder.name} after step {exported.step} as {exported.stock_class or 'Foundray’s own form'}, in {out}"
    )
    if exported.gguf_sha256:
        report(f"exported: {out / 'model.gguf'} is the same model for llama.cpp")
    if exported.reason:
        report(f"exported: {exported.reason}; foundray.load reads it")
    return exported
