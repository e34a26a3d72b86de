"""The pages of the site: the repository's own Markdown, in folders as in the repository, so that its links lead there too.

A link to a folder leads to the page in it, or else to a list of its files' names; a file that a page links to comes along.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "SECURITY.md", "docs/**/*.md",
    "examples/*/README.md", "clusters/**/README.md", "dashboards/README.md",
)  # fmt: skip
LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
NESTED = re.compile(r"^( {2,8})(?=- )", re.MULTILINE)


def stage(target: Path) -> None:
    """Fill the folder `target` with the pages and what they link to."""
    shutil.rmtree(target, ignore_errors=True)
    pages = [page for pattern in PAGES for page in sorted(REPOSITORY.glob(pattern))]
    for page in pages:
        place = target / page.relative_to(REPOSITORY)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(prepared(page), encoding="utf-8")
        for file in linked(page):
            copy = target / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    shutil.copy(REPOSITORY / "website" / "iframe-worker.js", target)
    for folder in sorted({folder for page in pages for folder in folders(page)}):
        listed = sorted(child.name for child in folder.iterdir() if (child / "README.md").exists())
        links = "\n".join(f"- [{name}]({name}/README.md)" for name in listed)
        (target / folder.relative_to(REPOSITORY) / "README.md").write_text(f"# {folder.name.capitalize()}\n\n{links}\n")


def prepared(page: Path) -> str:
    """A page's text for Python-Markdown: links to folders end in their page, and nested lists are indented by four."""
    parts = FENCED.split(page.read_text(encoding="utf-8"))
    return "".join(part if part.startswith("```") else _prepared(page, part) for part in parts)


def _prepared(page: Path, text: str) -> str:
    def to_page(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2]
        return f"{path.rstrip('/')}/README.md{anchor}" if (page.parent / path).is_dir() else found[0]

    return NESTED.sub(lambda found: found[1] * 2, LINK.sub(to_page, text))


def targets(page: Path) -> Iterator[Path]:
    """What in the repository a page links to."""
    for path, _ in LINK.findall("".join(FENCED.split(page.read_text(encoding="utf-8"))[::2])):
        if (target := (page.parent / path).resolve()).exists():
            yield target


def linked(page: Path) -> list[Path]:
    """Files that are no pages."""
    return [target for target in targets(page) if target.is_file() and target.suffix != ".md"]


def folders(page: Path) -> list[Path]:
    """Folders without a page of their own."""
    return [target for target in targets(page) if target.is_dir() and not (target / "README.md").exists()]


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
