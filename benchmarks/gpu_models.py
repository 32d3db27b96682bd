"""A recipe's model here and in transformers, with the same random weights, and samples for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mpo import Sizes
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mmcomponents import MultimodalModel
from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.checkpoints.hf import HFInternVL
from mmcomponents.checkpoints.rules import lazy, to_theirs
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.component import stored_tensors
from mmcomponents.compose import build, short_names
from mmcomponents.objectives import NextToken
from mmcomponents.training import MultimodalTask

FLAGS = ["--model.position", "RoPE", "--model.position.base", "1.0e+6"]
"""transformers has no V2PE."""


@dataclass(frozen=True)
class Twins:
    """A recipe's model, built here and in transformers.

    Attributes:
        spec: The model.
        device: Its device.
        dtype: Data type of its weights, and of the computation.
        image_size: Width of a tile.
        tile_tokens: Visual tokens of a tile.
    """

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype
    image_size: int
    tile_tokens: int

    @classmethod
    def of(cls, recipe: str, device: torch.device, dtype: torch.dtype, layers: int | None = None) -> Twins:
        """Reads a recipe; `layers` cuts the language model."""
        cut = [] if layers is None else ["--model.backbone.num_layers", str(layers)]
        # Of a recipe without tokenizer, such as the smallest one.
        ids = ["--model.vocab_size", "512", "--model.image_token_id", "511"] if recipe == "quickstart" else []
        cli = RecipeCLI("plan", sort_flags(["--config", recipe, *FLAGS, *cut, *ids]), MultimodalTask, data_class=None)
        given = cli.config["model"].as_dict()
        slots = ("vision", "merger", "projector", "embedder", "position", "backbone")
        parts: dict[str, Any] = {slot: short_names(given[slot]) for slot in slots}
        parts["heads"] = {name: short_names(head) for name, head in given["heads"].items()}
        spec = ModelSpec(parts, given["vocab_size"], given["image_token_id"])
        meta = cli.meta_model
        assert meta.vision is not None
        assert meta.tokens_per_tile is not None
        return cls(spec, device, dtype, meta.vision.image_size, meta.tokens_per_tile)

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return int(self.spec.parts["backbone"]["init_args"]["num_layers"])

    @property
    def sizes(self) -> Sizes:
        """Sizes of the pairs of `mpo.py`."""
        vocab, image = self.spec.vocab_size, self.spec.image_token_id
        assert vocab is not None
        assert image is not None
        return Sizes(image, self.image_size, self.tile_tokens, tiles=2)

    def meta(self) -> MultimodalModel:
        """Returns this library's model without weights."""
        with torch.device("meta"):
            return build(self.spec.parts, self.spec.vocab_size, self.spec.image_token_id).to(self.dtype)

    @torch.no_grad()
    def ours(self) -> MultimodalModel:
        """Returns this library's model; all calls give the same weights, which are drawn on the device."""
        model = self.meta()
        model.to_empty(device=self.device)
        for part in model.parts().values():
            part.set_buffers(part.buffer_values(self.device))
        model.to(self.device, self.dtype)
        model.tie_weights()
        generator = torch.Generator(self.device).manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 0.1 if ".ls" in name else 1.0)
        return model.train()

    def theirs(self, attention: str = "sdpa") -> InternVLForConditionalGeneration:
        """Returns transformers' model with the weights of `ours`."""
        form = HFInternVL()
        given = form.config(self.spec, {})
        config = InternVLConfig(**given)
        config._attn_implementation = attention
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                model = InternVLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
        state = {name: lazy(value) for name, value in stored_tensors(self.ours()).items()}
        named = to_theirs(state, form.rules(given, self.spec))
        own = {form.normalized(name): value for name, value in model.state_dict().items()}
        if missing := (own.keys() ^ named.keys()) - {"language_model.lm_head.weight"}:
            raise SystemExit(f"only one model has {', '.join(sorted(missing)[:4])}")
        for name, value in named.items():
            own[name].copy_(value.load())
        return model.train()


