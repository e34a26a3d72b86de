"""The shape of the repository, and the cost of importing it."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from tests.repository import REPOSITORY

import foundray
from foundray.cli import VERBS, _parser
from foundray.contract import MODALITIES, OBJECTIVES, installed
from foundray.evaluation.probes import load_task
from foundray.spec.arithmetic import ENGINE
from foundray.spec.loading import load_spec

FILES = (
    "ARCHITECTURE.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md",
    ".ci/run", ".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml", ".github/pull_request_template.md",
    ".github/workflows/ci.yml", ".pre-commit-config.yaml",
)  # fmt: skip
NOT_OURS = {".git", ".venv", "runs", "data", "build", "dist"}
"""Top-level folders with files that are not the repository's."""
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[`~]* *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: *<?([^\s>]+)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
PLACEHOLDERS = ("NAME", "VERB", "WORD")
"""Parts of paths in CONTRIBUTING.md that stand for files yet to be made."""

DOCUMENTS = [
    path
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if path != REPOSITORY / "docs" / "spec.md"
]
SHAKESPEARE = REPOSITORY / "examples" / "shakespeare" / "spec.yaml"


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=True)
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
    """Ray reads the token once, when it is imported."""
    assert python("import sys, foundray.training.driver; print('ray' in sys.modules)") == "False"


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


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_example_is_whole() -> None:
    """It has a README, and readable specs and tasks."""
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
    """Code blocks of this kind in README and docs."""
    return [block for path in DOCUMENTS for block in re.findall(rf"```{kind}\n(.*?)```", path.read_text(), re.DOTALL)]


@pytest.mark.parametrize("block", shown("yaml"))
def test_specs_and_tasks_in_the_documents_can_be_read(block: str, tmp_path: Path) -> None:
    """Each is a spec, a task, or a part of a spec, which is inserted into an example."""
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
    """Indented lines in README and docs that call `foundray`, each command once."""
    lines = [line for path in DOCUMENTS for line in re.findall(r"^    (.*foundray .*)$", path.read_text(), re.MULTILINE)]
    parts = [part.strip() for line in lines for part in line.split("#")[0].split(";")]
    return list(dict.fromkeys(part for part in parts if part.startswith("foundray ")))


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_commands(command: str) -> None:
    """Their verbs and flags exist; other tests run them."""
    _parser().parse_args(shlex.split(command)[1:])


def test_every_verb_is_listed_and_documented() -> None:
    folder = REPOSITORY / "platform" / "foundray" / "cli"
    assert {file.stem for file in folder.glob("*.py") if "\ndef add_to(" in file.read_text()} == set(VERBS)
    documented = re.findall(r"`foundray (\w+)", (REPOSITORY / "docs" / "commands.md").read_text())
    assert set(VERBS) <= set(documented)


def in_table(text: str) -> tuple[list[str], list[str]]:
    """Modalities and objectives in the table of docs/objectives.md: what is code in its first and in its last column."""
    rows = [line.strip("|").split("|") for line in text.partition("\n|---")[2].splitlines()[1:] if line.startswith("|")]
    modalities, objectives = (re.findall(r"`(.+?)`", " ".join(row[column] for row in rows)) for column in (0, -1))
    kinds = [written["kind"] if isinstance(written := yaml.safe_load(code), dict) else written for code in modalities]
    return sorted(kinds), sorted(objectives)


def test_every_objective_and_modality_is_documented() -> None:
    assert in_table((REPOSITORY / "docs" / "objectives.md").read_text()) == (installed(MODALITIES), installed(OBJECTIVES))


def test_only_the_table_documents_an_objective() -> None:
    """Not a word elsewhere, nor one that is not code."""
    rows = "| `text` | | `next_token` |\n| `{kind: image, size: 28}` | `idx` | the same, `vicreg` (not masked_pixel) |\n"
    text = f"`joint_embedding`\n\n| `data.modality` | made of | `objective` |\n|---|---|---|\n{rows}\nOr `contrastive`.\n"
    assert in_table(text) == (["image", "text"], ["next_token", "vicreg"])


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 180


@pytest.mark.parametrize("name", FILES)
def test_the_projects_files_are_there(name: str) -> None:
    assert (REPOSITORY / name).stat().st_size > 0


def markdown_files(root: Path) -> list[Path]:
    """All Markdown files of a repository, hidden folders included."""
    found = []
    for folder, folders, files in os.walk(root):
        skipped = NOT_OURS if Path(folder) == root else set()
        folders[:] = [name for name in folders if name not in skipped and not name.endswith("_cache")]
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(found)


def anchors(text: str) -> set[str]:
    """Anchors of a page: its headings, in GitHub's form, and `id`s."""
    seen: dict[str, int] = {}
    titles = re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", FENCE.sub("", text), re.MULTILINE)
    for title in titles:
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        seen[name] = seen.get(name, -1) + 1
        if seen[name]:
            seen[f"{name}-{seen[name]}"] = 0
    return set(seen) | set(re.findall(r"\bid=\"([^\"]+)\"", text))


def broken_links(root: Path) -> Iterator[str]:
    """Describe each broken link between files of a repository. External links are not followed."""
    texts = {file: file.read_text(encoding="utf-8") for file in markdown_files(root)}
    for file, text in texts.items():
        prose = CODE.sub("", FENCE.sub("", text))
        for target in (found for form in (LINK, IMAGE, REFERENCE, HTML) for found in form.findall(prose)):
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE):
                continue
            path, _, anchor = unquote(target).partition("#")
            there = (root / path[1:] if path.startswith("/") else file.parent / path).resolve() if path else file
            where = f"{file.relative_to(root)}: {target}"
            if not there.exists() or not there.is_relative_to(root.resolve()):
                yield f"{where}: there is no such file"
            elif anchor and anchor not in anchors(texts.get(there, "")):
                yield f"{where}: there is no such heading"


