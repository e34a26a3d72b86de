"""Next token: predict each token from those before it, inside its document (Radford et al. 2018, GPT)."""

from torch import Generator, Tensor
from torch.nn import functional as F

from foundray.contract import Ask, Objective, Plan, Units


class NextToken(Objective):
    """Causal cross-entropy. The opening token of the next document is predicted too: it is how a text ends."""

    def heads(self, vocabulary: int) -> dict[str, int]:
        return {"lm_head": vocabulary}

    def plan(self, units: Units, generator: Generator) -> Plan:
        following = units.between(1, None)
        return Plan(units.between(None, -1), (Ask("lm_head", following.x, following.valid),), causal=True)

    def loss(self, prediction: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        target = ask.target.masked_fill(~ask.weight, -100)
        loss = F.cross_entropy(prediction.flatten(0, 1).float(), target.flatten(), ignore_index=-100, reduction="sum")
        return loss, ask.weight.sum()
