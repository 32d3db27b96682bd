"""LightningModule that composes and trains a multimodal model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW

from mmcomponents.backbones import Backbone
from mmcomponents.batch import PackedBatch
from mmcomponents.checkpoints import CheckpointError, Folders, InitialWeights, check_initial, read, warn_of_drawn
from mmcomponents.checkpoints.runs import FrozenWeights
from mmcomponents.compose import Factories, HeadFactory, Width
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT, end_ids
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.data.model_check import check_parts, tokenizer_of
from mmcomponents.data.storage.hub import is_hub_name
from mmcomponents.embedders import Embedder
from mmcomponents.fusers import Fuser
from mmcomponents.generation.base import Answer, Context, Sampler, check_declared
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.mergers import Merger
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.positions import Position
from mmcomponents.projectors import Projector
from mmcomponents.training.adapters import inject_adapters, start_adapters
from mmcomponents.training.averaging import check_averages, has_average
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy
from mmcomponents.training.distributed.sharding import cast_parameters
from mmcomponents.training.flops import work
from mmcomponents.training.objective_check import check_with_folders
from mmcomponents.training.predictions import answer_rows, pair_rows
from mmcomponents.training.quantization import (
    check_quantization,
    check_quantized_checkpoint,
    quantize_slots,
    quantized_buffers,
)
from mmcomponents.training.saved_run import processing_entry
from mmcomponents.training.schedule import StoredSchedule, WarmupCosine, described, group_settings, resume_schedule
from mmcomponents.training.slots import SlotOptions, check_patterns, check_slot_names, freeze, param_groups, set_modes
from mmcomponents.training.step_log import StepLog
from mmcomponents.training.units.compilation import check_compiler
from mmcomponents.training.units.prepare import prepare_units
from mmcomponents.training.validation_means import ValidationMeans
from mmcomponents.vision import VisionEncoder

logger = logging.getLogger(__name__)

_WITH_LOSS = (TrainerFn.FITTING, TrainerFn.VALIDATING)


class MultimodalTask(LightningModule):
    """Composes a model from factories of its parts and trains it on packs.

    A recipe gives each factory all arguments except the widths of neighbouring parts, which are filled in here. The
    model is built in `configure_model`, so that the strategy determines where weights are allocated.

    Args:
        vision: Factory of the vision encoder.
        fuser: Factory of the fuser, called with the width of the feature maps.
        merger: Factory of the merger, called with the width of the feature map.
        projector: Factory of the projector, called with input and output width.
        embedder: Factory of the embedder, called with vocabulary size and width.
        position: Factory of the position encoding, called with the width of a head.
        backbone: Factory of the backbone.
        heads: Factories of the heads by name, called with width and vocabulary size, see `compose.HeadFactory`.
        objective: Factory of the objective.
        sampler: Factory of the sampler that answers prompts in `test` and `predict`.
        optimizer: Factory of the optimizer, called with parameter groups.
        scheduler: Factory of the learning rate schedule, which advances with each optimizer step.
        slots: Training options by slot name.
        vocab_size: Vocabulary size, at least that of the tokenizer. None: that of `weights`, or of the tokenizer.
        image_token_id: Token id of the placeholder of a visual token. None: that of the data's tokenizer.
        seed: Seed of the initial weights.
        weights: Folder of a model to start from, or a folder for each slot, see `checkpoints.load_initial`. Ignored
            when a run is resumed from a checkpoint.
        trust_remote_code: Whether a folder in `weights` may name classes of other packages by dotted path, which are
            then imported. Parts that an installed package declares need no such permission.
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
        heads: dict[str, HeadFactory] | None = None,
        objective: Callable[[], Objective] = NextToken,
        sampler: Callable[[], Sampler] = Autoregressive,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        slots: dict[str, SlotOptions] | None = None,
        vocab_size: int | None = None,
        image_token_id: int | None = None,
        seed: int = 0,
        weights: str | dict[str, str] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # A recipe gives plain values. Python code may give classes, which a checkpoint must not contain.
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
        self.trust_remote_code = trust_remote_code
        self.model: MultimodalModel | None = None
        self.objective: Objective | None = None
        self.sampler: Sampler | None = None
        self._step_log = StepLog()
        self._means = ValidationMeans()
        self._settings: list[dict[str, Any]] = []
        self._schedule = ""
        self._resumed: StoredSchedule | None = None
        self.initial_weights: InitialWeights | None = None
        self._frozen: FrozenWeights | None = None

    def configure_model(self) -> None:
        """Builds model, objective and sampler. Lightning calls it at each fit, validate, test and predict.

        Raises:
            WiringError: The sampler, or in fit and validate the objective, does not fit the model.
        """
        if self.model is None:
            self.fill_in(None if self._trainer is None else tokenizer_of(self.trainer.datamodule))  # type: ignore[attr-defined]
            resumes = self._trainer is not None and self._trainer.ckpt_path is not None
            if self.weights is not None and not resumes:
                check_initial(self.weights, trust_remote_code=self.trust_remote_code)  # before the model is built
            self._check_settings()
            self.model = self._started(loads=not resumes)
            # DDP would send them from the first rank to the others in each step.
            self._ddp_params_and_buffers_to_ignore = [f"model.{name}" for name in quantized_buffers(self.model)]
            check_slot_names(self.model, self.slots)
            check_patterns(self.model, self.slots)
            freeze(self.model, self.slots)
            loaded = self.initial_weights
            if self._is_fitting and not resumes and self.trainer.is_global_zero:
                warn_of_drawn(self.model, loaded)
            if loaded is not None and self.weights is not None and self._is_fitting:
                self._frozen = FrozenWeights.of_run(self.model, loaded, self.weights, self.trust_remote_code)
            self.objective = self.make_objective()
            self.sampler = self.make_sampler()
            self.train(self.training)  # Lightning does not change modes: sets frozen slots to evaluation mode
        model, objective, sampler = self._built()
        if self._trainer is not None:
            sampler.check(model)
            if self._trainer.state.fn in _WITH_LOSS:
                check_with_folders(objective, model, self.trust_remote_code)
                objective.prepare(model, self._another_model)

    @property
    def _is_fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _check_settings(self) -> None:
        """Checks quantisation, and that this machine can compile if units are compiled: only training runs them so."""
        strategy = self._trainer.strategy if self._trainer is not None else None
        callbacks = [] if self._trainer is None else self._trainer.callbacks  # type: ignore[attr-defined]
        check_quantization(self.slots, isinstance(strategy, FSDP2Strategy), callbacks)
        check_averages(callbacks)
        if not self._is_fitting:
            return
        by_strategy = isinstance(strategy, FSDP2Strategy) and strategy.compile
        if by_strategy or any(options.compile for options in self.slots.values()):
            check_compiler()

    def _started(self, loads: bool = True, is_frozen: bool = False) -> MultimodalModel:
        """Builds a model with its first weights, quantised where slots are, sharded if the strategy shards.

        Args:
            loads: Whether the weights of `weights` are loaded, if there are any.
            is_frozen: Whether no weight is trained, so that a sharded one is kept as it is gathered.
        """
        strategy = self._trainer.strategy if self._trainer is not None else None
        device = None
        with contextlib.ExitStack() as stack:
            if strategy is not None and any(options.quantization for options in self.slots.values()):
                # The model need not fit the device before it is quantised.
                stack.enter_context(torch.device("cpu"))
                device = strategy.root_device
            model = self._compose(strategy, is_frozen, self.weights if loads else None)
        start_adapters(model, self.seed)
        quantize_slots(model, self.slots, device)
        return model

    def _compose(self, strategy: Strategy | None, is_frozen: bool, weights: Folders | None) -> MultimodalModel:
        """Builds a model, loads the weights that folders give, and draws the others."""

        def planned(model: MultimodalModel) -> InitialWeights | None:
            return None if weights is None else InitialWeights(model, weights, trust_remote_code=self.trust_remote_code)

        if isinstance(strategy, FSDP2Strategy):
            with torch.device("meta"):
                model = self.factories.build(self.vocab_size, self.image_token_id)
            inject_adapters(model, self.slots)
            freeze(model, self.slots)
            prepare_units(model, self.slots, strategy.activation_checkpointing, strategy.compile)
            if is_frozen and strategy.policy.param_dtype is not None:
                cast_parameters(model, strategy.policy.param_dtype)
            found = planned(model)
            strategy.shard(model, self.seed, None if found is None else found.given)
        else:
            model = self.factories.build(self.vocab_size, self.image_token_id)
            inject_adapters(model, self.slots)
            prepare_units(model, self.slots)
            found = planned(model)
            model.init_weights(self.seed, None if found is None else found.given)
        if found is not None and weights is not None:
            found.load(model)
            if not is_frozen:
                self.initial_weights = found
        return model

    def _another_model(self, folder: str | Path | None = None) -> MultimodalModel:
        """Builds a second model, see `Objective.prepare`.

        Raises:
            CheckpointError: The folder cannot be read, or the weights that the run started from no longer exist.
        """
        if folder is not None:
            return self._model_of(folder)
        try:
            if self.weights is not None:
                check_initial(self.weights, trust_remote_code=self.trust_remote_code)
            else:
                logger.warning("model.weights is not set: the reference has random weights")
            return self._started(is_frozen=True)
        except CheckpointError as error:
            raise CheckpointError(
                "the reference is the model that the run started from, which a resumed run needs too; its weights"
                f" (model.weights: {self.weights}) cannot be read: {error}"
            ) from error

    def _model_of(self, folder: str | Path) -> MultimodalModel:
        """Builds the model of a folder, sharded if the strategy shards, in the data type of the run."""
        found = read(folder, trust_remote_code=self.trust_remote_code)
        strategy = self._trainer.strategy if self._trainer is not None else None
        if not isinstance(strategy, FSDP2Strategy):
            return found.load(dtype=torch.get_default_dtype())
        model = found.build()
        if strategy.policy.param_dtype is not None:
            cast_parameters(model, strategy.policy.param_dtype)
        weights = InitialWeights(model, folder, trust_remote_code=self.trust_remote_code)
        strategy.shard(model, self.seed, weights.given)
        weights.load(model)
        return model.eval()

    def check(self, datamodule: LightningDataModule | None = None) -> MultimodalModel:
        """Checks that the parts fit each other and the data, before weights are allocated.

        Returns:
            The model on the meta device, with its adapters.

        Raises:
            ValueError: They do not; the message names both parts and both numbers.
        """
        self.fill_in(tokenizer_of(datamodule))
        with torch.device("meta"):
            model = self.factories.build(self.vocab_size, self.image_token_id)
            objective, sampler = self.make_objective(), self.make_sampler()
        check_slot_names(model, self.slots)
        check_patterns(model, self.slots)
        check_quantization(self.slots, shards=False)
        inject_adapters(model, self.slots)
        freeze(model, self.slots)
        prepare_units(model, self.slots)
        quantize_slots(model, self.slots)
        check_with_folders(objective, model, self.trust_remote_code, tokenizer_of(datamodule))
        check_declared(sampler)
        sampler.check(model)
        check_parts({**model.parts(), "objective": objective, "sampler": sampler}, datamodule)
        check_data = getattr(datamodule, "check_model", None)
        if check_data is not None:
            check_data(
                # Without an embedder no visual token has a position, so that the data need not know how many there are.
                tokens_per_tile=None if model.embedder is None else model.tokens_per_tile,
                image_size=None if model.vision is None else model.vision.image_size,
                vocab_size=self.vocab_size,
                image_token_id=self.image_token_id,
                verdict_ids=next((h.token_ids for h in model.heads.values() if hasattr(h, "token_ids")), None),
            )
        return model

    def fill_in(self, tokenizer: Any | None) -> None:
        """Sets vocabulary size and image token id if the recipe gives none, and their hyperparameters.

        Args:
            tokenizer: Tokenizer of the data, if there is one.
        """
        if self.vocab_size is None and (self.factories.embedder is not None or self.factories.heads):
            self.vocab_size = self._stored_vocab_size() or (None if tokenizer is None else len(tokenizer))
            self.hparams["vocab_size"] = self.vocab_size
        if self.image_token_id is None and self.factories.vision is not None and tokenizer is not None:
            self.image_token_id = tokenizer.get_vocab().get(IMAGE_CONTEXT)
            self.hparams["image_token_id"] = self.image_token_id

    def _stored_vocab_size(self) -> int | None:
        """Returns the vocabulary size of the folder that gives the weights of the embedder or the whole model."""
        folder = self.weights.get("embedder") if isinstance(self.weights, dict) else self.weights
        if folder is None or not (is_hub_name(folder) or Path(folder).is_dir()):
            return None  # a missing folder is reported when it is loaded
        return read(folder, trust_remote_code=self.trust_remote_code).spec.vocab_size

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Returns the denominators of a pack's loss and its work; the loader sums both before the step begins."""
        model, objective, _ = self._built()
        return objective.counts(batch) | work(model, batch)

    def on_fit_start(self) -> None:
        """Gets the source names from the datamodule, so that the loss of each source is logged by its name."""
        names = list(getattr(self.trainer.datamodule, "source_names", ()))  # type: ignore[attr-defined]
        self._step_log.source_names = names
        if getattr(self.objective, "sources", None) == 0:
            self.objective.sources = len(names)  # type: ignore[union-attr]

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Computes the loss of one micro-batch, a scalar, as its share of the step's loss."""
        model, objective, _ = self._built()
        window = self.trainer.accumulate_grad_batches
        totals = batch.totals
        if totals is None:
            if window > 1 or self.trainer.world_size > 1:
                raise ValueError(
                    "the packs have no totals of their step: wrap the loader in mmcomponents.data.loading.Lookahead, "
                    "or use PackedDataModule, which does this"
                )
            totals = objective.counts(batch)
        out = objective(model, batch, totals)
        self._step_log.add(out.parts)
        if (batch_idx + 1) % window == 0 or self.trainer.is_last_batch:
            self._step_log.write(self, totals)
        # Lightning divides by the window and the strategy averages over ranks; `totals` already includes both.
        scaled: Tensor = out.total * (window * self.trainer.world_size)
        return scaled

    def on_validation_epoch_start(self) -> None:
        """Clears the means."""
        self._means.clear()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Adds a pack to the mean loss over all targets of the validation data and to the objective's other means."""
        model, objective, _ = self._built()
        counts = objective.counts(batch)
        self._means.add(objective, objective(model, batch, counts), counts)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and the objective's other means."""
        self._means.write(self, self._built()[1])

    def test_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, list[Answer]]:
        """Returns the answers to a batch of prompts, which callbacks score and write."""
        return {"answers": self.answer(batch)}

    def predict_step(self, batch: PackedBatch | PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Returns key, kind, question and answer for each prompt, or the log-probabilities of the pairs of a pack.

        An answer is a text, nested lists of values, or a picture, for which the callback `Predictions` puts the path of
        a file.

        Raises:
            WiringError: The pack has no pairs, the head computes no log-probabilities, or the sampler does not return
                what it declares.
        """
        if isinstance(batch, PackedBatch):
            model, objective, _ = self._built()
            return pair_rows(model, batch, getattr(objective, "head", "lm"))
        return answer_rows(batch, self.answer(batch))

    def answer(self, batch: PromptBatch) -> list[Answer]:
        """Returns the sampler's answers to a batch of prompts.

        Raises:
            WiringError: The sampler does not return what it declares.
        """
        model, _, sampler = self._built()
        tokenizer = getattr(self.trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]
        context = Context(tokenizer, () if tokenizer is None else end_ids(tokenizer))
        # A batch without questions, which keeps ranks synchronised, still has one empty segment.
        return sampler.answer(model, batch.batch, context)[: len(batch)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the recipe's optimizer over the slots' parameter groups, and its schedule per optimizer step."""
        model, _, _ = self._built()
        groups = param_groups(model, self.slots)
        if not groups:
            raise ValueError("every slot is frozen: there is nothing to train")
        optimizer = self.make_optimizer(groups)
        if self.make_scheduler is None:
            self._settings = group_settings(optimizer)
            return optimizer
        schedule = self.make_scheduler(optimizer)
        self._settings, self._schedule = group_settings(optimizer), described(schedule)
        if isinstance(schedule, WarmupCosine) and schedule.total_steps is None and self._trainer is not None:
            schedule.fill_in(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Restores the recipe's learning rates and weight decay, which a loaded checkpoint has replaced.

        Raises:
            MisconfigurationException: The run goes on from a step at which its schedule has ended.
        """
        configs = self.trainer.lr_scheduler_configs
        schedule = configs[0].scheduler if configs else None
        step, found = self.trainer.global_step, self._resumed
        if found is not None:
            for optimizer in self.trainer.optimizers:
                resume_schedule(optimizer, self._settings, schedule, found.of(schedule, self._schedule), step)
            self._resumed = None
        if isinstance(schedule, WarmupCosine):
            schedule.check_length(step, self.trainer.estimated_stepping_batches)

    def on_fit_end(self) -> None:
        """Reports a resumed run in which no step was taken."""
        if self._resumed is not None:
            logger.warning("no step was taken: the checkpoint is at the end of the run (trainer.max_steps, max_epochs)")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the state of the objective separately from the weights, and leaves out frozen ones of folders.

        For a sharded run in a single file, Lightning loads only parameters and buffers from the weights.
        """
        if self._frozen is not None and self.model is not None and not has_average(self.trainer):
            self._frozen.leave_out(self.model, checkpoint)
        state = {} if self.objective is None else self.objective.state_dict()
        if state:
            checkpoint["objective"] = state
        checkpoint["schedule"] = self._schedule
        checkpoint |= processing_entry(self.trainer.datamodule)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores frozen weights of folders and the state of the objective; that of another objective is ignored.

        The state of the schedule is kept for `on_train_start`: Lightning would load it into any other schedule.
        """
        if self._is_fitting:
            states = checkpoint.get("lr_schedulers") or [None]
            self._resumed = StoredSchedule(states[0], checkpoint.get("schedule"))
            checkpoint["lr_schedulers"] = []
        is_run = self._trainer is not None
        self._frozen = FrozenWeights.find(checkpoint, self.weights, self.trust_remote_code, together=is_run)
        if self._frozen is not None and self.model is not None:
            self._frozen.restore(self.model, checkpoint)
        known = {} if self.objective is None else self.objective.state_dict()
        weights = checkpoint.get("state_dict", {})
        if self.model is not None and weights:
            check_quantized_checkpoint(self.model, {name.removeprefix("model.") for name in weights})
        for name in [name for name in weights if name.startswith("objective.")]:
            if name.removeprefix("objective.") not in known:
                del weights[name]
        if self.objective is not None and known and "objective" in checkpoint:
            self.objective.load_state_dict(checkpoint["objective"])
            # Averaged weights contain the objective's state from the start of the run, when the average was created.
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
