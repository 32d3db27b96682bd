"""Text towers of transformers as encoders of external text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.embedders.text_encoder import TextEncoder
from mmcomponents.nn.wrapped import Starts, check_attention, load_whole, matrix_flops, named_types, read_config


class TransformersText(TextEncoder):
    """Last hidden states of a language model of transformers, such as the text tower of CLIP (arXiv 2103.00020).

    Its weights are never trained. A text must depend on itself only: the model gets an attention mask.

    Args:
        config: Fields of the configuration with its `model_type`, a local folder or config.json, or the name of
            a model in the hub's cache; the `text_config` of a composite configuration (CLIP, SigLIP) is used.
        attn_implementation: Attention of transformers: "sdpa", "eager", …
        trust_remote_code: Whether code in a local folder is executed.

    Raises:
        ValueError: The configuration is unknown.
    """

    frozen = ("*",)

    def __init__(
        self, config: dict[str, Any] | str, attn_implementation: str = "sdpa", trust_remote_code: bool = False
    ) -> None:
        super().__init__()
        check_attention(None, attn_implementation)
        self.body = _build(_settings(config, trust_remote_code), attn_implementation, trust_remote_code)
        self.width = int(self.body.config.hidden_size)
        self.body.requires_grad_(False)
        self._starts = Starts(self.body, self.body._init_weights)
        self.shard_units = named_types(self.body, set(self.body._no_split_modules or ()))
        self.init_weights()

    @classmethod
    def pretrained(cls, folder: str | Path, trust_remote_code: bool = False) -> TransformersText:
        """Loads a tower with its weights from a local folder.

        Args:
            folder: Local folder of transformers.
            trust_remote_code: Whether code in the folder is executed.

        Raises:
            ValueError: The folder cannot be read, or lacks weights.
        """
        from transformers import MODEL_MAPPING

        settings = _settings(str(folder), trust_remote_code)
        loaded = load_whole(MODEL_MAPPING[type(settings)], folder, settings, trust_remote_code)
        with torch.device("meta"):
            made = cls(str(folder), trust_remote_code=trust_remote_code)
        made.body = loaded.requires_grad_(False)
        return made.eval()

    @torch.no_grad()
    def forward(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """Encodes texts, `[E]` to `[E, c]`."""
        texts = ids.split(lengths)
        padded = pad_sequence(list(texts), batch_first=True)
        sizes = torch.tensor(lengths, device=ids.device)
        mask = torch.arange(padded.shape[1], device=ids.device) < sizes[:, None]
        found: Tensor = self.body(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        return found[mask]

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrices over the positions of type EXTERNAL."""
        return matrix_flops(self.body, int((batch.layout.token_type == TokenType.EXTERNAL).sum()))

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills a parameter as transformers does, if it is no matrix."""
        if not self._starts.draw(name.removeprefix("body."), value, generator):
            super().init_parameter(name, value, generator)

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills a buffer as transformers does."""
        return self._starts.fill(name.removeprefix("body."), value)


def _settings(config: dict[str, Any] | str, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    settings = read_config(AutoConfig, CONFIG_MAPPING, config, trust_remote_code)
    return getattr(settings, "text_config", settings)


def _build(settings: Any, attn_implementation: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModel

    body = AutoModel.from_config(
        settings,
        attn_implementation=attn_implementation,
        dtype=torch.get_default_dtype(),
        trust_remote_code=trust_remote_code,
    )
    body.config.use_cache = False
    return body
