"""The driver of a run: it checks the spec, prepares the data, hands the loop to Ray Train, and writes the records."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from foundray.cluster.causes import cause_of, sentence_of
from foundray.cluster.connect import HEAD_SECONDS, accelerators, connected, fit, free_resources, head_watched, node_resources
from foundray.cluster.local_ray import is_alone
from foundray.data.prepare.length import in_steps, training_samples
from foundray.data.prepare.manifest import Manifest, Prepared
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder, rewrites_of
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.environment import environment
from foundray.host.machine import physical_cores
from foundray.host.signals import heeded
from foundray.preflight.admission import admit
from foundray.runs.extension import earlier_fingerprints, unfinished
from foundray.runs.facts import Facts
from foundray.runs.lock import RunLock
from foundray.runs.places import with_absolute_paths
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.storage import Store
from foundray.tracking.process import check_installed as check_trackers
from foundray.tracking.process import tracked
from foundray.training.checkpoints.leftovers import clear
from foundray.training.default_scale import choose, with_workers
from foundray.training.evaluating.tasks.kept import check_tasks, keep_tasks
from foundray.training.team_size import check_room, with_team
from foundray.training.telemetry.likelihood import BytesPerToken
from foundray.training.telemetry.listener import Told
from foundray.training.telemetry.recorder import Recorder, past_requests
from foundray.training.validation_sets import check_sets, prepare_sets
from foundray.training.warm_start.parent import Start, check_not_itself, find_start
from foundray.wording.words import plural, span

if TYPE_CHECKING:
    from foundray.data.stream.validation import ValidationSet
    from foundray.training.elastic.prestart import Prestarted

Report = Callable[[str], None]


def train(spec: Spec, report: Report, show_progress: bool = False, on_event: Told | None = None) -> Facts:
    """Run the spec to its end, continuing where an earlier command stopped. Raises InputError or RunFailed."""
    check_not_itself(spec)
    run = Run.named(spec)
    if run.exists():
        spec = _as_begun(run, spec)
        run.check_same(spec)
        return resume(run, spec, report, show_progress, on_event)
    check_trackers(spec)
    if spec.branch_from:
        raise InputError(f"branch_from: {run.folder} is not there, and `foundray branch` makes such a run, not its spec alone")
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)  # finds missing sources before anything starts
    check_tasks(spec)
    check_sets(spec)
    start = find_start(spec) if spec.init_from else None
    if start:
        spec = start.spec
        report(f"init_from: {start.summary()}")
    # Connect, check the cluster, and prepare the data, while the run's processes start.
    with connected(report) as ray, ExitStack() as holding:
        admit(ray, spec, report)
        workers = _fit(spec, report)
        prestarted = holding.enter_context(_prestarting(spec))
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        given, spec = spec.train.epochs, in_steps(spec, prepared.manifest)
        if given:
            samples = training_samples(spec, prepared.manifest)
            report(f"train.epochs: {given:g} of {plural(samples, 'training sample')} are {plural(spec.train.steps, 'step')}")
        if start:
            start.check_tokens(prepared)
        with RunLock(run.folder, report) as lock:
            if run.exists():  # another command has made it meanwhile, and perhaps finished it
                spec = _as_begun(run, spec)
                run.check_same(spec)
                if (facts := _finished(run, spec, report)) is not None:
                    return facts
                prepared = prepared_data(run)
                keep_tasks(run, spec, prepared, report)
            else:
                keep_tasks(run, spec, prepared, report)  # first: a run that could not be evaluated is not made
                _make(run, spec, prepared, start)
            start = None  # frees the weights
            spec, workers = _with_default_scale(spec, prepared, workers, report)
            with heeded(lock.stop):
                return _run(ray, run, spec, prepared, workers, lock, report, show_progress, on_event, prestarted)


def _as_begun(run: Run, spec: Spec) -> Spec:
    """The spec, with what the run's beginning settled: the length in steps, and the hash of its initial weights."""
    if spec.train.epochs:
        spec = in_steps(spec, prepared_data(run).manifest)
    return run.as_begun(spec)


@contextmanager
def _prestarting(spec: Spec) -> Iterator[Prestarted | None]:
    """Start the run's processes before its data are prepared, if this command has Ray to itself; otherwise None."""
    if not is_alone():
        yield None
        return
    from foundray.training.elastic.prestart import Prestarted

    if spec.scale.is_open:
        spec = with_workers(spec, min(physical_cores(), spec.train.micro_batches))
    prestarted = Prestarted(spec.scale)
    try:
        yield prestarted
    finally:
        prestarted.close()


