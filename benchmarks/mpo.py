"""A step of mixed preference optimization beside the usual way to take it, on the CPU, in one run.

    python benchmarks/mpo.py [--repeats 5] [--threads 2]

Eight pairs, an image of four tiles each, prompts of 30 to 60 words, answers of 20 to 200, in fp32; policy and frozen
reference, forward and backward, with the same weights. Lengths of answers are log-normal as in step.py (median 63, the
longest 200), and in a second load spread evenly. The usual way: transformers' InternVL for both, chosen and
rejected answers side by side in one batch padded on the right, each image twice, logits of all positions. Ours: one
pack, each image once, logits of answers alone, in chunks. A fairer rival is theirs with each image encoded once and its
rows handed to both answers. Losses and gradients have to agree. The last line holds the ratios of the medians, theirs
over ours, for both loads.
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
from step import IMAGE, ROWS, TILE, our_model, renamed, transformers_model
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import InternVLForConditionalGeneration

from mmcomponents import MultimodalModel
from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, Pairs, TokenType
from mmcomponents.objectives import MPO, FrozenReference

PAIRS, TILES = 8, 4
BETA, DPO, BCO, NLL = 0.1, 0.8, 0.2, 1.0


@dataclass
class Pair:
    """Token ids of a prompt, which begins with an image, and of two answers to it; and the tiles."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    pixels: Tensor


def draw_pairs(answer_lengths: Tensor) -> list[Pair]:
    """Pairs with answers of these lengths, two each."""
    drawn = []
    for prompt, answers in zip(spread(30, 60, PAIRS), answer_lengths.view(PAIRS, 2), strict=True):
        chosen, rejected = (torch.randint(1, IMAGE, (int(n),)) for n in answers)
        words = torch.randint(1, IMAGE, (int(prompt),))
        image = torch.full((TILES * ROWS,), IMAGE)
        drawn.append(
            Pair(torch.cat((words[:1], image, words[1:])), chosen, rejected, torch.randn(TILES, 3, TILE, TILE))
        )
    return drawn


def spread(low: int, high: int, count: int) -> Tensor:
    """Whole numbers from `low` to `high` at equal distances, in a drawn order."""
    return torch.linspace(low, high, count).round().long()[torch.randperm(count)]


def log_normal(low: int, high: int, count: int) -> Tensor:
    """Whole numbers from `low` to `high`, log-normal around their geometric mean, the longest `high`."""
    drawn = torch.randn(count).mul(0.7).exp().mul((low * high) ** 0.5).clamp(low, high).round().long()
    drawn[0] = high
    return drawn


def start() -> tuple[InternVLForConditionalGeneration, InternVLForConditionalGeneration]:
    """A reference, and a policy that has moved away from it a little, so that no reward is zero."""
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
) -> Callable[[], Tensor]:
    """The usual step: all chosen answers, then all rejected ones."""
    sequences = [torch.cat((p.prompt, p.chosen)) for p in pairs] + [torch.cat((p.prompt, p.rejected)) for p in pairs]
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, targets = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, (pair, sequence) in enumerate(zip([*pairs, *pairs], sequences, strict=True)):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        targets[row, len(pair.prompt) : len(sequence)] = sequence[len(pair.prompt) :]
    targets = targets[:, 1:]
    supervised = targets != IGNORE
    once = torch.cat([p.pixels for p in pairs])
    twice = torch.cat((once, once))

    def logits(model: InternVLForConditionalGeneration) -> Tensor:
        if not encode_once:
            return model(input_ids=ids, attention_mask=mask, pixel_values=twice).logits
        rows = model.model.get_image_features(once).pooler_output.flatten(0, 1)
        embeds = model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == IMAGE)[..., None], torch.cat((rows, rows)))
        return model(inputs_embeds=embeds, attention_mask=mask).logits

    def logps(model: InternVLForConditionalGeneration) -> Tensor:
        all_words = logits(model)[:, :-1].float().log_softmax(-1)
        each = all_words.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
        return (each.double() * supervised).sum(1)  # a sum near -1,000 in fp32 would cost the losses' last digits

    def step() -> Tensor:
        policy.zero_grad()
        with torch.no_grad():
            known = logps(reference)
        own = logps(policy)
        chosen, rejected = (BETA * (own - known)).chunk(2)
        delta = torch.cat((chosen, rejected)).detach().mean()  # of a first step
        dpo = -logsigmoid(chosen - rejected).mean()
        bco = (-logsigmoid(chosen - delta) - logsigmoid(-(rejected - delta))).mean()
        nll = -own[:PAIRS].sum() / supervised[:PAIRS].sum()
        loss = DPO * dpo + BCO * bco + NLL * nll
        loss.backward()
        return loss.detach()

    return step


def our_step(policy: MultimodalModel, reference: MultimodalModel, pairs: list[Pair]) -> Callable[[], Tensor]:
    """The same step over a pack."""
    batch = pack(pairs)

    def step() -> Tensor:
        policy.zero_grad()
        objective = MPO(BETA, DPO, BCO, NLL, reference=FrozenReference).train()
        objective.prepare(policy, lambda: reference)
        out = objective(policy, batch, objective.counts(batch))
        out.total.backward()
        return out.total.detach()

    return step


def pack(pairs: list[Pair]) -> PackedBatch:
    """The pairs as one pack: two segments each, which point to the same rows of the visual table."""
    sequences = [torch.cat((p.prompt, answer)) for p in pairs for answer in (p.chosen, p.rejected)]
    lengths = torch.tensor([len(s) for s in sequences])
    ids = torch.cat(sequences)
    segment = torch.arange(len(sequences)).repeat_interleave(lengths)
    visual = ids == IMAGE
    # The rows of an image come in order, and both answers begin at its first.
    index = [torch.where(s == IMAGE, (s == IMAGE).cumsum(0) - 1, -1) for s in sequences]
    first = torch.arange(len(pairs)).repeat_interleave(2) * TILES * ROWS
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
            grid=torch.tensor([[TILES, 4, 4]]).repeat(len(pairs), 1),
        ),
        visual_index=torch.cat(index),
        labels=torch.cat(labels),
        segment_sample=numbers // 2,
        segment_source=torch.zeros_like(numbers),
        keys=[str(n // 2) for n in range(2 * len(pairs))],
        images=ImageBatch(torch.cat([p.pixels for p in pairs]), torch.arange(len(pairs)).repeat_interleave(TILES)),
        pairs=Pairs(numbers[::2], numbers[1::2]),
    )


def gradient_gap(theirs: InternVLForConditionalGeneration, ours: MultimodalModel) -> float:
    """Largest relative difference of a parameter's gradient, `|a - b| / |a|` over the whole tensor."""
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    source = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    wanted = renamed(source)
    if missing := wanted.keys() ^ found.keys():
        raise SystemExit(f"only one side has a gradient of {', '.join(sorted(missing))}")
    return max(float((found[name] - value).norm() / value.norm()) for name, value in wanted.items())


def compare(answer_lengths: Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turn so that a busy machine slows all.

    Raises:
        SystemExit: They do not agree.
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
            raise SystemExit("the two ways do not agree")
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
        parser.error("a median wants at least 5 repeats")
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
