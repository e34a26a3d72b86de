"""Ray Train has no barrier while a run holds its slots: what takes its place satisfies Ray Train's own code."""

from __future__ import annotations

from ray.train.v2._internal.execution.worker_group import state, worker_group

from foundray.training.slots.barrier import without_barrier


def test_ray_train_starts_and_ends_without_a_barrier() -> None:
    real = worker_group.SynchronizationActor
    with without_barrier():
        barrier = worker_group.SynchronizationActor.options(label_selector={}).remote(timeout_s=None, warn_interval_s=1.0)
        builder = state.WorkerGroupStateBuilder().with_sync_actor(barrier)
        builder.shutdown()
        assert barrier is not None and not barrier
        state._shutdown_sync_actor(barrier)
    assert worker_group.SynchronizationActor is real
