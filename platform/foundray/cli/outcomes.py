"""Verbs of what comes out of runs, and of what is needed around them."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, add_step, overrides_of, say


def add_to(verbs: Verbs) -> None:
    added = verbs.add("sample", _sample, "continue a text with a run's newest weights", "RUN")
    added.add_argument("--prompt", default="", help="the text to continue (default: none)")
    added.add_argument("--tokens", type=int, default=200, help="tokens to add, at most (default: 200)")
    added.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    added.add_argument("--top-k", type=int, default=50, help="draw from the likeliest so many (default: 50)")
    added.add_argument("--seed", type=int, default=0, help="another seed, another text (default: 0)")
    add_step(added)
    about = "judge what a run has learned, beside a floor and the same network untrained"
    added = verbs.add("probe", _probe, about, "RUN", overrides="task")
    added.add_argument("--task", required=True, metavar="FILE", help="a YAML file: what the run is judged by")
    about = "write a run's model as a folder that Hugging Face's classes load"
    added = verbs.add("export", _export, about, "RUN", overrides="spec that does not change the result")
    added.add_argument("out", metavar="OUT", help="a folder, or a URL, where nothing is yet")
    add_step(added)
    about = "get an example's data, from where it was published or from a folder"
    added = verbs.add("fetch", _fetch, about, "NAME", as_json=False)
    added.add_argument(
        "--mirror", metavar="FOLDER", help="take the files from here: a folder of data sets, such as another data/"
    )
    added.add_argument("--to", metavar="FOLDER", default="data", help="the folder of data sets (default: data)")
    added = verbs.add("schema", _schema, "print the JSON schema of a spec", as_json=False)
    added.add_argument("--markdown", action="store_true", help="explain every field for people instead, as docs/spec.md does")
    added = verbs.add("doctor", _doctor, "check this installation, and the machine under it")
    added.add_argument("--storage", default="runs", metavar="PLACE", help="where runs are to be kept (default: runs)")
    added.add_argument("--quick", action="store_true", help="without starting Ray")


def _sample(options: Any) -> None:
    text = foundray.sample(
        options.target, options.prompt, options.tokens, options.temperature, options.top_k, options.seed, options.step
    )
    print(text)
    if options.json:
        print(json.dumps({"text": text}))


def _probe(options: Any) -> None:
    judgement = foundray.probe(options.target, options.task, overrides_of(options))
    print(judgement.table())
    if options.json:
        print(json.dumps(judgement.to_dict()))


def _export(options: Any) -> None:
    exported = foundray.export(options.target, options.out, options.step, overrides_of(options), say)
    if options.json:
        print(json.dumps(exported.to_dict()))


def _fetch(options: Any) -> None:
    foundray.fetch(options.target, options.to, options.mirror, say)


def _schema(options: Any) -> None:
    if options.markdown:
        from foundray.reference import markdown

        print(markdown(), end="")
    else:
        from foundray.spec import Spec
        from foundray.spec.documented import json_schema

        print(json.dumps(json_schema(Spec), indent=2))


def _doctor(options: Any) -> None:
    from foundray.doctor import examine, table

    found = examine(options.storage, options.quick)
    print(table(found))
    if options.json:
        print(json.dumps([finding.to_dict() for finding in found]))
    if any(finding.verdict == "wrong" for finding in found):
        sys.exit(2)
