"""Verbs of a run: from its data to its end, and what it is doing meanwhile."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.wording.words import plural


def add_to(verbs: Verbs) -> None:
    for name, run, about in (
        ("prepare", _prepare, "turn the raw sources of a spec into prepared shards"),
        ("train", _train, "run a spec to its end (preparing its data first, going on where it stopped)"),
    ):
        added = verbs.add(name, run, about, "SPEC", overrides="spec", after_interrupt=f"; the same `foundray {name}` goes on")
        added.add_argument("--dry-run", action="store_true", help="print the resolved spec and what follows from it, and stop")
    about = "show what of the raw data could not be used, and why"
    added = verbs.add("quarantine", _quarantine, about, "WHAT", overrides="spec")
    added.add_argument("--limit", type=int, default=20, metavar="N", help="lines that are shown (default: 20)")
    added.add_argument("--source", type=int, metavar="I", help="only of this source, counted from 0")
    about = "go on with a run from its last complete checkpoint"
    verbs.add("resume", _resume, about, "RUN", overrides="spec", after_interrupt="; the same `foundray resume` goes on")
    verbs.add("audit", _audit, "prove that every sample of every step was used exactly once", "RUN")
    added = verbs.add("samples", _samples, "list the samples that a step was trained on", "RUN")
    added.add_argument("--step", type=int, required=True, help="counted from 1")


def _prepare(options: Any) -> None:
    if options.dry_run:
        return _dry_run(options)
    prepared = foundray.prepare(options.target, overrides_of(options), say)
    manifest = prepared.manifest
    if options.json:
        facts = manifest.model_dump(include={"rows", "tokens", "quarantined", "vocabulary", "recipe_sha256"})
        counts = manifest.balance().model_dump()
        print(json.dumps({"folder": prepared.folder.url, **facts, **counts, "shards": len(manifest.shards)}))


def _quarantine(options: Any) -> None:
    if options.limit < 0:
        raise foundray.InputError(f"--limit {options.limit}: it is 0 or more")
    found = foundray.quarantine(options.target, overrides_of(options), options.source)
    print(found.table(options.limit))
    if options.json:
        print(json.dumps(found.to_dict(options.limit)))


def _dry_run(options: Any) -> None:
    from foundray.inspection.describe import derived
    from foundray.spec.loading import load_spec

    spec = load_spec(options.target, overrides_of(options))
    facts = derived(spec)
    print(spec.to_yaml())
    for name, value in facts.items():
        print(f"# {name}: {value}")
    if options.json:
        print(json.dumps({"spec": spec.model_dump(mode="json"), "derived": facts}))


def _train(options: Any) -> None:
    if options.dry_run:
        return _dry_run(options)
    _tell(foundray.train(options.target, overrides_of(options), say, show_progress=True), options.json)


def _resume(options: Any) -> None:
    _tell(foundray.resume(options.target, overrides_of(options), say, show_progress=True), options.json)


def _tell(facts: Any, as_json: bool) -> None:
    """How good, what it took, where, what next."""
    from foundray.host.signals import exit_status
    from foundray.runs.run import Run
    from foundray.runs.status import faults, goodput

    run = Run.open(facts.run)
    if facts.state == "finished":
        print(f"validation loss {facts.val_loss:.4f} nats per token after {facts.step:,} steps, {facts.tokens:,} tokens")
    else:
        kept = f"the last checkpoint is of step {facts.checkpoint:,}" if facts.checkpoint else "there is no checkpoint yet"
        print(f"stopped after step {facts.step:,}; {kept}")
    print(f"{goodput(facts)}; {faults(facts.restarts, facts.steps_repeated)}")
    if facts.state == "finished":
        print(f"in {facts.run} (weights {facts.weights_sha256[:16]}…)")
        look = "sample {} --prompt '…'" if run.spec().objective.build().continues else "probe {} --task FILE"
        print(f"next: foundray {look.format(facts.run)}, foundray report {facts.run}")
    else:
        print(f"next: foundray resume {facts.run}")
    if as_json:
        print(facts.to_json())
    if facts.stopped_by and (status := exit_status(facts.stopped_by)):
        sys.exit(status)  # as every program that this signal ended: whoever sent it may tell it from an end


def _audit(options: Any) -> None:
    found = foundray.audit(options.target)
    worlds = ", ".join(f"{steps:,} on {plural(workers, 'worker')}" for workers, steps in sorted(found.workers.items()))
    for problem in found.problems[:20]:
        print(problem)
    verdict = plural(len(found.problems), "problem") if found.problems else "every one used exactly once"
    if found.left_out or found.spikes:
        left_out = plural(found.left_out, "micro-batch", "micro-batches")
        verdict += f", but for {left_out} left out as not finite, and {plural(found.spikes, 'update')} not made at loss spikes"
    print(f"{found.steps:,} steps, {found.samples:,} samples: {verdict} ({worlds}; {plural(found.repeated, 'step')} repeated)")
    if options.json:
        print(json.dumps(found.to_dict()))
    if not found.clean:
        sys.exit(1)


def _samples(options: Any) -> None:
    names = foundray.samples(options.target, options.step, say)
    if options.json:
        print(json.dumps({"step": options.step, "samples": names}))
    else:
        print("\n".join(names))
