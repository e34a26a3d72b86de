"""The shape of the repository, and what importing it costs."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.conftest import REPOSITORY

from foundray.cli import clusters, outcomes, planning, runs, searching, submitting, vectors, watching
from foundray.cli.parsing import Verbs
from foundray.contract import OBJECTIVES, installed
from foundray.loading import load_spec
from foundray.probing import load_task

DOCUMENTS = [
    path
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if path != REPOSITORY / "docs" / "spec.md"
]
SHAKESPEARE = REPOSITORY / "examples" / "shakespeare" / "spec.yaml"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_standing_in_the_repository_does_not_shadow_the_standard_library() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.python_implementation())") in ("CPython", "PyPy")


@pytest.mark.parametrize(
    "code", ["import foundray", "from foundray.cli import main\ntry:\n main(['--help'])\nexcept SystemExit: pass"]
)
def test_import_and_help_load_neither_torch_nor_ray(code: str) -> None:
    loaded = python(f"import sys\n{code}\nprint([m for m in ('torch', 'ray', 'pyarrow', 'pydantic') if m in sys.modules])")
    assert loaded.splitlines()[-1] == "[]"


def test_the_driver_does_not_import_ray_before_it_knows_the_clusters_token() -> None:
    """Which Ray reads once, when it is imported."""
    assert python("import sys, foundray.training.driver; print('ray' in sys.modules)") == "False"


def test_tensorboards_curves_import_no_torch(tmp_path: Path) -> None:
    """Seconds of the driver's processor, at the start of every run."""
    curves = f"Curves(Run(Store.at({str(tmp_path)!r})), [])"
    code = "from foundray.training.curves import Curves; from foundray.run import Run; from foundray.storage import Store"
    assert python(f"import sys; {code}; {curves}.close(); print('torch' in sys.modules)") == "False"


def test_objectives_are_found_by_entry_point() -> None:
    assert "next_token" in installed(OBJECTIVES)


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_example_is_whole() -> None:
    """A README, and specs and tasks that can be read."""
    for folder in (REPOSITORY / "examples").iterdir():
        assert (folder / "README.md").exists(), folder
        for file in folder.glob("*.yaml"):
            if "task" in file.stem:
                load_task(file)
            elif file.name != "data.yaml":
                load_spec(file)


def test_getting_started_shows_the_example_as_it_is() -> None:
    assert SHAKESPEARE.read_text() in (REPOSITORY / "docs" / "getting-started.md").read_text()


def shown(kind: str) -> list[str]:
    """The blocks of this kind in README and docs."""
    return [block for path in DOCUMENTS for block in re.findall(rf"```{kind}\n(.*?)```", path.read_text(), re.DOTALL)]


@pytest.mark.parametrize("block", shown("yaml"))
def test_specs_and_tasks_in_the_documents_can_be_read(block: str, tmp_path: Path) -> None:
    """A spec, a task, or a part of a spec, which is put into an example."""
    file = tmp_path / "shown.yaml"
    file.write_text(block)
    if block.startswith("kind:"):
        load_task(file)
    elif block.startswith("name:"):
        load_spec(file)
    else:
        file.write_text(yaml.safe_dump(yaml.safe_load(SHAKESPEARE.read_text()) | yaml.safe_load(block)))
        load_spec(file)


def commands() -> list[str]:
    """Indented lines of README and docs that call `foundray`, each command once."""
    lines = [line for path in DOCUMENTS for line in re.findall(r"^    (.*foundray .*)$", path.read_text(), re.MULTILINE)]
    parts = [part.strip() for line in lines for part in line.split("#")[0].split(";")]
    return list(dict.fromkeys(part for part in parts if part.startswith("foundray ")))


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_commands(command: str) -> None:
    """Their verbs and flags exist; other tests run them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    verbs = Verbs(parser)
    for part in (planning, runs, submitting, watching, searching, outcomes, vectors, clusters):
        part.add_to(verbs)
    parser.parse_args(shlex.split(command)[1:])


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 180
