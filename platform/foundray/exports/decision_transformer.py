"""Agents and world models: `DecisionTransformerModel` (Chen et al. 2021), for `next_action` and `next_state`.

GPT-2's matrices are transposed, its learned positions are zeros (the class gives all units the first one), and CompleteP's
multipliers are folded into the weights. The heads that the run did not train are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foundray.exports.flags import check_flags
from foundray.exports.fold import folded
from foundray.exports.forms import NoStockClass
from foundray.model.backbone import NORM_EPS
from foundray.model.model import Model
from foundray.spec import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STOCK_CLASS = "DecisionTransformerModel"
CONTINUES = False
TRIED = ("4.45.2", "4.57.6", "5.0.0", "5.23.0")
SPECIAL_TOKENS: dict[str, str] = {}
USE = """\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")
config, steps = model.config, 3  # the most recent steps, at most config.n_positions // 3
states = torch.zeros(1, steps, config.state_dim)  # as the environment gives them
answers = model(
    states=(states - torch.tensor(config.state_mean)) / torch.tensor(config.state_std),
    actions=torch.zeros(1, steps, config.act_dim),  # one-hot if config.discrete_actions; the last step's is ignored
    returns_to_go=torch.full((1, steps, 1), 100.0) / config.return_scale,  # the target return minus the rewards so far
    rewards=None,
    timesteps=torch.arange(steps)[None].clamp(max=config.max_ep_len - 1),  # since the episode's start
)
print(answers.action_preds[0, -1])  # if config.predicts == "action": the next action
print(answers.state_preds[0, -1])  # if "state": config.difference_scale times the change of the standardised state
"""
EMBED_EPS = 1e-5
"""Epsilon of the stock class's first norm, regardless of its configuration."""
TIMELESS = 4096
"""Rows of zeros in the time embedding of a run without times: the class's default."""


def build(model: Model, spec: Spec, padding: int | None = None) -> PreTrainedModel:
    """Build the stock model, with the same outputs at every state, or action. Raises NoStockClass."""
    shape, units = spec.model, spec.unit_shape(0)
    check_flags(STOCK_CLASS, shape, norm="ln", act=("gelu", "relu"), rope_theta=None)
    if [kind.name for kind in units.kinds] != ["return", "state", "action"] or units.kinds[0].width != 1:
        raise NoStockClass(f"{STOCK_CLASS} takes returns, states and actions in turn, and the run has other units")
    if list(model.heads) not in (["action"], ["state"]):
        raise NoStockClass(f"{STOCK_CLASS} has heads for actions and states, and the run has {', '.join(model.heads)}")
    import transformers

    _, state, action = units.kinds
    config = transformers.DecisionTransformerConfig(
        state_dim=state.width,
        act_dim=action.width,
        hidden_size=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        n_inner=shape.hidden_width,
        n_positions=shape.context,
        max_ep_len=units.times or TIMELESS,
        activation_function=shape.act,
        action_tanh=False,
        layer_norm_epsilon=NORM_EPS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **_units(model, spec),
    )
    stock = transformers.DecisionTransformerModel(config)
    stock.load_state_dict({name: torch.zeros_like(value) for name, value in stock.state_dict().items()} | dict(_renamed(model)))
    return stock.eval()


def tried(spec: Spec) -> tuple[str, ...]:
    """Versions of transformers that gave the same numbers."""
    return TRIED


def pipeline(spec: Spec) -> str | None:
    """None: transformers has no pipeline for agents."""
    return None


def processor(spec: Spec) -> None:
    """None: the configuration holds the scaling of values, and no stock class applies it."""


def _units(model: Model, spec: Spec) -> dict[str, Any]:
    """Extra configuration: the scaling of states and returns, and what the run learned to predict."""
    options = spec.data.modality.build().model_dump()
    width = spec.unit_shape(0).kinds[1].width
    return {
        "state_mean": list(options.get("state_mean") or [0.0] * width),
        "state_std": list(options.get("state_std") or [1.0] * width),
        "return_scale": options.get("return_scale", 1.0),
        "discrete_actions": spec.unit_shape(0).kinds[2].discrete,
        "predicts": next(iter(model.heads)),
        "difference_scale": spec.objective.build().model_dump().get("scale", 1.0),
    }


def _renamed(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The stock class's state dict without its zeros."""
    state = folded(model)
    yield from _stem(model, state)
    head = next(iter(model.heads))
    yield {"action": "predict_action.0.weight", "state": "predict_state.weight"}[head], state[f"{head}.weight"]
    norms = {"embed_ln": "model.embed_values.norm", "encoder.ln_f": "model.norm"}
    for layer in range(len(model.model.layers)):
        ours, theirs = f"model.layers.{layer}", f"encoder.h.{layer}"
        norms |= {f"{theirs}.ln_1": f"{ours}.input_layernorm", f"{theirs}.ln_2": f"{ours}.post_attention_layernorm"}
        for there, parts in _MATRICES.items():
            yield f"{theirs}.{there}.weight", torch.cat([state[f"{ours}.{part}.weight"] for part in parts]).T
            if f"{ours}.{parts[0]}.bias" in state:
                yield f"{theirs}.{there}.bias", torch.cat([state[f"{ours}.{part}.bias"] for part in parts])
    for there, here in norms.items():
        for part in ("weight", "bias"):
            yield f"{there}.{part}", state[f"{here}.{part}"]


_MATRICES = {
    "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.c_proj": ["self_attn.o_proj"],
    "mlp.c_fc": ["mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
}
"""The stock class's matrices, and ours that each of them concatenates."""


def _stem(model: Model, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Embeddings, scaled to compensate for the first norm's larger epsilon, so that the norm's output is the same.

    Masked returns become the mask vector, whatever their value.
    """
    scale = (EMBED_EPS / NORM_EPS) ** 0.5
    for kind in ("return", "state", "action"):
        for part in ("weight", "bias"):
            yield f"embed_{kind}.{part}", scale * state[f"model.embed_values.of.{kind}.{part}"]
    if "model.mask" in state:
        yield "embed_return.weight", torch.zeros_like(state["model.embed_values.of.return.weight"])
        yield "embed_return.bias", scale * state["model.mask"]
    if "model.embed_values.time.weight" in state:
        yield "embed_timestep.weight", scale * state["model.embed_values.time.weight"]
