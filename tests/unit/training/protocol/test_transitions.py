"""The documents' tables of phases and stages say what the protocol holds."""

from __future__ import annotations

import ast
import inspect
import re

from tests.repository import REPOSITORY

from foundray.training.protocol import protocol
from foundray.training.protocol.messages import IDLE, TRANSITIONS, Phase
from foundray.training.protocol.stages import Stage

CONCEPTS = (REPOSITORY / "docs" / "concepts.md").read_text()


def rows(first: str) -> list[list[str]]:
    """The cells of the table in docs/concepts.md whose first column has this title."""
    _, _, rest = CONCEPTS.partition(f"\n| {first} |")
    lines = rest.splitlines()[2:]
    table = lines[: next(index for index, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_the_table_of_phases_is_the_protocols() -> None:
    found = {phase: words(following) for cell, following, _ in rows("phase") for phase in words(cell)}
    assert found == {str(phase): set(map(str, following)) for phase, following in TRANSITIONS.items()}
    assert all(why for _, _, why in rows("phase"))


def test_every_phase_has_a_row_and_an_idle_one_can_be_ordered() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for phase, following in TRANSITIONS.items() if Phase.RUNNING in following} == IDLE


def test_the_table_of_stages_is_the_protocols() -> None:
    found = {stage: text for cell, text in rows("stage") for stage in words(cell)}
    assert set(found) == set(map(str, Stage)) and all(found.values())


def test_every_stage_says_what_it_is() -> None:
    (definition,) = ast.parse(inspect.getsource(protocol.Stage)).body
    assert isinstance(definition, ast.ClassDef)
    kinds = [type(node) for node in definition.body]
    assert kinds == [ast.Assign, ast.Expr] * len(Stage)
