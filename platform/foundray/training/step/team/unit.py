"""A unit of the model on one member: its part of the weights at rest, and the whole while a stage uses it."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK
from foundray.training.step.flat import Entry
from foundray.training.step.team.holding import HeldUnit


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

    def gather(self, mine: Tensor) -> None:
        """Give the parameters their values; `mine` are those that this member holds. Every member calls this."""
        if self.present:
            return
        self.whole.untyped_storage().resize_(self.bytes)
        self.present = True
        size = self.held.share * BLOCK
        start = self.held.member * size
        self.whole[start : start + len(mine)] = mine
        self.team.gather(self.whole, range(0, len(self.whole) + 1, size))

    def free(self) -> None:
        if self.present:
            self.whole.untyped_storage().resize_(0)
            self.present = False

    def send(self, checksum: int | None = None) -> tuple[Tensor, int | None]:
        """Send the gradient to the members that hold the blocks, zeros for what has none, and drop it; the unit is freed.

        Returns [members, elements held here], each member's gradient of this member's part; and the CRC-32 of the gradient that
        was sent, which continues `checksum`, unless that is None.
        """
        gradient = torch.zeros_like(self.whole)
        for parameter, start in self.parameters:
            if parameter.grad is not None:
                gradient[start : start + parameter.numel()] = parameter.grad.view(-1)
                parameter.grad = None
        self.free()
        if checksum is not None:
            checksum = zlib.crc32(gradient.cpu().numpy().data, checksum)
        return self.team.deal(gradient.view(self.team.world, -1))[:, : len(self.held.held) * BLOCK], checksum
