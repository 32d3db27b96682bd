"""The verbs of Lightning's Trainer: fit, validate, test, predict."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from mmcomponents import __version__
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.cli.recipes.check import check_keys, complete, resolve_parts, suggest_class
from mmcomponents.cli.recipes.flags import Flags, apply, sort_flags
from mmcomponents.cli.recipes.recipe import load, same_class, shipped
from mmcomponents.cli.terminal.closing import close
from mmcomponents.cli.terminal.startup import default_callbacks
from mmcomponents.cli.user_error import UserError, near_file, one_line
from mmcomponents.component import WiringError
from mmcomponents.data.errors import DataError
from mmcomponents.training.gradient_watch import NoGradientError

VERBS = ("fit", "validate", "test", "predict")

_SECTIONS = ("seed_everything", "trainer", "model", "data")
"""Top-level keys of a recipe; all other keys are arguments of a verb."""

_DIFFERENCES_SHOWN = 8


class SaveRecipe(SaveConfigCallback):
    """Writes the resolved recipe of a run to `recipe.yaml`, which `--config` accepts.

    The folder is `trainer.default_root_dir` if the recipe sets it, else that of the logger. An existing file is
    overwritten, so that a resumed run has the recipe that it was resumed with.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file; called on rank zero only."""
        folder = self.config.trainer.default_root_dir or trainer.log_dir or trainer.default_root_dir
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "recipe.yaml").write_text(_recipe_text(self.parser, self.config), encoding="utf-8")


class RecipeCLI(LightningCLI):
    """Builds task, data and trainer from a recipe and flags.

    LightningCLI's subcommands are not used (`run=False`): each verb has one parser, whose keys are those of a recipe.
    The parser receives the recipe, with flags merged and interpolations resolved, as one tree.

    Args:
        verb: Verb of the Trainer, or another verb, such as "generate", which needs no Trainer.
        flags: Sorted command line.
        task_class: LightningModule whose arguments are in `model:`.
        data_class: LightningDataModule whose arguments are in `data:`. None for a verb that only needs the model: the
            other sections may be missing and are not instantiated.
    """

    def __init__(
        self, verb: str, flags: Flags, task_class: type[LightningModule], data_class: type[LightningDataModule] | None
    ) -> None:
        self.verb = verb
        self.flags = flags
        self.verb_arguments: list[str] = []
        super().__init__(
            task_class,
            data_class,
            run=False,
            args=[],
            auto_configure_optimizers=False,
            seed_everything_default=False if data_class is None else 0,
            save_config_callback=SaveRecipe if verb == "fit" else None,
            parser_kwargs={
                "prog": f"mmcomponents {verb}",
                "exit_on_error": False,
                "allow_abbrev": False,
                "dump_header": [f"mmcomponents=={__version__}, all defaults written out"],
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments of the Trainer's method other than model and data, such as `ckpt_path`."""
        if self.verb in VERBS:
            skip: set[str | int] = set(LightningCLI.subcommands()[self.verb])
            self.verb_arguments = parser.add_method_arguments(Trainer, self.verb, skip=skip)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merges recipes and flags, checks the names, and parses the values."""
        if not self.flags.configs and not self.flags.requests:
            raise UserError(f"{self.verb} needs --config RECIPE; shipped recipes: {', '.join(shipped()) or 'none'}")
        recipe = apply(load(self.flags.configs), self.flags.settings)
        defaults = parser.get_defaults()
        known = _known_keys(defaults)
        tree = recipe.resolved()
        model_alone = self.datamodule_class is None
        if model_alone:
            tree.pop("data", None)
        if not {"-h", "--help"} & set(self.flags.requests):
            class_defaults = {k: v for k, v in defaults.items() if k.endswith(".class_path")}
            complete(tree, class_defaults)
            resolve_parts(tree, recipe)
            owners = {"model": self._model_class, "data": self._datamodule_class, "trainer": self.trainer_class}
            check_keys(tree, known, owners, recipe)
        if model_alone:  # the trainer's keys are checked above, but its callbacks and loggers are not instantiated
            tree = {key: value for key, value in tree.items() if key == "model"}
        given = ["--config", json.dumps(tree, ensure_ascii=False)] if tree else []
        try:
            self.config = parser.parse_args([*given, *self.flags.requests])
        except argparse.ArgumentError as error:
            text = one_line(str(error))
            key, colon, rest = text.partition(": ")
            where = recipe.origin(key) if colon else ""
            shown = f"{key} ({where}): {rest}" if where else text
            raise UserError(shown + suggest_class(text)) from None

    def instantiate_classes(self) -> None:
        """Builds task and data, checks that the parts fit together, and builds the trainer last."""
        # A resolved recipe contains all defaults of peft.LoraConfig, and peft warns about this one.
        warnings.filterwarnings("ignore", message="`loftq_config` specified but will be ignored")
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
            self.datamodule = self.config_init.get("data")
            self.model = self.config_init["model"]
            # Raises for an invalid combination of parts, before any weight is created.
            self.model.check(self.datamodule)
            if self.verb in VERBS:
                self.trainer = self.instantiate_trainer()
        except (ValueError, OSError, MisconfigurationException) as error:
            raise UserError(" ".join(str(error).split())) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer; for `fit`, adds the start-up table and the gradient watch to the recipe's callbacks."""
        if self.verb == "fit":
            given = self.config_init["trainer"]
            callbacks = given.get("callbacks") or []
            callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
            summary = given.get("enable_model_summary")
            added = default_callbacks(callbacks, summary)
            kwargs = {"callbacks": [*callbacks, *added], "enable_model_summary": bool(summary)} | kwargs
        return super().instantiate_trainer(**kwargs)

    def run_verb(self) -> Any:
        """Calls the Trainer's method."""
        arguments = {name: self.config_init[name] for name in self.verb_arguments}
        checkpoint = arguments.get("ckpt_path")
        if checkpoint and Path(checkpoint).exists():
            # Passed to the verb, it would be known only after the model is built with its initial weights.
            self.trainer.ckpt_path = arguments.pop("ckpt_path")
        try:
            return getattr(self.trainer, self.verb)(model=self.model, datamodule=self.datamodule, **arguments)
        except SIGTERMException:
            raise SystemExit(143) from None  # Lightning's exception would end the process with exit code 0
        except (WiringError, DataError, CheckpointError, NoGradientError, MisconfigurationException) as error:
            if isinstance(error, NoGradientError) and not self.trainer.is_global_zero:
                raise SystemExit(2) from None  # all ranks raise the error, rank zero reports it
            raise UserError(" ".join(str(error).split())) from error
        except RuntimeError as error:
            if str(error).startswith("DataLoader worker"):  # raised from a signal handler, at any point
                died = f"a data loader worker process died ({one_line(str(error))})"
                raise UserError(f"{died}. If memory ran out, set fewer data.num_workers") from error
            if "Error(s) in loading state_dict" not in str(error):
                raise
            text = one_line(str(error))
            raise UserError(f"checkpoint {checkpoint} does not match the recipe: {text}") from error


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
    if cli.config.get("ckpt_path"):
        _check_checkpoint(str(cli.config["ckpt_path"]), cli)
    result = cli.run_verb()
    if cli.trainer.is_global_zero:
        close(
            verb,
            folder=Path(cli.trainer.default_root_dir),
            flags=flags,
            result=result,
            checkpoint=_checkpoint(cli),
            console=Console(),
            callbacks=cli.trainer.callbacks,  # type: ignore[attr-defined]
        )
    return cli