def test_links_between_pages_lead_somewhere() -> None:
    assert len(markdown_files(REPOSITORY)) > 20
    assert list(broken_links(REPOSITORY)) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# A title, `code` & more\n## Twice\n## Twice\n```sh\n# no title\n```\n")
    (tmp_path / "page.md").write_text(
        "[a](docs/other.md#a-title-code--more) [b](docs/other.md#twice-1) [c](#own) [d](https://example.com/none) [e](docs)\n"
        "`[f](none-in-code.md)`\n```\n[g](none-in-a-block.md)\n```\n# Own\n"
        "[h](none.md) [i](docs/other.md#twice-2) [j](#none) ![k](none.png) [l](docs/other.md#no-title) [m](../)\n"
        "[![n](none.svg)](docs/none.md)\n\n[o]: none-by-reference.md\n"
    )
    found = [line.split(": ")[1] for line in broken_links(tmp_path)]
    assert sorted(found) == sorted([
        "none.md", "docs/other.md#twice-2", "#none", "none.png", "docs/other.md#no-title", "../", "none.svg", "docs/none.md",
        "none-by-reference.md",
    ])  # fmt: skip


def named_in_contributing() -> Iterator[tuple[str, str]]:
    """(path, what is to be touched there) of each row of the recipes, and (path, "") of each that the text names."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for path, touch in re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE):
        yield path, touch
    for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text):
        yield path, ""


def test_the_recipes_of_contributing_name_files_and_what_is_in_them() -> None:
    rows = [(path, touch) for path, touch in named_in_contributing() if not any(word in path for word in PLACEHOLDERS)]
    assert len([touch for _, touch in rows if touch]) > 30
    for path, touch in rows:
        assert (REPOSITORY / path).exists(), path
        if (REPOSITORY / path).suffix == ".py":
            code = (REPOSITORY / path).read_text()
            names = [name for name in re.findall(r"`([A-Za-z_]\w*)`", touch) if not re.search(rf"\b{name}\b", code)]
            assert not names, f"{path} has no {', '.join(names)}"


def test_the_table_of_recipes_counts_their_files() -> None:
    start, *sections = re.split(r"^## Add an? ", (REPOSITORY / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    counts = dict(re.findall(r"^\| \[([a-z ]+)\]\(#add.*?\| (\d+)", "".join([start, *sections]), re.MULTILINE))
    rows = {section.splitlines()[0]: re.findall(r"^\| `(?!examples/NAME)", section, re.MULTILINE) for section in sections}
    assert {"objective", "modality", "data format", "optimizer", "verb", "metric"} <= counts.keys()
    assert counts == {recipe: str(len(rows[recipe])) for recipe in counts}


def listed(path: Path) -> set[str]:
    """The functions of a module, and its classes with their methods, as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


