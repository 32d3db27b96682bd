"""Callback that runs a policy in an environment after `test`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from mmcomponents.component import WiringError
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.evaluation.control_episodes import Environment, Observed, run_episodes, success_rate
from mmcomponents.generation import Sampler, answer_prompts
from mmcomponents.limits import check_sizes
from mmcomponents.training.task import MultimodalTask

log = logging.getLogger(__name__)

_FOLDER, _EPISODES, _REPORT = "rollouts", "rollouts.jsonl", "rollouts.json"


class RolloutReport(Callback):
    """Writes `rollouts.json`, `rollouts.jsonl` and animations in `rollouts` into the run's folder after `test`.

    `rollouts.json` has the success rate with Wilson's 95 % interval, `rollouts.jsonl` seed, goal, success and number of
    steps of each episode. Every rank runs the same episodes, so that ranks stay synchronised; rank zero writes. The
    callback is for samplers of actions and data of the kind `ActionChunk`.

    Args:
        environment: Factory of the environment, see `evaluation.control_episodes.Environment`.
        starts: Number of episodes.
        first_start: Seed of the first one; the others follow.
        executed: Number of actions of a chunk that are executed before the policy is asked again.
        frames: Number of images that the policy sees.
        animations: Number of episodes that are written as GIF.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        environment: Callable[[], Environment],
        starts: int = 200,
        first_start: int = 1_000_000_000,
        executed: int = 4,
        frames: int = 1,
        animations: int = 4,
        seed: int = 0,
    ) -> None:
        check_sizes(starts=starts, executed=executed, frames=frames)
        self.environment, self.starts, self.first_start = environment, starts, first_start
        self.executed, self.frames, self.animations, self.seed = executed, frames, animations, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the sampler.

        Raises:
            WiringError: It does not answer with actions.
        """
        _sampler(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs the episodes and writes the files."""
        assert isinstance(pl_module, MultimodalTask)
        sampler, data = _sampler(pl_module), trainer.datamodule  # type: ignore[attr-defined]
        renderer: SampleRenderer = data.renderer.for_prompts()
        model = pl_module.model
        assert model is not None
        calls = 0

        def policy(seen: Sequence[Observed]) -> list[Any]:
            nonlocal calls
            calls += 1
            goals = [one.goal for one in seen]
            images: list[Any] = [one.images for one in seen]
            answers = answer_prompts(
                model,
                renderer.tokenizer,
                goals,
                images,
                sampler=sampler,
                seed=self.seed + calls,
                renderer=renderer,
            )
            return [np.asarray(answer.values) for answer in answers]

        seeds = range(self.first_start, self.first_start + self.starts)
        with isolate_rng(), torch.no_grad():
            episodes = run_episodes(policy, self.environment, seeds, self.executed, self.frames, self.animations)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        rows = [{"seed": e.seed, "goal": e.goal, "success": e.success, "steps": e.steps} for e in episodes]
        (folder / _EPISODES).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        report = success_rate(episodes)
        (folder / _REPORT).write_text(json.dumps(report, indent=2) + "\n")
        for number, episode in enumerate(episodes[: self.animations]):
            episode.save_gif(folder / _FOLDER / f"{number}.gif")
        log.info(
            "success in %.3f of %d episodes (95 %%: %.3f to %.3f)",
            report["success"], report["episodes"], report["low"], report["high"],
        )  # fmt: skip


def _sampler(module: LightningModule) -> Sampler:
    sampler: Any = getattr(module, "sampler", None)
    if not hasattr(sampler, "normalised"):
        raise WiringError(f"RolloutReport needs a sampler of actions, and the recipe's is {type(sampler).__name__}")
    found: Sampler = sampler
    return found
