"""Further validation sets of a run: prepared beside its data, with the same tokenizer, and recorded in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.spec import SourceConfig, Spec, TokenizerConfig
from foundray.spec.evaluating import EvaluationSetConfig
from foundray.storage import Store

if TYPE_CHECKING:
    from foundray.data.stream.validation import ValidationSet

RECORD = "sets.json"
"""Folders of the prepared sets by name, in a run's folder: a later command finds them if the raw files are away."""
WHOLE = 1.0
"""Fraction of a set that is for validation."""


def check_sets(spec: Spec) -> None:
    """Raises InputError if a set's files are missing, or if the run's tokenizer cannot be used for it."""
    for name, chosen in spec.evaluate.others.items():
        if spec.data.modality.build().gives == "tokens" and spec.data.tokenizer.kind == "char":
            raise InputError(
                f"evaluate.sets.{name}: a tokenizer of the kind char knows only the characters of data.sources; with bytes, "
                "bpe or file a run can have further sets"
            )
        prepared_folder(_spec_of(spec, name, chosen, spec.data.tokenizer))


def prepare_sets(spec: Spec, run: Run, data: Prepared, report: Callable[[str], None]) -> list[ValidationSet]:
    """Prepare the sets that are not prepared yet. Needs Ray for these. Raises InputError."""
    file = run.folder / RECORD
    recorded: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    found = {name: _prepared(spec, name, data, recorded.get(name), report) for name in spec.evaluate.others}
    if found:
        file.write_text(json.dumps(recorded | {name: prepared.folder.url for name, prepared in found.items()}))
    return [_set(spec, name, prepared) for name, prepared in found.items()]


def _prepared(spec: Spec, name: str, data: Prepared, recorded: str | None, report: Callable[[str], None]) -> Prepared:
    of_set = _spec_of(spec, name, spec.evaluate.others[name], _same_tokenizer(spec, data))
    try:
        prepared = prepare(of_set, lambda line: report(f"evaluate.sets.{name}: {line}"))
    except InputError:
        if recorded is None:
            raise
        prepared = Prepared.open(Store.at(recorded))
    here, there = prepared.manifest, data.manifest
    if (here.vocabulary, here.document_id) != (there.vocabulary, there.document_id):
        raise InputError(f"evaluate.sets.{name}: {prepared.folder} has another tokenizer; delete it, and it is made again")
    return prepared


def _same_tokenizer(spec: Spec, data: Prepared) -> TokenizerConfig:
    """The tokenizer of the run's data: one that was trained on them as the file that it is."""
    if spec.data.tokenizer.kind != "bpe" or not data.manifest.vocabulary:
        return spec.data.tokenizer
    tokenizer = data.tokenizer()
    opener = tokenizer.engine.id_to_token(tokenizer.document_id)
    return TokenizerConfig(kind="file", path=(data.folder / "tokenizer.json").url, document_token=opener)


def _spec_of(spec: Spec, name: str, chosen: EvaluationSetConfig, tokenizer: TokenizerConfig) -> Spec:
    """A spec whose data are the set."""
    source = SourceConfig(path=str(chosen.path), format=chosen.format, field=chosen.field, documents=chosen.documents)
    data = spec.data.model_copy(update={"sources": [source], "tokenizer": tokenizer})
    return spec.model_copy(update={"name": f"{spec.name}-{name}", "data": data})


def _set(spec: Spec, name: str, prepared: Prepared) -> ValidationSet:
    from foundray.data.stream.plan import plan_for  # not above: a bad spec should be reported at once
    from foundray.data.stream.validation import ValidationSet

    of_set = _spec_of(spec, name, spec.evaluate.others[name], spec.data.tokenizer)
    plan = replace(plan_for(prepared, of_set), holdout=WHOLE)
    return ValidationSet(name, plan, plan.order().validation_samples, prepared.manifest.bytes_per_token())
