"""The parent of a warm start: found, and checked as far as possible before anything starts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundray.contract import Values
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.vocabulary import known_tokenizer
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.runs.run import Run, urls_of
from foundray.spec import InitFromConfig, Spec, flatten
from foundray.spec.arithmetic import differing
from foundray.storage import writing
from foundray.wording.sentences import taken_over

if TYPE_CHECKING:
    from foundray.training.warm_start.starting import Fit, Misfit, Weights


@dataclass(frozen=True)
class Start:
    """Another run's weights, from which a run starts."""

    spec: Spec
    """The run's spec, which names the weights by their hash."""
    parent: Run
    weights: Weights
    fit: Fit
    classes: int
    """The parent's ids are below this; 0 for values."""

    @property
    def place(self) -> InitFromConfig:
        assert self.spec.init_from
        return self.spec.init_from

    def summary(self) -> str:
        """A sentence that says what is taken from where."""
        changes = "".join(f"; {change}" for change in _remarks(self.parent.spec(), self.spec))
        fit = self.fit
        return taken_over(len(fit.taken), fit.parameters, str(self.place), fit.new) + changes

    def keep(self, run: Run) -> None:
        """Write the weights to the run's folder, so that it no longer needs its parent. Raises InputError."""
        from foundray.training.warm_start.starting import write_start

        write_start(run.folder, self.weights)

    def check_tokens(self, prepared: Prepared) -> None:
        """Raise InputError if the prepared data has other tokens."""
        if prepared.manifest.vocabulary:
            _check_tokens(self.parent, self.spec, prepared.tokenizer())


def find_start(spec: Spec) -> Start:
    """Find the weights for a run that has not begun. Needs no Ray.

    Raises InputError if the parent is no run, lacks the checkpoint, has other weights, or does not fit this spec's model.
    """
    from foundray.training.checkpoints.checkpoint import load_states
    from foundray.training.checkpoints.memory import in_files
    from foundray.training.warm_start.starting import MASTER, TEACHER

    assert spec.init_from
    parent = _open(spec, spec.init_from)
    theirs = parent.spec()
    classes = int(parent.manifest()["vocabulary"])
    if (classes > 0) == isinstance(spec.data.modality.build(), Values):
        raise InputError(
            f"init_from: {parent.folder} learned from {theirs.data.modality.kind}, and this run's data.modality is "
            f"{spec.data.modality.kind}: one reads tokens and the other values, so their weights do not fit"
        )
    if (mine := _known_tokens(spec)) and classes:
        _check_tokens(parent, spec, mine)
    both_teach = theirs.objective.build().teaches and spec.objective.build().teaches
    whose = (MASTER, TEACHER) if both_teach else (MASTER,)
    try:
        with tempfile.TemporaryDirectory() as folder, writing(folder):  # its files need no names any more once they are mapped
            room = in_files(Path(folder))
            step, weights, _ = load_states(parent.checkpoints, whose, spec.init_from.step, parent.lineage(), room)
    except InputError as error:
        raise InputError(f"init_from: {error}") from None
    settled = spec.model_copy(update={"init_from": _settled(spec.init_from, parent, step, weights)})
    return Start(settled, parent, weights, _check_fit(settled, theirs, weights, classes), classes)


def _open(spec: Spec, wanted: InitFromConfig) -> Run:
    check_not_itself(spec)
    try:
        parent = Run.open(wanted.run.rstrip("/"))
    except InputError as error:
        raise InputError(f"init_from: {error}") from None
    return parent


def check_not_itself(spec: Spec) -> None:
    """Raise InputError if a run should start from its own weights."""
    if spec.init_from and Run.named(spec).folder.url in urls_of(spec.init_from.run):
        raise InputError(f"init_from: {spec.init_from.run} is this run itself; give this one another name")


def _settled(wanted: InitFromConfig, parent: Run, step: int, weights: Weights) -> InitFromConfig:
    """Add the hashes of the weights that were found. Raises InputError if the spec names others."""
    from foundray.training.checkpoints.checkpoint import sha256_of
    from foundray.training.warm_start.starting import MASTER, TEACHER

    found = InitFromConfig(
        run=parent.folder.url,
        step=step,
        weights_sha256=sha256_of(weights[MASTER]),
        teacher_sha256=sha256_of(weights[TEACHER]) if TEACHER in weights else None,
    )
    for name in ("weights_sha256", "teacher_sha256"):
        if (given := getattr(wanted, name)) and given != (have := getattr(found, name)):
            its = f"is {have}" if have else "is none, since not both runs have a teacher"
            raise InputError(
                f"init_from.{name}: that of {found} {its}, not {given}; name the step that has it, or leave the hash out"
            )
    return found


