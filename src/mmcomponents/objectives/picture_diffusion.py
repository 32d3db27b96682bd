"""Next-token prediction of texts, and diffusion of the pictures that they describe.

Reference code: rongyaofang/GoT.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch
from mmcomponents.component import Composition
from mmcomponents.nn.pictures import BRANCHES, encode_conditions
from mmcomponents.objectives.base import LanguageHead, Model, check_head
from mmcomponents.objectives.next_token import NextToken
from mmcomponents.objectives.picture_fields import PICTURES, check_pictures, picture_fields, picture_segments
from mmcomponents.objectives.weighting import Weighting, token_weights


class PictureDiffusion(NextToken):
    """Cross-entropy of the text's tokens plus the error of a denoiser of pictures (GoT, arXiv 2503.10639, section 4.4).

    The denoiser's gradient reaches the language model through the hidden states of the queries. Both terms are means
    over the whole step: of the targets of the texts, and of the pictures. Noise levels, noise and which conditions are
    left out depend on the seed, the epoch, the sample and its copy, see `PackedBatch.generators`.

    Args:
        weighting: Weighting of the text's tokens, see `NextToken`.
        head: Name of the language-model head.
        sources: See `NextToken`.
        picture_head: Name of the head with the denoiser.
        autoencoder: Name of the head that encodes pictures.
        picture_weight: Weight of the pictures.
        dropout: Probability of each of the three combinations of conditions in which some are left out.

    Raises:
        ValueError: The weight is negative, or the probabilities sum to more than 1.
    """

    def __init__(
        self,
        weighting: Weighting = "token",
        head: str = "lm",
        sources: int = 0,
        picture_head: str = "picture",
        autoencoder: str = "autoencoder",
        picture_weight: float = 1.0,
        dropout: float = 0.05,
    ) -> None:
        super().__init__(weighting, head, sources)
        if not 0 <= dropout <= 1 / (len(BRANCHES) - 1) or picture_weight < 0:
            raise ValueError(
                f"dropout must be from 0 to 1/3 and picture_weight at least 0, got {dropout} and {picture_weight}"
            )
        self.picture_head, self.autoencoder = picture_head, autoencoder
        self.picture_weight, self.dropout = picture_weight, dropout
        self.needs_heads = (head, picture_head, autoencoder)
        self.validated = MappingProxyType({"text": "weight", "picture": PICTURES})
        self.loss_weights = MappingProxyType({"text": 1.0, "picture": picture_weight})

    def check(self, model: Composition) -> None:
        """Checks that the heads compute likelihoods, predict noise, and encode pictures.

        Raises:
            WiringError: They do not.
        """
        super().check(model)
        check_head(self, model, self.picture_head, "predicted", "Condition")
        check_head(self, model, self.autoencoder, "encode", "ConvAutoencoder")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Computes the counts of the texts, and the number of pictures.

        Raises:
            WiringError: Pictures and segments with queries differ in number.
        """
        return super().counts(batch) | {PICTURES: float(check_pictures(batch))}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step."""
        weights = token_weights(batch.labels, batch.layout.cu_seqlens, self.weighting)
        weights = weights / max(totals["weight"], 1e-12)

        def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor, Tensor]:
            assert state.hidden is not None
            text, nll = cast(LanguageHead, heads[self.head]).weighted_nll(state.hidden, batch.labels, weights)
            errors = self._errors(cast(Any, heads[self.picture_head]), heads[self.autoencoder], state.hidden, batch)
            return text, nll, errors.sum() / max(totals[PICTURES], 1.0)

        text, nll, picture = model(batch, read=read)
        total = text + self.picture_weight * picture
        parts = {"loss": total.detach(), "text": text.detach(), "picture": picture.detach()}
        parts["nll"] = nll.sum() / max(totals["targets"], 1.0)
        for source, value in enumerate(self._by_source(batch, nll)):
            parts[f"nll/{source}"] = value / max(totals[f"targets/{source}"], 1.0)
        return LossOutput(total, parts)

    def _errors(self, head: Any, codec: Any, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the mean squared error of each picture, `[P]`.

        A pack without pictures has a black one of weight 0, so that each rank runs the same parts.
        """
        queries, present = head.queries(hidden, batch), 1.0
        if not len(queries):
            queries, present = head.blank_queries(hidden), 0.0
        encoded = encode_conditions(codec, *picture_fields(batch, codec.picture_size))
        target = encoded.targets * codec.scale
        noise, level, keep = self._draws(batch, target, head.schedule.levels)
        noisy = head.schedule.add_noise(target.flatten(1), noise.flatten(1), level).view_as(target)
        semantic = head.semantic(queries)
        unsaid = head.without_words(semantic).context
        semantic = semantic._replace(context=torch.where(keep[:, :1, None], semantic.context, unsaid))
        kept = keep[:, :, None, None].to(target.dtype)
        found = head.predicted(noisy, level, encoded.references * kept[:, 2:], encoded.layouts * kept[:, 1:2], semantic)
        wide = torch.promote_types(found.dtype, torch.float32)
        error = found.to(wide) - head.schedule.target(target, noise).to(wide)
        errors: Tensor = error.square().flatten(1).mean(1) * present
        return errors

    def _draws(self, batch: PackedBatch, latents: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns noise like the latents, the noise level of each picture, and which conditions are kept, `[P, 3]`."""
        own = {*picture_segments(batch).tolist()}
        chosen = [draw for segment, draw in enumerate(batch.generators(PICTURES)) if segment in own]
        shares = [self.dropout] * (len(BRANCHES) - 1)
        noise, level, keep = list[Any](), list[int](), list[tuple[bool, ...]]()
        for draw in chosen or [np.random.default_rng(0)]:
            level.append(int(draw.integers(levels)))
            noise.append(draw.standard_normal(latents.shape[1:], dtype=np.float32))
            keep.append(BRANCHES[draw.choice(len(BRANCHES), p=[*shares, 1 - sum(shares)])])
        drawn = torch.from_numpy(np.stack(noise)).to(latents.device, latents.dtype)
        return drawn, torch.tensor(level, device=latents.device), torch.tensor(keep, device=latents.device)
