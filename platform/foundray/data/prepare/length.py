"""How many steps a run takes whose length is given in passes over its data."""

from __future__ import annotations

from foundray.data.prepare.manifest import Manifest, Prepared
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.spec.length import with_epochs


def training_samples(spec: Spec, manifest: Manifest) -> int:
    """Samples of the training splits of all sources."""
    return sum(manifest.split(source, spec.data.holdout)[0] for source in range(len(spec.data.sources)))


def in_steps(spec: Spec, manifest: Manifest) -> Spec:
    """The spec with its length in steps, by its prepared data. Raises InputError if its schedule does not fit."""
    return with_epochs(spec, training_samples(spec, manifest)) if spec.train.epochs else spec


def known_in_steps(spec: Spec) -> Spec:
    """The same, for a command that prepares nothing. Raises InputError if the data are needed and not prepared yet."""
    if spec.train.epochs is None:
        return spec
    folder, _, _ = prepared_folder(spec)
    if not (folder / "manifest.json").exists():
        raise InputError(
            f"train.epochs: how many steps {spec.train.epochs:g} are follows from the data, which are not prepared yet: run "
            "`foundray prepare` first, or give train.steps"
        )
    return in_steps(spec, Prepared.open(folder).manifest)
