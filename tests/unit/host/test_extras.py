"""Packages that only some verbs need: a missing one is one sentence, and the extras of pyproject.toml install them."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions

import pytest
from tests.repository import REPOSITORY

import foundray
from foundray.errors import InputError
from foundray.host import extras


def test_every_extra_installs_the_modules_that_it_is_asked_for() -> None:
    written = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = packages_distributions()
    for name, modules in extras.EXTRAS.items():
        packages = {re.split(r"[<>=]", requirement)[0] for requirement in written[name]}
        assert packages >= {next(iter(installed[module])).lower() for module in modules}, name
        assert name in written["all"][0]


@pytest.mark.parametrize(
    ("extra", "verb"),
    [
        ("report", lambda: foundray.report(["x"])),
        ("probe", lambda: foundray.probe("x", "y")),
        ("export", lambda: foundray.export("x", "y")),
        ("embed", lambda: foundray.embed("x", "y", "z")),
        ("embed", lambda: foundray.search("x", "y")),
    ],
)
def test_a_verb_names_the_extra_that_it_misses(extra: str, verb, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=rf"^this needs the package {extras.EXTRAS[extra][0]}, .*'foundray\[{extra}\]'$"):
        verb()
