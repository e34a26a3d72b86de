"""Manifest of a prepared data set: what its shards contain, what made them, and how to address a sample."""

from __future__ import annotations

import math
import posixpath
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ValidationError

from foundray.data.prepare.quarantine import Balance
from foundray.errors import InputError
from foundray.storage import Store
from foundray.wording.shown import Shown

if TYPE_CHECKING:
    from foundray.data.tokenizers.tokenizer import Tokenizer

TOKENS_PER_ROW_GROUP = 2**18
"""Size of a row group, the unit of reading: about a megabyte of tokens."""
MEDIA_PER_ROW_GROUP = 64


class Shard(BaseModel):
    file: str
    """Path inside the prepared folder."""
    source: int
    """Index of its source in the spec."""
    inputs: list[str]
    """Raw files that it was made from."""
    documents: int
    rows: int
    """Samples."""
    tokens: int
    """Predicted tokens: one less than each sample's length, summed."""
    text_bytes: int
    """UTF-8 bytes of the documents."""
    bytes: int
    sha256: str
    quarantined: int
    """Units of its raw files that could not be used. `quarantine.jsonl` lists them."""
    lost: dict[str, int] = {}
    """The number of lost parts by noun, such as `row`. Empty in older manifests, which counted rows."""
    empty: int = 0
    """Rows, documents and files without content, which are not listed."""
    notes: int = 0
    """Quarantine lines about what was left out on purpose."""
    cut: int = 0
    """Documents cut at positions where that may have changed their tokens."""

    @property
    def balance(self) -> Balance:
        lost = self.lost or ({"row": self.quarantined} if self.quarantined else {})
        return Balance(documents=self.documents, lost=lost, empty=self.empty, notes=self.notes)


class Manifest(BaseModel):
    name: str
    """Name of the run that first prepared this data."""
    recipe: dict[str, object]
    """Part of the spec and list of raw files that decide the shards."""
    recipe_sha256: str
    arithmetic: dict[str, int] = {}
    """Arithmetic version of each part, `engine` and `modality`; a missing part was at 1."""
    context: int
    """Units of data per sample, without the first of the next one."""
    vocabulary: int
    document_id: int
    tokenizer_sha256: str
    rows: int
    tokens: int
    quarantined: int
    rows_per_group: int
    shards: list[Shard]
    """Shards with samples."""
    balances: list[Balance] = []
    """Balance of each source. Empty in older manifests."""

    def balance(self, source: int | None = None) -> Balance:
        """What became of the raw data of one source, or of all."""
        if self.balances:
            return Balance.together(self.balances if source is None else [self.balances[source]])
        return Balance.together(shard.balance for shard in self.shards if source in (None, shard.source))

    def of_source(self, source: int) -> list[Shard]:
        return [shard for shard in self.shards if shard.source == source]

    def split(self, source: int, holdout: float) -> tuple[int, int]:
        """(training samples, all samples) of a source; the samples in between are the validation split."""
        total = sum(shard.rows for shard in self.of_source(source))
        return total - max(1, math.ceil(total * holdout)), total

    def bytes_per_token(self, source: int | None = None) -> float:
        """Mean UTF-8 bytes of text per predicted token, of one source or of all."""
        shards = self.shards if source is None else self.of_source(source)
        return sum(shard.text_bytes for shard in shards) / max(1, sum(shard.tokens for shard in shards))


def rows_per_group(context: int, tokens: bool) -> int:
    """Rows in a row group. Samples of tokens are all about as large; encoded media vary, and may be large."""
    return max(1, TOKENS_PER_ROW_GROUP // (context + 1)) if tokens else MEDIA_PER_ROW_GROUP


class Prepared(Shown):
    """A prepared data set in its folder."""

    def __init__(self, folder: Store, manifest: Manifest):
        self.folder, self.manifest = folder, manifest

    @staticmethod
    def open(folder: Store) -> Prepared:
        """Open the data set in a folder. Raises InputError if it is not complete."""
        try:
            return Prepared(folder, Manifest.model_validate_json((folder / "manifest.json").read_bytes()))
        except ValidationError as error:
            raise InputError(f"{folder / 'manifest.json'} is not a manifest: {error.errors()[0]['msg']}") from None

    def tokenizer(self) -> Tokenizer:
        from foundray.data.tokenizers.tokenizer import Tokenizer  # not above: most processes that read data do not need it

        return Tokenizer.from_json((self.folder / "tokenizer.json").read_text(), self.manifest.document_id)

    def check_files(self) -> None:
        """Raises InputError if a shard is missing or its size differs from the manifest."""
        # List each folder once: an object store needs a request per file otherwise, each of some ten milliseconds.
        folders = {posixpath.dirname(shard.file) for shard in self.manifest.shards}
        sizes = {posixpath.join(name, file): size for name in folders for file, size in (self.folder / name).files().items()}
        for shard in self.manifest.shards:
            size = sizes.get(shard.file)
            if size != shard.bytes:
                have = "is missing" if size is None else f"has {size} bytes instead of {shard.bytes}"
                raise InputError(
                    f"the prepared shard {self.folder / shard.file} {have}; delete {self.folder} and prepare again"
                )


def groups_in(shards: list[Shard], per_group: int) -> np.ndarray:
    """Number of row groups in each shard [len(shards)]."""
    return -(-np.array([shard.rows for shard in shards], np.int64) // per_group)


def group_sizes(shards: list[Shard], per_group: int) -> np.ndarray:
    """Rows in each row group of the shards, in order: full groups, and a shorter one at the end of a shard."""
    groups = groups_in(shards, per_group)
    sizes = np.full(groups.sum(), per_group)
    rest = np.array([shard.rows for shard in shards], np.int64) - (groups - 1) * per_group
    sizes[np.cumsum(groups)[groups > 0] - 1] = rest[groups > 0]
    return sizes
