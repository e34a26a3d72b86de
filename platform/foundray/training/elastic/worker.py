"""A member: a process that computes. It outlives the groups it takes part in, and keeps its state in memory between them.

The driver's conductor tells members to take part in a group, from a step and a state that it chose. A member goes on
until the run is over, until somebody was asked to stop after a step (`paused`), or until the group breaks: then it keeps
what it has and waits for the next order. Warming up (imports, building the model) happens once, beside the others' work.
"""

from __future__ import annotations

import queue
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from foundray.cluster.causes import cause_of, is_away
from foundray.errors import BadData, FoundrayError, StorageAway
from foundray.spec import Spec
from foundray.training.elastic.messages import Order, Status, Work
from foundray.training.elastic.recovery import StateShard
from foundray.training.step.guards import Corruption, Spike
from foundray.training.step.heap import keep_memory

if TYPE_CHECKING:  # these import torch, which the driver has no use for
    from foundray.training.collectives.group import Group
    from foundray.training.elastic.replicas import Replicas

WATCH_SECONDS = 1.0
"""Longest that a watcher waits for news."""


class Worker:
    """The actor. Its methods answer while a thread of its own computes."""

    memory: Replicas
    work: Work

    def __init__(self, device: str):
        """It imports what it needs to compute, and waits for its work."""
        keep_memory()
        self.device = device
        self.status = Status()
        self.changed = threading.Condition()
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.given: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.group: Group | None = None
        self.leaving, self.saving = threading.Event(), threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    # What the conductor and other members call.

    def begin(self, work: Work) -> None:
        """Build the model, to be ready for a group."""
        self.given.put(work)

    def watch(self, version: int) -> Status:
        """The status as soon as it is not `version` any more, or after a second."""
        with self.changed:
            self.changed.wait_for(lambda: self.status.version != version, WATCH_SECONDS)
            return self.status

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port on this node."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def take_part(self, order: Order) -> None:
        self.leaving.clear()
        self.saving.clear()
        self.say(phase="running", generation=order.generation, written=(), suspects=(), spike=0, done=-1, away=False, loaded=-1)
        self.orders.put(order)

    def pause(self, generation: int, save: bool) -> None:
        """Stop with all others of this group after the step under way, and write a checkpoint of it if so wished."""
        if generation == self.status.generation:
            if save:
                self.saving.set()
            self.leaving.set()

    def halt(self, seconds: float) -> tuple[Status, list[StateShard]]:
        """Break off what is under way, for the group is broken; gives the pieces held."""
        if self.group and self.status.phase == "running":
            self.group.abort()
        with self.changed:
            self.changed.wait_for(lambda: self.status.phase != "running", seconds)
            return self.status, self.memory.pieces()

    def hold(self, piece: StateShard, tensors: dict[str, Any]) -> None:
        """Mirror a piece of another member, given as NumPy arrays."""
        import torch

        self.memory.keep(piece, {name: torch.from_numpy(array.copy()) for name, array in tensors.items()})

    def hand_over(self, successor: Any) -> StateShard | None:
        """Give this member's newest piece, if it has one, to another."""
        from foundray.training.elastic.replicas import as_arrays

        if (piece := self.memory.own) is not None:
            ray.get(successor.hold.remote(piece, as_arrays(self.memory.get(piece))))
        return piece

    # What the thread does.

    def say(self, **changes: Any) -> None:
        """Change the status, and tell whoever watches."""
        with self.changed:
            self.status = replace(self.status, version=self.status.version + 1, **changes)
            self.changed.notify_all()

    def _live(self) -> None:
        try:
            from foundray.training.elastic.loop import Loop
            from foundray.training.elastic.replicas import Replicas

            self.work = self.given.get()
            self.memory = Replicas(Spec.model_validate_json(self.work.spec_json).guard.roll_back)
            loop = Loop(self.work, self)
            self.say(phase="ready", facts=loop.facts())
        except FoundrayError as error:
            return self.say(phase="failed", reason=str(error), exit_status=error.exit_status)
        except Exception as error:
            return self.say(phase="failed", reason=f"{type(error).__name__}: {error}")
        while True:
            order = self.orders.get()
            try:
                loop.join(order)
                outcome: dict[str, Any] = loop.run()
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, BadData):  # another group would fail at the same sample
                    outcome = {"phase": "failed", "reason": cause_of(error), "exit_status": cause.exit_status}
                else:
                    outcome = {"phase": "broken", "reason": f"the feeder: {cause_of(error)}", "away": is_away(error)}
            except StorageAway as error:
                outcome = {"phase": "broken", "reason": str(error), "away": True}
            except FoundrayError as error:
                outcome = {"phase": "failed", "reason": str(error), "exit_status": error.exit_status}
            except Corruption as error:
                outcome = {"phase": "broken", "reason": str(error), "suspects": tuple(error.ranks)}
            except Spike as error:
                outcome = {"phase": "broken", "reason": str(error), "spike": error.step}
            except Exception as error:  # a collective that failed, mostly: another member is gone
                outcome = {"phase": "broken", "reason": f"{type(error).__name__}: {str(error)[:300]}"}
            try:
                if outcome["phase"] == "failed":
                    loop.hand_in()
                loop.leave()
            except Exception as error:  # what it held is lost; it can still take part anew
                outcome = {"phase": "broken", "reason": f"{type(error).__name__}: {str(error)[:300]}"}
            self.say(**outcome)
