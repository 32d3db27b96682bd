"""Callback that runs a policy in an environment after `test`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from mmcomponents.evaluation.control_episodes import Environment
from mmcomponents.evaluation.rollouts import FOLDER, REPORT, ROWS, Rollouts, check_policy, write_report
from mmcomponents.training.task import MultimodalTask


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

    Attributes:
        summary: Lines about the last `test`, which the command prints.
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
        self.summary: tuple[str, ...] = ()
        self.rollouts = Rollouts(environment, starts, first_start, executed, frames, animations, seed)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the sampler.

        Raises:
            WiringError: It does not answer with actions.
        """
        check_policy(getattr(pl_module, "sampler", None), "RolloutReport")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs the episodes and writes the files."""
        assert isinstance(pl_module, MultimodalTask)
        model, sampler = pl_module.model, pl_module.sampler
        assert model is not None
        assert sampler is not None
        renderer = trainer.datamodule.renderer.for_prompts()  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir)
        with isolate_rng():
            rows = self.rollouts.run(model, renderer, sampler, folder if trainer.is_global_zero else None)
        if not trainer.is_global_zero:
            return
        (folder / ROWS).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        report = write_report(folder, rows)
        self.summary = (
            f"success in {report['success']:.3f} of {report['episodes']} episodes (95 %: {report['low']:.3f} to"
            f" {report['high']:.3f})",
            f"wrote {', '.join(str(folder / name) for name in (REPORT, ROWS, FOLDER) if (folder / name).exists())}",
        )
