"""Comparison of a step of mixed preference optimization with the usual implementation, on the CPU.

    python benchmarks/mpo.py [--repeats 5] [--threads 2]

Eight pairs, each with an image of four tiles, prompts of 30 to 60 tokens and answers of 20 to 200, in fp32; policy and
frozen reference, forward and backward pass, with the same weights. Lengths of answers are log-normal as in step.py
(median 63, longest 200), and in a second workload evenly spread. Three implementations:

* usual: transformers' InternVL for both models; chosen and rejected answers in one batch padded on the right, each
  image twice, logits of all positions;
* images_once: the same, with each image encoded once and its visual tokens used for both answers;
* this library: one pack, each image once, logits of answers only, in chunks.

Losses and gradients must agree. The last line has the ratios of the medians, transformers over this library, for both
workloads.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from step import IMAGE, TILE, TILE_TOKENS, our_model, renamed, transformers_model
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import InternVLForConditionalGeneration

from mmcomponents import MultimodalModel
from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, Pairs, TokenType
from mmcomponents.objectives import MPO, FrozenReference

PAIRS, TILES = 8, 4
BETA, DPO, BCO, NLL = 0.1, 0.8, 0.2, 1.0


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model that pairs are made for.

    Attributes:
        image: Token id of the placeholder of a visual token, above all ids of the texts.
        tile: Width of a tile.
        tile_tokens: Visual tokens of a tile, a square number.
        tiles: Tiles of an image.
    """

    image: int = IMAGE
    tile: int = TILE
    tile_tokens: int = TILE_TOKENS
    tiles: int = TILES


SIZES = Sizes()
"""Those of the model in `step.py`."""


@dataclass
class Pair:
    """A prompt that begins with an image, with two answers.

    Attributes:
        prompt: Token ids of the prompt.
        chosen: Token ids of the chosen answer.
        rejected: Token ids of the rejected answer.
        pixels: Tiles of the image, `[tiles, 3, height, width]`.
    """

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    pixels: Tensor


def draw_pairs(answer_lengths: Tensor, sizes: Sizes = SIZES) -> list[Pair]:
    """Draws pairs whose answers have the given lengths, two per pair."""
    drawn = []
    for prompt, answers in zip(spread(30, 60, PAIRS), answer_lengths.view(PAIRS, 2), strict=True):
        chosen, rejected = (torch.randint(1, sizes.image, (int(n),)) for n in answers)
        words = torch.randint(1, sizes.image, (int(prompt),))
        image = torch.full((sizes.tiles * sizes.tile_tokens,), sizes.image)
        pixels = torch.randn(sizes.tiles, 3, sizes.tile, sizes.tile)
        drawn.append(Pair(torch.cat((words[:1], image, words[1:])), chosen, rejected, pixels))
    return drawn


def spread(low: int, high: int, count: int) -> Tensor:
    """Returns integers from `low` to `high` at equal distances, in random order."""
    return torch.linspace(low, high, count).round().long()[torch.randperm(count)]


def log_normal(low: int, high: int, count: int) -> Tensor:
    """Draws integers from `low` to `high`, log-normal around their geometric mean, the largest being `high`."""
    drawn = torch.randn(count).mul(0.7).exp().mul((low * high) ** 0.5).clamp(low, high).round().long()
    drawn[0] = high
    return drawn


def start() -> tuple[InternVLForConditionalGeneration, InternVLForConditionalGeneration]:
    """Returns a policy and a reference that differ slightly, so that no reward is zero."""
    reference = transformers_model()
    policy = copy.deepcopy(reference)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p), alpha=1e-3)
    return policy.train(), reference.requires_grad_(False).eval()


def their_step(
    policy: InternVLForConditionalGeneration,
    reference: InternVLForConditionalGeneration,
    pairs: list[Pair],
    encode_once: bool,
    image: int = IMAGE,
) -> Callable[[], Tensor]:
    """Returns the usual step, whose batch has all chosen answers, then all rejected ones."""
    sequences = [torch.cat((p.prompt, p.chosen)) for p in pairs] + [torch.cat((p.prompt, p.rejected)) for p in pairs]
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, targets = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for index, (pair, sequence) in enumerate(zip([*pairs, *pairs], sequences, strict=True)):
        ids[index, : len(sequence)], mask[index, : len(sequence)] = sequence, 1
        targets[index, len(pair.prompt) : len(sequence)] = sequence[len(pair.prompt) :]
    device, dtype = next(policy.parameters()).device, next(policy.parameters()).dtype
    ids, mask, targets = ids.to(device), mask.to(device), targets[:, 1:].to(device)
    supervised = targets != IGNORE
    once = torch.cat([p.pixels for p in pairs]).to(device, dtype)
    twice = torch.cat((once, once))

    def logits(model: InternVLForConditionalGeneration) -> Tensor:
        if not encode_once:
            return model(input_ids=ids, attention_mask=mask, pixel_values=twice).logits
        visual_tokens = model.model.get_image_features(once).pooler_output.flatten(0, 1)
        embeds = model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == image)[..., None], torch.cat((visual_tokens, visual_tokens)))
        return model(inputs_embeds=embeds, attention_mask=mask).logits

    def logps(model: InternVLForConditionalGeneration) -> Tensor:
        all_logps = logits(model)[:, :-1].float().log_softmax(-1)
        token_logps = all_logps.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
        return (token_logps.double() * supervised).sum(1)  # in fp32, a sum near -1,000 loses the last digits

    def step() -> Tensor:
        policy.zero_grad()
        with torch.no_grad():
            reference_logps = logps(reference)
        own = logps(policy)
        chosen, rejected = (BETA * (own - reference_logps)).chunk(2)
        delta = torch.cat((chosen, rejected)).detach().mean()  # the running mean after the first step
        dpo = -logsigmoid(chosen - rejected).mean()
        bco = (-logsigmoid(chosen - delta) - logsigmoid(-(rejected - delta))).mean()
        nll = -own[:PAIRS].sum() / supervised[:PAIRS].sum()
        loss = DPO * dpo + BCO * bco + NLL * nll
        loss.backward()
        return loss.detach()

    return step


