"""Format of language models without vision encoder, as transformers stores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.config_values import integer
from mmcomponents.checkpoints.decoder_families import (
    IGNORED,
    decoder_config,
    decoder_parts,
    decoder_rules,
    decoder_type,
)
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.rules import Rule
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.limits import MAX_ROWS


class CausalLM(Format):
    """Format of Qwen2.5, Qwen3, Llama, InternLM2 and InternLM3; read as a model without vision encoder."""

    name = "causal_lm"
    ignored = IGNORED

    def matches(self, config: Mapping[str, Any]) -> bool:
        """See the base class; decided by the model type or the class."""
        return "vision_config" not in config and decoder_type(config) is not None

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        tied = not {"lm_head.weight", "output.weight"} & set(names)
        return ModelSpec(decoder_parts(config, tied), integer(config, "vocab_size", most=MAX_ROWS))

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """See the base class."""
        backbone = spec.part("backbone", "DecoderLM", self.name)
        return decoder_rules(str(decoder_type(config)), "", backbone)

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class."""
        if spec.parts.get("vision"):
            raise CheckpointError(f"the format {self.name} has no images, and this model has a vision encoder")
        return {**source, **decoder_config(spec, self.name, decoder_type(source))}
