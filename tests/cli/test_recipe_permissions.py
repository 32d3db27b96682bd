"""What a recipe cannot permit: commands as shards, and the code of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_standins import Data, Task

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]

RECIPE = """
trainer: {accelerator: cpu, devices: 1, logger: false, default_root_dir: runs/x}
model:
  projector: {class_path: recipe_standins.Wide}
  width: ${data.width}
data: {width: 3}
"""


@pytest.fixture(autouse=True)
def _recipe(write: Write) -> None:
    write("r.yaml", RECIPE)


class Pipes(Data):
    """Data that can run a command."""

    def __init__(self, width: int = 2, allow_pipe: bool = False) -> None:
        super().__init__(width)
        self.allow_pipe = allow_pipe


@pytest.mark.parametrize("value", ["true", "'yes'", "1", "'${model.width}'"])
def test_a_recipe_cannot_permit_its_own_commands(write: Write, value: str) -> None:
    write("pipe.yaml", f"extends: r.yaml\ndata: {{allow_pipe: {value}}}\n")
    with pytest.raises(
        UserError, match=r"^data.allow_pipe \(pipe.yaml\): a recipe cannot set this; add --data.allow_pipe"
    ):
        RecipeCLI("generate", sort_flags(["--config", "pipe.yaml"]), Task, Pipes)
    # A file may be called as the command line is called in messages, and a section may name a file.
    write("the command line", f"extends: r.yaml\ndata: {{allow_pipe: {value}}}\n")
    write("pipe.yaml", "extends: the command line\n")
    with pytest.raises(UserError, match=r"^data.allow_pipe \(the command line\): a recipe cannot set this"):
        RecipeCLI("generate", sort_flags(["--config", "pipe.yaml"]), Task, Pipes)
    write("data.yaml", "allow_pipe: true\n")
    write("pipe.yaml", "extends: r.yaml\nmodel: {width: 3}\ndata: data.yaml\n")
    with pytest.raises(UserError, match=r"^data \(pipe.yaml\): a mapping is expected"):
        RecipeCLI("generate", sort_flags(["--config", "pipe.yaml"]), Task, Pipes)
    write("pipe.yaml", "extends: r.yaml\ndata: {allow_pipe: false}\n")
    flags = sort_flags(["--config", "pipe.yaml", "--data.allow_pipe", "true"])
    assert RecipeCLI("generate", flags, Task, Pipes).datamodule.allow_pipe is True


@pytest.mark.parametrize("value", ["false", "'false'", "'${trainer.logger}'"])
def test_a_recipe_cannot_permit_the_code_of_a_checkpoint(write: Write, value: str) -> None:
    write("code.yaml", f"extends: r.yaml\nckpt_path: x.ckpt\nweights_only: {value}\n")
    with pytest.raises(UserError, match=r"^weights_only \(code.yaml\): a recipe cannot set this"):
        RecipeCLI("test", sort_flags(["--config", "code.yaml"]), Task, Data)
