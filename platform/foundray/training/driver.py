"""The driver of a run: checks, prepares, hands the loop to Ray Train, and keeps the record."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from foundray.cluster import Fit, connected, fit, node_resources
from foundray.data.manifest import Prepared
from foundray.data.prepare import prepare, prepared_folder
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.run import Facts, Run, event
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.record import Recorder

Report = Callable[[str], None]


def train(spec: Spec, report: Report, show_progress: bool = False) -> Facts:
    """Run the spec to its end, going on where an earlier command stopped. Raises InputError or RunFailed."""
    run = Run.named(spec)
    if run.exists():
        run.check_same(spec)
        return resume(run, spec, report, show_progress)
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)  # finds missing sources before anything is started
    with connected() as ray:
        workers = fit(spec.scale, node_resources(ray), bool(os.environ.get("RAY_ADDRESS")), report)
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        (run.folder / "tokenizer.json").write_text(prepared.tokenizer().to_json())
        (run.folder / "data.json").write_text(
            json.dumps({"folder": prepared.folder.url, "manifest": prepared.manifest.model_dump()})
        )
        (run.folder / "spec.yaml").write_text(_with_absolute_paths(spec).to_yaml())
        return _run(ray, run, spec, prepared, workers, report, show_progress)


def resume(run: Run, spec: Spec, report: Report, show_progress: bool = False) -> Facts:
    """Go on from the run's last complete checkpoint. Raises InputError or RunFailed."""
    if (facts := run.facts()).state == "finished":
        report(f"{spec.name} is finished: step {facts.step}")
        return facts
    run.folder.check_writable()
    prepared = prepared_data(run)
    prepared.check_files()
    with connected() as ray:
        workers = fit(spec.scale, node_resources(ray), bool(os.environ.get("RAY_ADDRESS")), report)
        return _run(ray, run, spec, prepared, workers, report, show_progress)


def prepared_data(run: Run) -> Prepared:
    """The run's prepared data: beside the run, wherever both lie now, or where it was when the run was made."""
    recorded = Store.at(json.loads((run.folder / "data.json").read_text())["folder"])
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


def _run(ray: Any, run: Run, spec: Spec, prepared: Prepared, workers: Fit, report: Report, show_progress: bool) -> Facts:
    # Imported here: these import torch, and a bad spec should be told at once.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from foundray.data.feeder import start_feeder
    from foundray.data.stream import plan_for
    from foundray.training.journal import JournalReader, start_journal
    from foundray.training.worker import Work, train_worker

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    journal = start_journal()
    manifest = prepared.manifest
    plan = plan_for(
        prepared,
        [source.weight for source in spec.data.sources],
        spec.data.holdout,
        spec.seed,
        spec.train.micro_batch_size,
    )
    work = Work(
        spec_json=spec.model_dump_json(),
        run=run.folder.url,
        plan=plan,
        vocabulary=manifest.vocabulary,
        document_id=manifest.document_id,
        validation_samples=plan.order().validation_samples,
        feeder=start_feeder(),
        journal=journal,
        submitted=time.time(),
    )
    uses_gpu = spec.scale.resources.get("GPU", 0) > 0
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(
            num_workers=workers.most if workers.fewest == workers.most else (workers.fewest, workers.most),
            use_gpu=uses_gpu,
            resources_per_worker=dict(spec.scale.resources),
        ),
        torch_config=TorchConfig(backend="nccl" if uses_gpu else "gloo"),
        run_config=RunConfig(
            name=f"ray-{time.time_ns()}",  # Ray Train keeps state of its own by name; ours is the one that counts
            storage_path=_ray_folder(run),
            failure_config=FailureConfig(max_failures=spec.fault.max_restarts),
        ),
    )
    recorder = Recorder(run, spec, prepared.manifest.bytes_per_token(), report, show_progress)
    recorder.write([event("command", workers=list(spec.scale.workers))])
    reader = JournalReader(journal, recorder.write)
    problem: str | None = None
    try:
        trainer.fit()
    except Exception as error:
        problem = _root_cause(error)
    finally:
        reader.close()
        recorder.close()
    return _outcome(run, recorder, reader.problem, problem)


def _ray_folder(run: Run) -> str:
    return (run.folder / ".ray").url


def _outcome(run: Run, recorder: Recorder, unwritten: FoundrayError | None, problem: str | None) -> Facts:
    with suppress(InputError):
        (run.folder / ".ray").delete_folder()
    if unwritten:
        raise unwritten
    if failed := recorder.failed:
        kind = InputError if failed["exit_status"] == InputError.exit_status else RunFailed
        raise kind(failed["reason"])
    if problem:
        recorder.write([event("failed", step=recorder.step, reason=problem, exit_status=1)])
        raise RunFailed(f"the run failed: {problem}; `foundray resume {run.folder}` goes on from its last checkpoint")
    facts = run.facts()
    if facts.state != "finished":
        raise RunFailed(f"the run was interrupted at step {facts.step}; `foundray resume {run.folder}` goes on")
    return facts


def _root_cause(error: BaseException) -> str:
    """The last line of the innermost error, which says what happened."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[-1].strip() if lines else ''}"[:400]
