"""The model card: description, loading, data and results. Facts come from the run's records."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from foundray.data.prepare.recipe import formats_of
from foundray.exports.destination import public_path
from foundray.exports.gguf_vocabulary import TRIED as LLAMA_CPP
from foundray.runs.run import PROBES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from foundray.exports import Exported
    from foundray.exports.forms import Form
    from foundray.exports.trained import Trained

HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "odc-by", "odbl", "pddl", "unlicense",
}  # fmt: skip
"""Licences with an identifier at Hugging Face: SPDX's in lower case."""

USE_TEXT = """\
import foundray

model = foundray.load("FOLDER")
print(model.encode_texts(["one text", "another"]).shape)  # one row of features per text
"""
USE_FILES = """\
import foundray

model = foundray.load("FOLDER")
print(model.encode("PATH").shape)  # files, a folder or a glob: one row of features per sample
"""


def card(trained: Trained, exported: Exported, form: Form | None, tokenizer: PreTrainedTokenizerFast | None, name: str) -> str:
    """The README.md of an export whose folder is called `name`."""
    spec = trained.spec
    by = f"With transformers (tried: {', '.join(form.tried(spec))}):" if form else "With Foundray:"
    use = form.USE if form else USE_TEXT if trained.manifest.vocabulary else USE_FILES
    parts = [
        f"---\n{yaml.safe_dump(front_matter(trained, form), sort_keys=False)}---",
        f"# {exported.run}",
        _about(trained, exported),
        f"## How to load it\n\n{by}\n\n```python\n{use.replace('FOLDER', name)}```",
        _llama_cpp(trained, name) if exported.gguf_sha256 else "",
        _tokens(trained, form, tokenizer),
        _prompts(trained) if form else "",
        f"## Data\n\n{_table(['source', 'format', 'licence', 'documents', 'tokens', 'bytes'], _sources(trained))}",
        f"## Results\n\n{_table(['what', 'figure'], _results(trained))}",
        f"## Spec\n\nFields not listed have their defaults.\n\n```yaml\n{_yaml(trained.public_spec(defaults=False))}```",
        f"## Identity\n\n{_table(['what', 'SHA-256'], _identity(trained, exported))}",
        f"The spec's fingerprint is `{spec.fingerprint()}`. The same spec, seed and data give the same weights, bit for bit, "
        "on any number of machines. `foundray.json` holds all of this for programs.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(trained: Trained, form: Form | None) -> dict[str, Any]:
    """The card's metadata for Hugging Face's hub."""
    spec = trained.spec
    matter: dict[str, Any] = {"library_name": "transformers" if form else "foundray"}
    if form and (pipeline := form.pipeline(spec)):
        matter["pipeline_tag"] = pipeline
    licences = {source.licence for source in spec.data.sources} | ({None} if spec.init_from else set())
    if len(licences) == 1 and (licence := licences.pop()):
        identifier = re.sub(r"[\s_]+", "-", licence.strip().lower())
        matter |= {"license": identifier} if identifier in HUB_LICENCES else {"license": "other", "license_name": identifier}
    return matter | {"tags": ["foundray", "pretraining", spec.objective.kind, spec.data.modality.kind]}


def _about(trained: Trained, exported: Exported) -> str:
    spec = trained.spec
    what = f"`{exported.stock_class}`" if exported.stock_class else "a model of Foundray's own form"
    text = (
        f"A base model, pre-trained with Foundray: `{spec.objective.kind}` on `{spec.data.modality.kind}`, "
        f"{what} of {trained.parameters:,} parameters, after step {trained.step:,} of {spec.train.steps:,} "
        f"({trained.step * spec.tokens_per_step:,} positions, in sequences of at most {spec.model.context})."
    )
    if start := spec.init_from:
        text += (
            f" It started from the weights of another run, `{start}` (SHA-256 `{start.weights_sha256}`), so that run's data "
            "counts too."
        )
    if spec.objective.build().teaches:
        text += " The weights are those of the objective's teacher, the moving average of the model's."
    return text + (f" It is in that form since {exported.reason}." if exported.reason else "")


def _tokens(trained: Trained, form: Form | None, tokenizer: PreTrainedTokenizerFast | None) -> str:
    if not tokenizer:
        return ""
    names = [*trained.spec.objective.build().extra_tokens, *(form.SPECIAL_TOKENS.values() if form else ())]
    also = f" The objective's own tokens are `{'`, `'.join(names[:4])}`{' …' if len(names) > 4 else ''}." if names else ""
    pads = f"`{tokenizer.pad_token}` pads batches"
    if tokenizer.pad_token == tokenizer.unk_token:
        pads += ", and stands for characters that the vocabulary lacks: the run's data have none"
    if tokenizer.pad_token == tokenizer.eos_token:
        pads += ", so pass an attention mask with padded batches"
    if form and form.CONTINUES:
        pads += ', on the left, for generation: train with `padding_side="right"`'
    return (
        f"The token `{tokenizer.bos_token}` opens every document, and the tokenizer puts it first; if the model predicts it, "
        f"the text has ended: it is `bos` and `eos`. {pads}. Special tokens spelled out in a text are parsed as such; "
        f"`tokenizer(text, split_special_tokens=True)` treats them as text, as in training.{also}"
    )


def _llama_cpp(trained: Trained, name: str) -> str:
    text = (
        f"`model.gguf` is the same model, with the same weights, for llama.cpp (tried: {LLAMA_CPP}) and what is built on it:"
        f"\n\n```sh\nllama-server --model {name}/model.gguf\n```"
    )
    if trained.spec.objective.build().extra_stand_for_text:
        text += (
            "\n\nThere, leave out the space before a token that stands for text; with `--special`, llama.cpp also shows such "
            "tokens."
        )
    return text


def _prompts(trained: Trained) -> str:
    layouts = trained.spec.objective.build().prompts
    if not layouts:
        return ""
    lines = "\n".join(f"- {what}: `{layout}`" for what, layout in layouts.items())
    return f"## How to prompt it\n\nThe model continues these prompts, which the tokenizer opens, by\n\n{lines}"


def _sources(trained: Trained) -> list[list[str]]:
    rows = []
    for index, source in enumerate(trained.spec.data.sources):
        shards = trained.manifest.of_source(index)
        counts = [sum(getattr(shard, name) for shard in shards) for name in ("documents", "tokens", "text_bytes")]
        size = counts[2] or sum(shard.bytes for shard in shards)
        rows.append(
            [
                f"`{public_path(source.path)}`",
                formats_of(trained.manifest.recipe, index, source),
                source.licence or "not stated",
                *map(_number, [*counts[:2], size]),
            ]
        )
    return rows


def _results(trained: Trained) -> list[list[str]]:
    rows = [["steps", _number(trained.step)], ["tokens", _number(trained.step * trained.spec.tokens_per_step)]]
    if evaluated := trained.evaluation:
        at = "" if evaluated["step"] == trained.step else f", after step {evaluated['step']:,}"
        rows.append([f"validation loss, {trained.spec.objective.build().loss_unit}{at}", f"{evaluated['val_loss']:.4f}"])
        if (bits := evaluated.get("bits_per_byte")) is not None:
            rows.append([f"bits per byte{at}", f"{bits:.4f}"])
    for file in (trained.run.folder / PROBES).children():
        if file.name.endswith(".json"):
            rows += _probe(json.loads(file.read_text()))
    return rows


def _probe(judged: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"probe {judged['task']['kind']} after step {judged['step']:,}: {judged['measure']} "
            f"({'higher' if judged['higher_is_better'] else 'lower'} is better); floor, untrained, trained",
            ", ".join(f"{sum(judged[key]) / len(judged[key]):.4f}" for key in ("floor", "random", "ours") if judged[key]),
        ]
    ]


def _identity(trained: Trained, exported: Exported) -> list[list[str]]:
    rows = {
        "weights (`weights_sha256` of the run)": exported.weights_sha256,
        **exported.files_sha256,
        "model.gguf": exported.gguf_sha256,
        "prepared data's recipe": trained.manifest.recipe_sha256,
    }
    return [[what, f"`{sha}`"] for what, sha in rows.items() if sha]


def _yaml(fields: dict[str, Any]) -> str:
    return yaml.safe_dump(fields, sort_keys=False, width=120, default_flow_style=None)


def _number(value: int) -> str:
    return f"{value:,}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
