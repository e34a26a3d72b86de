"""Which workers make whole teams: the members of a team have one kind of device, and are on one node if possible.

A team computes in rounds, which its slowest member ends, and its members hold even parts of the model: of two kinds of devices,
the faster one would wait, and the larger one would stay half empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundray.spec.running import ScaleConfig
from foundray.training.protocol.members import Member


def in_teams(numbers: Sequence[int], members: Mapping[int, Member], scale: ScaleConfig) -> list[int]:
    """The workers of as many whole teams as a group may have, team after team; the others are left over.

    Teams of one node come first, then those made of what the nodes have left over. Within both the order is kept.
    """
    size, most = scale.team_size, scale.groups[1]
    if size == 1:
        return list(numbers[:most])
    together: dict[tuple[str, str], list[int]] = {}
    for number in numbers:
        together.setdefault((members[number].hardware, members[number].slot.node), []).append(number)
    whole, left = list[int](), dict[str, list[int]]()
    for (hardware, _), there in together.items():
        cut = len(there) // size * size
        whole += there[:cut]
        left.setdefault(hardware, []).extend(there[cut:])
    for rest in left.values():
        whole += rest[: len(rest) // size * size]
    return whole[:most]
