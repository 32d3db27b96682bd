"""Any causal language model of transformers as a backbone."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone
from mmcomponents.backbones.transformers_rotary import RotaryTables
from mmcomponents.batch import Exact, Layout, PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.foreign import Starts, check_attention, check_config, load_whole, matrix_flops, named_types
from mmcomponents.nn.padding import Padded

log = logging.getLogger(__name__)

_OF_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields by which a model's own head changes its logits."""


class TransformersLM(Backbone):
    """The body of a causal language model of transformers, without its word table and without its head.

    Segments are padded to a batch with a mask inside, and unpadded again; the mask is always given, as transformers
    would otherwise read any position step other than 1 as the border of a packed sequence. A batch is as wide as its
    longest segment, so a pack of very unequal segments costs more here than in `DecoderLM`. Rotary tables of the
    position slot take the place of the model's own, bit for bit in the type of the sequence; with `position: null` the
    model's own positions are used. Where a model multiplies its word vectors by a constant (Gemma), so does this part,
    at text positions. A model with layers that keep a state instead of keys and values (Mamba) trains and does not
    decode.

    Args:
        config: Fields of the model's configuration with its `model_type`, or a local folder or config.json.
        attn_implementation: Attention of transformers: "sdpa", "eager", "flash_attention_2", …
        trust_remote_code: Whether a local folder may bring code of its own, which is then run.

    Raises:
        ValueError: The configuration is unknown, is of no causal language model, or cannot be had with this attention.
    """

    def __init__(
        self, config: dict[str, Any] | str, attn_implementation: str = "sdpa", trust_remote_code: bool = False
    ) -> None:
        super().__init__()
        self.body = _build(config, attn_implementation, trust_remote_code)
        self._name = type(self.body).__name__
        self._settings: Any = self.body.config
        table = self.body.get_input_embeddings()
        self.hidden_size = int(table.embedding_dim)
        self._text_scale = _scale_of(table)
        self.body.set_input_embeddings(None)  # the embedder owns the words
        self._rotary = self._take_rotary()
        self.refuses_tables = self._why_no_tables()
        heads = self._settings.num_attention_heads
        own_width = getattr(self._settings, "head_dim", None) or self._settings.hidden_size // heads
        self._heads_width = int(own_width) * int(heads)
        self.head_dim = int(own_width) if self._rotary is None else self._rotary.width or int(own_width)
        self._arguments = set(inspect.signature(self.body.forward).parameters)
        self._starts = Starts(self.body, self.body._init_weights)
        self.shard_units = named_types(self.body, set(self.body._no_split_modules or ()))
        if changed := [n for n in _OF_THE_HEAD if getattr(self._settings, n, None) not in (None, 1, 1.0)]:
            log.warning("the own head of %s changes its logits (%s); LMHead does not", self._name, ", ".join(changed))
        self.init_weights()

    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]`.

        Raises:
            WiringError: The rotary tables do not fit the model.
            ValueError: A segment is longer than the model's own positions, or the model cannot use a cache.
        """
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
        """Vectors begin as transformers has them begin, matrices as in every part."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def flops(self, batch: PackedBatch) -> float:
        """Matrices over all positions, and causal attention as half the square of each segment's length.

        Padding and the masked half are left out; of experts those count that a token is sent to; sliding windows count
        as full attention.
        """
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        experts = next((n for n in (getattr(self._settings, name, None) for name in names) if n), None)
        share = float(getattr(self._settings, "num_experts_per_tok", 1)) / experts if experts else 1.0
        squares = float(batch.layout.cu_seqlens.diff().double().square().sum())
        attention = 2.0 * squares * self._heads_width * int(self._settings.num_hidden_layers)
        return matrix_flops(self.body, batch.num_tokens, share) + attention

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransformersLM:
        """Moves and casts the weights; buffers that no checkpoint holds keep their values and types."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._starts.restore(self.body)
        return self

    def _take_rotary(self) -> RotaryTables | None:
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
        """The block within which the body has its positions."""
        longest = padded.key_columns
        if rotary is not None:
            if self._rotary is None or self.refuses_tables is not None:
                raise WiringError(self.refuses_tables)
            cos, sin = rotary
            if cos.shape[-1] != self._rotary.width:
                raise WiringError(
                    f"the rotary tables are {cos.shape[-1]} wide and {self._name} rotates {self._rotary.width} channels"
                )
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
            raise ValueError(f"{self._name} has layers without keys and values: it cannot decode from our cache")
        from mmcomponents.backbones.transformers_cache import SegmentCache

        return SegmentCache(cache, padded)


def _build(config: dict[str, Any] | str, attention: str, trust_remote_code: bool) -> Any:
    """A body with fresh weights of torch's default type, whatever type the configuration names."""
    # Takes seconds, so only where it is used.
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_MAPPING,
        AutoConfig,
        AutoModel,
    )

    check_config(config, CONFIG_MAPPING.keys())
    if isinstance(config, dict):
        settings: Any = AutoConfig.for_model(**config)
    else:
        settings = AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=trust_remote_code)
    settings = settings.get_text_config(decoder=True)
    known = type(settings) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not known and not (trust_remote_code and "AutoModelForCausalLM" in (getattr(settings, "auto_map", None) or {})):
        raise ValueError(f"transformers has no causal language model for model_type {settings.model_type!r}")
    both_ways = type(settings) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(settings, "is_decoder", False)
    if both_ways or getattr(settings, "is_encoder_decoder", False):
        raise ValueError(f"model_type {settings.model_type!r} is no decoder that stands alone")
    check_attention(MODEL_MAPPING.get(type(settings), None), attention)
    return AutoModel.from_config(
        settings,
        attn_implementation=attention,
        dtype=torch.get_default_dtype(),
        trust_remote_code=trust_remote_code,
    )


def _scale_of(table: nn.Module) -> float | None:
    """What a body multiplies its word vectors by, None for nothing.

    Raises:
        ValueError: Its word table does something else.
    """
    if type(table) is nn.Embedding:
        return None
    scale = getattr(table, "scalar_embed_scale", getattr(table, "embed_scale", None))
    if not isinstance(scale, float | int):
        raise ValueError(f"the word table {type(table).__name__} does more than look up and scale")
    return float(scale)


def pretrained(folder: str | Path, trust_remote_code: bool = False) -> dict[str, Tensor]:
    """Weights of a causal language model in a folder, whatever its kind; transformers reads all of them.

    Args:
        folder: Local; only safetensors are read.
        trust_remote_code: As in `TransformersLM`.

    Returns:
        `backbone.body.*` as a `TransformersLM` names them, `embedder.embedding.weight`, and `heads.lm.weight` where the
        head is not tied.

    Raises:
        ValueError: The folder holds no such model, or lacks some of its weights.
    """
    from transformers import AutoModelForCausalLM

    model = load_whole(AutoModelForCausalLM, folder, trust_remote_code=trust_remote_code)
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    found = {f"backbone.body.{name}": value for name, value in model.base_model.named_parameters()}
    found = {name: value for name, value in found.items() if value is not words}
    found["embedder.embedding.weight"] = words
    if head is not None and head.weight is not words:
        found["heads.lm.weight"] = head.weight
    return found
