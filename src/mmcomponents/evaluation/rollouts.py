"""Success rate of a policy, and the files about its episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcomponents.component import WiringError
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.control_episodes import Actions, Environment, Observed, run_episodes
from mmcomponents.evaluation.intervals import interval
from mmcomponents.generation import Sampler, answer_prompts
from mmcomponents.limits import check_sizes
from mmcomponents.model import MultimodalModel

FOLDER, ROWS, REPORT = "rollouts", "rollouts.jsonl", "rollouts.json"


@dataclass(frozen=True)
class Rollouts:
    """Episodes of a policy in an environment.

    Attributes:
        environment: Factory of the environment.
        starts: Number of episodes.
        first_start: Seed of the first one; the others follow.
        executed: Number of actions of a chunk that are executed before the policy is asked again.
        frames: Number of images that the policy sees.
        animations: Number of episodes that are written as GIF.
        seed: Seed of the draws.

    Raises:
        ValueError: A number is below 1.
    """

    environment: Callable[[], Environment]
    starts: int = 200
    first_start: int = 1_000_000_000
    executed: int = 4
    frames: int = 1
    animations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(starts=self.starts, executed=self.executed, frames=self.frames)

    def run(
        self,
        model: MultimodalModel,
        renderer: SampleRenderer,
        sampler: Sampler,
        folder: Path | None,
        numbers: range | None = None,
    ) -> list[dict[str, Any]]:
        """Runs episodes together; the draws depend on which these are.

        Args:
            model: The policy's model.
            renderer: Lays out goals and images.
            sampler: Sampler of actions.
            folder: Animations are written into `rollouts` there. None: none are.
            numbers: Numbers of the episodes. None: all.

        Returns:
            A row for each episode: `seed`, `goal`, `success` and `steps`.
        """
        numbers = range(self.starts) if numbers is None else numbers
        calls = numbers.start * 1000 + self.seed

        def policy(seen: Sequence[Observed]) -> list[Actions]:
            nonlocal calls
            calls += 1
            goals, images = [one.goal for one in seen], [tuple(one.images) for one in seen]
            answers = answer_prompts(
                model, renderer.tokenizer, goals, images, sampler=sampler, seed=calls, renderer=renderer
            )
            return [np.asarray(answer.values) for answer in answers]

        seeds = [self.first_start + number for number in numbers]
        kept = 0 if folder is None else max(0, self.animations - numbers.start)
        with torch.no_grad():
            episodes = run_episodes(policy, self.environment, seeds, self.executed, self.frames, kept)
        if folder is not None and kept:
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            for number, episode in zip(numbers, episodes[:kept], strict=False):
                episode.save_gif(folder / FOLDER / f"{number}.gif")
        return [{"seed": e.seed, "goal": e.goal, "success": e.success, "steps": e.steps} for e in episodes]


def success_rate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the share of successful episodes, with Wilson's 95 % interval.

    Args:
        rows: Rows with `success`.
    """
    found = [float(row["success"]) for row in rows]
    low, high = interval(found)
    return {"success": sum(found) / len(found), "low": low, "high": high, "episodes": len(found)}


def write_report(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Writes `rollouts.json`, and returns its contents."""
    report = success_rate(rows)
    write_text(folder / REPORT, json.dumps(report, indent=2) + "\n")
    return report


def check_policy(sampler: Any, owner: str) -> None:
    """Checks that a sampler makes actions.

    Args:
        sampler: A sampler, or None.
        owner: What needs it, for the message.

    Raises:
        WiringError: It does not.
    """
    if not hasattr(sampler, "normalised"):
        found = "there is none" if sampler is None else f"this one is {type(sampler).__name__}"
        raise WiringError(f"{owner} needs a sampler of actions, and {found}")
