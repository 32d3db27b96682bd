"""The verbs of Lightning's Trainer: fit, validate, test, predict."""

from __future__ import annotations

import errno
import logging
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import recover, run_lock
from mmcomponents.cli.recipes.differences import report_differences
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.recipes.run_folder import is_requeued
from mmcomponents.cli.terminal.closing import close, config_words
from mmcomponents.cli.user_error import UserError, near_file, one_line
from mmcomponents.companions.text_features import TextFeatureError
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.data.errors import DataError
from mmcomponents.shared_vocabulary import VocabularyError
from mmcomponents.training.distributed.rank_monitor import end_with_lost_rank
from mmcomponents.training.final_checkpoint import checkpoint_folders
from mmcomponents.training.gradients.gradient_watch import NoGradientError
from mmcomponents.training.predictions import Predictions

log = logging.getLogger(__name__)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of the system that are no fault of the code: the disk is full, read-only, or not the user's."""


def run(
    verb: str, argv: list[str], task_class: type[LightningModule], data_class: type[LightningDataModule]
) -> RecipeCLI:
    """Runs one of the Trainer's verbs.

    Args:
        verb: fit, validate, test or predict.
        argv: Words after the verb.
        task_class: Class with the arguments of `model:`.
        data_class: Class with the arguments of `data:`.

    Returns:
        The task, data and trainer after the run.
    """
    flags = sort_flags(argv)
    cli = RecipeCLI(verb, flags, task_class, data_class)
    with _locked(cli):
        if cli.config.get("ckpt_path"):
            _check_checkpoint(str(cli.config["ckpt_path"]), cli)
        elif verb == "fit":
            _check_folders(cli)
        if verb == "predict":
            _add_predictions(cli)
        if verb == "fit" and cli.trainer.is_global_zero:
            warn_of_validation(cli)
        run_verb(cli)
    if cli.trainer.is_global_zero:
        close(
            verb,
            folder=Path(cli.trainer.default_root_dir),
            flags=flags,
            checkpoint=_checkpoint(cli),
            console=Console(),
            callbacks=cli.trainer.callbacks,  # type: ignore[attr-defined]
            answers=getattr(getattr(cli.model, "sampler", None), "answers", "text"),
            has_test_data=cli.config.get("data.test") is not None,
            longer=_longer(cli),
        )
    return cli


def warn_of_validation(cli: RecipeCLI) -> None:
    """Warns if the run is shorter than the interval of its validation."""
    interval, steps = cli.trainer.val_check_interval, cli.trainer.max_steps
    has_data = cli.config.get("data.val") or cli.config.get("data.init_args.val")
    if has_data and isinstance(interval, int) and 0 < steps * cli.trainer.accumulate_grad_batches < interval:
        log.warning(
            "data.val is not used: the run has %d steps, and validates every %d batches (--trainer.val_check_interval)",
            steps,
            interval,
        )


def _longer(cli: RecipeCLI) -> list[str] | None:
    """Returns the flags under which a run goes on that has reached its end; none if it has not.

    None if its schedule has a length of its own, so that it cannot.
    """
    trainer = cli.trainer
    model = cli.recipe.tree.get("model")
    schedule = model.get("scheduler") if isinstance(model, dict) else None
    arguments = schedule.get("init_args") if isinstance(schedule, dict) else None
    length = (arguments or {}).get("total_steps")
    has_end = length is not None and "${" not in str(length)
    if has_end and trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps:
        return None
    if trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps:
        return ["--trainer.max_steps", str(2 * trainer.max_steps)]
    epochs = trainer.max_epochs or -1
    if 0 < epochs <= trainer.current_epoch:
        return ["--trainer.max_epochs", str(2 * epochs)]
    return []


def main(verb: str, argv: list[str]) -> int:
    """Runs one of these verbs for `mmcomponents`."""
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    run(verb, argv, MultimodalTask, PackedDataModule)
    return 0


def _add_predictions(cli: RecipeCLI) -> None:
    """Adds the callback that writes the rows of `predict`, unless the recipe has it."""
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(callback, Predictions) for callback in callbacks):
        callbacks.append(Predictions())


@contextmanager
def _locked(cli: RecipeCLI) -> Iterator[None]:
    """Holds the lock of the run's folder during `fit`, and finishes what a killed run left there.

    Rank zero does both, as it writes the files.
    """
    given = cli.config.trainer.default_root_dir
    if cli.verb != "fit" or not given or "://" in str(given) or not cli.trainer.is_global_zero:
        yield
        return
    folder = Path(given)
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(folder))
            for checkpoints in checkpoint_folders(cli.trainer):
                # Another folder is not covered by the lock: a run may be writing into it.
                if checkpoints.resolve().is_relative_to(folder.resolve()):
                    for line in recover(checkpoints):
                        log.warning("a run was killed while it saved: %s", line)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
        except CheckpointError as error:
            raise UserError(str(error)) from None
        yield


def _checkpoint(cli: RecipeCLI) -> str | None:
    """Returns the checkpoint that `fit` wrote last, or the one that was passed to another verb."""
    if cli.verb != "fit":
        given: str | None = cli.config.get("ckpt_path")
        return given
    written = cli.trainer.checkpoint_callback
    path = getattr(written, "last_model_path", "") or getattr(written, "best_model_path", "")
    folder = Path.cwd()
    return str(Path(path).relative_to(folder) if path and Path(path).is_relative_to(folder) else path) or None


