"""Mistakes that are found before torch is imported, with the messages of the complete check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents.cli.recipes.early_check import check_command, keys_of
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask

QUICKSTART = ["--config", "quickstart"]
WRONG = [
    ["--config", "quickstar"],
    [*QUICKSTART, "--modle.projector", "LinearProjector"],
    [*QUICKSTART, "--foo", "1"],
    [*QUICKSTART, "--model.fooo", "1"],
    [*QUICKSTART, "--trainer.max_step", "1"],
    [*QUICKSTART, "--data.pack_tokenss", "1"],
    [*QUICKSTART, "--model.projector", "Linear"],
    [*QUICKSTART, "--model.projector.hidden", "1"],
    [*QUICKSTART, "--model.heads.lm.tiedd", "true"],
    [*QUICKSTART, "--model.objective", "{class_path: MPO, init_args: {bta: 1}}"],
    [],
]


@pytest.mark.parametrize("argv", WRONG)
def test_both_checks_say_the_same(argv: list[str]) -> None:
    with pytest.raises(UserError) as early:
        check_command("fit", argv)
    with pytest.raises(UserError) as complete:
        RecipeCLI("fit", sort_flags(argv), MultimodalTask, PackedDataModule)
    assert str(early.value) == str(complete.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--print_config"],
        [*QUICKSTART, "--model.optimizer.lr", "1", "--data.pack_tokens", "128", "--trainer.max_steps", "3"],
        [
            *QUICKSTART,
            "--model.projector",
            "my_package.Projector",
            "--ckpt_path",
            "last.ckpt",
            "--weights_only",
            "true",
        ],
        [*QUICKSTART, "--data", "my_package.Data", "--data.own", "1"],
        ["--config", "piip/llava-7b-stage1"],
    ],
)
def test_what_cannot_be_decided_is_left_to_the_complete_check(argv: list[str]) -> None:
    check_command("fit", argv)


def test_verbs_with_options_of_their_own_have_their_recipes_checked() -> None:
    check_command("plan", ["--config", "internvl3/8b", "--devices", "8", "--unknown", "1"])
    check_command("generate", ["folder", "--prompt", "What?"])
    for argv in (["--config", "internvl3/8bb"], ["--devices", "8", "-c", "internvl3/8bb"], ["--config=internvl3/8bb"]):
        with pytest.raises(UserError, match=r"there is no recipe 'internvl3/8bb'; did you mean 'internvl3/8b'"):
            check_command("plan", argv)


def test_keys_of_a_verb_are_those_of_its_parser() -> None:
    keys = keys_of("fit")
    assert {"seed_everything", "ckpt_path", "model.projector", "data.packing", "trainer.max_steps"} <= {*keys}
    assert "datamodule" not in keys
    assert "model.former" not in keys


@pytest.mark.parametrize(
    "argv",
    [
        ["-V"],
        ["--help"],
        ["recipes"],
        ["components", "projector"],
        ["fit", "--model.projector.help"],
        ["ft"],
        WRONG[0],
        ["fit", *WRONG[0]],
        ["fit", *WRONG[2]],
        ["fit", *WRONG[5]],
        ["fit", *WRONG[7]],
        ["plan", *WRONG[0]],
        ["generate", "--help"],
        ["plan", "--help"],
        ["evaluate", "--help"],
        ["data"],
        ["completion"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported(argv: list[str], write: Callable[[str, str], Path]) -> None:
    script = write(
        "run.py",
        "import sys\nfrom mmcomponents.cli.main import main\nmain(sys.argv[1:])\n"
        "print(sorted({'torch', 'lightning', 'transformers'} & {*sys.modules}))\n",
    )
    done = subprocess.run([sys.executable, script, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
