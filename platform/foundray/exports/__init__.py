"""Runs as models that others can load: a folder for Hugging Face's own classes, or for `foundray.load`.

config.json              of the stock class, or of Foundray's own form
model.safetensors        the weights
tokenizer.json, tokenizer_config.json
generation_config.json   where it continues texts
README.md                the model card
foundray.json            what it is, and what `foundray.load` needs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from foundray.exports.place import check_free, whole
from foundray.runs.run import Run
from foundray.storage import Store

IDENTITY = "foundray.json"


@dataclass
class Exported:
    """What was exported, for programs: the last line of `export` with `--json`."""

    out: str
    """Where it lies."""
    run: str
    """The run's name."""
    step: int
    """Optimizer steps done."""
    stock_class: str | None
    """The class of Hugging Face's that loads it; None where that is `foundray.load`."""
    reason: str | None
    """Then, why."""
    parameters: int
    """Of the run's model."""
    weights_sha256: str
    """Of the run's weights after that step: a finished run's own, where it was its last."""
    file_sha256: str
    """Of model.safetensors."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(run: Run, out: Store, step: int | str | None, overrides: dict[str, Any], report: Callable[[str], None]) -> Exported:
    """Write the run's model after its newest checkpoint, or after `step` (`best` is that of the lowest validation
    loss), into the folder `out`. Raises InputError.

    `overrides` are fields that do not change the result, such as a source's licence.
    """
    check_free(out)
    spec, step = run.spec(overrides), run.checkpoint_step(step)
    with whole(out) as folder:
        from foundray.exports.trained import Trained
        from foundray.exports.writing import write

        exported = write(Trained.of(run, spec, step), folder, out)
    report(
        f"exported: {run.folder.name} after step {exported.step} as {exported.stock_class or 'Foundray’s own form'}, in {out}"
    )
    if exported.reason:
        report(f"exported: {exported.reason}; foundray.load reads it")
    return exported
