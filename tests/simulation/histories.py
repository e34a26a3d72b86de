"""Seeded histories: a run, and the faults that it meets."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.model import Setup
from tests.simulation.world import LIMIT_SECONDS, World

from foundray.training.protocol.messages import StopAsked, TakenOver


@dataclass(frozen=True)
class Fault:
    at: float
    """Seconds after the run's start."""
    kind: str
    amount: float
    """A number in [0, 1) from which the fault's details follow."""


@dataclass(frozen=True)
class History:
    seed: int
    setup: Setup
    nodes: int
    faults: tuple[Fault, ...]


def of_seed(seed: int) -> History:
    """The history of a seed."""
    rng = random.Random(seed)
    nodes = rng.choice((1, 2, 2, 3, 3, 4))
    steps = rng.randint(6, 14)
    roll_back = rng.choice((0, 0, 3, 4))
    spikes = frozenset(rng.sample(range(1, steps + 2), rng.choice((0, 1, 1, 2)))) if roll_back else frozenset[int]()
    recheck = rng.choice((0, 2, 4))
    setup = Setup(
        steps=steps - steps % recheck if recheck else steps,
        fewest=rng.randint(1, min(2, nodes)),
        most=max(1, nodes - rng.choice((0, 0, 1))),
        mirror_every=rng.choice((1, 2, 3)),
        checkpoint_every=rng.choice((1, 2, 4)),
        keep=rng.choice((2, 3)),
        roll_back=roll_back,
        recheck_every=recheck,
        step_s=rng.choice((0.03, 0.3)),
        spikes=spikes,
    )
    setup = setup._replace(most=max(setup.most, setup.fewest))
    kinds = [kind for kind in FAULTS if kind != "corrupt" or recheck]
    faults = [Fault(rng.uniform(0.5, 14.0), rng.choice(kinds), rng.random()) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.3:  # several at nearly the same time
        faults = [replace(fault, at=faults[0].at + rng.uniform(0.0, 1.0)) for fault in faults]
    return History(seed, setup, nodes, tuple(sorted(faults, key=lambda fault: fault.at)))


def of_teams(seed: int) -> History:
    """The same by teams of two, on five nodes with two kinds of devices: if two nodes are away, two of one kind are left."""
    history = of_seed(seed)
    faults = tuple(fault for fault in history.faults if fault.kind != "corrupt")  # it takes a node away for good
    return replace(history, setup=history.setup._replace(fewest=1, most=5, team=2, kinds=2), nodes=5, faults=faults)


def run(history: History, world_class: type[World] = World) -> World:
    """Run a history to its end. Raises Broken if anything does not hold."""
    world = world_class(history.setup, history.nodes, history.seed)
    for fault in history.faults:
        world.clock.after(fault.at, _strike, world, fault)
    world.clock.run(LIMIT_SECONDS, lambda: world.finished is not None)
    world.check_end()
    return world


def _strike(world: World, fault: Fault) -> None:
    if world.finished is None:
        world.struck(fault)
        FAULTS[fault.kind](world, fault.amount)


def _pick(things: list[Any], amount: float) -> Any:
    return things[int(amount * len(things))] if things else None


def _crash(world: World, amount: float) -> None:
    if worker := _pick(world.workers(), amount):
        worker.die()


def _crash_updated(world: World, amount: float) -> None:
    """A worker dies between an update and the exchange of the weights."""
    if worker := _pick(world.workers(), amount):
        worker.dies_updated = True


def _node(world: World, amount: float) -> None:
    """A node is lost, and another comes."""
    if node := _pick(world.nodes, amount):
        world.lose_node(node)
        world.clock.after(20 * amount, world.new_node)


def _join(world: World, amount: float) -> None:
    """One more node."""
    world.new_node()


def _failing_joins(world: World, amount: float) -> None:
    """A worker is lost, and then connections break while the others load the state."""
    world.failing_joins = 1 + int(amount * 3)
    _crash(world, amount)


def _drain(world: World, amount: float) -> None:
    """A node drains, is gone after a while, and another comes."""
    if node := _pick([node for node in world.nodes if node not in world.draining], amount):
        world.draining.add(node)
        world.new_node() if amount < 0.5 else world.clock.after(10.0, world.new_node)
        world.clock.after(5 + 20 * amount, world.lose_node, node)


def _silence(world: World, amount: float) -> None:
    """A worker stops without closing its connections."""
    if worker := _pick(world.workers(), amount):
        worker.frozen_until = world.clock.now + (0.3, 0.8, 3.0, 100.0)[int(amount * 997) % 4]


def _late(world: World, amount: float) -> None:
    """A worker's answers are late."""
    if worker := _pick(world.workers(), amount):
        worker.late_until = world.clock.now + 8.0


def _kill_command(world: World, amount: float) -> None:
    """The command is killed some decisions from now."""
    world.crash_after = int(amount * 12)


def _kill_after_cut(world: World, amount: float) -> None:
    """The command is killed once it has recorded the next cut, before that has any effect."""
    world.crash_after_undo, world.crash_after = True, 0


def _hold_up_command(world: World, amount: float) -> None:
    """The command does nothing for a while: afterwards all its times have jumped."""
    for driver in world.drivers:
        if driver.alive:
            seconds = 200 * amount**3
            driver.busy_until = world.clock.now + seconds
            driver.held_up_s += seconds
            world.clock.after(seconds + 0.01, driver.go_on)


def _second_command(world: World, amount: float) -> None:
    """Another command takes the run over; the first one finds out later."""
    if (first := world.drivers[-1]).alive:
        world.start()
        first.later(5 * amount, TakenOver("run"))


def _slow_copies(world: World, amount: float) -> None:
    """Copies of the state to other workers take longer than steps."""
    world.copies_slow_until = world.clock.now + 10.0


def _stop(world: World, amount: float) -> None:
    """The user asks the command to stop, and resumes later."""
    if (driver := world.drivers[-1]).alive:
        driver.later(0.0, StopAsked())


def _storage_away(world: World, amount: float) -> None:
    world.storage.away_until = world.clock.now + (0.5, 3.0, 30.0, 200.0)[int(amount * 997) % 4]


def _storage_slow(world: World, amount: float) -> None:
    world.storage.slow_s = 4 * amount


def _refused_deletes(world: World, amount: float) -> None:
    world.storage.refuses_until = world.clock.now + 1000.0


def _damage(world: World, amount: float) -> None:
    """A checkpoint is damaged; the command is killed, so that one has to be loaded."""
    if (complete := world.storage.complete()) and not world.storage.damaged:
        world.storage.damaged.add(_pick(complete[:2], amount).name)
        if amount > 0.3 and len(complete) > 1:
            world.crash_after = 0


def _partition(world: World, amount: float) -> None:
    """Two nodes cannot reach each other; the command reaches both."""
    if len(world.nodes) > 1:
        one, other = random.Random(amount).sample(world.nodes, 2)
        world.partitions.append((world.clock.now + (0.5, 4.0, 60.0)[int(amount * 997) % 3], one, other))


def _corrupt(world: World, amount: float) -> None:
    """A worker computes other bits from now on, and may see a spike where there is none."""
    if len(workers := world.workers()) > 2 and not any(worker.corrupt for worker in workers):
        _pick(workers, amount).corrupt = True
        world.false_spikes = frozenset({int(amount * 997) % world.setup.steps})


def _feeder(world: World, amount: float) -> None:
    """The feeder is lost, and restarts."""
    world.feeder_until = world.clock.now + 3 * amount
    for driver in world.drivers:
        if driver.alive and driver.workers:
            groups = {id(worker.group): worker.group for worker in driver.workers.values() if worker.group}
            for group in groups.values():
                group.fail("the feeder: it was lost")


def _feeder_away(world: World, amount: float) -> None:
    """The feeder is lost, and does not come back for long."""
    _feeder(world, amount)
    world.feeder_until = world.clock.now + 900 * amount


def _fail(world: World, amount: float) -> None:
    """A worker meets an error that ends the run: of its input, or another one."""
    if worker := _pick(world.workers(), amount):
        worker.fails = 1 + int(amount * 997) % 2


def _unreachable(world: World, amount: float) -> None:
    """Calls of a worker fail for a moment, though it works."""
    if worker := _pick(world.workers(), amount):
        worker.unreachable_until = world.clock.now + (0.02, 0.1, 0.5, 3.0)[int(amount * 997) % 4]


def _unanswered_checkpoint(world: World, amount: float) -> None:
    """One of two checkpoints never answers; the command is killed, so that it has to be loaded."""
    if len(complete := world.storage.complete()) > 1:
        world.storage.unanswered.add(complete[0].name)
        world.crash_after = int(amount * 3)


FAULTS = {
    "crash": _crash,
    "crash_updated": _crash_updated,
    "node": _node,
    "join": _join,
    "failing_joins": _failing_joins,
    "drain": _drain,
    "silence": _silence,
    "late": _late,
    "kill_command": _kill_command,
    "kill_after_cut": _kill_after_cut,
    "hold_up_command": _hold_up_command,
    "second_command": _second_command,
    "slow_copies": _slow_copies,
    "stop": _stop,
    "storage_away": _storage_away,
    "storage_slow": _storage_slow,
    "refused_deletes": _refused_deletes,
    "damage": _damage,
    "partition": _partition,
    "corrupt": _corrupt,
    "feeder": _feeder,
    "feeder_away": _feeder_away,
    "fail": _fail,
    "unreachable": _unreachable,
    "unanswered_checkpoint": _unanswered_checkpoint,
}