@dataclass
class Samples:
    """Conversations with images at the beginning; the second half of each is its answer.

    Attributes:
        ids: Token ids of each.
        tiles: Number of tiles of each.
        pixels: Tiles of all, `[tiles, 3, height, width]`.
        twins: What they are made for.
    """

    ids: list[Tensor]
    tiles: list[int]
    pixels: Tensor
    twins: Twins

    @property
    def useful(self) -> int:
        """Number of tokens that are not padding."""
        return sum(map(len, self.ids))

    def labels(self) -> list[Tensor]:
        """Returns the labels of each, at the place of the token itself."""
        found = []
        for ids in self.ids:
            answer = torch.arange(len(ids)) >= len(ids) // 2
            found.append(torch.where(answer & (ids != self.twins.spec.image_token_id), ids, IGNORE))
        return found

    def pack(self) -> PackedBatch:
        """Returns one pack, on the CPU."""
        ids, lengths = torch.cat(self.ids), torch.tensor([len(s) for s in self.ids])
        visual = ids == self.twins.spec.image_token_id
        segment = torch.arange(len(lengths)).repeat_interleave(lengths)
        following = [torch.cat((labels[1:], torch.tensor([IGNORE]))) for labels in self.labels()]
        side = int(self.twins.tile_tokens**0.5)
        with_image = [n for n, tiles in enumerate(self.tiles) if tiles]
        numbers = torch.full((len(lengths),), -1)
        numbers[with_image] = torch.arange(len(with_image))
        return PackedBatch(
            input_ids=ids,
            layout=Layout(
                token_type=torch.where(visual, int(TokenType.IMAGE), int(TokenType.TEXT)),
                cu_seqlens=torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
                max_seqlen=int(lengths.max()),
                image_id=torch.where(visual, numbers[segment], -1),
                grid=torch.tensor([[self.tiles[n], side, side] for n in with_image]).view(-1, 3),
            ),
            visual_index=torch.where(visual, visual.cumsum(0) - 1, -1),
            labels=torch.cat(following),
            segment_sample=torch.arange(len(lengths)),
            segment_source=torch.zeros(len(lengths), dtype=torch.long),
            keys=[str(n) for n in range(len(lengths))],
            images=ImageBatch(
                self.pixels, torch.tensor([number for number, n in enumerate(with_image) for _ in range(self.tiles[n])])
            ),
        )

    def padded(self, size: int) -> list[dict[str, Any]]:
        """Returns batches of transformers, each of `size` samples of similar lengths, padded on the right."""
        order = sorted(range(len(self.ids)), key=lambda n: len(self.ids[n]))
        firsts = torch.tensor([0, *self.tiles]).cumsum(0).tolist()
        labels, batches = self.labels(), []
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            pad = torch.nn.utils.rnn.pad_sequence
            mask = pad([torch.ones_like(self.ids[n]) for n in chosen], batch_first=True)
            places = [place for n in chosen for place in range(firsts[n], firsts[n + 1])]
            batches.append(
                {
                    "input_ids": pad([self.ids[n] for n in chosen], batch_first=True),
                    "attention_mask": mask,
                    "labels": pad([labels[n] for n in chosen], batch_first=True, padding_value=IGNORE),
                    "pixel_values": self.pixels[places] if places else None,
                }
            )
        return batches

    def packed(self) -> list[dict[str, Any]]:
        """Returns one batch of transformers whose positions start again in each sample, which it makes a mask of."""
        labels = [torch.cat((torch.tensor([IGNORE]), own[1:])) for own in self.labels()]
        return [
            {
                "input_ids": torch.cat(self.ids)[None],
                "position_ids": torch.cat([torch.arange(len(ids)) for ids in self.ids])[None],
                "labels": torch.cat(labels)[None],
                "pixel_values": self.pixels,
            }
        ]


def draw(twins: Twins, tokens: int, median: int, longest: int, most_tiles: int) -> Samples:
    """Draws samples with log-normal lengths that have `tokens` tokens together."""
    generator = torch.Generator().manual_seed(1)
    ids, tiles, left = [], [], tokens
    image = twins.spec.image_token_id
    assert image is not None
    while left > 0:
        count = int(torch.randint(0, most_tiles + 1, (1,), generator=generator)) if ids else most_tiles
        size = float(torch.randn(1, generator=generator).mul(0.7).exp()) * median
        text = max(16, min(int(size), longest))
        length = min(left, text + count * twins.tile_tokens)
        count = min(count, max(0, length - 16) // twins.tile_tokens)
        drawn = torch.randint(1, image, (length,), generator=generator)
        drawn[1 : 1 + count * twins.tile_tokens] = image
        ids.append(drawn)
        tiles.append(count)
        left -= length
    pixels = torch.randn(sum(tiles), 3, twins.image_size, twins.image_size, generator=generator)
    return Samples(ids, tiles, pixels, twins)


Step = Callable[[], float]


def our_step(model: MultimodalModel, samples: Samples, optimizer: torch.optim.Optimizer) -> Step:
    """Returns a function that trains a step on the pack and returns the loss."""
    objective, twins = NextToken("token"), samples.twins
    pack = samples.pack()
    counts = objective.counts(pack)
    there = pack.to(twins.device)
    assert there.images is not None
    assert there.images.pixels is not None
    there.images.pixels = there.images.pixels.to(twins.dtype)

    def step() -> float:
        optimizer.zero_grad()
        loss = objective(model, there, counts).total
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def their_step(
    model: InternVLForConditionalGeneration,
    batches: list[dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    twins: Twins,
) -> Step:
    """Returns a function that trains a step on batches, whose losses are averaged over all targets."""
    targets = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches)
    there = [{name: value.to(twins.device) for name, value in batch.items() if value is not None} for batch in batches]
    for batch in there:
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(twins.dtype)

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for batch in there:
            loss = model(**batch, num_items_in_batch=targets, use_cache=False).loss
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return total

    return step
