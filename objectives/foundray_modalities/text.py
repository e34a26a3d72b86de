"""Text and code, as the spec's tokenizer cuts it."""

from __future__ import annotations

from typing import ClassVar

from foundray.contract import Modality


class Text(Modality):
    gives: ClassVar[str] = "tokens"
