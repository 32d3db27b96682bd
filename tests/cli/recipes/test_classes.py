"""A recipe names classes that the types of its arguments allow; functions and other classes are not called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recipe_standins
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from recipe_standins import CALLED, Data, Open, Task

from mmcomponents import registry
from mmcomponents.cli.recipes.classes import argument_types
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.parts import INNER, OF_DATA, resolve_parts
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]

FUNCTION: dict[str, Any] = {"class_path": "recipe_standins.called", "init_args": {"cmd": "x"}}
CLASS: dict[str, Any] = {"class_path": "recipe_standins.Called", "init_args": {"cmd": "x"}}
LOGGER = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "x"}}
NO_FUNCTION = "recipe_standins.called is a function; a recipe names classes only"
NO_SCHEDULE = "is not a subclass of mmcomponents.heads.NoiseSchedule"
NO_CLASS = "is not allowed here: the argument takes no class"


def open_callback(**arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": "recipe_standins.Open", "init_args": arguments}]}}


@pytest.fixture(autouse=True)
def _nothing_is_called() -> Iterator[None]:
    CALLED.clear()
    yield
    assert CALLED == []


@pytest.fixture
def build(write: Write) -> Callable[..., RecipeCLI]:
    """Builds task, data and trainer from a tree and flags."""

    def make(tree: dict[str, Any], *flags: str) -> RecipeCLI:
        write("r.yaml", yaml.safe_dump(tree))
        return RecipeCLI("fit", sort_flags(["--config", "r.yaml", *flags]), Task, Data)

    return make


@pytest.mark.parametrize("slot", [slot for slot in registry.slots() if slot not in (*OF_DATA, *INNER)])
@pytest.mark.parametrize("name", ["recipe_standins.called", "recipe_standins.Called", "subprocess.getoutput", "base"])
def test_a_slot_takes_a_subclass_of_its_base_and_nothing_else(slot: str, name: str) -> None:
    base = registry.slots()[slot]
    path = base if name == "base" else name
    for part in (path, {"class_path": path}):
        model = {"heads": {"lm": part}} if slot == "head" else {slot: part}
        with pytest.raises(UserError) as caught:
            resolve_parts({"model": model}, Recipe(origins={"model": "r.yaml"}))
        key = "heads.lm" if slot == "head" else slot
        assert str(caught.value) == f"model.{key} (r.yaml): {path} is not a {slot}, a subclass of {base}"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"model": {"optimizer": FUNCTION}},
            "model.optimizer (r.yaml): recipe_standins.called is not a subclass of torch.optim.Optimizer",
        ),
        ({"model": {"optimizer": CLASS}}, "recipe_standins.Called is not a subclass of torch.optim.Optimizer"),
        ({"model": {"optimizer": "recipe_standins.called"}}, "is not a subclass of torch.optim.Optimizer"),
        ({"model": {"optimizer": "builtins.eval"}}, "builtins.eval is not a subclass of torch.optim.Optimizer"),
        (
            {"model": {"scheduler": FUNCTION}},
            "is not a subclass of torch.optim.lr_scheduler.LRScheduler or lightning.pytorch.cli.ReduceLROnPlateau",
        ),
        ({"model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"momentum": CLASS}}}}, NO_CLASS),
        ({"model": {"slots": {"projector": {"lr": CLASS}}}}, f"lr (r.yaml): {CLASS['class_path']} {NO_CLASS}"),
        ({"trainer": {"callbacks": FUNCTION}}, "is not a subclass of lightning.Callback"),
        ({"trainer": {"callbacks": [CLASS]}}, "is not a subclass of lightning.Callback"),
        ({"trainer": {"logger": FUNCTION}}, "is not a subclass of lightning.pytorch.loggers.Logger"),
        ({"trainer": {"strategy": CLASS}}, "is not a subclass of lightning.pytorch.strategies.Strategy"),
        ({"trainer": {"plugins": [FUNCTION]}}, "is not a subclass of lightning.pytorch.plugins.Precision or"),
        ({"trainer": {"profiler": CLASS}}, "is not a subclass of lightning.pytorch.profilers.Profiler"),
        ({"data": {"names": [CLASS]}}, f"data.names (r.yaml): recipe_standins.Called {NO_CLASS}"),
        (open_callback(anything=CLASS), f"trainer.callbacks.init_args.anything (r.yaml): {CLASS['class_path']}"),
        (open_callback(anything=[{"deep": FUNCTION}]), NO_CLASS),
        (open_callback(untyped=CLASS), NO_CLASS),
        (open_callback(table={"a": {"b": CLASS}}), f"init_args.table.a.b (r.yaml): {CLASS['class_path']} {NO_CLASS}"),
        (open_callback(hook=CLASS), NO_CLASS),
        (open_callback(hook=FUNCTION), NO_CLASS),
        (open_callback(hook="recipe_standins.called"), NO_FUNCTION),
        (open_callback(act="recipe_standins.called"), "is not a subclass of torch.Tensor"),
        (open_callback(inner=FUNCTION), "is not a subclass of mmcomponents.projectors.Projector"),
        *(
            ({"model": {"heads": {"d": {"class_path": "DenoisingHead", "init_args": {"schedule": part}}}}}, NO_SCHEDULE)
            for part in (FUNCTION, CLASS, "subprocess.getoutput", "mmcomponents.heads.DenoisingHead")
        ),
        (open_callback(each=[open_callback(anything=CLASS)["trainer"]["callbacks"][0]]), "each.init_args.anything"),
        (open_callback(anything={"class_path": "pathlib.Path.touch"}), "cannot import pathlib.Path.touch"),
        (
            {"trainer": {"logger": {**LOGGER, "dict_kwargs": {"a": CLASS}}}},
            f"trainer.logger.dict_kwargs.a (r.yaml): recipe_standins.Called {NO_CLASS}",
        ),
    ],
)  # fmt: skip
def test_nothing_else_is_called(build: Callable[..., RecipeCLI], tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(tree)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_neither_by_a_flag_nor_in_a_file_that_a_value_names(build: Callable[..., RecipeCLI], write: Write) -> None:
    with pytest.raises(
        UserError, match=r"^model.optimizer \(the command line\): recipe_standins.called is not a subclass"
    ):
        build({}, "--model.optimizer", "recipe_standins.called")
    write("callback.yaml", yaml.safe_dump(open_callback(anything=CLASS)["trainer"]["callbacks"][0]))
    with pytest.raises(UserError, match=rf"^trainer.callbacks.init_args.anything \(r.yaml\): \S+ {NO_CLASS}"):
        build({"trainer": {"callbacks": ["callback.yaml"]}})


def test_classes_that_the_types_allow_are_built(build: Callable[..., RecipeCLI]) -> None:
    inner = {"class_path": "recipe_standins.Wide", "init_args": {"hidden": 2}}
    given = open_callback(inner=inner, each=["recipe_standins.Open"], table={"a": 1}, anything="recipe_standins.called")
    trainer = {
        **given["trainer"],
        "logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "x"}}],
        "plugins": [{"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}],
        "strategy": {"class_path": "SingleDeviceStrategy", "init_args": {"device": "cpu"}},
        "profiler": "simple",
        "max_time": "00:00:01:00",
    }
    model = {
        "projector": inner,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}},
        "scheduler": {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "loss"}},
        "slots": {"lr": {"lr": 1}, "projector": {"trainable": False}},
    }
    cli = build({"trainer": trainer, "model": model})
    callback = next(callback for callback in cli.trainer.callbacks if isinstance(callback, Open))
    assert callback.inner(2, 1).sizes == (2, 1, 2)
    assert isinstance(callback.each[0], Open)
    assert cli.model.slots["lr"].lr == 1


def test_types_are_found_in_bases_and_behind_decorators() -> None:
    class Child(Open):
        def __init__(self, own: recipe_standins.Words | None = None, other: Missing = None, **rest: Any) -> None:  # noqa: F821
            super().__init__(**rest)

    types = argument_types(Child)
    assert types["own"] == recipe_standins.Words | None
    assert types["each"] == list[Callback] | None
    assert "other" not in types
    assert "callbacks" in argument_types(Trainer)
