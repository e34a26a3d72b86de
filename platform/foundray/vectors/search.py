"""Nearest rows in a folder of vectors, to a text, a file's first row, or a row of the folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foundray.contract import Plan, Units
from foundray.data.files.files import RawFile
from foundray.data.prepare.sources import BadRow
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.vectors.blocks import parts
from foundray.vectors.kinds import source_of
from foundray.vectors.recipe import INDEX, Complete, Recipe
from foundray.vectors.shards import table_of, vectors_of
from foundray.wording.shown import Shown

if TYPE_CHECKING:
    from foundray.vectors.index import Index, Metric


@dataclass(frozen=True)
class Hit(Shown):
    """A row that a search found."""

    id: str
    score: float
    """Cosine of the angle to the query if vectors have length one; otherwise the distance."""
    source: str
    """URL of its file."""
    position: str
    """Position in the file."""
    text: str | None
    """The text of the row, for text."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Searcher:
    """A folder of vectors, held open for many queries."""

    def __init__(self, out: str, run: str | None = None):
        """Raises InputError if the folder is not complete."""
        self.folder = Store.at(out)
        recipe = Recipe.of(self.folder) if self.folder.exists() else None
        if recipe is None:
            raise InputError(f"{self.folder} holds no vectors: make them by `foundray embed RUN DATA {out}`")
        self.recipe, self.run = recipe, run or recipe.run
        complete = Complete.of(self.folder)
        if complete is None:
            command = f"foundray embed {recipe.run} {recipe.source.path} {self.folder}"
            raise InputError(f"{self.folder} is not complete: continue with `{command}` and the same flags")
        self.complete = complete
        self.metric: Metric = "cosine" if complete.metric == "cosine" else "distance"
        self._index: Index | None = None
        self._embedder: Any = None

    @property
    def index(self) -> Index:
        if self._index is None:
            from foundray.vectors.index import Index

            index = Index.load(self.folder / INDEX, self.complete.index_sha256)
            if index.vectors.shape != (sum(rows for _, rows in self.complete.shards), self.recipe.width):
                raise InputError(
                    f"{self.folder / INDEX} is of other vectors; delete it, and the same `foundray embed` makes it again"
                )
            self._index = index
        return self._index

    def search(self, query: str | None = None, like: str | None = None, top: int = 10) -> list[Hit]:
        """The rows nearest to a query, the nearest first: a text, or of values a file; or those like a row by its id.

        Raises InputError.
        """
        if (query is None) == (like is None):
            raise InputError("give either a query or the id of a row (--like ID)")
        if top < 1:
            raise InputError(f"--top {top}: it must be 1 or more")
        vector = self._of_row(like) if like is not None else self.vector(query or "")
        return self._hits(self.index.nearest(vector, top, self.metric))

    def vector(self, query: str) -> np.ndarray:
        """Vector of the query, [width] float32, by the folder's weights. Raises InputError if they are gone."""
        if self._embedder is None:
            from foundray.vectors.task import embedder  # imports torch

            self._embedder = embedder(Run.open(self.run), self.recipe)
        embed, reader = self._embedder
        has_text = reader.shape.classes
        if has_text and not query.strip():
            raise InputError("the query is empty: give a text")
        units = reader.text_units(query) if has_text else self._first_row(query, reader)
        vector: np.ndarray = embed(packed([Plan(units, ())]))[0]
        return vector

    def _first_row(self, query: str, reader: Any) -> Units:
        source = source_of(query, Run.open(self.run).spec(), {})
        bad = None
        for row in reader.read(source):
            if not isinstance(row, BadRow):
                units: Units = reader.units(row)
                return units
            bad = bad or row
        why = f" ({bad.position}: {bad.reason})" if bad else ""
        raise InputError(f"{query} has no row that can be read{why}")

    def _of_row(self, wanted: str) -> np.ndarray:
        """Vector of a row of the folder, [width] float32. Raises InputError for an unknown id."""
        files = [RawFile(url, *facts) for url, facts in self.recipe.files.items()]
        url = wanted.rpartition("#")[0]
        name = next((part.name for part in parts(files) if any(file.url == url for file in part.files)), None)
        for block, _ in self.complete.shards:
            if block.rpartition("-")[0] == name:
                ids = table_of(self.folder, block, ["id"]).column("id").to_pylist()
                if wanted in ids:
                    vector: np.ndarray = vectors_of(self.folder, block)[ids.index(wanted)]
                    return vector
        first = table_of(self.folder, self.complete.shards[0][0], ["id"]).column("id")[0].as_py()
        raise InputError(f"--like {wanted}: no row has this id; ids look like {first}")

    def _hits(self, found: list[tuple[int, float]]) -> list[Hit]:
        tables: dict[str, Any] = {}
        ends = np.cumsum([rows for _, rows in self.complete.shards])

        def hits() -> Iterator[Hit]:
            for row, score in found:
                block = int(np.searchsorted(ends, row, side="right"))
                name, rows = self.complete.shards[block]
                if name not in tables:
                    tables[name] = table_of(self.folder, name).drop_columns(["vector"])
                fields = tables[name].slice(row - int(ends[block]) + rows, 1).to_pylist()[0]
                yield Hit(fields["id"], score, fields["source"], fields["position"], fields.get("text"))

        return list(hits())
