"""The root of training."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW

from mmcomponents.backbones import Backbone
from mmcomponents.batch import PackedBatch
from mmcomponents.checkpoints import CheckpointError, check_initial, load_initial
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories, Width
from mmcomponents.data import PromptBatch
from mmcomponents.data.chat import end_ids
from mmcomponents.embedders import Embedder
from mmcomponents.fusers import Fuser
from mmcomponents.heads import Head
from mmcomponents.inference import Autoregressive, Sampler
from mmcomponents.mergers import Merger
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.objectives.answers import answer_logps, pairs_of
from mmcomponents.positions import Position
from mmcomponents.projectors import Projector
from mmcomponents.training.adapters import inject_adapters, start_adapters
from mmcomponents.training.flops import work
from mmcomponents.training.fsdp2 import FSDP2Strategy
from mmcomponents.training.schedule import WarmupCosine, group_settings, restore_settings
from mmcomponents.training.slots import SlotOptions, check_slot_names, freeze, param_groups, set_modes
from mmcomponents.training.step_log import StepLog
from mmcomponents.training.validation_means import ValidationMeans
from mmcomponents.vision import VisionEncoder

logger = logging.getLogger(__name__)

_WITH_LOSS = (TrainerFn.FITTING, TrainerFn.VALIDATING)


class MultimodalTask(LightningModule):
    """Composes a model from factories of its parts, and trains it on packs.

    A recipe gives each factory all arguments but the widths of the neighbours, which are filled in here. The model is
    built in `configure_model`, so that a strategy decides where its weights are made.

    Args:
        vision: Makes the vision encoder.
        fuser: Makes the fuser, from the width of the maps.
        merger: Makes the merger, from the width of the map.
        projector: Makes the projector, from the widths in and out.
        embedder: Makes the embedder, from the vocabulary and the width.
        position: Makes the position encoding, from the width of a head.
        backbone: Makes the backbone.
        heads: Makes the heads, by name, from the width and the vocabulary.
        objective: Makes the objective.
        sampler: Makes the sampler that answers prompts in `test` and `predict`.
        optimizer: Makes the optimizer, from parameter groups.
        scheduler: Makes the schedule, which moves with each optimizer step.
        slots: Whether and how fast each slot is trained, by its name.
        vocab_size: Words; at least as many as the tokenizer has.
        image_token_id: Id of the placeholder of a visual token.
        seed: Of the initial weights.
        weights: Folder of a model to start from, or a folder for each slot, see `checkpoints.load_initial`.
            A checkpoint that a run goes on from has its own.
    """

    def __init__(
        self,
        *,
        vision: Callable[[], VisionEncoder] | None = None,
        fuser: Callable[[Width], Fuser] | None = None,
        merger: Callable[[Width], Merger] | None = None,
        projector: Callable[[Width, int], Projector] | None = None,
        embedder: Callable[[int, int], Embedder] | None = None,
        position: Callable[[int], Position] | None = None,
        backbone: Callable[[], Backbone] | None = None,
        heads: dict[str, Callable[[int, int], Head]] | None = None,
        objective: Callable[[], Objective] = NextToken,
        sampler: Callable[[], Sampler] = Autoregressive,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        slots: dict[str, SlotOptions] | None = None,
        vocab_size: int | None = None,
        image_token_id: int | None = None,
        seed: int = 0,
        weights: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # From a recipe these are the plain config. From Python they may be classes, which a checkpoint must not hold.
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            del self.hparams[name]
        self.factories = Factories(vision, fuser, merger, projector, embedder, position, backbone, heads or {})
        self.make_objective = objective
        self.make_sampler = sampler
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.slots = slots or {}
        self.vocab_size = vocab_size
        self.image_token_id = image_token_id
        self.seed = seed
        self.weights = weights
        self.model: MultimodalModel | None = None
        self.objective: Objective | None = None
        self.sampler: Sampler | None = None
        self._step_log = StepLog()
        self._means = ValidationMeans()
        self._settings: list[dict[str, Any]] = []

    def configure_model(self) -> None:
        """Builds model, objective and sampler. Lightning calls it at each fit, validate and test."""
        if self.model is None:
            goes_on = self._trainer is not None and self._trainer.ckpt_path is not None
            if self.weights is not None and not goes_on:
                check_initial(self.weights)  # before anything is built
            self.model = self._compose()
            if self.weights is not None and not goes_on:
                load_initial(self.model, self.weights)
            start_adapters(self.model, self.seed)
            check_slot_names(self.model, self.slots)
            freeze(self.model, self.slots)
            self.objective = self.make_objective()
            self.sampler = self.make_sampler()
            self.train(self.training)  # Lightning leaves modes as they are: frozen slots go into evaluation mode here
        if self.objective is not None and self._trainer is not None and self._trainer.state.fn in _WITH_LOSS:
            self.objective.prepare(self.model, self._starting_model)

    def _compose(self) -> MultimodalModel:
        """A model with its first draw, sharded where the strategy does that."""
        strategy = self._trainer.strategy if self._trainer is not None else None
        if isinstance(strategy, FSDP2Strategy):
            with torch.device("meta"):
                model = self.factories.build(self.vocab_size, self.image_token_id)
            inject_adapters(model, self.slots)
            freeze(model, self.slots)
            strategy.shard(model, self.seed)
        else:
            model = self.factories.build(self.vocab_size, self.image_token_id)
            inject_adapters(model, self.slots)
            model.init_weights(self.seed)
        return model

    def _starting_model(self) -> MultimodalModel:
        """Another model with the weights that the run starts from, or has started from.

        Raises:
            CheckpointError: They are not there any more.
        """
        try:
            if self.weights is not None:
                check_initial(self.weights)
            else:
                logger.warning("model.weights is not set: the reference has random weights")
            model = self._compose()
            if self.weights is not None:
                load_initial(model, self.weights)
            start_adapters(model, self.seed)
        except CheckpointError as error:
            raise CheckpointError(
                "the reference is the model that the run started from, which a resumed run needs too; its weights"
                f" (model.weights: {self.weights}) cannot be read: {error}"
            ) from error
        return model

    def check(self, datamodule: LightningDataModule | None = None) -> None:
        """Refuses what cannot work before any weight exists: the parts among themselves, and the model with its data.

        Raises:
            ValueError: With both parts and both numbers.
        """
        with torch.device("meta"):
            model = self.factories.build(self.vocab_size, self.image_token_id)
            objective = self.make_objective()
        check_slot_names(model, self.slots)
        inject_adapters(model, self.slots)
        for name in objective.needs_heads:
            if name not in model.heads:
                near = difflib.get_close_matches(name, list(model.heads), n=1) or list(model.heads)
                raise WiringError(
                    f"{type(objective).__name__} reads the head {name!r} and the model has {', '.join(near) or 'none'}"
                )
        check_data = getattr(datamodule, "check_model", None)
        if check_data is not None:
            check_data(
                tokens_per_tile=model.tokens_per_tile,
                image_size=None if model.vision is None else model.vision.image_size,
                vocab_size=self.vocab_size,
                image_token_id=self.image_token_id,
                verdict_ids=next((h.token_ids for h in model.heads.values() if hasattr(h, "token_ids")), None),
            )

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """What the loss of a pack is divided by, and its work; the loader sums both before the step begins."""
        model, objective, _ = self._built()
        return objective.counts(batch) | work(model, batch)

    def on_fit_start(self) -> None:
        """Learns from the data which sources there are, so that the loss of each is logged by its name."""
        names = list(getattr(self.trainer.datamodule, "source_names", ()))  # type: ignore[attr-defined]
        self._step_log.source_names = names
        if getattr(self.objective, "sources", None) == 0:
            self.objective.sources = len(names)  # type: ignore[union-attr]

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, as its share of the step."""
        model, objective, _ = self._built()
        window = self.trainer.accumulate_grad_batches
        totals = batch.totals
        if totals is None:
            if window > 1 or self.trainer.world_size > 1:
                raise ValueError(
                    "the packs carry no totals of their step: wrap the loader in mmcomponents.data.Lookahead, "
                    "or use PackedDataModule, which does"
                )
            totals = objective.counts(batch)
        out = objective(model, batch, totals)
        self._step_log.add(out.parts)
        if (batch_idx + 1) % window == 0 or self.trainer.is_last_batch:
            self._step_log.write(self, totals)
        # Lightning divides by the window and the strategy averages over ranks; `totals` has counted both already.
        scaled: Tensor = out.total * (window * self.trainer.world_size)
        return scaled

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation."""
        self._means.clear()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Adds a pack to the mean loss over all targets of the validation data, and to the objective's other means."""
        model, objective, _ = self._built()
        counts = objective.counts(batch)
        self._means.add(objective, objective(model, batch, counts), counts)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and the objective's other means."""
        self._means.write(self, self._built()[1])

    def test_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, list[str]]:
        """Answers of the model to a batch of prompts; callbacks make scores of them."""
        return {"answers": self.answer(batch)}

    def predict_step(self, batch: PackedBatch | PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Key, question and answer of the model for each prompt; of a pack, log-probabilities of its pairs."""
        if isinstance(batch, PackedBatch):
            model, objective, _ = self._built()
            logps = answer_logps(model, batch, getattr(objective, "head", "lm")).tolist()
            segments = pairs_of(batch).chosen.tolist()
            return [
                {"key": batch.keys[s], "sample": int(batch.segment_sample[s]), "chosen": chosen, "rejected": rejected}
                for s, (chosen, rejected) in zip(segments, logps, strict=True)
            ]
        answers = self.answer(batch)
        return [
            {"key": key, "kind": kind, "question": question, "answer": answer}
            for key, kind, question, answer in zip(batch.keys, batch.kinds, batch.questions, answers, strict=True)
        ]

    def answer(self, batch: PromptBatch) -> list[str]:
        """Decoded answers to a batch of prompts."""
        model, _, sampler = self._built()
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        tokens = sampler(model, batch.batch, end_ids(tokenizer))
        # A batch without questions, which keeps ranks in step, has one empty segment all the same.
        return [tokenizer.decode(ids) for ids in tokens[: len(batch)]]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimizer over the groups of the slots, and its schedule by optimizer steps."""
        model, _, _ = self._built()
        groups = param_groups(model, self.slots)
        if not groups:
            raise ValueError("every slot is frozen: there is nothing to train")
        optimizer = self.make_optimizer(groups)
        if self.make_scheduler is None:
            self._settings = group_settings(optimizer)
            return optimizer
        schedule = self.make_scheduler(optimizer)
        self._settings = group_settings(optimizer)
        if isinstance(schedule, WarmupCosine) and schedule.total_steps is None and self._trainer is not None:
            schedule.fill_in(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Puts back what the recipe says of rates and decay, where a checkpoint has brought its own."""
        schedules = self.trainer.lr_scheduler_configs
        for optimizer in self.trainer.optimizers:
            restore_settings(optimizer, self._settings, schedules[0].scheduler if schedules else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes the state of the objective a second time, beside the weights.

        Where a sharded run is in a single file, Lightning loads parameters and buffers alone from among the weights.
        """
        state = {} if self.objective is None else self.objective.state_dict()
        if state:
            checkpoint["objective"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the state of the objective back; that of another objective is left aside."""
        known = {} if self.objective is None else self.objective.state_dict()
        weights = checkpoint.get("state_dict", {})
        for name in [name for name in weights if name.startswith("objective.")]:
            if name.removeprefix("objective.") not in known:
                del weights[name]
        if self.objective is not None and known and "objective" in checkpoint:
            self.objective.load_state_dict(checkpoint["objective"])
            # Averaged weights come with the state that the objective had when it was copied, at the beginning.
            weights |= {f"objective.{n}": v for n, v in checkpoint["objective"].items() if f"objective.{n}" in weights}

    def train(self, mode: bool = True) -> MultimodalTask:
        """Sets training mode; the parts of frozen slots stay in evaluation mode."""
        super().train(mode)
        if self.model is not None:
            set_modes(self.model, self.slots, mode)
        return self

    def _built(self) -> tuple[MultimodalModel, Objective, Sampler]:
        if self.model is None or self.objective is None or self.sampler is None:
            raise RuntimeError("the model is not built yet: call configure_model()")
        return self.model, self.objective, self.sampler


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)
