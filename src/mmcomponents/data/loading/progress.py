"""Progress of a run in packs, equal on all ranks, from which a run resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class PackProgress:
    """Computes the number of used packs from the trainer's counters.

    Lightning restores the counters before it requests the first batch. In the middle of an epoch it also restores the
    number of batches done, iterates over the loader from its start, and ends the epoch when the loader's length is
    reached. The loader therefore starts at the next pack and keeps the length of the complete epoch.
    """

    def __init__(self) -> None:
        self.packs = 0
        self.batches = 0
        self.world = 0
        self.begin = 0
        """Packs that had been used when the trainer's epoch began."""

    def load(self, packs: int, batches: int, world: int = 0, begin: int = 0) -> None:
        """Restores the progress of a checkpoint.

        Args:
            packs: Packs that all ranks had used.
            batches: Batches per rank that the trainer had counted.
            world: Number of ranks; 0: unknown.
            begin: Packs that had been used when the epoch began.
        """
        self.packs, self.batches, self.world, self.begin = packs, batches, world, begin

    def adopt(self, trainer: Trainer | None, packs: int) -> None:
        """Adjusts the batch counters of a trainer that resumes with another number of ranks.

        The trainer has restored the batches that each of the former ranks had done. With fewer ranks an epoch has more
        batches; the remaining ones are as many as the unused packs of the epoch need. If the trainer limits the batches
        of an epoch, the counters stay.

        Args:
            trainer: Trainer with restored counters.
            packs: Packs of an epoch.
        """
        if trainer is None or not self.world or self.world == trainer.world_size:
            return
        world, self.world = trainer.world_size, trainer.world_size
        if trainer.limit_train_batches != 1.0 or isinstance(trainer.limit_train_batches, int):
            return
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        left = max(0, packs - (self.packs - self.begin))
        done = -(-packs // world) - -(-left // world)
        # All counters are moved alike: their differences show where in a step the checkpoint was written.
        moved = done - progress.current.processed
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress.current, name, getattr(progress.current, name) + moved)
        progress.is_last_batch = not left

    def forget_other_run(self, trainer: Trainer | None) -> None:
        """Resets the loaded progress if the trainer has trained on fewer batches, so is a new one."""
        if batches_trained(trainer) < self.batches:
            self.load(0, 0)

    def used(self, trainer: Trainer | None) -> int:
        """Returns the packs that all ranks have used, also if the number of ranks has changed since `load`."""
        if trainer is None or getattr(trainer, "overfit_batches", 0) > 0:
            return 0  # overfitting repeats the same few packs in every epoch
        return self.packs + (batches_trained(trainer) - self.batches) * trainer.world_size

    def place(self, trainer: Trainer | None, length: int) -> tuple[int, int]:
        """Returns the batches done in this epoch and the batches of the complete epoch.

        Args:
            trainer: None outside of Lightning, where every iteration is an epoch.
            length: Batches of an epoch without a limit.
        """
        if trainer is None or not trainer.training:
            return 0, length
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if not current.processed:
            self.begin = self.used(trainer)
            _count_epoch(trainer)
        return current.processed, int(min(trainer.num_training_batches, length))


def _count_epoch(trainer: Trainer) -> None:
    """Counts the epoch that begins, if Lightning has not.

    Lightning does not count the epoch that begins after resuming at the very end of another. A second resume would take
    that epoch for finished and begin one more.
    """
    epochs: Any = trainer.fit_loop.epoch_progress
    if epochs.current.ready == epochs.current.processed:
        for counter in (epochs.total, epochs.current):
            counter.ready += 1
            counter.started += 1


def batches_trained(trainer: Trainer | None) -> int:
    """Returns the number of batches that one rank has trained on, over all epochs.

    This is Lightning's `processed`, not its `completed`: callbacks write checkpoints between the two.
    """
    if trainer is None:
        return 0
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)
