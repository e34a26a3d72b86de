"""The files of an export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from foundray.errors import InputError
from foundray.exports import IDENTITY, Exported
from foundray.exports.card import card
from foundray.exports.forms import Form, NoStockClass, form_of
from foundray.exports.tokens import to_hugging_face
from foundray.exports.trained import Trained
from foundray.storage import Store

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50}
"""Sampling as in `foundray sample`."""
MODEL, CONFIG = "model.safetensors", "config.json"


def write(trained: Trained, folder: Path, out: Store) -> Exported:
    """Write all files into a local folder, which becomes `out`. Raises InputError."""
    # Build a stock class's model if there is one, and write the weights in its form or in our own.
    stock, form, reason = None, None, None
    try:
        form = form_of(trained.spec)
        stock = form.build(trained.model, trained.spec)
    except NoStockClass as error:
        form, reason = None, str(error)
    try:
        if form and stock:
            _write_stock(trained, form, stock, folder)
        else:
            _write_own(trained, folder)
    except SafetensorError as error:
        raise InputError(f"{out} cannot be written: {error}") from None
    # Describe the export, for people and for programs.
    exported = Exported(
        out=out.url,
        run=trained.run.folder.name,
        step=trained.step,
        stock_class=type(stock).__name__ if stock else None,
        reason=reason,
        parameters=trained.parameters,
        weights_sha256=trained.weights_sha256,
        file_sha256=_sha256(folder / MODEL),
    )
    (folder / "README.md").write_text(card(trained, exported, form, out.name), encoding="utf-8")
    (folder / MODEL).chmod((folder / "README.md").stat().st_mode)  # safetensors makes it readable by its owner only
    (folder / IDENTITY).write_text(json.dumps(_identity(trained, exported), indent=1) + "\n", encoding="utf-8")
    return exported


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(trained: Trained, exported: Exported) -> dict[str, Any]:
    spec, manifest = trained.spec, trained.manifest
    return {
        "version": import_module("foundray").__version__,
        "run": exported.run,
        "step": exported.step,
        "objective": spec.objective.kind,
        "modality": spec.data.modality.kind,
        "class": exported.stock_class,
        "fingerprint": spec.fingerprint(),
        "arithmetic": spec.arithmetic,
        "weights_sha256": exported.weights_sha256,
        "file_sha256": exported.file_sha256,
        "spec": trained.public_spec(),
        "data": manifest.model_dump(include={"context", "vocabulary", "document_id", "recipe_sha256", "tokenizer_sha256"}),
    }


def _write_stock(trained: Trained, form: Form, stock: Any, folder: Path) -> None:
    """Write tokenizer, processor, configuration and weights with the stock class's own methods."""
    if trained.manifest.vocabulary:
        tokenizer = _tokenizer(trained, form.SPECIAL_TOKENS, stock.can_generate())
        tokenizer.save_pretrained(folder)
        stock.config.bos_token_id = stock.config.eos_token_id = trained.manifest.document_id
    if stock.can_generate():
        from transformers import GenerationConfig

        document, objective = trained.manifest.document_id, trained.spec.objective.build()
        first = trained.manifest.vocabulary
        # A model that continues texts has also learned to predict the objective's own tokens, which occur in no text.
        suppressed = list(range(first, first + objective.extra_ids)) if objective.continues else []
        stock.generation_config = GenerationConfig(
            bos_token_id=document, eos_token_id=document, pad_token_id=document,
            suppress_tokens=suppressed or None, **SAMPLING,
        )  # fmt: skip
    if processor := form.processor(trained.spec):
        processor.save_pretrained(folder)
    with _quiet():
        stock.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bar of Hugging Face's writer, which would mix with our reports."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_own(trained: Trained, folder: Path) -> None:
    """Write tokenizer, weights and configuration in Foundray's own form."""
    spec, model, manifest = trained.spec, trained.model, trained.manifest
    if manifest.vocabulary:
        _tokenizer(trained, {}, left=False).save_pretrained(folder)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / MODEL, metadata={"format": "pt"})
    config = {
        "model_type": "foundray",
        "model": spec.model.model_dump(mode="json"),
        "objective": spec.objective.model_dump(mode="json"),
        "units": asdict(spec.unit_shape(manifest.vocabulary)),
        "extra_tokens": list(spec.objective.build().extra_tokens),
        "heads": dict(model.heads),
        "weights_sha256": trained.weights_sha256,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _tokenizer(trained: Trained, roles: Any, left: bool) -> Any:
    manifest, spec = trained.manifest, trained.spec
    text = (trained.run.folder / "tokenizer.json").read_text()
    extra = spec.objective.build().extra_tokens
    return to_hugging_face(text, manifest.document_id, manifest.vocabulary, extra, roles, spec.model.context, left)
