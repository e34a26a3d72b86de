"""Masked autoencoders of images: `ViTMAEForPreTraining` (He et al. 2022), whose encoder is a ViT.

The stem becomes a convolution, fixed position embeddings are copied, CompleteP's multipliers are folded into the weights, and
biases that ours lacks are zeros. The weights are loaded by their names on disk, which all of the class's versions read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foundray.exports.flags import check_flags
from foundray.exports.fold import folded
from foundray.exports.forms import NoStockClass
from foundray.exports.stock import model_with
from foundray.model.backbone import NORM_EPS, Layers
from foundray.model.model import Model
from foundray.spec import Spec

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

STOCK_CLASS = "ViTMAEForPreTraining"
CONTINUES = False
TRIED = ("4.45.2", "4.57.6", "5.0.0", "5.20.2", "5.23.0", "5.24.0")
TRIED_GREY = ("5.20.2", "5.23.0", "5.24.0")
SPECIAL_TOKENS: dict[str, str] = {}
USE = """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForPreTraining, ViTModel

processor, model = AutoImageProcessor.from_pretrained("FOLDER"), AutoModelForPreTraining.from_pretrained("FOLDER")
picture = Image.new("RGB", (64, 64)).convert("L" if model.config.num_channels == 1 else "RGB")
images = processor(images=picture, return_tensors="pt")
print("loss:", model(**images).loss)  # some of the patches are masked and predicted

encoder = ViTModel.from_pretrained("FOLDER", add_pooling_layer=False)  # sees all patches: for features, and to fine-tune
states = encoder(**images).last_hidden_state
print("features:", states[:, 0].shape)  # of the class unit; the patches' own are states[:, 1:]
"""
LAYER = {
    "input_layernorm": "layernorm_before", "self_attn.q_proj": "attention.attention.query",
    "self_attn.k_proj": "attention.attention.key", "self_attn.v_proj": "attention.attention.value",
    "self_attn.o_proj": "attention.output.dense", "post_attention_layernorm": "layernorm_after",
    "mlp.up_proj": "intermediate.dense", "mlp.down_proj": "output.dense",
}  # fmt: skip
"""A layer's parts: our names, and the stock class's on disk."""


def build(model: Model, spec: Spec, padding: int | None = None) -> PreTrainedModel:
    """Build the stock model, with the same outputs at every patch. Raises NoStockClass."""
    # Check that the stock class has all parts of ours.
    shape, narrow = spec.model, spec.model.of_predictor
    size, patch, channels = _image(spec)
    check_flags(STOCK_CLASS, shape, class_unit=True, norm="ln", act="gelu", rope_theta=None)
    if odd := [width for width in (shape.width, narrow.width) if width % 4]:
        raise NoStockClass(f"{STOCK_CLASS} has 2-D positions for widths that are multiples of 4, and the run has {odd[0]}")
    if list(model.heads) != ["pixels"] or model.predictor is None:
        raise NoStockClass(f"{STOCK_CLASS} has a decoder that predicts pixels, and the run has none")
    import transformers

    # Build it, and check that every weight found its place.
    config = transformers.ViTMAEConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden_width,
        decoder_hidden_size=narrow.width,
        decoder_num_hidden_layers=narrow.depth,
        decoder_num_attention_heads=narrow.heads,
        decoder_intermediate_size=narrow.hidden_width,
        hidden_act="gelu",
        layer_norm_eps=NORM_EPS,
        qkv_bias=shape.bias,
        image_size=size,
        patch_size=patch,
        num_channels=channels,
        mask_ratio=spec.objective.build().model_dump()["ratio"],
        norm_pix_loss=True,
    )
    state = {name: value.contiguous() for name, value in _renamed(model, patch, channels, shape.bias)}
    return model_with(transformers.ViTMAEForPreTraining, config, state)


def tried(spec: Spec) -> tuple[str, ...]:
    """Versions of transformers that gave the same numbers; earlier, the processor reads no images of one channel."""
    return TRIED if _image(spec)[2] == 3 else TRIED_GREY


def pipeline(spec: Spec) -> str | None:
    """Features of images in colour: the pipeline reads no others."""
    return "image-feature-extraction" if _image(spec)[2] == 3 else None


def processor(spec: Spec) -> BaseImageProcessor:
    """A processor to the run's image size and range: scaled by the shorter side, cropped to the centre, -1 to 1.

    CLIP's does this in every version; ViT's, only in version 5. Pass an image of one channel as such: `picture.convert("L")`.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size, _, channels = _image(spec)
    return CLIPImageProcessorPil(
        size={"shortest_edge": size},
        resample=3,  # bicubic
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        rescale_factor=1 / 255,
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
        do_convert_rgb=channels == 3,
    )


def _image(spec: Spec) -> tuple[int, int, int]:
    """Size, patch and channels of the modality's images. Raises NoStockClass if these are not square images."""
    options: dict[str, Any] = spec.data.modality.build().model_dump()
    if not {"size", "patch", "channels"} <= options.keys():
        raise NoStockClass(f"{STOCK_CLASS} takes square images, and {spec.data.modality.kind} gives others")
    return options["size"], options["patch"], options["channels"]


def _renamed(model: Model, patch: int, channels: int, biased: bool) -> Iterator[tuple[str, Tensor]]:
    """The stock class's state dict. Both order a patch's values by row, column and channel."""
    state = folded(model)
    stem = state["model.embed_values.weight"]
    yield "vit.embeddings.patch_embeddings.projection.weight", stem.unflatten(1, (patch, patch, channels)).permute(0, 3, 1, 2)
    yield "vit.embeddings.patch_embeddings.projection.bias", state["model.embed_values.bias"]
    yield "vit.embeddings.cls_token", state["model.class_unit"][None, None]
    yield "decoder.decoder_embed.weight", state["predictor.into.weight"]
    yield "decoder.decoder_embed.bias", state["predictor.into.bias"]
    yield "decoder.mask_token", state["predictor.mask"][None, None]
    yield "decoder.decoder_pred.weight", state["pixels.weight"]
    yield "decoder.decoder_pred.bias", torch.zeros(len(state["pixels.weight"]))
    yield "vit.embeddings.position_embeddings", _positions(model.model)
    assert model.predictor is not None
    yield "decoder.decoder_pos_embed", _positions(model.predictor)
    for ours, layers, theirs, norm in (
        ("model", model.model, "vit.encoder.layer", "vit.layernorm"),
        ("predictor", model.predictor, "decoder.decoder_layers", "decoder.decoder_norm"),
    ):
        yield f"{norm}.weight", state[f"{ours}.norm.weight"]
        yield f"{norm}.bias", state[f"{ours}.norm.bias"]
        for layer in range(len(layers.layers)):
            for here, there in LAYER.items():
                weight = state[f"{ours}.layers.{layer}.{here}.weight"]
                yield f"{theirs}.{layer}.{there}.weight", weight
                bias = state.get(f"{ours}.layers.{layer}.{here}.bias")
                if bias is not None or biased or here[-6:] not in ("q_proj", "k_proj", "v_proj"):
                    yield f"{theirs}.{layer}.{there}.bias", torch.zeros(len(weight)) if bias is None else bias


def _positions(layers: Layers) -> Tensor:
    assert layers.positions is not None
    return layers.positions[None].clone()
