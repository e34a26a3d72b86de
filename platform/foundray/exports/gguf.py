"""A model for llama.cpp and what is built on it, such as Ollama: weights, configuration and tokenizer in one GGUF file.

The weights are those of Hugging Face's class, in 32 bits. llama.cpp rotates neighbouring numbers of a head, where that class
rotates numbers that lie half a head apart, so the rows of queries and keys change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from foundray.exports.gguf_vocabulary import Vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FILE = "model.gguf"
ARCHITECTURES = {"LlamaForCausalLM": "llama", "GraniteForCausalLM": "granite"}
"""llama.cpp's names of the stock classes."""
SUPPRESSED = "tokenizer.ggml.suppress_tokens"
"""Key of the tokens that llama.cpp never generates, for which the package has no name."""


def save(
    stock: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, name: str, licence: Mapping[str, Any]
) -> None:
    """Write `model.gguf` into a local folder; `licence` has the keys of a model card's metadata. Raises InputError."""
    import gguf

    config, architecture = stock.config, ARCHITECTURES[type(stock).__name__]
    writer = gguf.GGUFWriter(folder / FILE, architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license(licence.get("license", ""))
    writer.add_license_name(licence.get("license_name", ""))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_shape(writer, config)
    _add_vocabulary(writer, tokenizer, stock.generation_config)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    for theirs, tensor in stock.state_dict().items():
        if ".q_proj." in theirs or ".k_proj." in theirs:
            tensor = _neighbours(tensor, config.num_attention_heads)
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert ours, f"llama.cpp has no tensor for {theirs}"
        writer.add_tensor(ours, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _neighbours(rows: Tensor, heads: int) -> Tensor:
    """The rows of queries or keys, or their biases, so that the two halves of each head alternate."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if writer.arch == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _add_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, sampling: Any) -> None:
    """Tokens and merges, which of them open, end and pad texts or fill in the middle, and how to sample."""
    vocabulary = Vocabulary.of(tokenizer.backend_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.splits:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocabulary.splits)
        writer.add_token_merges(vocabulary.merges)
    else:  # T5's model: the likeliest pieces, here one per character
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([0.0] * len(vocabulary.tokens))
        writer.add_add_space_prefix(False)
        writer.add_remove_extra_whitespaces(False)
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.unknown)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    for key, token in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle")):
        if (name := f"<|fim_{token}|>") in vocabulary.tokens:
            writer.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", vocabulary.tokens.index(name))
    writer.add_array(SUPPRESSED, sampling.suppress_tokens or [])
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(1.0)  # llama.cpp's own defaults leave out unlikely tokens
    writer.add_sampling_min_p(0.0)
