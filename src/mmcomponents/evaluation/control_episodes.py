"""Episodes of a policy in control tasks with gymnasium's interface, many at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Actions = npt.NDArray[np.float32]
"""Chunk of actions, `[K, k]`."""


class Environment(ABC):
    """Base class of control tasks, with gymnasium's methods: an environment of gymnasium becomes one in a few lines."""

    @abstractmethod
    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode.

        Returns:
            Observation, with an "image" (PIL, or `[H, W, 3]` uint8) and a "goal" in words, and information.
        """

    @abstractmethod
    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes an action `[k]`.

        Returns:
            Observation, reward, whether the episode has ended, whether it was too long, and information with "success".
        """


@dataclass(frozen=True)
class Observed:
    """What a policy sees of an episode.

    Attributes:
        goal: The goal in words.
        images: The last images, the present one at the end.
    """

    goal: str
    images: list[Image.Image]


Policy = Callable[[Sequence[Observed]], Sequence[Actions]]
"""Returns a chunk of actions for each of several observations."""


@dataclass
class Episode:
    """One episode.

    Attributes:
        seed: Seed of its start.
        goal: The goal in words.
        success: Whether the goal was reached.
        steps: Number of executed actions.
        images: All images, if they were kept.
    """

    seed: int
    goal: str = ""
    success: bool = False
    steps: int = 0
    images: list[Image.Image] = field(default_factory=list)

    def save_gif(self, path: str | Path, scale: int = 4, milliseconds: int = 120) -> None:
        """Writes the images as an animation.

        Args:
            path: File to write.
            scale: Factor of the size of the images.
            milliseconds: Time of an image; the last one stays eight times as long.
        """
        frames = [
            image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST) for image in self.images
        ]
        times = [milliseconds] * (len(frames) - 1) + [8 * milliseconds]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)


def run_episodes(
    policy: Policy,
    environment: Callable[[], Environment],
    seeds: Sequence[int],
    executed: int,
    frames: int = 1,
    kept: int = 0,
    most_steps: int = 1000,
) -> list[Episode]:
    """Runs a policy from the starts of several seeds; each call of the policy serves all episodes that still run.

    Args:
        policy: Maps observations to chunks of actions.
        environment: Makes an environment.
        seeds: Seed of each episode.
        executed: Number of actions of a chunk that are executed before the policy is asked again.
        frames: Number of images that the policy sees; the first one is repeated at the start.
        kept: Number of episodes whose images are kept.
        most_steps: Number of actions after which an episode ends without success.

    Raises:
        ValueError: A number is below 1, or a chunk has fewer actions than are executed.
    """
    if executed < 1 or frames < 1 or most_steps < 1:
        raise ValueError(f"executed {executed}, frames {frames} and most_steps {most_steps} must be at least 1")
    episodes = [Episode(seed) for seed in seeds]
    made = [environment() for _ in seeds]
    seen: list[list[Image.Image]] = []
    for number, episode in enumerate(episodes):
        observation, _ = made[number].reset(seed=episode.seed)
        episode.goal = str(observation["goal"])
        seen.append([_image(observation)] * frames)
        episode.images = seen[-1][-1:] if number < kept else []
    running = list(range(len(episodes)))
    while running:
        chunks = policy([Observed(episodes[n].goal, seen[n]) for n in running])
        ended = []
        for number, chunk in zip(running, chunks, strict=True):
            if len(chunk) < executed:
                raise ValueError(f"a chunk of {len(chunk)} actions is shorter than the {executed} that are executed")
            for action in chunk[:executed]:
                observation, _, terminated, truncated, info = made[number].step(action)
                episode = episodes[number]
                episode.steps += 1
                seen[number] = [*seen[number][1:], _image(observation)]
                if number < kept:
                    episode.images.append(seen[number][-1])
                if terminated or truncated or episode.steps >= most_steps:
                    episode.success = bool(info.get("success", False))
                    ended.append(number)
                    break
        running = [number for number in running if number not in ended]
    return episodes


def _image(observation: dict[str, Any]) -> Image.Image:
    image = observation["image"]
    return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
