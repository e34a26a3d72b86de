"""llama.cpp's own server, in this process, asked by HTTP as its users do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


class Asked:
    """A server with one model."""

    def __init__(self, server: Any):
        self._server = server  # it lives as long as this

    def post(self, path: str, **body: Any) -> Any:
        request = Request(self._server.listening_address + path, json.dumps(body).encode())
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def ids(self, text: str) -> list[int]:
        return self.post("/tokenize", content=text, add_special=True)["tokens"]

    def likelihoods(self, prompt: list[int], classes: int) -> dict[int, float]:
        """By id: the natural logarithm of its probability after the prompt."""
        said = self.post("/completion", prompt=prompt, n_predict=1, temperature=0, n_probs=classes)
        return {token["id"]: token["logprob"] for token in said["completion_probabilities"][0]["top_logprobs"]}

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        return self.post("/completion", prompt=prompt, n_predict=tokens, temperature=0, return_tokens=True)["tokens"]


@contextmanager
def served(file: Path, exact: bool = True, rope_base: float = 0.0) -> Iterator[Asked]:
    """Serve a GGUF file; `exact`: with keys and values in 32 bits. `rope_base` replaces the file's."""
    import xllamacpp  # loads 100 MB

    options = xllamacpp.CommonParams()
    options.model.path, options.verbosity, options.warmup, options.fit_params = str(file), 0, False, False
    options.n_ctx, options.n_parallel, options.cpuparams.n_threads = 0, 1, 1
    options.rope_freq_base = rope_base
    if exact:
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    yield Asked(xllamacpp.Server(options))