def run_verb(cli: RecipeCLI) -> Any:
    """Calls the Trainer's method."""
    arguments = {name: cli.config_init[name] for name in cli.verb_arguments}
    checkpoint = arguments.get("ckpt_path")
    if checkpoint and not _is_keyword(checkpoint):
        # Passed to the verb, it would be known only after the model is built with its initial weights.
        cli.trainer.ckpt_path = arguments.pop("ckpt_path")
    try:
        return getattr(cli.trainer, cli.verb)(model=cli.model, datamodule=cli.datamodule, **arguments)
    except SIGTERMException:
        _report_interrupt(cli)
        raise SystemExit(143) from None  # Lightning's exception would end the process with exit code 0
    except SystemExit as error:
        if cli.trainer.interrupted and error.code == 1:  # Lightning's exit code after Ctrl-C
            _report_interrupt(cli)
            raise KeyboardInterrupt from None
        raise
    except (
        WiringError,
        DataError,
        TextFeatureError,
        CheckpointError,
        NoGradientError,
        NonFiniteError,
        VocabularyError,
        MisconfigurationException,
    ) as error:
        if isinstance(error, NoGradientError | NonFiniteError) and not cli.trainer.is_global_zero:
            raise SystemExit(2) from None  # all ranks raise the error, rank zero reports it
        raise UserError(" ".join(str(error).split())) from error
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(f"{error.filename or cli.trainer.default_root_dir}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        # From Lightning and torch: a checkpoint without the state of an optimizer, or with that of another one.
        text = " ".join(str(error.args[0] if error.args else error).split())
        if not text.startswith(("Trying to restore", "loaded state dict")):
            if text.startswith("Tried to step"):  # OneCycleLR
                raise UserError(f"the schedule is shorter than the run: {text}") from error
            raise
        remedy = "go on with the same model.slots, or start a new run from its export (--model.weights)"
        raise UserError(f"checkpoint {checkpoint} does not match the recipe: {text}; {remedy}") from error
    except RuntimeError as error:
        end_with_lost_rank(cli.trainer)  # the error may be that of a collective which a rank has left
        if str(error).startswith("DataLoader worker"):  # raised from a signal handler, at any point
            died = f"a data loader worker process died ({one_line(str(error))})"
            raise UserError(f"{died}. If memory ran out, set fewer data.loading.num_workers") from error
        if "Error(s) in loading state_dict" not in str(error):
            raise
        text = one_line(str(error))
        raise UserError(f"checkpoint {checkpoint} does not match the recipe: {text}") from error


def _check_folders(cli: RecipeCLI) -> None:
    """Checks that a new run overwrites no checkpoints of another one: they may be in any folder.

    Raises:
        UserError: They would be overwritten.
    """
    if not cli.trainer.is_global_zero or is_requeued(Path(cli.trainer.default_root_dir)):
        return
    for folder in checkpoint_folders(cli.trainer):
        if next(folder.glob("*.ckpt"), None):
            raise UserError(
                f"{folder} has checkpoints of another run, which this one would overwrite: set another dirpath of the"
                f" callback that writes them, or go on from one of them (--ckpt_path)"
            )


def _report_interrupt(cli: RecipeCLI) -> None:
    if not cli.trainer.is_global_zero:
        return
    step, checkpoint = cli.trainer.global_step, _checkpoint(cli)
    every = getattr(cli.trainer.checkpoint_callback, "_every_n_train_steps", 0)
    first = f" (the first is due at step {every}: --trainer.callbacks.every_n_train_steps N)" if every else ""
    kept = f"no checkpoint was written{first}"
    if checkpoint:
        words = config_words(Path(cli.trainer.default_root_dir), cli.flags)
        again = shlex.join(["mmcomponents", cli.verb, *words, "--ckpt_path", checkpoint])
        kept = f"the last checkpoint is {checkpoint}; go on with {again}"
    log.warning("interrupted at step %d; %s", step, kept)


def _check_checkpoint(ckpt_path: str, cli: RecipeCLI) -> None:
    """Checks that a checkpoint exists and that the strategy can read it; reports how it differs from the recipe.

    Raises:
        UserError: It is missing, or of another kind.
    """
    if _is_keyword(ckpt_path):
        return
    path = Path(ckpt_path)
    if not cli.trainer.is_global_zero and not path.exists():
        return  # rank zero, which may be recovering it, reports a missing one
    if not path.exists():
        raise UserError(f"there is no checkpoint {ckpt_path!r}{near_file(path)}")
    if path.is_dir() and not isinstance(cli.trainer.strategy, ModelParallelStrategy):
        strategy = type(cli.trainer.strategy).__name__
        raise UserError(
            f"checkpoint {path.as_posix()} is a folder of shards, which {strategy} cannot read: "
            "add --trainer.strategy fsdp2 (one device suffices)"
        )
    report_differences(path, cli.config_dump["model"], training=cli.verb == "fit")


def _is_keyword(ckpt_path: str) -> bool:
    """Returns whether Lightning looks for the checkpoint itself."""
    return ckpt_path in ("best", "last", "hpc") or ckpt_path.startswith("registry:")