def _on_cluster() -> bool:
    """Whether Ray is the cluster at RAY_ADDRESS. The address `local` is Ray's word for a command's own Ray."""
    return bool(os.environ.get("RAY_ADDRESS")) and not is_alone()


def _fit(spec: Spec, report: Report) -> dict[str, tuple[int, int]]:
    workers = fit(spec.scale, node_resources(), _on_cluster(), report)
    check_room(spec, workers)
    return workers


def _with_default_scale(
    spec: Spec, prepared: Prepared, workers: dict[str, tuple[int, int]], report: Report
) -> tuple[Spec, dict[str, tuple[int, int]]]:
    """The spec and its slots, after this machine has chosen the number of workers if the spec leaves it open.

    On a cluster the spec decides. The spec in the run's folder stays open, since another command may run on another machine.
    """
    if not spec.scale.is_open or _on_cluster():
        spec = with_team(spec, prepared.manifest.vocabulary, accelerators(), report)
        check_room(spec, workers)
        return spec, workers
    all_cpus, free_cpus = (
        int(sum(node.get("CPU", 0) for node in nodes)) for nodes in (node_resources(), free_resources().values())
    )
    choice = choose(spec, prepared.manifest.vocabulary, max(1, min(all_cpus, physical_cores())))
    report(f"{plural(choice.workers, 'worker')}: {choice.reason}")
    # Nobody else can take these CPUs, so Ray Train need not check for more or fewer slots from time to time.
    fewest = choice.workers if free_cpus >= choice.workers else 1
    return with_workers(spec, choice.workers), {"": (fewest, choice.workers)}


def _make(run: Run, spec: Spec, prepared: Prepared, start: Start | None) -> None:
    if start:
        start.keep(run)
    if prepared.manifest.vocabulary:
        (run.folder / "tokenizer.json").write_text(prepared.tokenizer().to_json())
    data = {"folder": prepared.folder.url, "manifest": prepared.manifest.model_dump(), "arithmetic": spec.arithmetic}
    (run.folder / "data.json").write_text(json.dumps(data))
    (run.folder / "spec.yaml").write_text(with_absolute_paths(spec).to_yaml())


def resume(run: Run, spec: Spec, report: Report, show_progress: bool = False, on_event: Told | None = None) -> Facts:
    """Continue from the run's last complete checkpoint. Raises InputError or RunFailed."""
    if (facts := _finished(run, spec, report)) is not None:
        return facts
    check_trackers(spec)
    run.check_arithmetic()
    if begun := unfinished(spec, run.records("events.jsonl")):
        steps = begun["changed"]["train.steps"][1]
        raise InputError(
            f"{run.folder} is recorded as extended to {steps} steps, but its spec is not yet, as that command was interrupted: "
            f"`foundray extend {run.folder} --steps {steps}` completes it"
        )
    prepared = prepared_data(run)
    prepared.check_files()
    with RunLock(run.folder, report) as lock, connected(report) as ray:  # a refused command writes nothing into the folder
        if (facts := _finished(run, spec, report)) is not None:
            return facts
        admit(ray, spec, report, raw=False)
        keep_tasks(run, spec, prepared, report)
        workers = _fit(spec, report)
        with _prestarting(spec) as prestarted, heeded(lock.stop):
            spec, workers = _with_default_scale(spec, prepared, workers, report)
            return _run(ray, run, spec, prepared, workers, lock, report, show_progress, on_event, prestarted)


def _finished(run: Run, spec: Spec, report: Report) -> Facts | None:
    """The facts of a finished run; None if it is not finished."""
    if (facts := run.facts()).state != "finished":
        return None
    report(f"{spec.name} is finished: step {facts.step}")
    return facts


def prepared_data(run: Run) -> Prepared:
    """Open the run's prepared data: beside the run, in case both have moved, otherwise at the recorded place."""
    recorded = Store.at(run.data_folder())
    beside = run.folder.parent / "prepared" / recorded.name
    return Prepared.open(beside if (beside / "manifest.json").exists() else recorded)


def check_fits(spec: Spec, prepared: Prepared) -> None:
    """Raise InputError if the training splits cannot fill one step, or if one is empty."""
    manifest, holdout = prepared.manifest, spec.data.holdout
    splits = [manifest.split(index, holdout) for index in range(len(spec.data.sources))]
    for source, (kept, total) in zip(spec.data.sources, splits, strict=True):
        if kept < 1:
            leave = "sample leaves" if total == 1 else "samples leave"
            raise InputError(
                f"the source {source.path} is too small: its {total} {leave} none beside the validation split; "
                f"add data, or lower model.context or data.holdout"
            )
    samples = sum(kept for kept, _ in splits)
    if samples < spec.samples_per_step:
        raise InputError(
            f"the data has too few tokens for one batch: {samples} training samples of {spec.model.context} tokens, and a step "
            f"takes {spec.samples_per_step}; add data, or lower train.micro_batches, train.micro_batch_size or model.context"
        )


