"""`export`: a run's model for Hugging Face's classes."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, add_step, overrides_of, say, say_reading


def add_to(verbs: Verbs) -> None:
    about = "write a run's model as a folder that Hugging Face's classes load"
    added = verbs.add("export", _export, about, "RUN", overrides="spec that does not change the result")
    added.add_argument("out", metavar="OUT", help="a folder or URL that does not exist yet")
    added.add_argument("--gguf", action="store_true", help="also write model.gguf, for llama.cpp and programs built on it")
    add_step(added)


def _export(options: Any) -> None:
    say_reading(options.target)
    exported = foundray.export(options.target, options.out, options.step, overrides_of(options), say, options.gguf)
    if options.json:
        print(json.dumps(exported.to_dict()))
