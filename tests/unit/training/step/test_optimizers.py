"""The table of optimizers: the spec names the same kinds, each can be made, and others are refused."""

from __future__ import annotations

import pkgutil
from typing import get_args

import pytest

from foundray.errors import InputError
from foundray.spec import OptimizerConfig
from foundray.training.step.optimizers.registry import KINDS, optimizer_kind
from foundray.training.step.optimizers.shard import state_tensors


def test_the_spec_names_the_kinds_of_the_table() -> None:
    assert set(get_args(OptimizerConfig.model_fields["kind"].annotation)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_names_a_function_and_types_that_exist(kind: str) -> None:
    assert callable(pkgutil.resolve_name(KINDS[kind].maker))
    assert state_tensors(kind)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="no optimizer 'sgd'; the kinds are adamw8bit, adamw, lion8bit"):
        optimizer_kind("sgd")
