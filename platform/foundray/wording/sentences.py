"""Sentences for a run's records: `train` prints them live; `logs`, `status` and `watch` show them afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from foundray.host.signals import ASKING
from foundray.storage import redacted
from foundray.wording.words import plural

Record = dict[str, Any]

NODE_DIGITS = 8
"""Digits shown of a node's id, which has 56, if the node has no name."""
SOURCES = 8
"""Most sources whose losses are named in a line."""
REASON = 600
"""Characters shown of a reason that comes from another library."""

_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
"""Characters that control a terminal or the order of others, or that UTF-8 or YAML do not have."""


def sentence(event: Record, loss_unit: str = "nats per token") -> str:
    """Describe an event; `loss_unit` is the objective's. An unknown kind is shown by its name and fields."""
    match event["event"]:
        case "command":
            fewest, most = event["workers"]
            return f"a command begins, for {plural(most, 'worker') if fewest == most else f'{fewest} to {most} workers'}"
        case "places_lost":
            return f"Ray Train gave up its slots ({event['reason'][:REASON]}); it is asked again"
        case "member_ready":
            return f"worker {event['member']} is ready on node {short_node(event['node'])} after {event['seconds']:.1f} s"
        case "member_lost":
            return f"worker {event['member']} on node {short_node(event['node'])} is lost: {event['reason']}"
        case "member_left":
            return f"worker {event['member']} leaves node {short_node(event['node'])}, and hands its state over"
        case "initialised":
            return taken_over(event["taken"], event["parameters"], f"{event['run']} at step {event['run_step']}", event["new"])
        case "branched":
            return f"branched from step {event['step']} of {event['run']}"
        case "extended":
            return f"extended to {event['changed']['train.steps'][1]} steps, on from step {event['to']}"
        case "workers_started":
            continued = f" at step {event['step']}" if event["step"] else ""
            teams = f" in teams of {team}" if (team := event.get("team", 1)) > 1 else ""
            return f"training on {plural(event['workers'], 'worker')}{teams}, {event['device']}{continued}"
        case "evaluated":
            bits = f", {event['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in event else ""
            rank = f", features of effective rank {event['effective_rank']:.1f}" if "effective_rank" in event else ""
            loss = f"{event['val_loss']:.4f} {loss_unit}{perplexity(event)}"
            return (
                f"step {event['step']}: validation loss {loss}{bits}{rank}{_looked_at(event)}{by_source(event)}{by_task(event)}"
            )
        case "checkpoint":
            return f"step {event['step']}: a checkpoint of {event['bytes'] / 1e6:,.1f} MB is complete"
        case "checkpoint_late":
            return f"step {event['step']}: no checkpoint, since {event['reason']}"
        case "checkpoint_skipped":
            return f"{event['reason']}; falling back to step {event['going_on_from']}"
        case "checkpoint_failed":
            return f"the checkpoint of step {event['step']} could not be written: {event['reason']}"
        case "prune_failed":
            return f"step {event['step']}: older checkpoints could not be deleted ({event['reason']}); trying again later"
        case "group_broken":
            return f"step {event['step']}: the group broke ({event['reason'][:REASON]})"
        case "group_not_formed":
            return f"no group could be formed ({event['reason']}); trying again"
        case "too_few":
            return f"too few workers are left: {event['workers']} of at least {event['needed']}"
        case "waiting":
            return f"waiting for workers: {event['reason']}"
        case "rolled_back":
            return f"the loss of step {event['spike']} is a spike: back to step {event['to']}, on with later data"
        case "undone_elsewhere":
            return f"the command before this one has undone what came after step {event['to']}, which is computed again"
        case "left_out" if not event["node"]:
            return f"what came after step {event['to']} is undone, and is computed again: {event['reason']}"
        case "left_out":
            return f"the node {short_node(event['node'])} is left out: {event['reason']}"
        case "recheck_skipped":
            return (
                f"step {event['step']}: no recheck, since a worker could not read the micro-batch ({event['reason'][:REASON]})"
            )
        case "unlike":
            return f"{event['reason']}: sums are exact, but the bits depend on who computes what"
        case "stopped":
            return f"stopped at step {event['step']}, asked to by {ASKING.get(event['by'], event['by'])}"
        case "failed":
            return f"failed at step {event['step']}: {event['reason']}"
        case "finished":
            early = f" ({event['reason']})" if event.get("reason") else ""
            return f"finished at step {event['step']}, weights {event['weights_sha256'][:16]}…{early}"
        case kind:
            fields = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("time", "event"))
            return f"{kind}: {fields}" if fields else str(kind)


