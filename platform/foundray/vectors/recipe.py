"""The recipe of a folder of vectors: what is embedded by which weights. It keeps other vectors out of the folder.

embedding.json     this record, written first
parts/             per part: numbers of blocks and rows, and the unusable rows
quarantine/        unusable rows of parts that were not read to their end
shards/            a block's vectors: Parquet with id, vector, source, position and, of texts, text
bad_rows.jsonl     source, position and reason of each unusable row
index.safetensors  the index for searches
README.md          for `datasets`, which finds the vectors among the other files by it
complete.json      counts, and the SHA-256 of the index; written last
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from foundray.errors import InputError
from foundray.runs.claims import LOCK
from foundray.spec import SourceConfig, differences, flatten
from foundray.spec.arithmetic import raised
from foundray.storage import Store

RECIPE, COMPLETE, INDEX, BAD_ROWS = "embedding.json", "complete.json", "index.safetensors", "bad_rows.jsonl"
CARD = "README.md"
OURS = {RECIPE, COMPLETE, INDEX, BAD_ROWS, CARD, "parts", "shards", "quarantine", "holder.json", "stop.json", LOCK}


class Recipe(BaseModel):
    """All that decides the vectors' bits."""

    run: str
    """The run's folder when the vectors were made."""
    step: int
    """Optimizer steps of the weights."""
    weights_sha256: str
    """SHA-256 of the weights: over the parameters in name order, the name and then the little-endian fp32 bytes."""
    layer: Literal["last", "all"] | int
    """Layers deep; `last`, after the final norm, or `all` of them side by side."""
    pool: str
    """How hidden states became a vector."""
    normalise: bool
    """Whether vectors have length one."""
    width: int
    """Length of a vector."""
    modality: str
    arithmetic: dict[str, int] = {}
    """Version of the arithmetic by part; an unnamed part was at 1."""
    source: SourceConfig
    """The embedded data."""
    files: dict[str, tuple[int, int]]
    """Size and modification time (ns) of each file, by URL."""
    block_rows: int
    """Rows per block."""
    batch_units: int
    """Units per batch."""
    device: str
    """`cpu` or `cuda`: their kernels round differently."""
    threads: int
    """CPU threads per worker: another number may round differently."""

    @staticmethod
    def of(folder: Store) -> Recipe | None:
        """Read a folder's recipe, or None if it is empty. Raises InputError if it holds something else."""
        record = folder / RECIPE
        if record.exists():
            try:
                return Recipe.model_validate_json(record.read_bytes())
            except ValidationError:
                raise InputError(f"{record} is damaged, or of another version; delete {folder} to start over") from None
        if others := [file.name for file in folder.children() if file.name not in OURS and not file.name.endswith(".tmp")]:
            raise InputError(f"{folder} holds something else ({others[0]}): vectors go into a folder of their own")
        return None

    def check_same(self, folder: Store, now: Recipe) -> None:
        """Raise InputError if the folder's vectors differ from those that `now` would make."""
        if changed := differences(self._identity(), now._identity()):
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise InputError(f"{folder} holds vectors of something else: {'; '.join(changed[:3])}{more}; give another folder")

    def _identity(self) -> dict[str, Any]:
        """Fields that decide the vectors: not the run's location, nor licence and weight of the source."""
        files = {url: f"{size:,} bytes of {modified / 1e9:.3f}" for url, (size, modified) in self.files.items()}
        fields = self.model_dump(mode="json", exclude={"run": True, "source": {"licence", "weight"}})
        return flatten({**fields, "files": files, "arithmetic": raised(self.arithmetic)})


class Complete(BaseModel):
    """Contents of a complete folder."""

    rows: int
    bad_rows: int
    """Unusable units."""
    lost: dict[str, int] = {}
    """Unusable units by their noun; empty in older records, which counted rows."""
    empty: int = 0
    """Rows without content."""
    shards: list[tuple[Annotated[str, Field(pattern=r"^\d+-\d+$")], int]]
    """Name and rows of each block, in the order of the data."""
    metric: str
    """Metric of the index: `cosine` (larger is nearer), or `distance`."""
    cells: int
    """Number of cells of the index; 1 for an exact search."""
    index_sha256: str

    @staticmethod
    def of(folder: Store) -> Complete | None:
        file = folder / COMPLETE
        if not file.exists():
            return None
        try:
            return Complete.model_validate_json(file.read_bytes())
        except ValidationError:
            raise InputError(f"{file} is damaged; delete it, and the same `foundray embed` makes it again") from None
