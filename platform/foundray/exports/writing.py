"""The files of an export."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError

from foundray.data.prepare.recipe import rewrites_of
from foundray.errors import InputError
from foundray.exports import IDENTITY, Exported
from foundray.exports.card import card, front_matter
from foundray.exports.forms import Form, NoStockClass, form_of
from foundray.exports.gguf import FILE as GGUF
from foundray.exports.gguf import save as save_gguf
from foundray.exports.gguf_vocabulary import refused
from foundray.exports.stock import CONFIG, FILE_SIZE, WEIGHTS, weight_files
from foundray.exports.stock import save as save_stock
from foundray.exports.tokens import save as save_tokenizer
from foundray.exports.tokens import to_hugging_face
from foundray.exports.trained import Trained
from foundray.storage import Store

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50}
"""Sampling as in `foundray sample`."""


def write(trained: Trained, folder: Path, out: Store, gguf: bool = False) -> Exported:
    """Write all files into a local folder, which becomes `out`; with `gguf`, llama.cpp's too. Raises InputError."""
    # Build a stock class's model if there is one, and write the weights in its form or in our own.
    stock, form, tokenizer, reason = None, None, None, None
    try:
        form = form_of(trained.spec)
        tokenizer = _tokenizer(trained, form)
        stock = form.build(trained.model, trained.spec, tokenizer.pad_token_id if tokenizer else None)
    except NoStockClass as error:
        form, reason = None, str(error)
        if gguf:
            raise refused(reason) from None
    try:
        if form and stock:
            _write_stock(trained, form, stock, tokenizer, folder)
            if gguf:
                save_gguf(stock, tokenizer, folder, trained.run.folder.name, front_matter(trained, form))
        else:
            tokenizer = _write_own(trained, folder)
    except SafetensorError as error:
        raise InputError(f"{out} cannot be written: {error}") from None
    # Describe the export, for people and for programs.
    files = {file.name: _sha256(file) for file in weight_files(folder)}
    exported = Exported(
        out=out.url,
        run=trained.run.folder.name,
        step=trained.step,
        stock_class=type(stock).__name__ if stock else None,
        reason=reason,
        parameters=trained.parameters,
        weights_sha256=trained.weights_sha256,
        file_sha256=files.get(WEIGHTS),
        files_sha256=files,
        gguf_sha256=_sha256(folder / GGUF) if gguf else None,
    )
    (folder / "README.md").write_text(card(trained, exported, form, tokenizer, out.name), encoding="utf-8")
    for name in files:
        (folder / name).chmod((folder / "README.md").stat().st_mode)  # safetensors makes it readable by its owner only
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
        "files_sha256": exported.files_sha256,
        "spec": trained.public_spec(),
        "data": manifest.model_dump(include={"context", "vocabulary", "document_id", "recipe_sha256", "tokenizer_sha256"}),
    }


def _write_stock(trained: Trained, form: Form, stock: Any, tokenizer: Any, folder: Path) -> None:
    """Write tokenizer, processor, configuration and weights with the stock class's own methods."""
    if tokenizer:
        save_tokenizer(tokenizer, folder)
        stock.config.bos_token_id = stock.config.eos_token_id = trained.manifest.document_id
    if stock.can_generate():
        from transformers import GenerationConfig

        document, objective = trained.manifest.document_id, trained.spec.objective.build()
        first = trained.manifest.vocabulary
        # A model that continues texts has also learned to predict the objective's own tokens, which occur in no text.
        suppressed = list(range(first, first + objective.extra_ids)) if objective.continues else []
        stock.generation_config = GenerationConfig(
            bos_token_id=document, eos_token_id=document, pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=suppressed or None, **SAMPLING,
        )  # fmt: skip
    if processor := form.processor(trained.spec):
        processor.save_pretrained(folder)
    save_stock(stock, folder)


def _write_own(trained: Trained, folder: Path) -> Any:
    """Write tokenizer, weights and configuration in Foundray's own form; return the tokenizer, if there is one."""
    spec, model, manifest = trained.spec, trained.model, trained.manifest
    if tokenizer := _tokenizer(trained, None):
        save_tokenizer(tokenizer, folder)
    save_torch_state_dict(model.state_dict(), folder, max_shard_size=FILE_SIZE)
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
    return tokenizer


def _tokenizer(trained: Trained, form: Form | None) -> Any:
    """The run's tokenizer with the form's special tokens, or None for a run on values. Raises InputError."""
    manifest, spec = trained.manifest, trained.spec
    if not manifest.vocabulary:
        return None
    objective = spec.objective.build()
    return to_hugging_face(
        (trained.run.folder / "tokenizer.json").read_text(),
        manifest.document_id,
        manifest.vocabulary,
        objective.extra_tokens,
        form.SPECIAL_TOKENS if form else {},
        spec.model.context,
        left=form is not None and form.CONTINUES,
        extra_stand_for_text=objective.extra_stand_for_text,
        rewrites=rewrites_of(manifest.recipe, spec),
    )
