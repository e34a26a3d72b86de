"""Data prepared in this process: the same files as Ray Data makes, without the start of Ray."""

from __future__ import annotations

from foundray.contract import Values
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder, units_read
from foundray.data.prepare.shard import make_shard
from foundray.data.prepare.vocabulary import ensure_tokenizer
from foundray.spec import Spec


def prepare_here(spec: Spec) -> Prepared:
    """Prepare a spec's data; `prepare` finds all of its work done. Its tokenizer must not need training. Raises InputError."""
    folder, _, units = prepared_folder(spec)
    modality = spec.data.modality.build()
    cutter = modality if isinstance(modality, Values) else ensure_tokenizer(spec, folder, units)
    limits = Limits(spec.data.max_bad_rows, spec.data.max_bad_share)
    for unit in units:
        make_shard(folder.url, unit, spec.data.sources[unit.source], cutter, units_read(spec), limits)
    return prepare(spec)
