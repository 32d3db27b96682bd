"""Comparison of a training step with transformers' InternVL, with the same weights, on the CPU.

    python benchmarks/step.py [--repeats 7] [--threads 2] [--profile] [--compile] [--checkpointing]

Two batches of 16 sequences with one image each: log-normal lengths (median 100, longest 500), and equal lengths of 256.
transformers pads; this library packs. Useful tokens are those that are not padding. The last line has the ratio of
useful tokens per second for both batches, this library over transformers, forward and backward pass together; with
--compile and --checkpointing, also those of compiled or checkpointed units over units as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mmcomponents import MultimodalModel
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken
from mmcomponents.positions import RoPE
from mmcomponents.projectors import MLPProjector
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units
from mmcomponents.vision import InternViT

VISION, VISION_LAYERS, VISION_HEADS, VISION_MLP = 192, 4, 4, 768
TEXT, TEXT_LAYERS, HEADS, KV_HEADS, TEXT_MLP = 256, 6, 4, 2, 704
TILE, PATCH, TILE_TOKENS, VOCAB, IMAGE = 112, 14, 16, 8192, 8191
BATCH = 16
THEIRS, OURS = "transformers", "mmcomponents"


@dataclass
class Sequences:
    """Token ids of each sequence (16 placeholders of an image after the first token), and its tile.

    Attributes:
        ids: Token ids of each sequence.
        pixels: Tiles, `[sequences, 3, 112, 112]`.
    """

    ids: list[Tensor]
    pixels: Tensor

    @property
    def useful(self) -> int:
        """Number of tokens that are not padding."""
        return sum(len(ids) for ids in self.ids)


def sequences(lengths: list[int]) -> Sequences:
    """Draws random sequences of the given lengths."""
    ids = []
    for length in lengths:
        drawn = torch.randint(1, IMAGE, (length,))
        drawn[1 : 1 + TILE_TOKENS] = IMAGE
        ids.append(drawn)
    return Sequences(ids, torch.randn(len(lengths), 3, TILE, TILE))


def mixed_lengths() -> list[int]:
    """Draws log-normal lengths with a median of 100, the longest 500."""
    drawn = torch.randn(BATCH).mul(0.7).exp().mul(100).clamp(24, 500).round().int().tolist()
    drawn[0] = 500
    return [int(n) for n in drawn]


def transformers_model() -> InternVLForConditionalGeneration:
    """Returns transformers' model with random weights."""
    vision = {
        "hidden_size": VISION,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "intermediate_size": VISION_MLP,
        "image_size": [TILE, TILE],
        "patch_size": [PATCH, PATCH],
        "attention_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": TEXT,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": TEXT_MLP,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=TILE_TOKENS,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    return InternVLForConditionalGeneration(config).train()


def our_model(theirs: InternVLForConditionalGeneration) -> MultimodalModel:
    """Returns this library's model with the same weights."""
    base = theirs.config.text_config.rope_parameters["rope_theta"]
    model = MultimodalModel(
        vision=InternViT(VISION, VISION_LAYERS, VISION_HEADS, VISION_MLP, image_size=TILE, patch_size=PATCH),
        merger=PixelUnshuffle(VISION),
        projector=MLPProjector(4 * VISION, TEXT),
        embedder=TokenEmbedder(VOCAB, TEXT),
        position=RoPE(TEXT // HEADS, base=base),
        backbone=DecoderLM(TEXT, TEXT_LAYERS, HEADS, TEXT_MLP, num_kv_heads=KV_HEADS),
        heads={"lm": LMHead(TEXT, VOCAB)},
    )
    model.load_state_dict(renamed(theirs.state_dict()))
    return model.train()


def renamed(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of transformers' model by this library's names, with q, k and v of the encoder joined."""
    out = {}
    for name, value in source.items():
        if "vision_tower" in name and any(f"attention.{x}_proj" in name for x in "kv"):
            continue
        if "vision_tower" in name and "attention.q_proj" in name:
            value = torch.cat([source[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
        for old, new in NAMES:
            name = name.replace(old, new)
        out[name] = value
    return out


NAMES = [
    ("model.vision_tower.embeddings.cls_token", "vision.class_embedding"),
    ("model.vision_tower.embeddings.patch_embeddings.projection", "vision.patch_embedding"),
    ("model.vision_tower.embeddings.position_embeddings", "vision.position_embedding"),
    ("model.vision_tower.encoder.layer", "vision.blocks"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.q_proj", "attn.qkv"),
    ("attention.projection_layer", "attn.proj"),
    ("lambda_", "ls"),
    ("model.multi_modal_projector.layer_norm", "projector.norm"),
    ("model.multi_modal_projector.linear_", "projector.fc"),
    ("model.language_model.embed_tokens", "embedder.embedding"),
    ("model.language_model", "backbone"),
    ("lm_head", "heads.lm"),
]


def their_step(model: InternVLForConditionalGeneration, data: Sequences) -> Callable[[], Tensor]:
    """Returns a function that runs forward and backward passes over the padded batch."""
    longest = max(len(ids) for ids in data.ids)
    ids = torch.zeros(len(data.ids), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for index, drawn in enumerate(data.ids):
        ids[index, : len(drawn)], mask[index, : len(drawn)] = drawn, 1
        labels[index, : len(drawn)] = torch.where(drawn == IMAGE, IGNORE, drawn)

    def step() -> Tensor:
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, pixel_values=data.pixels, labels=labels).loss
        loss.backward()
        return loss.detach()

    return step


def our_step(model: MultimodalModel, data: Sequences) -> Callable[[], Tensor]:
    """Returns a function that runs forward and backward passes over the pack."""
    objective, batch = NextToken("token"), pack(data)

    def step() -> Tensor:
        model.zero_grad()
        out = objective(model, batch, objective.counts(batch))
        out.total.backward()
        return out.total.detach()

    return step


def pack(data: Sequences) -> PackedBatch:
    """Packs the sequences into one pack."""
    ids = torch.cat(data.ids)
    lengths = torch.tensor([len(s) for s in data.ids])
    visual = ids == IMAGE
    segment = torch.arange(len(lengths)).repeat_interleave(lengths)
    targets = [torch.cat((s[1:], torch.tensor([IMAGE]))) for s in data.ids]
    following = torch.cat(targets)
    none = torch.zeros(len(lengths), dtype=torch.long)
    return PackedBatch(
        input_ids=ids,
        layout=Layout(
            token_type=torch.where(visual, int(TokenType.IMAGE), int(TokenType.TEXT)),
            cu_seqlens=torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
            max_seqlen=int(lengths.max()),
            image_id=torch.where(visual, segment, -1),
            grid=torch.tensor([[1, 4, 4]]).repeat(len(lengths), 1),
        ),
        visual_index=torch.where(visual, visual.cumsum(0) - 1, -1),
        labels=torch.where(following == IMAGE, IGNORE, following),
        segment_sample=torch.arange(len(lengths)),
        segment_source=none,
        keys=[str(n) for n in range(len(lengths))],
        images=ImageBatch(data.pixels, torch.arange(len(lengths))),
    )


def variants(compiles: bool, checkpointing: bool) -> dict[str, tuple[Checkpointing, bool]]:
    """Returns the settings of this library's units by name: activation checkpointing, compilation."""
    found: dict[str, tuple[Checkpointing, bool]] = {OURS: ("none", False)}
    if compiles:
        found["compiled"] = ("none", True)
    if checkpointing:
        found |= {"selective": ("selective", False), "full": ("full", False)}
    return found


def compare(
    data: Sequences, repeats: int, settings: dict[str, tuple[Checkpointing, bool]]
) -> tuple[dict[str, float], float]:
    """Returns the median seconds of transformers and of each variant of this library, and the difference of the losses.

    All are timed in turn, so that other load on the machine affects all.
    """
    theirs = transformers_model()
    steps = {THEIRS: their_step(theirs, data)}
    for name, (checkpointing, compiles) in settings.items():
        model = our_model(theirs)
        prepare_units(model, {}, checkpointing, compiles)
        steps[name] = our_step(model, data)
    losses = [float(step()) for step in steps.values()]  # the first step also warms up, and compiles
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, max(losses) - min(losses)


def profile(data: Sequences) -> None:
    """Prints where a step of this library spends its time."""
    step = our_step(our_model(transformers_model()), data)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        step()
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=48))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also time compiled units")
    parser.add_argument("--checkpointing", action="store_true", help="also time selective and full checkpointing")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats must be at least 5")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    loads = {"mixed": sequences(mixed_lengths()), "equal": sequences([256] * BATCH)}
    ratios = {}
    for name, data in loads.items():
        seconds, gap = compare(data, options.repeats, variants(options.compile, options.checkpointing))
        lengths = [len(s) for s in data.ids]
        print(f"{name}: lengths {min(lengths)} to {max(lengths)}, median {statistics.median(lengths):.0f}")
        for label, taken in seconds.items():
            print(f"  {label:12s} {data.useful / taken:8.0f} useful tokens/s   {taken:.3f} s")
        print(f"  losses differ by {gap:.1e}")
        if gap > 1e-5:
            raise SystemExit(f"the losses differ by {gap}")
        ratios[name] = round(seconds[THEIRS] / seconds[OURS], 3)
        for label in [label for label in seconds if label not in (THEIRS, OURS)]:
            ratios[f"{name}, {label} over {OURS}"] = round(seconds[OURS] / seconds[label], 3)
        if options.profile:
            profile(data)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