def our_step(
    policy: MultimodalModel, reference: MultimodalModel, pairs: list[Pair], sizes: Sizes = SIZES
) -> Callable[[], Tensor]:
    """Returns the same step over a pack."""
    on_host = pack(pairs, sizes)
    weight = next(policy.parameters())
    batch = on_host.to(weight.device)
    assert batch.images is not None
    assert batch.images.pixels is not None
    batch.images.pixels = batch.images.pixels.to(weight.dtype)

    def step() -> Tensor:
        policy.zero_grad()
        objective = MPO(BETA, DPO, BCO, NLL, reference=FrozenReference).to(weight.device).train()
        objective.prepare(policy, lambda: reference)
        out = objective(policy, batch, objective.counts(on_host))
        out.total.backward()
        return out.total.detach()

    return step


def pack(pairs: list[Pair], sizes: Sizes = SIZES) -> PackedBatch:
    """Packs the pairs into one pack: two segments per pair, which share the visual tokens of its image."""
    sequences = [torch.cat((p.prompt, answer)) for p in pairs for answer in (p.chosen, p.rejected)]
    lengths = torch.tensor([len(s) for s in sequences])
    ids = torch.cat(sequences)
    segment = torch.arange(len(sequences)).repeat_interleave(lengths)
    visual = ids == sizes.image
    # Both segments of a pair index the visual tokens of its image from the first.
    index = [torch.where(s == sizes.image, (s == sizes.image).cumsum(0) - 1, -1) for s in sequences]
    first = torch.arange(len(pairs)).repeat_interleave(2) * sizes.tiles * sizes.tile_tokens
    index = [torch.where(i >= 0, i + f, -1) for i, f in zip(index, first, strict=True)]
    labels = []
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            before = torch.full((len(pair.prompt) - 1,), IGNORE)
            labels.append(torch.cat((before, answer, torch.tensor([IGNORE]))))
    numbers = torch.arange(2 * len(pairs))
    return PackedBatch(
        input_ids=ids,
        layout=Layout(
            token_type=torch.where(visual, int(TokenType.IMAGE), int(TokenType.TEXT)),
            cu_seqlens=torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
            max_seqlen=int(lengths.max()),
            image_id=torch.where(visual, segment // 2, -1),
            grid=torch.tensor([[sizes.tiles, *[round(sizes.tile_tokens**0.5)] * 2]]).repeat(len(pairs), 1),
        ),
        visual_index=torch.cat(index),
        labels=torch.cat(labels),
        segment_sample=numbers // 2,
        segment_source=torch.zeros_like(numbers),
        keys=[str(n // 2) for n in range(2 * len(pairs))],
        images=ImageBatch(
            torch.cat([p.pixels for p in pairs]), torch.arange(len(pairs)).repeat_interleave(sizes.tiles)
        ),
        pairs=Pairs(numbers[::2], numbers[1::2]),
    )


def gradient_gap(theirs: InternVLForConditionalGeneration, ours: MultimodalModel) -> float:
    """Returns the largest relative difference of a parameter's gradients, `|a - b| / |a|` over the complete tensor."""
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    expected = renamed({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    if missing := expected.keys() ^ found.keys():
        raise SystemExit(f"only one model has a gradient of {', '.join(sorted(missing))}")
    return max(float((found[name] - value).norm() / value.norm()) for name, value in expected.items())


def compare(answer_lengths: Tensor, repeats: int) -> dict[str, float]:
    """Returns the median seconds of each implementation, timed alternately so that other load affects all.

    Raises:
        SystemExit: Losses or gradients differ.
    """
    policy, reference = start()
    pairs = draw_pairs(answer_lengths)
    ours, own_reference = our_model(policy), our_model(reference).requires_grad_(False).eval()
    steps = {
        "usual": their_step(policy, reference, pairs, encode_once=False),
        "images_once": their_step(policy, reference, pairs, encode_once=True),
        "ours": our_step(ours, own_reference, pairs),
    }
    mine = float(steps["ours"]())  # the first steps also warm up
    for name in ("usual", "images_once"):
        loss = float(steps[name]())
        gap, gradients = abs(loss - mine), gradient_gap(policy, ours)
        print(f"{name}: loss {loss:.6f}, ours differs by {gap:.1e}, gradients by {gradients:.1e} of theirs")
        if gap > 1e-5 or gradients > 1e-4:
            raise SystemExit("losses or gradients differ")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats must be at least 5")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ratios = {}
    for load, lengths in (("log-normal", log_normal), ("even", spread)):
        found = compare(lengths(20, 200, 2 * PAIRS), options.repeats)
        print(f"{load}: " + ", ".join(f"{name} {taken:.3f} s" for name, taken in found.items()))
        ratios[load] = {name: round(found[name] / found["ours"], 3) for name in ("usual", "images_once")}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
