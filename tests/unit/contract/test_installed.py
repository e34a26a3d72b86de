"""Objectives and modalities of other packages: one that does not work here is one sentence, and harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from torch import Tensor

from foundray import contract
from foundray.contract import OBJECTIVES, load_objective, pairs
from foundray.errors import InputError
from foundray_objectives.next_token import NextToken

OLD = {
    "asks": "from foundray.contract import Ask",
    "hides": "from typing import ClassVar\nfrom foundray_objectives.next_token import NextToken\n"
    "class Objective(NextToken):\n    hides: ClassVar[bool] = True",
}
"""Modules written for the contract before this one, by the name that it no longer has."""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    honest = contract.entry_points
    points = [EntryPoint(name, f"plugin_{name}:Objective", OBJECTIVES) for name in OLD]
    for name, text in OLD.items():
        (tmp_path / f"plugin_{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        contract, "entry_points", lambda group: EntryPoints([*honest(group=group), *(points if group == OBJECTIVES else ())])
    )
    contract.class_of.cache_clear()
    yield
    contract.class_of.cache_clear()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("asks", r"^asks of the package plugin_asks cannot be imported \(cannot import name 'Ask' .*CHANGELOG"),
        ("hides", r"^hides of the package plugin_hides defines hides, which is masks now: .* contract 2 calls otherwise$"),
    ],
)
def test_one_of_an_earlier_contract_is_refused_in_one_sentence(plugins: None, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_objective(name, {})


def test_the_others_work_as_before(plugins: None) -> None:
    assert "next_token" in pairs()["text"]
    assert not {"asks", "hides"} & {objective for objectives in pairs().values() for objective in objectives}
    assert load_objective("next_token", {}).heads


def test_a_loss_of_its_own_is_not_taken_for_a_sum_over_units() -> None:
    class Other(NextToken):
        def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
            return prediction.square().mean() * loss_mask.sum(), loss_mask.sum()

    class Declared(Other):
        separable = True

    class Renamed(NextToken):
        pass

    assert [one.separable for one in (NextToken, Other, Declared, Renamed)] == [True, False, True, True]
