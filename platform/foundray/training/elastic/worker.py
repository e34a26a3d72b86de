"""Worker: a process that computes. It outlives its groups and keeps its state in memory between them.

The coordinator orders workers to join a group, from a step and a state that it chose. A worker continues until the run is
over, until a requested stop after a step (`paused`), or until the group breaks; then it keeps its state and waits for the next
order. Warming up (imports, building the model) happens once, while other workers compute.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from foundray.cluster.causes import cause_of, is_away
from foundray.errors import BadData, FoundrayError, StorageAway
from foundray.host.garbage import uncollected
from foundray.host.network import interface_of
from foundray.spec import Spec
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.elastic.messages import Order, Work, WorkerHandle
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol.messages import Phase, Status, Unreadable
from foundray.training.protocol.states import StateShard
from foundray.training.step.guards import Corruption, Spike
from foundray.training.step.heap import keep_memory

if TYPE_CHECKING:  # these import torch, which the driver has no use for
    from torch import Tensor
    from torch.distributed import TCPStore

    from foundray.training.collectives.group import Group


class Worker:
    """The actor. Its methods answer while its own thread computes."""

    replicas: Replicas[dict[str, Tensor]]
    work: Work

    def __init__(self, device: str):
        """Import what computing needs, and wait for work."""
        keep_memory()
        # By itself gloo takes the address that the machine's name stands for, which often is a loopback address.
        if interface := interface_of(ray.util.get_node_ip_address()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        self.device = device
        self.status = Status()
        self.changed = threading.Condition()
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.work_given: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.group: Group | None = None
        self.store: TCPStore | None = None
        """Where the group gathers of which this worker is the first."""
        self.halted_for = 0
        """The last attempt to form a group for which it was asked to halt."""
        self.pause_requested, self.checkpoint_requested = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    # What the coordinator and other workers call.

    def begin(self, work: Work) -> None:
        """Build the model, to be ready for a group."""
        self.work_given.put(work)

    def watch(self, version: int, seconds: float) -> Status:
        """Return the status as soon as its version differs from `version`, or after `seconds`."""
        with self.changed:
            self.changed.wait_for(lambda: self.status.version != version, seconds)
            return self.status

    def rendezvous(self) -> tuple[str, int]:
        """Return the address and port on this node at which a group can gather."""
        from foundray.training.collectives.group import listen

        address = ray.util.get_node_ip_address()
        self.store = listen(address)
        return address, self.store.port

    def take_part(self, order: Order) -> None:
        """Join a group, unless the order was overtaken by a later attempt to form one."""
        with self.changed:
            if order.attempt < self.halted_for:
                return
            self.pause_requested.clear()
            self.checkpoint_requested.clear()
            self.status = Status(Phase.RUNNING, self.status.version, order.generation)
            self.set_status()
            self.orders.put(order)

    def pause(self, generation: int, save: bool) -> None:
        """Stop with the rest of this group after the step under way; with `save`, write a checkpoint of it."""
        with self.changed:
            if generation == self.status.generation:
                if save:
                    self.checkpoint_requested.set()
                self.pause_requested.set()

    def halt(self, attempt: int, seconds: float) -> tuple[Status, list[StateShard]]:
        """Stop what is under way in a broken group; return the status and the state shards held."""
        with self.changed:
            self.halted_for = max(self.halted_for, attempt)
        if (group := self.group) and self.status.phase is Phase.RUNNING:  # the worker's own thread may leave it meanwhile
            group.abort()
        with self.changed:
            self.changed.wait_for(lambda: self.status.phase is not Phase.RUNNING, seconds)
            return self.status, self.replicas.shards()

    def hold(self, shard: StateShard, tensors: dict[str, Any]) -> None:
        """Keep a replica of another worker's state shard, given as NumPy arrays."""
        import torch

        self.replicas.keep(shard, {name: torch.from_numpy(array.copy()) for name, array in tensors.items()})

    def hand_over(self, successor: WorkerHandle, shards: Sequence[StateShard]) -> None:
        """Copy state shards that this worker holds to another one."""
        from foundray.training.elastic.restore import as_arrays

        ray.get([successor.hold.remote(shard, as_arrays(self.replicas.get(shard))) for shard in shards])

    # What the thread does.

    def set_status(self, **changes: Any) -> None:
        """Change the status and wake its watchers."""
        with self.changed:
            self.status = replace(self.status, version=self.status.version + 1, **changes)
            self.changed.notify_all()

    def _run(self) -> None:
        try:
            with uncollected():
                from foundray.training.elastic.loop import Loop

            # Warm up once.
            self.work = self.work_given.get()
            self.replicas = Replicas(Spec.model_validate_json(self.work.spec_json).guard.roll_back)
            loop = Loop(self.work, self)
            self.set_status(phase=Phase.READY, facts=loop.facts())
        except FoundrayError as error:
            return self.set_status(phase=Phase.FAILED, reason=str(error), exit_status=error.exit_status)
        except Exception as error:
            return self.set_status(phase=Phase.FAILED, reason=f"{type(error).__name__}: {error}")
        while True:
            # Work in one group after another. What ends a group becomes the status that the coordinator acts on.
            order = self.orders.get()
            try:
                loop.join(order)
                outcome: dict[str, Any] = loop.run()
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, BadData):  # another group would fail at the same sample
                    outcome = {"phase": Phase.FAILED, "reason": cause_of(error), "exit_status": cause.exit_status}
                else:
                    outcome = {"phase": Phase.BROKEN, "reason": f"the feeder: {cause_of(error)}", "away": is_away(error)}
            except Unusable as error:
                unreadable = Unreadable(error.checkpoint, str(error))
                outcome = {"phase": Phase.BROKEN, "reason": str(error), "away": error.away, "unreadable": unreadable}
            except StorageAway as error:
                outcome = {"phase": Phase.BROKEN, "reason": str(error), "away": True}
            except FoundrayError as error:
                outcome = {"phase": Phase.FAILED, "reason": str(error), "exit_status": error.exit_status}
            except Corruption as error:
                outcome = {"phase": Phase.BROKEN, "reason": str(error), "suspects": tuple(error.ranks), "done": loop.done}
            except Spike as error:
                outcome = {"phase": Phase.BROKEN, "reason": str(error), "spike": error.step}
            except Exception as error:  # mostly a failed collective: another worker is gone
                outcome = {"phase": Phase.BROKEN, "reason": f"{type(error).__name__}: {str(error)[:300]}"}
            try:
                if outcome["phase"] is Phase.FAILED:
                    loop.flush()
                loop.leave()
            except Exception as error:  # its shard is lost; it can still join again
                outcome = {"phase": Phase.BROKEN, "reason": f"{type(error).__name__}: {str(error)[:300]}"}
            self.set_status(**outcome)
