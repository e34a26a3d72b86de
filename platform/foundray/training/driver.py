"""The driver of a run: checks, prepares, hands the loop to Ray Train, and keeps the record."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from foundray.cluster.causes import cause_of, sentence_of
from foundray.cluster.connect import HEAD_SECONDS, connected, fit, free_resources, head_watched, node_resources
from foundray.cluster.local_ray import is_alone
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.environment import environment
from foundray.host.machine import physical_cores
from foundray.host.signals import heeded
from foundray.preflight.admission import admit
from foundray.runs.lock import RunLock
from foundray.runs.run import Facts, Run, event
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.leftovers import clear
from foundray.training.default_scale import choose, with_workers
from foundray.training.telemetry.recorder import Recorder, asked_for
from foundray.training.warm_start.parent import Start, check_not_itself, find_start
from foundray.wording.words import plural, span

if TYPE_CHECKING:
    from foundray.training.elastic.prestart import Prestarted

Report = Callable[[str], None]


def train(spec: Spec, report: Report, show_progress: bool = False) -> Facts:
    """Run the spec to its end, going on where an earlier command stopped. Raises InputError or RunFailed."""
    check_not_itself(spec)
    run = Run.named(spec)
    if run.exists():
        spec = run.as_begun(spec)
        run.check_same(spec)
        return resume(run, spec, report, show_progress)
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)  # finds missing sources before anything is started
    start = find_start(spec) if spec.init_from else None
    if start:
        spec = start.spec
        report(f"init_from: {start.told()}")
    with connected(report) as ray, ExitStack() as holding:
        admit(ray, spec, report)
        workers = _fit(spec, report)
        ahead = holding.enter_context(_ahead(spec))
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        if start:
            start.check_tokens(prepared)
        with RunLock(run.folder, report) as holder:
            if run.exists():  # made, and perhaps finished, by another command meanwhile
                spec = run.as_begun(spec)
                run.check_same(spec)
                if (facts := _finished(run, spec, report)) is not None:
                    return facts
                prepared = prepared_data(run)
            else:
                _make(run, spec, prepared, start)
            start = None  # it holds the weights
            spec, workers = _chosen(spec, prepared, workers, report)
            with heeded(holder.stop):
                return _run(ray, run, spec, prepared, workers, holder, report, show_progress, ahead)


@contextmanager
def _ahead(spec: Spec) -> Iterator[Prestarted | None]:
    """The run's processes, started before its data are prepared: on a Ray of this command alone, which nobody competes for."""
    if not is_alone():
        yield None
        return
    from foundray.training.elastic.prestart import Prestarted

    if spec.scale.is_open:
        spec = with_workers(spec, min(physical_cores(), spec.train.micro_batches))
    ahead = Prestarted(spec.scale)
    try:
        yield ahead
    finally:
        ahead.close()


def _has_joined() -> bool:
    """Whether the Ray is that of a cluster at RAY_ADDRESS, which may be `local`, Ray's word for one of a command's own."""
    return bool(os.environ.get("RAY_ADDRESS")) and not is_alone()


def _fit(spec: Spec, report: Report) -> dict[str, tuple[int, int]]:
    return fit(spec.scale, node_resources(), _has_joined(), report)


def _chosen(
    spec: Spec, prepared: Prepared, workers: dict[str, tuple[int, int]], report: Report
) -> tuple[Spec, dict[str, tuple[int, int]]]:
    """The spec and its places, where this machine decides how many workers there are; a cluster has as many as are asked for.

    What the run's folder holds stays open: another command may find another machine.
    """
    if not spec.scale.is_open or _has_joined():
        return spec, workers
    there, free = (int(sum(node.get("CPU", 0) for node in nodes)) for nodes in (node_resources(), free_resources().values()))
    choice = choose(spec, prepared.manifest.vocabulary, max(1, min(there, physical_cores())))
    report(f"{plural(choice.workers, 'worker')}: {choice.reason}")
    # Nobody else can take what is free here, so Ray Train need not look for more or fewer places now and then.
    fewest = choice.workers if free >= choice.workers else 1
    return with_workers(spec, choice.workers), {"": (fewest, choice.workers)}


def _make(run: Run, spec: Spec, prepared: Prepared, start: Start | None) -> None:
    if start:
        start.keep(run)
    if prepared.manifest.vocabulary:
        (run.folder / "tokenizer.json").write_text(prepared.tokenizer().to_json())
    data = {"folder": prepared.folder.url, "manifest": prepared.manifest.model_dump(), "arithmetic": spec.arithmetic}
    (run.folder / "data.json").write_text(json.dumps(data))
    (run.folder / "spec.yaml").write_text(_with_absolute_paths(spec).to_yaml())


def resume(run: Run, spec: Spec, report: Report, show_progress: bool = False) -> Facts:
    """Go on from the run's last complete checkpoint. Raises InputError or RunFailed."""
    if (facts := _finished(run, spec, report)) is not None:
        return facts
    run.check_arithmetic()
    prepared = prepared_data(run)
    prepared.check_files()
    with RunLock(run.folder, report) as holder, connected(report) as ray:  # one that is refused writes nothing into the folder
        if (facts := _finished(run, spec, report)) is not None:
            return facts
        admit(ray, spec, report, raw=False)
        workers = _fit(spec, report)
        with _ahead(spec) as ahead, heeded(holder.stop):
            spec, workers = _chosen(spec, prepared, workers, report)
            return _run(ray, run, spec, prepared, workers, holder, report, show_progress, ahead)


