"""What is embedded by what: the record that a folder of vectors begins with, and that keeps others out of it.

embedding.json     this record, written first
parts/             of each group of files, how many blocks and rows it holds, and which rows cannot be used
quarantine/        the same rows of a group that was not read to its end
shards/            a block's vectors: Parquet with id, vector, source, position and, of texts, text
bad_rows.jsonl     source, position and reason of each row that cannot be used
index.safetensors  what a search looks in
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
OURS = {RECIPE, COMPLETE, INDEX, BAD_ROWS, "parts", "shards", "quarantine", "holder.json", "stop.json", LOCK}


class Recipe(BaseModel):
    """All that decides the vectors' bits."""

    run: str
    """The run's folder, as it was found."""
    step: int
    """Optimizer steps that its weights have behind them."""
    weights_sha256: str
    """Of the weights: over the parameters in name order, the name and then the little-endian fp32 bytes."""
    layer: Literal["last", "all"] | int
    """Layers deep; `last`, after the final norm, or `all` of them side by side."""
    pool: str
    """How hidden states became a vector."""
    normalise: bool
    """Whether vectors are of length one."""
    width: int
    """Numbers of a vector."""
    modality: str
    arithmetic: dict[str, int] = {}
    """By part, the version of what it computed; a part that is not named was at 1."""
    source: SourceConfig
    """What is embedded."""
    files: dict[str, tuple[int, int]]
    """Size and time of change (ns) of each file, by its URL."""
    block_rows: int
    """Rows of a block."""
    batch_units: int
    """Units that are computed at once."""
    device: str
    """`cpu` or `cuda`: their kernels round differently."""
    threads: int
    """CPU threads that a worker computes with: another number may round differently."""

    @staticmethod
    def of(folder: Store) -> Recipe | None:
        """Of a folder that holds vectors; None where it holds nothing. Raises InputError where it holds something else."""
        record = folder / RECIPE
        if record.exists():
            try:
                return Recipe.model_validate_json(record.read_bytes())
            except ValidationError:
                raise InputError(f"{record} is damaged, or of another version; delete {folder} to start over") from None
        if others := [place.name for place in folder.children() if place.name not in OURS and not place.name.endswith(".tmp")]:
            raise InputError(f"{folder} holds something else ({others[0]}): vectors go into a folder of their own")
        return None

    def check_same(self, folder: Store, now: Recipe) -> None:
        """Raises InputError where the folder's vectors are other than those that would be made now."""
        if changed := differences(self._identity(), now._identity()):
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise InputError(f"{folder} holds vectors of something else: {'; '.join(changed[:3])}{more}; give another folder")

    def _identity(self) -> dict[str, Any]:
        """Wherever the run lies now, its weights are the same; and licences and weights of sources decide nothing here."""
        files = {url: f"{size:,} bytes of {modified / 1e9:.3f}" for url, (size, modified) in self.files.items()}
        fields = self.model_dump(mode="json", exclude={"run": True, "source": {"licence", "weight"}})
        return flatten({**fields, "files": files, "arithmetic": raised(self.arithmetic)})


class Complete(BaseModel):
    """What was made, once all is."""

    rows: int
    bad_rows: int
    """Units that cannot be used."""
    lost: dict[str, int] = {}
    """The same by their noun; nothing in records of before, which counted rows."""
    empty: int = 0
    """Rows without content."""
    shards: list[tuple[Annotated[str, Field(pattern=r"^\d+-\d+$")], int]]
    """Name and rows of each block, in the order of the data."""
    metric: str
    """What the index compares by: `cosine` (larger is nearer), or `distance`."""
    cells: int
    """Of the index; 1 where every vector is looked at."""
    index_sha256: str

    @staticmethod
    def of(folder: Store) -> Complete | None:
        file = folder / COMPLETE
        if not file.exists():
            return None
        try:
            return Complete.model_validate_json(file.read_bytes())
        except ValidationError:
            raise InputError(f"{file} is damaged; delete it, and the same `foundray embed` makes it anew") from None
