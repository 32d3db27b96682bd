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
        self.begin = 0
        """Packs that had been used when the trainer's epoch began."""

    def load(self, packs: int, batches: int, world: int = 0, begin: int = 0) -> None:
        """Goes on where a checkpoint was written.

        Args:
            packs: Packs that all ranks had used.
            batches: Batches of each rank that the trainer had counted.
            world: Number of ranks; 0: unknown.
            begin: Packs that had been used when the epoch began.
        """
        self.packs, self.batches, self.world, self.begin = packs, batches, world, begin

    def adopt(self, trainer: Trainer | None, packs: int) -> None:
        """Tells a trainer with another number of ranks how much of the epoch is done, before it begins to run.

        It has restored the batches that each of the old ranks had done. An epoch has more batches on fewer ranks, and
        what counts is how many are left: as many as it takes for the packs of the epoch that nobody has used. An epoch
        that the trainer limits to some batches keeps its count.

        Args:
            trainer: Has restored its counters.
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
        # Which of the counters are ahead of others says where in a step the checkpoint was written.
        moved = done - progress.current.processed
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress.current, name, getattr(progress.current, name) + moved)
        progress.is_last_batch = not left

    def forget_other_run(self, trainer: Trainer | None) -> None:
        """Forgets what was loaded, if this trainer never came that far: it is another one, and begins anew."""
        if batches_trained(trainer) < self.batches:
            self.load(0, 0)

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
        if not current.processed:
            self.begin = self.used(trainer)
            _count_epoch(trainer)
        return current.processed, int(min(trainer.num_training_batches, length))


def _count_epoch(trainer: Trainer) -> None:
    """Counts the epoch that begins, where Lightning has not.

    It forgets the one that begins after a resume at the very end of another. A second resume would then take it for
    finished, however far it is, and begin one more.
    """
    epochs: Any = trainer.fit_loop.epoch_progress
    if epochs.current.ready == epochs.current.processed:
        for counter in (epochs.total, epochs.current):
            counter.ready += 1
            counter.started += 1


def batches_trained(trainer: Trainer | None) -> int:
    """Batches that one rank has trained on, over all epochs.

    Lightning's `processed`, not its `completed`: callbacks write checkpoints between the two.
    """
    if trainer is None:
        return 0
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)
