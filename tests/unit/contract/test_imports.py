"""Cost of importing the contract, for a third party's package."""

import subprocess
import sys
from importlib import resources
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.repository import REPOSITORY

from foundray import contract

ROOTS = {"numpy", "pydantic"}
LISTING = """
import sys
before = set(sys.modules)
import foundray.contract
new = [name for name in sys.modules.keys() - before if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")]
print(*sorted({name.partition(".")[0] for name in new}))
"""
"""Script that prints the packages outside the standard library that the import loads."""


def with_requirements(names: set[str]) -> set[str]:
    """The distributions, and everything that they require without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := canonicalize_name(waiting.pop())) not in found:
            found.add(name)
            needed = [Requirement(line) for line in requires(name) or []]
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_importing_the_contract_needs_numpy_and_pydantic_alone() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    packages = set(done.stdout.split()) - {"foundray"}
    distributions = packages_distributions()
    found = {canonicalize_name(one) for name in packages for one in distributions.get(name, [name])}
    assert packages >= ROOTS
    assert found <= with_requirements(ROOTS)


def test_the_contract_is_typed_and_has_a_version() -> None:
    assert resources.files(contract).joinpath("py.typed").is_file()
    assert isinstance(contract.CONTRACT, int)