def main(verb: str, argv: list[str]) -> int:
    """Runs one of these verbs for `mmcomponents`."""
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    run(verb, argv, MultimodalTask, PackedDataModule)
    return 0


def _checkpoint(cli: RecipeCLI) -> str | None:
    """Returns the checkpoint that `fit` wrote last, or the one that was passed to another verb."""
    if cli.verb != "fit":
        given: str | None = cli.config.get("ckpt_path")
        return given
    written = cli.trainer.checkpoint_callback
    path = getattr(written, "last_model_path", "") or getattr(written, "best_model_path", "")
    folder = Path.cwd()
    return str(Path(path).relative_to(folder) if path and Path(path).is_relative_to(folder) else path) or None


def _known_keys(defaults: Namespace) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {}
    for key in defaults.keys():  # noqa: SIM118  (a Namespace iterates over its top level only)
        top, _, rest = key.partition(".")
        known.setdefault(top, set()).update({rest.partition(".")[0]} if rest else ())
    known.pop("config", None)
    return known


def _recipe_text(parser: LightningArgumentParser, config: Namespace) -> str:
    """Returns the resolved recipe without the arguments of the verb, so that any verb accepts it."""
    kept = config.clone()
    for key in list(vars(kept)):
        if key not in _SECTIONS:
            kept.pop(key)
    return str(parser.dump(kept, skip_none=False, skip_validation=True)).rstrip() + "\n"


def _check_checkpoint(ckpt_path: str, cli: RecipeCLI) -> None:
    """Raises `UserError` for a missing checkpoint, and reports settings in which it differs from the recipe.

    A checkpoint never overrides recipe or flags.
    """
    if ckpt_path in ("best", "last", "hpc") or ckpt_path.startswith("registry:"):
        return
    path = Path(ckpt_path)
    if not path.exists():
        raise UserError(f"there is no checkpoint {ckpt_path!r}{near_file(path)}")
    if path.is_dir() and not isinstance(cli.trainer.strategy, ModelParallelStrategy):
        strategy = type(cli.trainer.strategy).__name__
        raise UserError(
            f"checkpoint {path.as_posix()} is a folder of shards, which {strategy} cannot read: "
            "add --trainer.strategy fsdp2 (one device suffices)"
        )
    source = path / "meta.pt" if path.is_dir() else path
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters") or {}
    except Exception:  # an invalid checkpoint is reported by the loader
        return
    ours = yaml.safe_load(_recipe_text(cli.parser, cli.config))["model"]
    lines = list(_differences({k: v for k, v in saved.items() if not k.startswith("_")}, ours, "model"))
    for line in lines[:_DIFFERENCES_SHOWN]:
        sys.stderr.write(f"mmcomponents: the checkpoint was trained with {line}\n")
    if len(lines) > _DIFFERENCES_SHOWN:
        sys.stderr.write(f"mmcomponents: and {len(lines) - _DIFFERENCES_SHOWN} more differences\n")


def _differences(saved: Any, ours: Any, key: str) -> list[str]:
    if isinstance(saved, dict) and isinstance(ours, dict):
        # Only keys of both are compared: an option that was added later is not a difference in settings.
        return [
            line for name in saved if name in ours for line in _differences(saved[name], ours[name], f"{key}.{name}")
        ]
    same = saved == ours or (isinstance(saved, tuple) and list(saved) == ours)
    if key.endswith(".class_path"):  # a checkpoint may name a class by a former path
        same = same_class(saved, ours)
    return [] if same else [f"{key} = {saved!r}; the recipe's {ours!r} is used"]
