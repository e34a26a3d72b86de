"""The command line: one verb a function, errors as one sentence. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import foundray
from foundray.errors import FoundrayError, InputError


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the run failed, 2 the input is at fault."""
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
    except FoundrayError as error:
        print(f"foundray: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("foundray: interrupted; `foundray resume` goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foundray",
        description="Elastic pre-training on Ray: the same model, bit for bit, on machines that come and go.",
    )
    parser.add_argument("--version", action="version", version=f"foundray {foundray.__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Any], None], about: str, takes: str | None = None, overrides: bool = False) -> Any:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=run)
        if takes:
            help_text = "a YAML file" if takes == "SPEC" else "a run's folder, or its name in runs/"
            added.add_argument("target", metavar=takes, help=help_text)
            added.add_argument("--json", action="store_true", help="make the last line of output one JSON object")
        if overrides:
            added.add_argument(
                "--set", action="append", default=[], metavar="a.b=c", help="override a field of the spec (repeatable)"
            )
        return added

    for name, run, about in (
        ("prepare", _prepare, "turn the raw sources of a spec into prepared shards"),
        ("train", _train, "run a spec to its end (preparing its data first, going on where it stopped)"),
    ):
        added = verb(name, run, about, "SPEC", overrides=True)
        added.add_argument("--dry-run", action="store_true", help="print the resolved spec and what follows from it, and stop")
    verb("tune", _tune, "search hyperparameters on small proxies, and write the run's spec with them", "SPEC", overrides=True)
    added = verb("coordcheck", _coordcheck, "check that hyperparameters transfer over widths", "SPEC", overrides=True)
    added.add_argument(
        "--widths", type=int, nargs="+", default=[], metavar="N", help="(default: 1, 2, 4, 8 times the proxies')"
    )
    added.add_argument("--depths", type=int, nargs="+", default=[], metavar="N", help="over depths instead; gives no verdict")
    added.add_argument("--steps", type=int, default=5, help="(default: 5)")
    added = verb(
        "transfer", _transfer, "find the best learning rate at several widths, with and without CompleteP", "SPEC", True
    )
    added.add_argument("--widths", type=int, nargs="+", required=True, metavar="N", help="the narrowest is the base")
    added.add_argument(
        "--rates", type=float, nargs="+", required=True, metavar="X", help="learning rates, such as 4e-3 8e-3 16e-3"
    )
    added.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    added.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")
    added = verb("forecast", _forecast, "tell a run's loss from a ladder of smaller ones", overrides=True)
    added.add_argument("runs", nargs="*", metavar="RUN", help="finished runs, or the folder of a search")
    added.add_argument("--points", metavar="FILE", help="a CSV with the columns N, D and loss, in place of runs")
    added.add_argument("--for", dest="target", metavar="SPEC", help="the run to be told of (default: that of the search)")
    added.add_argument("--parameters", type=float, metavar="N", help="of the run to be told of, in place of --for")
    added.add_argument("--tokens", type=float, metavar="D", help="of the run to be told of, in place of --for")
    added.add_argument("--json", action="store_true", help="make the last line of output one JSON object")
    verb("resume", _resume, "go on with a run from its last complete checkpoint", "RUN", overrides=True)
    verb("status", _status, "tell where a run stands", "RUN")
    verb("audit", _audit, "prove that every sample of every step was used exactly once", "RUN")
    added = verb("samples", _samples, "list the samples that a step trains on", "RUN")
    added.add_argument("--step", type=int, required=True, help="counted from 0")
    added = verb("sample", _sample, "continue a text with a run's newest weights", "RUN")
    added.add_argument("--prompt", default="", help="the text to continue (default: none)")
    added.add_argument("--tokens", type=int, default=200, help="tokens to add, at most (default: 200)")
    added.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    added.add_argument("--top-k", type=int, default=50, help="draw from the likeliest so many (default: 50)")
    added.add_argument("--seed", type=int, default=0, help="another seed, another text (default: 0)")
    added = verb("probe", _probe, "judge what a run has learned, beside a floor and the same network untrained", "RUN")
    added.add_argument("--task", required=True, metavar="FILE", help="a YAML file: what the run is judged by")
    added.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a field of the task (repeatable)")
    added = verb("fetch", _fetch, "get an example's data, from where it was published or from a folder")
    added.add_argument("name", metavar="NAME", help="an example's name, or its folder")
    added.add_argument(
        "--mirror", metavar="FOLDER", help="take the files from here: a folder of data sets, such as another data/"
    )
    added.add_argument("--to", metavar="FOLDER", default="data", help="the folder of data sets (default: data)")
    _cluster_verbs(verbs.add_parser("cluster", help="a Ray cluster of several nodes on this machine"))
    verb("schema", _schema, "print the JSON schema of a spec")
    return parser


def _overrides(options: Any) -> dict[str, Any]:
    from foundray.loading import parse_override

    return dict(parse_override(text) for text in options.set)


def _report(line: str) -> None:
    print(line, flush=True)


def _prepare(options: Any) -> None:
    if options.dry_run:
        return _dry_run(options)
    prepared = foundray.prepare(options.target, _overrides(options), _report)
    manifest = prepared.manifest
    if options.json:
        facts = manifest.model_dump(include={"rows", "tokens", "quarantined", "vocabulary", "recipe_sha256"})
        print(json.dumps({"folder": prepared.folder.url, **facts, "shards": len(manifest.shards)}))


def _dry_run(options: Any) -> None:
    from foundray.describe import derived
    from foundray.loading import load_spec

    spec = load_spec(options.target, _overrides(options))
    facts = derived(spec)
    print(spec.to_yaml())
    for name, value in facts.items():
        print(f"# {name}: {value}")
    if options.json:
        print(json.dumps({"spec": spec.model_dump(mode="json"), "derived": facts}))


def _train(options: Any) -> None:
    if options.dry_run:
        return _dry_run(options)
    _tell(foundray.train(options.target, _overrides(options), _report, show_progress=True), options.json)


def _tune(options: Any) -> None:
    try:
        tuned = foundray.tune(options.target, _overrides(options), _report, show_progress=True)
    except KeyboardInterrupt:
        print("foundray: interrupted; the same `foundray tune` goes on with the trials that there are", file=sys.stderr)
        sys.exit(130)
    print(tuned.table())
    if options.json:
        print(json.dumps(tuned.to_dict()))


def _coordcheck(options: Any) -> None:
    found = foundray.coordcheck(options.target, _overrides(options), options.widths, options.depths, options.steps, _report)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
    if found.over == "width" and not found.steady:
        sys.exit(1)


def _transfer(options: Any) -> None:
    found = foundray.transfer(
        options.target, options.widths, options.rates, _overrides(options), options.seeds, options.steps, _report
    )
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))


