"""The shape of the repository, and the cost of importing it."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from tests.repository import REPOSITORY

import foundray
from foundray.contract import OBJECTIVES, installed
from foundray.evaluation.probes import load_task
from foundray.spec.loading import load_spec

FILES = (
    "ARCHITECTURE.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md",
    ".ci/run", ".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml", ".github/pull_request_template.md",
    ".github/workflows/ci.yml", ".pre-commit-config.yaml",
)  # fmt: skip


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_standing_in_the_repository_does_not_shadow_the_standard_library() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.python_implementation())") in ("CPython", "PyPy")


def imported(file: Path, root: Path) -> list[str]:
    """What a file imports, anywhere in it, with the module that it is from; `root` is the folder of the top packages."""
    names, package = [], file.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*above, node.module] if node.module else above
            names += [".".join([*module, alias.name]) for alias in node.names]
    return names


def test_objectives_and_modalities_import_nothing_of_the_engine_but_its_contract() -> None:
    """This is an allowlist, so a package added to the engine is refused too."""
    for file in sorted((root := REPOSITORY / "objectives").rglob("*.py")):
        of_engine = [name for name in imported(file, root) if name.split(".")[0] == "foundray"]
        assert all(name.split(".")[:2] == ["foundray", "contract"] for name in of_engine), f"{file}: {of_engine}"


def of_tests(names: list[str]) -> list[str]:
    """Those that are in a test module or a `conftest`, which pytest loads, and no module should."""
    return [name for name in names if re.match(r"tests\.(.+\.)?(test_|conftest\b)", name)]


def test_tests_import_nothing_from_each_other() -> None:
    """What they share is in `foundray.testing` and in plain modules; fixtures are pytest's to find."""
    files = (REPOSITORY / "tests").rglob("*.py")
    assert not {str(file): names for file in files if (names := of_tests(imported(file, REPOSITORY)))}


def test_an_import_from_a_test_is_found(tmp_path: Path) -> None:
    wrong = [
        "import tests.unit.test_house", "from tests.unit.test_house import FILES", "from tests import conftest",
        "from . import test_house", "from .test_house import FILES", "from .. import conftest", "from ..gpu.test_step import X",
    ]  # fmt: skip
    right = ["from tests.unit.files import archive", "import pytest", "from . import files", "from .files import archive"]
    (folder := tmp_path / "tests" / "unit").mkdir(parents=True)
    (file := folder / "module.py").write_text("\n".join([*right, "def inside():", *(f"    {line}" for line in wrong)]))
    assert of_tests(imported(file, tmp_path)) == [
        "tests.unit.test_house", "tests.unit.test_house.FILES", "tests.conftest",
        "tests.unit.test_house", "tests.unit.test_house.FILES", "tests.conftest", "tests.gpu.test_step.X",
    ]  # fmt: skip


def test_tensorboards_curves_import_no_torch(tmp_path: Path) -> None:
    """Importing torch would cost seconds of the driver's CPU time at the start of every run."""
    curves = f"Curves(Run(Store.at({str(tmp_path)!r})), [])"
    code = "from foundray.training.telemetry.curves import Curves; from foundray.runs.run import Run"
    code = f"import sys; {code}; from foundray.storage import Store; {curves}.close(); print('torch' in sys.modules)"
    assert python(code) == "False"


def test_objectives_are_found_by_entry_point() -> None:
    assert "next_token" in installed(OBJECTIVES)


def test_every_example_is_whole() -> None:
    """It has a README, and readable specs and tasks."""
    for folder in (REPOSITORY / "examples").iterdir():
        assert (folder / "README.md").exists(), folder
        for file in folder.glob("*.yaml"):
            if "task" in file.stem:
                load_task(file)
            elif file.name != "data.yaml":
                load_spec(file)


@pytest.mark.parametrize("name", FILES)
def test_the_projects_files_are_there(name: str) -> None:
    assert (REPOSITORY / name).stat().st_size > 0


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "foundray.__version__"}
    assert version("foundray") == foundray.__version__
    tags = {tag for file in (REPOSITORY / "clusters").rglob("*") if file.is_file() for tag in image_tags(file.read_text())}
    assert tags == {foundray.__version__}


def image_tags(text: str) -> list[str]:
    return re.findall(r"\bfoundray:(\d[\d.]*\d)", text)


def test_the_hooks_are_the_checks_of_the_makefile() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"], "nothing is downloaded"
    entries = [hook["entry"].removeprefix(".venv/bin/") for repository in hooks for hook in repository["hooks"]]
    (rule,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert entries == re.findall(r"\$\(BIN\)/(.+)", rule)


def test_coverage_runs_the_unit_tests_alone_and_measures_the_packages_alone(tmp_path: Path) -> None:
    """`--cov` takes the word after it as what to measure, so pytest itself reads the command here."""
    (command,) = re.findall(r"^coverage:.*\n\t\$\(BIN\)/pytest (.+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    code = f"""
import pytest
class Reader:
    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config):
        print(config.args, config.getoption("cov_source"))
        return 0
pytest.main({shlex.split(command)!r}, plugins=[Reader()])
"""
    assert python(code, COVERAGE_FILE=str(tmp_path / "coverage")) == "['tests/unit'] [True]"
    measured = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source_pkgs"]
    assert measured == ["foundray", "foundray_modalities", "foundray_objectives"]


def test_the_makefile_knows_all_tests_that_run_alone() -> None:
    """It names their files, so that it need not import all tests once more to find them."""
    (line,) = re.findall(r"^ALONE := (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = [REPOSITORY / place for place in line.split()]
    assert all(place.exists() for place in named)
    marked = [file for file in (REPOSITORY / "tests").rglob("*.py") if re.search(r"\bmark\.alone\b", file.read_text())]
    assert marked and not [file for file in marked if not any(file.is_relative_to(place) for place in named)]


def test_what_the_makefile_starts_keeps_what_python_compiles() -> None:
    """Packages are installed without compiling, so every process of a run would compile what it imports once more."""
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "--no-compile" in makefile and re.search(r"^export PYTHONDONTWRITEBYTECODE :=$", makefile, re.MULTILINE)


def test_the_hosted_workflow_runs_what_anyone_can_run_once() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands == {"run": [".ci/run"], "coverage": ["make coverage"]}
    assert re.search(r"^coverage:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for form in ("bug", "feature"):
        fields = yaml.safe_load((REPOSITORY / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
        assert {"name", "description", "body"} <= set(fields)
