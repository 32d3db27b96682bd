"""LightningCLI for a recipe: one parser for each verb, whose keys are those of the recipe."""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from mmcomponents import __version__
from mmcomponents.cli.recipes.check import (
    check_flag_only,
    check_keys,
    check_parsed_flag_only,
    complete,
    known_keys,
    suggest_class,
)
from mmcomponents.cli.recipes.classes import check_classes, class_name
from mmcomponents.cli.recipes.construction import naming_classes
from mmcomponents.cli.recipes.early_check import TRAINER_VERBS
from mmcomponents.cli.recipes.flags import Flags, apply, given_keys
from mmcomponents.cli.recipes.interpolations import Texts, without_references
from mmcomponents.cli.recipes.merging import Tree
from mmcomponents.cli.recipes.own_defaults import RecipeParser
from mmcomponents.cli.recipes.parts import resolve_data_parts, resolve_parts
from mmcomponents.cli.recipes.recipe import Recipe, load
from mmcomponents.cli.recipes.required_arguments import check_required, of_argument, with_class
from mmcomponents.cli.recipes.run_folder import RECIPE, candidates, earlier_run
from mmcomponents.cli.recipes.sections import Sections
from mmcomponents.cli.recipes.seeds import with_seeds
from mmcomponents.cli.terminal.startup import default_callbacks
from mmcomponents.cli.user_error import UserError, one_line
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.training.final_checkpoint import checkpoint_folders, use_whole_checkpoints

log = logging.getLogger(__name__)

_SECTIONS = ("seed_everything", "trainer", "model", "data")
"""Top-level keys of a recipe; all other keys are arguments of a verb."""