def perplexity(event: Record) -> str:
    """` (perplexity 12.18)`, of an evaluation whose loss is the data's own likelihood; otherwise empty."""
    return f" (perplexity {event['perplexity']:.4g})" if event.get("perplexity") else ""


def by_source(event: Record) -> str:
    """The loss on each of several sources, and on each further validation set."""
    parts = [*(event.get("sources") or ()), *(event.get("sets") or ())]
    more = f"; {len(parts) - SOURCES:,} more" if len(parts) > SOURCES else ""
    return "".join(f"; {part['name']} {part['loss']:.4f}" for part in parts[:SOURCES]) + more


def by_task(event: Record) -> str:
    """The first measure of each task that was due."""
    found = ""
    for task in event.get("tasks") or ():
        name, value = next(iter(task["measures"].items()))
        error = f" ± {task['errors'][name]:.4f}" if name in task["errors"] else ""
        found += f"; {task['name']}: {name.replace('_', ' ')} {value:.4f}{error}"
    return found


def _looked_at(event: Record) -> str:
    """Describe how much of its set an evaluation used, unless all, and what was not finite."""
    parts = []
    if event.get("samples") is not None and event["samples"] != event["of_samples"]:
        parts.append(f"on {event['samples']:,} of {event['of_samples']:,} samples")
    if lost := event.get("not_finite"):
        parts.append(f"the loss of {lost:,} micro-batch{'es' if lost > 1 else ''} is not finite")
    return "".join(f", {part}" for part in parts)


def taken_over(taken: int, parameters: int, place: str, new: Sequence[str]) -> str:
    """Describe a start from another run's weights."""
    others = f"; {', '.join(new)} new" if new else ""
    return f"{taken} of {parameters} parameters from {place}{others}"


def remarks(step: Record) -> list[str]:
    """Sentences on what is unusual about a step."""
    sentences = []
    if step["skipped"]:
        sentences.append(f"step {step['step']}: micro-batches {step['skipped']} were not finite and are left out")
    if step["spike"]:
        sentences.append(f"step {step['step']}: the loss of {step['loss']:.4f} is a spike; its update is not made")
    return sentences


def progress(step: Record, steps: int) -> str:
    """Describe the progress of a run of `steps` steps."""
    left = (steps - step["step"]) * step["step_s"]
    return (
        f"step {step['step']}/{steps}: loss {step['loss']:.4f}, "
        f"{step['tokens_per_s']:,.0f} tokens/s, {plural(step['workers'], 'worker')}, about {left:.0f} s left"
    )


def dated(record: Record, text: str) -> str:
    """One line that begins with the record's local time."""
    return f"{clock(record['time'])}  {plain(text)}"


def plain(text: str) -> str:
    """Foreign text as one line of characters that are shown, without colours and without secrets in URLs."""
    return redacted(_UNSHOWN.sub("", " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split())))


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def short_node(node: str) -> str:
    """Shorten Ray's node ids, which earlier versions recorded, to a few digits; names stay as they are."""
    return re.sub(f"\\b([0-9a-f]{{{NODE_DIGITS}}})[0-9a-f]{{{56 - NODE_DIGITS}}}\\b", r"\1", node)