def _forecast(options: Any) -> None:
    if (options.parameters is None) != (options.tokens is None):
        raise InputError("--parameters and --tokens go together")
    size = None if options.parameters is None else (options.parameters, options.tokens)
    found = foundray.forecast(options.runs, options.points, options.target, size, _overrides(options), _report)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))


def _resume(options: Any) -> None:
    _tell(foundray.resume(options.target, _overrides(options), _report, show_progress=True), options.json)


def _tell(facts: Any, as_json: bool) -> None:
    """How good, what it took, where, what next."""
    from foundray.run import Run
    from foundray.standing import goodput

    print(f"validation loss {facts.val_loss:.4f} nats an answer after {facts.step:,} steps, {facts.tokens:,} tokens")
    print(f"{goodput(facts)}; {facts.restarts} regroupings, {facts.steps_repeated} steps repeated")
    print(f"in {facts.run} (weights {facts.weights_sha256[:16]}…)")
    look = "sample {} --prompt '…'" if Run.open(facts.run).spec().objective.build().continues else "probe {} --task FILE"
    print(f"next: foundray {look.format(facts.run)}, or tensorboard --logdir {facts.run}/tensorboard")
    if as_json:
        print(facts.to_json())


def _status(options: Any) -> None:
    if options.json:
        print(foundray.status(options.target).to_json())
    else:
        from foundray.run import Run
        from foundray.standing import standing

        print(standing(Run.open(options.target)))