def steps_of_tours(text: str) -> list[tuple[str, str]]:
    """(file, function) of each step of a tour."""
    return re.findall(r"^ *\d+\. +`([\w/]+\.py):([\w.]+)` ", text, re.MULTILINE)


@pytest.mark.parametrize("tour", ["micro-batch", "gradient", "checkpoint", "lost-node"])
def test_the_steps_of_a_tour_are_functions_of_the_code(tour: str) -> None:
    text = (REPOSITORY / "docs" / "tours" / f"{tour}.md").read_text()
    steps = steps_of_tours(text)
    assert len(steps) == len(re.findall(r"^ *\d+\. ", text, re.MULTILINE)) > 9
    assert [f"{file}:{name}" for file, name in steps if name not in listed(REPOSITORY / file)] == []


def test_a_step_of_a_tour_that_names_no_function_is_found() -> None:
    ((file, name),) = steps_of_tours("1. `platform/foundray/training/step/blocks.py:no_such_function` does nothing.\n")
    assert name not in listed(REPOSITORY / file) and "shard_bounds" in listed(REPOSITORY / file)


def test_the_modules_in_the_architectures_table_are_there() -> None:
    rows = re.findall(r"^\| (.*?) \| (.*?) \| .* \|$", (REPOSITORY / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    engine, folders, found = REPOSITORY / "platform" / "foundray", [""], 0
    for place, modules in rows[rows.index(("folder", "modules")) + 1 :]:
        folders = re.findall(r"`([^`]+)`", place) or [""] if place else folders
        for folder in folders:
            assert (engine / folder).is_dir(), folder
        for module in re.findall(r"`(\w+)`", modules):
            found += 1
            at = engine / folders[0] / module
            assert at.is_dir() or at.with_suffix(".py").exists(), at
    assert found > 100


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "foundray.__version__"}
    assert version("foundray") == foundray.__version__
    tags = {tag for file in (REPOSITORY / "clusters").rglob("*") if file.is_file() for tag in image_tags(file.read_text())}
    assert tags == {foundray.__version__}


def image_tags(text: str) -> list[str]:
    return re.findall(r"\bfoundray:(\d[\d.]*\d)", text)


def test_the_changelog_knows_the_version_and_every_arithmetic_that_was_raised() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text and re.search(rf"^## \[?{re.escape(foundray.__version__)}\b", text, re.MULTILINE)
    (today,) = re.findall(r"The numbers\s+today: (.*?)\.\n", text, re.DOTALL)
    said = dict(re.findall(r"(?:modality|objective) `(\w+)` (\d+)", today))
    parts = {name: point for group in (MODALITIES, OBJECTIVES) for point in entry_points(group=group) for name in [point.name]}
    raised = {name: str(part.arithmetic) for name, point in parts.items() if (part := point.load()).arithmetic > 1}
    assert said == raised and f"the engine {ENGINE}," in today


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


def test_the_hosted_workflow_runs_what_anyone_can_run_once() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands == {"run": [".ci/run"], "coverage": ["make coverage"]}
    assert re.search(r"^coverage:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for form in ("bug", "feature"):
        fields = yaml.safe_load((REPOSITORY / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
        assert {"name", "description", "body"} <= set(fields)