class SaveRecipe(SaveConfigCallback):
    """Writes the recipe of a run to `recipe.yaml`, which `--config` accepts.

    The folder is `trainer.default_root_dir` if the recipe sets it, else that of the logger. If there are checkpoints of
    an earlier run, their recipe stays until the first checkpoint is written: a run that ends before leaves both.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, texts: Texts) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.texts = texts
        self._path: Path | None = None
        self._is_due = False

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, or postpones it; called on rank zero only."""
        folder = Path(self.config.trainer.default_root_dir or trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / RECIPE
        self._is_due = not any(next(found.glob("*.ckpt"), None) for found in checkpoint_folders(trainer))
        self._write_if_due()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes a postponed file due, which is written when the checkpoint is complete."""
        self._is_due = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes the file if a checkpoint was written meanwhile, to its end."""
        if not getattr(trainer.strategy, "is_saving", False):
            self._write_if_due()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file if the last checkpoint was the first; not called after an error."""
        self._write_if_due()

    def _write_if_due(self) -> None:
        if self._path is not None and self._is_due:
            write_text(self._path, self.texts.recipe(_dump(self.parser, self.config)))
            self._path = None


class RecipeCLI(LightningCLI):
    """Builds task, data and trainer from a recipe and flags.

    LightningCLI's subcommands are not used (`run=False`): each verb has one parser, whose keys are those of a recipe.
    The parser receives the recipe, with flags merged and interpolations resolved, as one tree.

    Args:
        verb: Verb of the Trainer, or another verb, such as "generate", which needs no Trainer.
        flags: Sorted command line.
        task_class: LightningModule whose arguments are in `model:`.
        data_class: LightningDataModule whose arguments are in `data:` if the recipe names no other class. None for a
            verb that only needs the model: the other sections may be missing and are not instantiated.

    Attributes:
        recipe: Recipe with the flags.
        meta_model: What the task's `check` returns: the model on the meta device, with its adapters.
    """

    def __init__(
        self, verb: str, flags: Flags, task_class: type[LightningModule], data_class: type[LightningDataModule] | None
    ) -> None:
        if not flags.configs and not flags.requests:
            raise UserError(f"{verb} needs --config RECIPE; `mmcomponents recipes` lists those of the library")
        self.verb = verb
        self.flags = flags
        self.verb_arguments: list[str] = []
        sections = Sections({"model": task_class, "data": data_class, "trainer": Trainer})
        self.recipe = apply(load(flags.configs, sections), flags.settings)
        self.data_path: str | None = None
        if data_class is not None and self.recipe.data_class is not None:
            found = self.recipe.data_owner()
            if found is not data_class:
                data_class, self.data_path = found, class_name(found)
        self.recipe = with_seeds(self.recipe, {"model": task_class, "data": data_class})
        super().__init__(
            task_class,
            data_class,
            run=False,
            args=[],
            auto_configure_optimizers=False,
            seed_everything_default=False if data_class is None else 0,
            parser_class=RecipeParser,
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
        if self.verb in TRAINER_VERBS:
            skip: set[str | int] = set(LightningCLI.subcommands()[self.verb])
            self.verb_arguments = parser.add_method_arguments(Trainer, self.verb, skip=skip)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Checks the names of the merged recipe, and parses the values."""
        assert isinstance(parser, RecipeParser)
        self._parse(parser)
        folder = self.config.get("trainer.default_root_dir")
        if self.verb == "fit" and folder and "://" not in folder and not self._goes_on_in(Path(folder)):
            self._take_own_folder(parser, Path(folder))

    def _goes_on_in(self, folder: Path) -> bool:
        """Whether the run goes on from a checkpoint in its folder."""
        checkpoint = self.config.get("ckpt_path")
        if not checkpoint or "://" in checkpoint:
            return bool(checkpoint)
        by_keyword = not Path(checkpoint).exists()  # `last` and the like, which Lightning looks for in the folder
        return by_keyword or Path(checkpoint).resolve().is_relative_to(folder.resolve())

    def _take_own_folder(self, parser: RecipeParser, folder: Path) -> None:
        """Gives a new run another folder if there is an earlier run in the one that the recipe names."""
        if self.config.get("trainer.fast_dev_run"):  # writes nothing
            return
        found = ""
        for own in candidates(folder):
            if own != folder:
                changed = {"trainer": {"default_root_dir": own.as_posix()}}
                self.recipe = self.recipe.overlay(changed, self.recipe.origin("trainer.default_root_dir"))
                self._parse(parser)
            held = earlier_run(own, self.texts.recipe(_dump(parser, self.config)))
            if not held:
                break
            found = found or held
        if found:
            log.warning("%s holds %s: this run writes to %s", folder.as_posix(), found, own.as_posix())

    def _parse(self, parser: RecipeParser) -> None:
        recipe = self.recipe
        defaults = parser.get_defaults()
        known = known_keys(defaults)
        tree = recipe.resolved()
        by_flag = given_keys(self.flags.settings)
        check_flag_only(tree, recipe, by_flag)
        model_alone = self.datamodule_class is None
        if model_alone:
            tree.pop("data", None)
        else:
            known.setdefault("data", set())  # a class without arguments
        owners: dict[str, Any] = {
            "model": self._model_class,
            "data": self._datamodule_class,
            "trainer": self.trainer_class,
        }
        class_defaults = {k: v for k, v in defaults.items() if k.endswith(".class_path")}
        if not {"-h", "--help"} & set(self.flags.requests):
            complete(tree, class_defaults)
            resolve_parts(tree, recipe)
            if not model_alone:
                resolve_data_parts(tree.get("data"), owners["data"], recipe)
            check_keys(tree, known, owners, recipe)
            check_classes(tree, owners, recipe)
        if model_alone:  # the trainer's keys are checked above, but its callbacks and loggers are not instantiated
            tree = {key: value for key, value in tree.items() if key == "model"}
        self.texts = Texts.of(recipe, class_defaults, self.data_path)
        self.save_config_kwargs = {"texts": self.texts}
        self.config = self._parsed(parser, tree, recipe)
        # Once more: parsed values also contain what is in the texts and files that they were given as.
        check_parsed_flag_only(self.config, recipe, by_flag)
        check_classes(self.config, owners, recipe)
        check_required(self.config, owners, tree, recipe)

    def _parsed(self, parser: RecipeParser, tree: Tree, recipe: Recipe) -> Namespace:
        """Parses the values of a resolved recipe, and answers requests such as `--help`."""
        given = ["--config", json.dumps(tree, ensure_ascii=False)] if tree else []
        printed = io.StringIO()
        printing = any(word.startswith("--print_config") for word in self.flags.requests)
        try:
            with parser.replacing(tree), redirect_stdout(printed) if printing else nullcontext():
                return parser.parse_args([*given, *self.flags.requests])
        except argparse.ArgumentError as error:
            text = one_line(str(self._cause(parser, tree) or error))
            key, colon, rest = text.partition(": ")
            key, rest = of_argument(key, rest, tree)
            where = recipe.place(key) if colon else ""
            shown = f"{key}{where}: {with_class(key, rest, tree)}" if where else text
            if recipe.data_class is not None and re.fullmatch(r"the following .* required: data\.[^:]*", text):
                shown = f"{recipe.data_class}: {text}"
            raise UserError(shown + suggest_class(text)) from None
        except RecursionError:
            raise UserError("the recipe is nested too deeply") from None
        except SystemExit:
            text = printed.getvalue()
            sys.stdout.write(self.texts.recipe(text) if text.startswith("#") else text)
            raise

    def _cause(self, parser: RecipeParser, tree: Tree) -> argparse.ArgumentError | None:
        """Returns the error of the values that the recipe itself has, if there is one.

        The parser may report first a key that refers to the wrong one.
        """
        own = without_references(tree, self.texts.written)
        try:
            with parser.replacing(own):
                parser.parse_args(["--config", json.dumps(own, ensure_ascii=False)])
        except argparse.ArgumentError as error:
            return None if "required" in str(error) else error
        return None

    def instantiate_classes(self) -> None:
        """Builds task and data, checks that the parts fit together, and builds the trainer last."""
        try:
            dumped = yaml.safe_load(
                self.parser.dump(self.config, skip_link_targets=False, skip_none=False, skip_validation=True)
            )
            # What LightningCLI gives checkpoints and loggers as hyperparameters.
            self.config_dump = self.texts.hide_environment(dumped)
            assert isinstance(self.parser, RecipeParser)
            with naming_classes(self.parser.instantiators) as instantiators:
                self.config_init = self.parser.instantiate(self.config, instantiators=instantiators)
                self.datamodule = self.config_init.get("data")
                self.model = self.config_init["model"]
                if self.datamodule is None and hasattr(self.model, "fill_in"):
                    self.model.fill_in(self._tokenizer())
                # Raises for an invalid combination of parts, before any weight is created.
                self.meta_model = self.model.check(self.datamodule)
            if self.verb in TRAINER_VERBS:
                self.trainer = self.instantiate_trainer()
        except (ValueError, ArithmeticError, OSError, MisconfigurationException) as error:
            raise UserError(" ".join(str(error).split())) from error

    def _tokenizer(self) -> Any | None:
        """Returns the tokenizer that the recipe's data names, for a verb that needs only the model, if it does."""
        if self.config.get("model.vocab_size") is not None:
            return None
        section = self.recipe.resolved().get("data")
        if not isinstance(section, dict) or not isinstance(path := section.get("tokenizer"), str):
            return None
        text = section.get("text")
        return load_tokenizer(path, text.get("allowed_tokens") if isinstance(text, dict) else None)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer; for `fit`, puts the default callbacks before those of the recipe.

        By default, `fit` logs to `metrics.csv` beside the files of TensorBoard, and prints lines in place of a progress
        bar where the output is no terminal.
        """
        if self.verb == "fit":
            given = self.config_init["trainer"]
            callbacks = given.get("callbacks") or []
            callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
            summary, bar = given.get("enable_model_summary"), given.get("enable_progress_bar")
            has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
            lines = bar is None and not has_bar and not sys.stdout.isatty()
            added = default_callbacks(callbacks, summary, lines)
            kwargs = {"callbacks": [*added, *callbacks], "enable_model_summary": bool(summary)} | kwargs
            if lines:
                kwargs["enable_progress_bar"] = False
            if given.get("logger") in (None, True):
                kwargs["logger"] = _default_loggers(given.get("default_root_dir"))
        trainer = super().instantiate_trainer(**kwargs)
        use_whole_checkpoints(trainer)
        return trainer


def _default_loggers(folder: str | None) -> list[Logger]:
    """Returns Lightning's default logger, and one that writes `metrics.csv` into the same folder."""
    board = TensorBoardLogger(folder or Path.cwd())
    return [board, CSVLogger(board.save_dir, version=board.version)]


def _dump(parser: LightningArgumentParser, config: Namespace) -> str:
    """Returns the resolved recipe without the arguments of the verb, so that any verb accepts it."""
    kept = config.clone()
    for key in list(vars(kept)):
        if key not in _SECTIONS:
            kept.pop(key)
    return str(parser.dump(kept, skip_none=False, skip_validation=True)).rstrip() + "\n"
