"""The token that pads batches: one that no text contains, so that neither the model's weights nor its vocabulary grow.

With the document token in its place, stock classes would take the end of a text for padding, and never train its row. One row
more in the model, on the other hand, would take a share of every predicted probability.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as Engine

from foundray.data.tokenizers.checks import Anatomy

PADDING = "<|pad|>"
KNOWN = (PADDING, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
"""Names of padding tokens in tokenizer files from elsewhere."""
NEVER = (*"ÿþýüûúùø÷öõÁÀ", *(f"<0x{byte:02X}>" for byte in (*range(0xFF, 0xF4, -1), 0xC1, 0xC0)))
"""Tokens of the bytes that UTF-8 never contains, as byte-level tokenizers (GPT-2's letters) and `byte_fallback` write them."""


def padded(text: str, document: str) -> tuple[str, str]:
    """A tokenizer.json in which some token can pad, and that token; texts keep their ids.

    It is the file's own; or that of a byte that no text contains, renamed to `<|pad|>`; or the one for unknown text, which is
    not in the data of Foundray's own vocabularies; or, for want of any, the `document` token.
    """
    parts = Anatomy(Engine.from_str(text))
    if own := next((name for name in KNOWN if parts.special.get(name) and name not in (document, parts.unknown)), None):
        return text, own
    if parts.complete and parts.kind == "BPE" and PADDING not in parts.ids and (free := _free(parts)):
        fields: dict[str, Any] = json.loads(text)
        vocabulary = fields["model"]["vocab"]
        fields["model"]["vocab"] = {PADDING if token == free else token: number for token, number in vocabulary.items()}
        return json.dumps(fields, ensure_ascii=False), PADDING
    return text, parts.unknown or document


def _free(parts: Anatomy) -> str | None:
    """The token of a byte that no text contains, and no longer token either, so that it may have another name."""
    alone = (token for token in NEVER if token in parts.of_model and token not in parts.special)
    return next((token for token in alone if sum(token in other for other in parts.of_model) == 1), None)
