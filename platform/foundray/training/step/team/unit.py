"""A unit of the model on one member: its part of the weights at rest, and the whole while a stage uses it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK
from foundray.training.step.flat import Entry
from foundray.training.step.team.holding import PIECE, HeldUnit


class GatheredUnit:
    """Gathers a unit's parameters from the members of a team, and sends its gradient to them.

    The parameters keep one storage, which has memory only while the unit is gathered: what the backward pass saved of a weight
    is there again when the unit is.
    """

    def __init__(self, held: HeldUnit, model: nn.Module, team: Group, device: torch.device):
        self.held, self.team = held, team
        self.whole = torch.empty(held.share * team.world * BLOCK, device=device)
        """[members * share * 256] fp32, padded: all the unit's weights, in the order of its blocks."""
        self.bytes = self.whole.nbytes
        self.parameters = [(self._placed(model, entry, offset * BLOCK), offset * BLOCK) for entry, offset in held.places]
        """Each parameter, and its first element in `whole`."""
        self.gradient: Tensor | None = None
        """[members * share * 256] fp32: what backward passes add, in the order of `whole`; None while nothing is expected."""
        self.finish: Callable[[], None] | None = None
        """Ends the gathering that has begun."""
        self.present = True
        self.free()

    def _placed(self, model: nn.Module, entry: Entry, start: int) -> nn.Parameter:
        """Replace a parameter of the model by a view of the unit."""
        module, _, name = entry.name.rpartition(".")
        values = self.whole[start : start + torch.Size(entry.shape).numel()].view(entry.shape)
        parameter = nn.Parameter(torch.empty(0, device=values.device))
        parameter.data = values  # its own count of changes: gathering the same values again is no change to autograd
        setattr(model.get_submodule(module), name, parameter)
        return parameter

    def begin(self, mine: Tensor) -> None:
        """Begin to gather beside other work, where that is possible. Every member calls this."""
        if not self.present and not self.finish and self.team.works_beside:
            self.finish = self.team.begin_gather(*self._placed_in_whole(mine))

    def gather(self, mine: Tensor) -> None:
        """Give the parameters their values; `mine` are those that this member holds. Every member calls this."""
        if self.finish:
            finish, self.finish = self.finish, None
            finish()
        elif not self.present:
            self.team.gather(*self._placed_in_whole(mine))
        self.present = True

    def _placed_in_whole(self, mine: Tensor) -> tuple[Tensor, range]:
        """The unit's memory, with the held part in its place, and the bounds of the members' parts."""
        self.whole.untyped_storage().resize_(self.bytes)
        size = self.held.share * BLOCK
        start = self.held.member * size
        self.whole[start : start + len(mine)] = mine
        return self.whole, range(0, len(self.whole) + 1, size)

    def free(self) -> None:
        if self.present:
            self.whole.untyped_storage().resize_(0)
            self.present = False

    def expect(self) -> None:
        """Let the backward pass that comes next add to one buffer, so that no gradient is there twice."""
        self.gradient = torch.zeros_like(self.whole)
        for parameter, start in self.parameters:
            parameter.grad = self.gradient[start : start + parameter.numel()].view(parameter.shape)

    def send(self, checksum: int | None = None) -> tuple[Iterator[Tensor], int | None]:
        """Send the gradient to the members that hold the blocks, zeros if none was expected, and drop it; the unit is freed.

        Returns pieces of [members, elements], each member's gradient of this member's part, which the caller takes to the end
        as they arrive; and the CRC-32 of the gradient, which continues `checksum`, unless that is None.
        """
        gradient = torch.zeros_like(self.whole) if self.gradient is None else self.gradient
        self.gradient = None
        for parameter, _ in self.parameters:
            parameter.grad = None
        self.free()
        if checksum is not None:
            checksum = zlib.crc32(gradient.cpu().numpy().data, checksum)
        return self._dealt(gradient.view(self.team.world, -1)), checksum

    def _dealt(self, gradient: Tensor) -> Iterator[Tensor]:
        """Each piece of the members' parts, once it has arrived, without the padding of this one's."""
        left = len(self.held.held) * BLOCK
        for some in gradient.split(PIECE // self.team.world, dim=1):
            yield self.team.deal(some)[:, :left]
            left = max(0, left - some.shape[1])