def _audit(options: Any) -> None:
    found = foundray.audit(options.target)
    worlds = ", ".join(f"{steps:,} steps on {workers}" for workers, steps in sorted(found.workers.items()))
    for problem in found.problems[:20]:
        print(problem)
    verdict = "every one used exactly once" if found.clean else f"{len(found.problems)} problems"
    print(f"{found.steps:,} steps, {found.samples:,} samples: {verdict} ({worlds} worker(s); {found.repeated} steps repeated)")
    if options.json:
        print(json.dumps(found.to_dict()))
    if not found.clean:
        sys.exit(1)


def _samples(options: Any) -> None:
    names = foundray.samples(options.target, options.step)
    if options.json:
        print(json.dumps({"step": options.step, "samples": names}))
    else:
        print("\n".join(names))


def _sample(options: Any) -> None:
    text = foundray.sample(options.target, options.prompt, options.tokens, options.temperature, options.top_k, options.seed)
    print(text)
    if options.json:
        print(json.dumps({"text": text}))


def _probe(options: Any) -> None:
    judgement = foundray.probe(options.target, options.task, _overrides(options))
    print(judgement.table())
    if options.json:
        print(json.dumps(judgement.to_dict()))


def _fetch(options: Any) -> None:
    foundray.fetch(options.name, options.to, options.mirror, _report)


def _cluster_verbs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Any], None], about: str, node: bool = False, resources: bool = False) -> Any:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=run)
        added.add_argument("--local", action="store_true", required=True, help="on this machine (the only kind so far)")
        if node:
            added.add_argument("node", help="the node's name")
        if resources:
            added.add_argument("--resources", default="CPU=1", metavar="CPU=1,GPU=0", help="of each node (default: CPU=1)")
        return added

    added = verb("up", _cluster_up, "start a head and some nodes", resources=True)
    added.add_argument("--nodes", type=int, default=3, help="nodes beside the head (default: 3)")
    verb("add", _cluster_add, "add a node", resources=True)
    verb("kill", _cluster_kill, "end a node at once, as when a machine is lost", node=True)
    added = verb("drain", _cluster_drain, "give notice that a node will go (kill it when the time is up)", node=True)
    added.add_argument("--notice", type=float, default=30, help="seconds until it goes (default: 30)")
    verb("down", _cluster_down, "end all nodes")


def _cluster_up(options: Any) -> None:
    from foundray.local_cluster import LocalCluster, parse_resources

    cluster = LocalCluster.up(options.nodes, parse_resources(options.resources))
    print(f"up: {', '.join(cluster.nodes)}")
    print(
        f"next: RAY_ADDRESS={cluster.address} foundray train SPEC, and from another terminal foundray cluster kill --local NODE"
    )


def _cluster_add(options: Any) -> None:
    from foundray.local_cluster import LocalCluster, parse_resources

    print(f"added: {LocalCluster().add(parse_resources(options.resources))}")


def _cluster_kill(options: Any) -> None:
    from foundray.local_cluster import LocalCluster

    LocalCluster().kill(options.node)


def _cluster_drain(options: Any) -> None:
    from foundray.local_cluster import LocalCluster

    LocalCluster().drain(options.node, options.notice)


def _cluster_down(options: Any) -> None:
    from foundray.local_cluster import LocalCluster

    LocalCluster().down()


def _schema(options: Any) -> None:
    from foundray.spec import Spec

    print(json.dumps(Spec.model_json_schema(), indent=2))
