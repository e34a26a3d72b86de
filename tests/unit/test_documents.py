"""The documents: that they agree with the code, and lead somewhere."""

import ast
import os
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from tests.repository import REPOSITORY

import foundray
from foundray.cli import VERBS, parser
from foundray.contract import MODALITIES, OBJECTIVES, installed
from foundray.evaluation.probes import load_task
from foundray.spec.arithmetic import ENGINE
from foundray.spec.loading import load_spec

NOT_OURS = {".git", ".venv", "runs", "data", "build", "dist"}
"""Top-level folders with files that are not the repository's."""
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[`~]* *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: *<?([^\s>]+)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
PROJECTS = ("Foundray", "LitGPT", "nanochat", "torchtitan", "LightlyTrain", "Composer", "Ray Train")
"""Columns of docs/comparison.md."""
PLACEHOLDERS = ("NAME", "VERB", "WORD")
"""Parts of paths in CONTRIBUTING.md that stand for files yet to be made."""

DOCUMENTS = [
    path
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if path != REPOSITORY / "docs" / "spec.md"
]
SHAKESPEARE = REPOSITORY / "examples" / "shakespeare" / "spec.yaml"


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
    elif block.startswith(("name:", "data: data/")):
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
    parser().parse_args(shlex.split(command)[1:])


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


def undefined_references(text: str) -> set[str]:
    """Names of links in the form [text][name] for which a page has no line `[name]: URL`."""
    prose = CODE.sub("", FENCE.sub("", text))
    return set(re.findall(r"\]\[([^\]]+)\]", prose)) - set(re.findall(r"^\[([^\]]+)\]:", prose, re.MULTILINE))


def test_references_are_defined() -> None:
    assert undefined_references("[a][one] [b][two]\n\n[one]: https://example.org\n") == {"two"}
    assert {path.name: missing for path in DOCUMENTS if (missing := undefined_references(path.read_text()))} == {}


def test_the_comparison_has_a_cell_for_every_project() -> None:
    """And names no verb that there is not."""
    text = (REPOSITORY / "docs" / "comparison.md").read_text()
    sections = text.split("\n## ")[2:]
    assert len(sections) > 5
    for section in sections:
        rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
        assert [name.strip() for name in rows[0]] == ["", *PROJECTS], section
        assert [row for row in rows if len(row) != len(rows[0]) or not all(cell.strip() for cell in row[1:])] == [], section
        ours = " ".join(row[1] for row in rows[2:])
        assert set(re.findall(r"`([a-z]+)(?: --[a-z-]+)?`", ours)) - {"send"} <= set(VERBS)


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


def test_the_changelog_knows_the_version_and_every_arithmetic_that_was_raised() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text and re.search(rf"^## \[?{re.escape(foundray.__version__)}\b", text, re.MULTILINE)
    (today,) = re.findall(r"The numbers\s+today: (.*?)\.\n", text, re.DOTALL)
    said = dict(re.findall(r"(?:modality|objective) `(\w+)` (\d+)", today))
    parts = {name: point for group in (MODALITIES, OBJECTIVES) for point in entry_points(group=group) for name in [point.name]}
    raised = {name: str(part.arithmetic) for name, point in parts.items() if (part := point.load()).arithmetic > 1}
    assert said == raised and f"the engine {ENGINE}," in today