def _finished(run: Run, spec: Spec, report: Report) -> Facts | None:
    """The facts of a run that is at its end."""
    if (facts := run.facts()).state != "finished":
        return None
    report(f"{spec.name} is finished: step {facts.step}")
    return facts


def prepared_data(run: Run) -> Prepared:
    """The run's prepared data: beside the run, wherever both lie now, or where it was when the run was made."""
    recorded = Store.at(run.data_folder())
    beside = run.folder.parent / "prepared" / recorded.name
    return Prepared.open(beside if (beside / "manifest.json").exists() else recorded)


def check_fits(spec: Spec, prepared: Prepared) -> None:
    """Raises InputError where a source's training split cannot fill one step."""
    manifest, holdout = prepared.manifest, spec.data.holdout
    splits = [manifest.split(index, holdout) for index in range(len(spec.data.sources))]
    for source, (kept, total) in zip(spec.data.sources, splits, strict=True):
        if kept < 1:
            raise InputError(
                f"the source {source.path} is too small: its {total} samples leave none beside the validation split"
            )
    samples = sum(kept for kept, _ in splits)
    if samples < spec.samples_per_step:
        raise InputError(
            f"the data is fewer tokens than one batch: {samples} training samples of {spec.model.context} tokens, and a step "
            f"takes {spec.samples_per_step}; add data, or lower train.micro_batches, train.micro_batch_size or model.context"
        )


def _with_absolute_paths(spec: Spec) -> Spec:
    sources = [source.model_copy(update={"path": _absolute(source.path)}) for source in spec.data.sources]
    return spec.model_copy(
        update={"data": spec.data.model_copy(update={"sources": sources}), "storage": _absolute(spec.storage)}
    )


def _absolute(path: str) -> str:
    return Store.at(path).url


def _run(
    ray: Any,
    run: Run,
    spec: Spec,
    prepared: Prepared,
    workers: dict[str, tuple[int, int]],
    holder: RunLock,
    report: Report,
    show_progress: bool,
    ahead: Prestarted | None,
) -> Facts:
    if problem := clear(run):
        report(f"what a command before left could not be removed: {problem}")
    # Imported here: these import Ray, and a bad spec should be told at once.
    from foundray.training.slots.board import start_board
    from foundray.training.slots.slots import Slots

    # Ray Train takes longest to start: the rest is imported beside it.
    fewest = sum(fewest for fewest, _ in workers.values())
    report(f"starting {span(fewest, max(fewest, sum(most for _, most in workers.values())), 'worker')}")
    board = ahead.board if ahead else start_board()
    later = ahead is not None and ahead.enough
    places = Slots(run, spec, workers, board, asked_for(run.records("events.jsonl")), later)

    from foundray.data.stream.feeder import start_feeder
    from foundray.data.stream.plan import plan_for
    from foundray.model.flops import flops
    from foundray.training.elastic.coordinator import Coordinator
    from foundray.training.elastic.messages import Work
    from foundray.training.telemetry.metrics import RunMetrics

    manifest = prepared.manifest
    plan = plan_for(prepared, spec)
    work = Work(
        spec_json=spec.model_dump_json(),
        run=run.folder.url,
        plan=plan,
        classes=manifest.vocabulary,
        validation_samples=plan.order().validation_samples,
        feeder=ahead.feeder if ahead else start_feeder(),
        board=board,
    )
    scores = spec.objective.build().scores
    told = RunMetrics(spec, plan, work.feeder, lambda: flops(spec, manifest.vocabulary, 1))
    recorder = Recorder(run, spec, manifest.bytes_per_token() if scores else None, report, show_progress, told)
    recorder.write([event("command", workers=list(spec.scale.world), environment=environment()), *places.asked()])
    coordinator = Coordinator(spec, run, work, recorder, places, holder, ahead)
    go_on = f"`foundray resume {run.folder}` goes on from the last checkpoint"

    def note_failure(error: FoundrayError) -> None:
        if holder.taken:  # the record is another command's now
            return recorder.abandon()
        recorder.write([event("failed", step=recorder.reached, reason=sentence_of(error), exit_status=error.exit_status)])

    def end_without_head() -> None:
        # No exception would do: the main thread waits inside Ray, which is about to end the process.
        error = RunFailed(f"the head of the Ray cluster has been away for {HEAD_SECONDS:.0f} s; {go_on}")
        note_failure(error)
        with suppress(InputError):
            recorder.record_writer.settle(5)
        print(f"foundray: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_status)

    with head_watched(end_without_head):
        failed = True
        try:
            coordinator.run()
            failed = False
        except FoundrayError as error:
            note_failure(error)
            raise
        except ray.exceptions.RayError as error:
            failure = RunFailed(f"Ray was lost: {cause_of(error)}; {go_on}")
            note_failure(failure)
            raise failure from error
        finally:
            coordinator.close()
            places.close(recorder.requests)
            recorder.close(failed)
            if not holder.taken:
                with suppress(InputError):
                    (run.folder / ".ray").delete_folder()
    return run.facts()
