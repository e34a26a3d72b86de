"""The registry of optimizers: each kind can be made, and the example names them all."""

from __future__ import annotations

import pytest
from tests.repository import REPOSITORY

from foundray.spec.optimizers import KINDS
from foundray.training.step.optimizers.shard import state_tensors


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_names_a_function_and_types_that_exist(kind: str) -> None:
    assert callable(KINDS[kind].function())
    assert state_tensors(kind)


def test_the_example_names_every_kind() -> None:
    assert f"# {' | '.join(KINDS)}\n" in (REPOSITORY / "examples" / "shakespeare" / "spec.yaml").read_text()
