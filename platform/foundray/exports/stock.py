"""Writes a stock class's model so that many versions of its library read it: the newest one writes for itself alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = f"{WEIGHTS}.index.json"
"""File that says which tensor is in which of several files."""
FILE_SIZE = "5GB"
"""Most of a file of weights. One that is written or read is in memory."""
OLDER_NAMES = {r"^decoder\.decoder_encoder\.layer\.": "decoder.decoder_layers."}
"""Names that every version reads (values), and those that version 5.20 of ViTMAE's decoder writes (keys, as expressions)."""


def model_with(stock_class: Any, config: Any, state: Mapping[str, Tensor]) -> PreTrainedModel:
    """A stock class's model that uses these tensors as its weights, without a copy. Every name must find its place."""
    with _quiet():
        stock, found = stock_class.from_pretrained(None, config=config, state_dict=dict(state), output_loading_info=True)
    wrong = [name for names in found.values() for name in names]
    assert not wrong, f"names that {stock_class.__name__} lacks, or has and was not given: {wrong}"
    model: PreTrainedModel = stock.eval()
    return model


def save(stock: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights into a local folder. Raises SafetensorError."""
    with _quiet():
        stock.save_pretrained(folder, max_shard_size=FILE_SIZE)
    for file in weight_files(folder):
        _rename(file)
    if (index := folder / INDEX).exists():
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"] = {_older(name): file for name, file in listed["weight_map"].items()}
        index.write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fields: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    # Version 4 looks for the base of rotary positions at the top, and silently takes 10,000 without it.
    if base := (fields.get("rope_parameters") or {}).get("rope_theta"):
        fields["rope_theta"] = base
    # Its pipelines load a tokenizer only for classes that they know one of, or that name one here.
    if (folder / "tokenizer_config.json").exists():
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _rename(file: Path) -> None:
    """Give weights the names that every version reads; write the file again only if some change."""
    with safe_open(file, "pt") as opened:
        names = {name: _older(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        if all(before == after for before, after in names.items()):
            return
        weights = {after: opened.get_tensor(before) for before, after in names.items()}
    save_file(weights, file, metadata={"format": "pt"})


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a local folder."""
    return sorted(folder.glob("model*.safetensors"))


def _older(name: str) -> str:
    for pattern, older in OLDER_NAMES.items():
        name = re.sub(pattern, older, name)
    return name


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bars of Hugging Face's reader and writer, which would mix with our reports."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
