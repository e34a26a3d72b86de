"""`sample`: continue a text with a run's weights."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, add_step, say_reading


def add_to(verbs: Verbs) -> None:
    added = verbs.add("sample", _sample, "continue a text with a run's newest weights", "RUN", shows=True)
    added.add_argument("--prompt", default="", help="the text to continue (default: none)")
    added.add_argument("--tokens", type=int, default=200, help="most tokens to add (default: 200)")
    added.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    added.add_argument("--top-k", type=int, default=50, help="draw from the K likeliest tokens (default: 50)")
    added.add_argument("--seed", type=int, default=0, help="each seed gives another text (default: 0)")
    add_step(added)


def _sample(options: Any) -> None:
    say_reading(options.target)
    text = foundray.sample(
        options.target, options.prompt, options.tokens, options.temperature, options.top_k, options.seed, options.step
    )
    print(text)
    if options.json:
        print(json.dumps({"text": text}))