# What must agree


def _known_tokens(spec: Spec) -> Tokenizer | None:
    """The tokenizer of the spec's data; None if it is not known before they are prepared."""
    folder, _, _ = prepared_folder(spec)
    if isinstance(spec.data.modality.build(), Values):
        return None
    return Prepared.open(folder).tokenizer() if (folder / "manifest.json").exists() else known_tokenizer(spec)


def _check_tokens(parent: Run, spec: Spec, mine: Tokenizer) -> None:
    file = parent.folder / "tokenizer.json"
    theirs = Tokenizer.from_json(file.read_text(), parent.manifest()["document_id"])
    if theirs.to_json() == mine.to_json() and theirs.document_id == mine.document_id:
        return
    opener = theirs.engine.id_to_token(theirs.document_id)
    named = f", document_token: {json.dumps(opener)}" if theirs.to_json() == mine.to_json() else ""
    there, here = parent.spec().data.modality.kind, spec.data.modality.kind
    right = f"set data.tokenizer: {{kind: file, path: {file}{named}}}"
    if there != here:
        right = f"its data.modality is {there}, and this one's {here}"
    raise InputError(f"init_from: {parent.folder} was trained on other tokens, so its weights say nothing about these; {right}")


def _check_fit(spec: Spec, theirs: Spec, weights: Weights, classes: int) -> Fit:
    """Raise InputError if the weights do not fit, or would compute something else."""
    import torch

    from foundray.model.model import Model
    from foundray.training.warm_start.starting import MASTER, fit_of

    with torch.device("meta"):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(classes))
    fit = fit_of(model, {name: list(tensor.shape) for name, tensor in weights[MASTER].items()}, classes)
    others = _function(theirs)
    changed = {name: others[name] for name, value in _function(spec).items() if others.get(name) != value}
    if not (fit.misfits or changed):
        return fit
    if theirs.model.hidden == spec.model.hidden:  # it follows from the width
        changed.pop("hidden", None)
    which = f"{_phrase(fit.misfits[0])}" if fit.misfits else "the same weights would compute something else"
    if changed:
        right = "set " + ", ".join(f"model.{name}: {json.dumps(value)}" for name, value in changed.items()) + " as there"
    else:
        right = f"its data are {_data(theirs)}, and these {_data(spec)}"
    raise InputError(f"init_from: {which} ({spec.init_from}): {right}")


def _function(spec: Spec) -> dict[str, Any]:
    """The fields of `model` that decide what a backbone computes with given weights.

    Its reach (context, rope_theta) may change, for a run that continues with longer texts.
    """
    model = spec.model
    free = {"context", "rope_theta", "predictor", "base_width", "base_depth"}
    fields = flatten(model.model_dump(mode="json", exclude=free)) | {"hidden": model.hidden_width}
    # CompleteP scales outputs and branches by the ratio of the model to its base.
    bases = {"base_width": (model.width_mult, model.base_width), "base_depth": (model.depth_mult, model.base_depth)}
    return fields | {name: given if times != 1 else None for name, (times, given) in bases.items()}


def _remarks(theirs: Spec, spec: Spec) -> Iterator[str]:
    """Differences that are allowed."""
    for name, there, here in (
        ("objective", theirs.objective.kind, spec.objective.kind),
        ("data.modality", theirs.data.modality.kind, spec.data.modality.kind),
        ("model.rope_theta", theirs.model.rope_theta, spec.model.rope_theta),
    ):
        if there != here:
            yield f"{name} was {there} there and is {here}"
    if begun := differing(theirs.arithmetic, theirs):
        yield f"it was begun with {begun}"


def _phrase(misfit: Misfit) -> str:
    there, here = (f"[{', '.join(map(str, shape))}]" if shape else "missing" for shape in (misfit.there, misfit.here))
    return f"{misfit.name} is {there} there and {here} here"


def _data(spec: Spec) -> str:
    shape = spec.unit_shape(1)
    return f"{spec.data.modality.kind}, {'tokens' if shape.classes else f'{shape.width} values a unit'}"
