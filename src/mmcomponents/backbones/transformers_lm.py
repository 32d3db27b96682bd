"""Causal language models of transformers as backbones."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone, check_sequence
from mmcomponents.backbones.transformers_rotary import RotaryTables
from mmcomponents.batch import Exact, Layout, PackedBatch, TokenType
from mmcomponents.component import WiringError, stored_tensors
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.padding import Padded
from mmcomponents.nn.wrapped import Starts, check_attention, load_whole, matrix_flops, named_types, read_config

log = logging.getLogger(__name__)

_LOGIT_FIELDS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of a configuration with which a model's own head changes its logits."""


class TransformersLM(Backbone):
    """Body of a causal language model of transformers, without its embedding weight and head.

    Segments are padded to a masked batch and unpadded again. The mask is always passed, as transformers otherwise
    treats any position step other than 1 as the boundary of a packed sequence. A batch is as wide as its longest
    segment, so a pack of very unequal segments costs more than in `DecoderLM`. Rotary tables of the position slot
    replace the model's own, bit for bit in the dtype of the sequence; with `position: null` the model's own positions
    are used. If the model multiplies its token embeddings by a constant (Gemma), so does this component, at text
    positions. A model with layers that store a state instead of keys and values (Mamba) can be trained but cannot
    decode.

    Args:
        config: Fields of the model's configuration with its `model_type`, a local folder or config.json, or the
            name of a model in the hub's cache.
        attn_implementation: Attention of transformers: "sdpa", "eager", "flash_attention_2", …
        trust_remote_code: Whether code in a local folder is executed.

    Raises:
        ValueError: The configuration is unknown, not of a causal language model, or does not support this attention.
    """

    def __init__(
        self, config: dict[str, Any] | str, attn_implementation: str = "sdpa", trust_remote_code: bool = False
    ) -> None:
        super().__init__()
        self.body = _build(config, attn_implementation, trust_remote_code)
        self._name = type(self.body).__name__
        self._settings: Any = self.body.config
        embedding = self.body.get_input_embeddings()
        self.hidden_size = int(embedding.embedding_dim)
        self._text_scale = _embedding_scale(embedding)
        self.body.set_input_embeddings(None)  # the embedder owns the embedding weight
        self._rotary = self._replace_rotary()
        self.refuses_tables = self._why_no_tables()
        heads = getattr(self._settings, "num_attention_heads", None) or 1  # Mamba has none
        own_width = getattr(self._settings, "head_dim", None) or self._settings.hidden_size // heads
        self._heads_width = int(own_width) * int(heads)
        self.head_dim = int(own_width) if self._rotary is None else self._rotary.width or int(own_width)
        self._arguments = set(inspect.signature(self.body.forward).parameters)
        self._starts = Starts(self.body, self.body._init_weights)
        self.shard_units = named_types(self.body, set(self.body._no_split_modules or ()))
        if changed := [n for n in _LOGIT_FIELDS if getattr(self._settings, n, None) not in (None, 1, 1.0)]:
            log.warning("the head of %s changes its logits (%s); LMHead does not", self._name, ", ".join(changed))
        self.init_weights()

    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]`.

        Raises:
            WiringError: The rotary tables do not fit the model.
            ValueError: A segment is longer than the model's own positions allow, the model does not support a cache, or
                a tensor has another shape.
        """
        check_sequence(self, x, layout, None)  # the width of tables is that of the model's rotation, see `_positions`
        padded = Padded(layout, None if cache is None else cache.lengths)
        if self._text_scale is not None:
            text = (layout.token_type == TokenType.TEXT)[:, None]
            x = torch.where(text, x * torch.tensor(self._text_scale, dtype=x.dtype, device=x.device), x)
        with self._positions(padded, rotary):
            found = self.body(
                inputs_embeds=padded.pad(x),
                attention_mask=padded.mask.long(),
                use_cache=cache is not None,
                return_dict=True,
                **({"position_ids": padded.positions} if "position_ids" in self._arguments else {}),
                **({} if cache is None else {"past_key_values": self._view(cache, padded)}),
            )
        return padded.unpad(found.last_hidden_state)

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Initialises vectors as transformers does and matrices as all components do."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills a buffer with the value that transformers computes for it."""
        return self._starts.fill(name.removeprefix("body."), value)

    def flops(self, batch: PackedBatch) -> float:
        """Counts matrices over all positions, and causal attention as half the square of each segment's length.

        Padding and the masked half are not counted; of the experts, those that a token is routed to are; sliding
        windows count as full attention.
        """
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        experts = next((n for n in (getattr(self._settings, name, None) for name in names) if n), None)
        share = float(getattr(self._settings, "num_experts_per_tok", 1)) / experts if experts else 1.0
        squares = float(batch.layout.cu_seqlens.diff().double().square().sum())
        attention = 2.0 * squares * self._heads_width * int(self._settings.num_hidden_layers)
        return matrix_flops(self.body, batch.num_tokens, share) + attention

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransformersLM:
        """Moves and casts the weights; buffers outside the state dict keep their values and dtypes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._starts.restore(self.body)
        return self

    def _replace_rotary(self) -> RotaryTables | None:
        own = getattr(self.body, "rotary_emb", None)
        if not isinstance(own, nn.Module):
            return None
        tables = RotaryTables(own, self._name)
        self.body.rotary_emb = tables
        return tables

    def _why_no_tables(self) -> str | None:
        why = "has no rotary positions to replace" if self._rotary is None else self._rotary.refusal
        return why and f"{self._name} {why}: leave the position slot empty (position: null)"

    def _positions(self, padded: Padded, rotary: Exact | None) -> Any:
        """Returns a context in which the body uses the given tables or its own positions."""
        longest = padded.key_columns
        if rotary is not None:
            if self._rotary is None or self.refuses_tables is not None:
                raise WiringError(self.refuses_tables)
            cos, sin = rotary
            if cos.shape[-1] != self._rotary.width:
                raise WiringError(
                    f"the rotary tables are {cos.shape[-1]} wide and {self._name} rotates {self._rotary.width} channels"
                )
            if cos.shape[0] != padded.num_tokens:
                raise ValueError(f"the rotary tables have {cos.shape[0]} positions and the layout {padded.num_tokens}")
            return self._rotary.given(padded.pad(cos), padded.pad(sin))
        if self._rotary is not None:
            self._rotary.check_length(longest)
        else:
            limit = getattr(self._settings, "max_position_embeddings", None)
            if limit is not None and longest > limit:
                raise ValueError(f"a segment has {longest} positions and {self._name} has {limit}")
        return nullcontext()

    def _view(self, cache: KVCache, padded: Padded) -> Any:
        kinds = {str(kind).partition("_")[0] for kind in getattr(self._settings, "layer_types", None) or ()}
        stateful = getattr(self.body, "_is_stateful", False) or kinds & {"linear", "conv", "mamba", "recurrent"}
        if stateful or "past_key_values" not in self._arguments:
            raise ValueError(f"{self._name} has layers without keys and values: it cannot decode with a KVCache")
        from mmcomponents.backbones.transformers_cache import SegmentCache

        return SegmentCache(cache, padded)


def _build(config: dict[str, Any] | str, attention: str, trust_remote_code: bool) -> Any:
    """Builds a body with new weights in torch's default dtype, whatever dtype the configuration names."""
    # Takes seconds, so it is imported on use.
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_MAPPING,
        AutoConfig,
        AutoModel,
    )

    check_attention(None, attention)
    settings = read_config(AutoConfig, CONFIG_MAPPING.keys(), config, trust_remote_code).get_text_config(decoder=True)
    known = type(settings) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not known and not (trust_remote_code and "AutoModelForCausalLM" in (getattr(settings, "auto_map", None) or {})):
        raise ValueError(f"transformers has no causal language model for model_type {settings.model_type!r}")
    both_ways = type(settings) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(settings, "is_decoder", False)
    if both_ways or getattr(settings, "is_encoder_decoder", False):
        raise ValueError(f"model_type {settings.model_type!r} is not a decoder-only model")
    check_attention(MODEL_MAPPING.get(type(settings), None), attention)
    if attention == "sdpa" and getattr(settings, "attn_logit_softcapping", None):
        # Up to transformers 5.20, Gemma 2 accepts sdpa, which ignores the cap.
        raise ValueError(
            f"{settings.model_type} caps its attention logits, which sdpa ignores: give attn_implementation: eager"
        )
    return AutoModel.from_config(
        settings,
        attn_implementation=attention,
        dtype=torch.get_default_dtype(),
        trust_remote_code=trust_remote_code,
    )


def _embedding_scale(embedding: nn.Module) -> float | None:
    """Returns the factor of the token embeddings; None for no scaling.

    Raises:
        ValueError: The embedding does something else.
    """
    if type(embedding) is nn.Embedding:
        return None
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", None))
    if not isinstance(scale, float | int):
        raise ValueError(f"the embedding {type(embedding).__name__} does more than look up and scale")
    return float(scale)


def pretrained(folder: str | Path, trust_remote_code: bool = False) -> dict[str, Tensor]:
    """Loads the weights of any causal language model that transformers supports from a folder.

    Args:
        folder: Local folder; only safetensors are read.
        trust_remote_code: As in `TransformersLM`.

    Returns:
        Weights, each in its own shape, named `backbone.body.*` as in `TransformersLM`, `embedder.embedding.weight`
        `[vocab, d]`, and `heads.lm.weight` `[vocab, d]` if the head is not tied.

    Raises:
        ValueError: The folder does not contain such a model, or lacks some of its weights.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    settings = read_config(AutoConfig, CONFIG_MAPPING.keys(), str(folder), trust_remote_code)
    model = load_whole(AutoModelForCausalLM, folder, settings, trust_remote_code)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    found = {f"backbone.body.{name}": value for name, value in stored_tensors(model.base_model).items()}
    found = {name: value for name, value in found.items() if value is not embedding}
    found["embedder.embedding.weight"] = embedding
    if head is not None and head.weight is not embedding:
        found["heads.lm.weight"] = head.weight
    return found
