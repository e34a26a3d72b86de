"""Losses against those of Hugging Face classes: Granite's whole model, and the others' losses of their predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.models import CLASSES, CONFIG, NEXT, batch_of, mean_loss, random_model, tokens
from torch.nn import functional as F

from foundray.contract import load_objective

transformers = pytest.importorskip("transformers")
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": CLASSES,
}  # fmt: skip


def wild(model: torch.nn.Module) -> Any:
    """Weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25
    return model.eval()


def test_next_token_same_loss_as_granite() -> None:
    """Its four multipliers, at the values that mean no scaling."""
    neutral = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0, "attention_multiplier": 0.25}
    ours, x = random_model(NEXT), tokens(3, 17)
    loss = mean_loss(ours, NEXT, batch_of(NEXT, x))
    for changes, same in (({}, True), ({"residual_multiplier": 0.5}, False)):
        theirs = transformers.GraniteForCausalLM(transformers.GraniteConfig(**CONFIG, **{**neutral, **changes}))
        theirs.load_state_dict(ours.state_dict())
        assert (loss.item() == pytest.approx(theirs(x, labels=x).loss.item(), rel=1e-5)) == same


def test_masked_token_same_loss_as_bert() -> None:
    theirs, masked = wild(transformers.BertForMaskedLM(transformers.BertConfig(**TINY))), load_objective("masked_token", {})
    batch = batch_of(masked, tokens(3, 17))
    target, loss_mask = batch.targets["lm_head"]
    assert target is not None
    output = theirs(batch.x, labels=target.masked_fill(~loss_mask, -100))
    loss, count = masked.loss(output.logits, target, loss_mask)
    assert (loss / count).item() == pytest.approx(output.loss.item(), rel=1e-5)
    everywhere, number = masked.loss(output.logits, target, torch.ones_like(loss_mask))
    assert abs(everywhere / number - output.loss) > 1e-3  # the comparison can fail


def test_span_corruption_same_loss_as_t5() -> None:
    """We compare the decoder's predictions: ours is one stream, theirs are two."""
    config = transformers.T5Config(
        vocab_size=CLASSES + 20,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    theirs, objective = wild(transformers.T5ForConditionalGeneration(config)), load_objective("span_corruption", {})
    batch = batch_of(objective, tokens(1, objective.reads(16) + 1, lowest=1))
    target, loss_mask = batch.targets["lm_head"]
    assert target is not None
    labels = target[loss_mask][None]
    output = theirs(input_ids=batch.x[:, : int((~loss_mask).sum())], labels=labels)
    loss, count = objective.loss(output.logits, labels, torch.ones_like(labels, dtype=torch.bool))
    assert count == loss_mask.sum()
    assert (loss / count).item() == pytest.approx(output.loss.item(), rel=1e-5)
    shifted, _ = objective.loss(output.logits, labels.roll(1), torch.ones_like(labels, dtype=torch.bool))
    assert abs(shifted / count - output.loss) > 1e-3  # the comparison can fail


def test_masked_frame_same_loss_as_wav2vec2() -> None:
    """Its classes are a few candidates by cosine, and its loss is a sum: our masked cross-entropy over them is the same."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    config = transformers.Wav2Vec2Config(
        **{k: v for k, v in TINY.items() if k != "vocab_size"}, conv_dim=(16, 16), conv_stride=(4, 2), conv_kernel=(8, 4),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, codevector_dim=16, proj_codevector_dim=16,
        num_codevectors_per_group=20, num_codevector_groups=2, num_negatives=5, do_stable_layer_norm=True,
        feat_extract_norm="layer", hidden_dropout=0.0, attention_dropout=0.0, feat_quantizer_dropout=0.0,
    )  # fmt: skip
    theirs = wild(transformers.Wav2Vec2ForPreTraining(config))
    np.random.seed(0)  # the reference draws from it
    length = int(theirs._get_feat_extract_output_lengths(400))
    masked = _compute_mask_indices((2, length), 0.4, 3)
    negatives = torch.from_numpy(_sample_negative_indices((2, length), 5, mask_time_indices=masked))
    loss_mask = torch.from_numpy(masked).bool()
    waves = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    output = theirs(waves, mask_time_indices=loss_mask, sampled_negative_indices=negatives)
    quantised = output.projected_quantized_states
    others = quantised.reshape(-1, 16)[negatives]
    candidates = torch.cat([quantised[:, :, None], others], 2)
    logits = (
        F.cosine_similarity(output.projected_states[:, :, None], candidates, dim=-1) / config.contrastive_logits_temperature
    )
    same = (quantised[:, :, None] == others).all(-1)
    logits[:, :, 1:] = logits[:, :, 1:].masked_fill(same, float("-inf"))
    objective, first = load_objective("masked_frame", {}), torch.zeros(2, length, dtype=torch.long)
    loss, count = objective.loss(logits, first, loss_mask)
    assert count == loss_mask.sum()
    assert loss.item() == pytest.approx(output.contrastive_loss.item(), rel=1e-5)
    assert abs(objective.loss(logits, first, ~loss_mask)[0] - output.contrastive_loss) > 1e-3  # the comparison can fail