def _bytes_per_token(manifest: Manifest, sets: Iterable[ValidationSet]) -> BytesPerToken:
    sources = 1 + max(shard.source for shard in manifest.shards)
    of_sources = tuple(map(manifest.bytes_per_token, range(sources)))
    return BytesPerToken(manifest.bytes_per_token(), of_sources, {one.name: one.bytes_per_token for one in sets})


def _run(
    ray: Any,
    run: Run,
    spec: Spec,
    prepared: Prepared,
    workers: dict[str, tuple[int, int]],
    lock: RunLock,
    report: Report,
    show_progress: bool,
    on_event: Told | None,
    prestarted: Prestarted | None,
) -> Facts:
    if problem := clear(run):
        report(f"files that an earlier command left could not be removed: {problem}")
    # Imported here: these import Ray, and a bad spec should be reported at once.
    from foundray.training.slots.board import start_board
    from foundray.training.slots.slots import Slots

    # Ray Train takes longest to start, so it starts before the other imports.
    fewest = sum(fewest for fewest, _ in workers.values())
    report(f"starting {span(fewest, max(fewest, sum(most for _, most in workers.values())), 'worker')}")
    board = prestarted.board if prestarted else start_board()
    later = prestarted is not None and prestarted.enough
    events = run.records("events.jsonl")
    slots = Slots.reserve(run, spec, workers, board, past_requests(events), later)

    from foundray.data.stream.feeder import start_feeder
    from foundray.data.stream.plan import plan_for
    from foundray.model.flops import flops
    from foundray.training.elastic.coordinator import Coordinator
    from foundray.training.elastic.messages import Work
    from foundray.training.prompts import prompts_of
    from foundray.training.telemetry.metrics import RunMetrics

    # What the workers need to know, and what the driver records.
    sets = prepare_sets(spec, run, prepared, report)
    manifest = prepared.manifest
    plan = plan_for(prepared, spec)
    work = Work(
        spec_json=spec.model_dump_json(),
        run=run.folder.url,
        plan=plan,
        classes=manifest.vocabulary,
        validation_sizes=plan.order().validation_sizes,
        prompts=prompts_of(spec, plan, prepared),
        sets=tuple(sets),
        feeder=prestarted.feeder if prestarted else start_feeder(),
        board=board,
        rewrites=rewrites_of(manifest.recipe, spec),
        earlier_fingerprints=earlier_fingerprints(events),
    )
    scores = spec.objective.build().scores
    metrics = RunMetrics(spec, plan, work.feeder, lambda: flops(spec, manifest.vocabulary, 1))
    size = _bytes_per_token(manifest, sets) if scores else None
    recorder = Recorder(run, spec, size, report, show_progress, metrics, on_event)
    recorder.write([event("command", workers=list(spec.scale.world), environment=environment()), *slots.request_events()])
    coordinator = Coordinator(spec, run, work, recorder, slots, lock, prestarted)
    advice = f"`foundray resume {run.folder}` continues from the last checkpoint"

    def note_failure(error: FoundrayError) -> None:
        if lock.taken:  # the records are another command's now
            return recorder.abandon()
        recorder.write([event("failed", step=recorder.reached, reason=sentence_of(error), exit_status=error.exit_status)])

    def end_without_head() -> None:
        # An exception would not help: the main thread waits inside Ray, which is about to end the process.
        error = RunFailed(f"the head of the Ray cluster has been away for {HEAD_SECONDS:.0f} s; {advice}")
        note_failure(error)
        with suppress(InputError):
            recorder.record_writer.settle(5)
        print(f"foundray: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_status)

    with tracked(run, spec, recorder.print_line), head_watched(end_without_head):
        failed = True
        try:
            coordinator.run()
            failed = False
        except FoundrayError as error:
            note_failure(error)
            raise
        except ray.exceptions.RayError as error:
            failure = RunFailed(f"Ray was lost: {cause_of(error)}; {advice}")
            note_failure(failure)
            raise failure from error
        finally:
            coordinator.close()
            slots.close(recorder.requests)
            recorder.close(failed)
            if not lock.taken:
                with suppress(InputError):
                    (run.folder / ".ray").delete_folder()
    return run.facts()
