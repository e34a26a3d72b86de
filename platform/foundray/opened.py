"""A run's folder, opened in Python or a notebook: what it recorded, and what it learned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundray.errors import InputError
from foundray.exports import Exported, export
from foundray.host.extras import check_extra
from foundray.records import frames
from foundray.runs.facts import Facts
from foundray.runs.lineage import evaluations
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.storage import Store
from foundray.wording.shown import facts_of, table

if TYPE_CHECKING:
    from pandas import DataFrame

EVALUATED = ("val_loss", "bits_per_byte", "feature_spread", "effective_rank")
"""Columns from evaluations; empty at steps without one."""


class OpenedRun:
    """A run: new, under way or ended. Each call reads its folder again."""

    def __init__(self, run: Run):
        self._run = run
        self._exports: dict[int | str | None, tuple[tempfile.TemporaryDirectory[str], Exported]] = {}
        """What `model` and `tokenizer` have loaded from, by step."""

    @property
    def folder(self) -> str:
        """The run's folder: a local path or a URL."""
        return self._run.folder.url

    @property
    def spec(self) -> Spec:
        """The spec that the run was begun with."""
        return self._run.spec()

    def facts(self) -> Facts:
        """Where the run stands."""
        return self._run.facts()

    def metrics(self) -> DataFrame:
        """One row per step that counts, by step from 1; columns are the step log's fields (losses in nats) and evaluations.

        Of a step that was computed again, the last record counts; steps that a roll-back has undone are left out. Raises
        InputError.
        """
        import pandas as pd

        steps = frames.steps(self._run.folder).drop_duplicates("step", keep="last").set_index("step").sort_index()
        steps = steps.loc[: self.facts().step]
        found = pd.DataFrame(evaluations(self._run.records("events.jsonl")))
        if found.empty:
            return steps.assign(**{name: pd.Series(dtype="float64") for name in EVALUATED})
        evaluated = found.drop_duplicates("step", keep="last").astype({"step": "int64"}).set_index("step")
        return steps.join(evaluated.reindex(columns=list(EVALUATED)).astype("float64"))

    def steps(self) -> DataFrame:
        """The whole step log, in the order of computation, repeated steps included. Raises InputError."""
        return frames.steps(self._run.folder)

    def events(self) -> DataFrame:
        """What happened, one row per event, in order. Raises InputError."""
        return frames.events(self._run.folder)

    def model(self, step: int | str | None = None) -> Any:
        """The model after its newest checkpoint, or after `step` (`best`: with the lowest validation loss), ready to use.

        A model of transformers if a stock class computes the same (`foundray export` says which), in evaluation mode;
        otherwise Foundray's own encoder, as from `foundray.load`. Raises InputError.
        """
        folder, exported = self._exported(step)
        if exported.stock_class is None:
            from foundray.exports.folder import load

            return load(str(folder))
        import transformers

        return getattr(transformers, exported.stock_class).from_pretrained(folder).eval()

    def tokenizer(self) -> Any:
        """The run's tokenizer, as transformers' `AutoTokenizer` loads it. Raises InputError if the data are no tokens."""
        if not self._run.manifest()["vocabulary"]:
            raise InputError(f"{self._run.folder} learned from {self.spec.data.modality.kind}, which has no tokenizer")
        folder, _ = self._exported(None)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)

    def sample(self, prompt: str = "", tokens: int = 200, temperature: float = 0.8, top_k: int = 50, seed: int = 0) -> str:
        """Continue a text with the newest weights; return both. Raises InputError."""
        from foundray.exports.generate import generate

        return generate(self._run, prompt, tokens, temperature, top_k, seed, None)

    def _exported(self, step: int | str | None) -> tuple[Path, Exported]:
        """A folder with the export of the checkpoint, which lives as long as this object."""
        check_extra("export")
        wanted = self.facts().checkpoint if step is None else self._run.checkpoint_step(step)
        if wanted not in self._exports:
            place = tempfile.TemporaryDirectory(prefix="foundray-")
            done = export(self._run, Store.at(Path(place.name) / "model"), wanted, {}, lambda line: None)
            self._exports[wanted] = place, done
        place, done = self._exports[wanted]
        return Path(place.name) / "model", done

    def _repr_html_(self) -> str:
        facts = self.facts()
        rows = {"objective": self.spec.objective.kind, **facts_of(facts)}
        for name in ("run", "worlds", "account", "damage", "init_from"):
            rows.pop(name, None)
        return table(self.folder, rows)
