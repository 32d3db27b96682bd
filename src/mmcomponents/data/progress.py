"""How far a run is, in packs: one number that is the same on all ranks, and all that a resumed run needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class PackProgress:
    """Reads the packs used off the trainer's own counters.

    Lightning restores them before the first batch is asked for. In the middle of an epoch it restores the number of
    batches done too, takes the loader from its start, and ends the epoch when its length is reached: so the loader goes
    on at the next pack and keeps the length of the whole epoch.
    """

    def __init__(self) -> None:
        self.packs = 0
        self.batches = 0
        self.world = 0

    def load(self, packs: int, batches: int, world: int = 0) -> None:
        """Goes on behind `packs` packs of all `world` ranks, at which the trainer had counted `batches` of each."""
        self.packs, self.batches, self.world = packs, batches, world

    def adopt(self, trainer: Trainer | None) -> None:
        """Tells a trainer with another number of ranks how much of the epoch is done.

        It has restored the batches that each of the old ranks had done; an epoch has more batches on fewer ranks.
        """
        if trainer is None or not self.world or self.world == trainer.world_size:
            return
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        done = current.processed * self.world // trainer.world_size
        current.ready = current.started = current.processed = current.completed = done
        self.world = trainer.world_size

    def forget_other_run(self, trainer: Trainer | None) -> None:
        """Forgets what was loaded, if this trainer never came that far: it is another one, and begins anew."""
        if batches_trained(trainer) < self.batches:
            self.packs = self.batches = 0

    def used(self, trainer: Trainer | None) -> int:
        """Packs that all ranks have used. The number of ranks may have changed since the state was loaded."""
        if trainer is None or getattr(trainer, "overfit_batches", 0) > 0:
            return 0  # to overfit is to see the same few packs in every epoch
        return self.packs + (batches_trained(trainer) - self.batches) * trainer.world_size

    def place(self, trainer: Trainer | None, length: int) -> tuple[int, int]:
        """Batches of the epoch that are done, and of the whole epoch.

        Args:
            trainer: None: outside of Lightning, every iteration is an epoch.
            length: Batches of an epoch that nothing limits.
        """
        if trainer is None or not trainer.training:
            return 0, length
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        return current.processed, int(min(trainer.num_training_batches, length))


def batches_trained(trainer: Trainer | None) -> int:
    """Batches that one rank has trained on, over all epochs.

    Lightning's `processed`, not its `completed`: callbacks write checkpoints between the two.
    """
    if trainer is None:
        return 0
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)
