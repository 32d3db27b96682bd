"""Flags that a later flag would drop."""

from __future__ import annotations

import pytest

from mmcomponents.cli.recipes.early_check import recipe_of
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.merging import Tree
from mmcomponents.cli.user_error import UserError


def tree(words: str) -> Tree:
    return recipe_of(["quickstart"], sort_flags(words.split()).settings).tree


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model.optimizer.lr 0.1 --model.optimizer torch.optim.SGD", "--model.optimizer after --model.optimizer.lr"),
        ("--model.optimizer.lr 0.1 --model.optimizer.class_path torch.optim.SGD", "after --model.optimizer.lr drops"),
        ("--model.optimizer.init_args.lr 0.1 --model.optimizer SGD", "after --model.optimizer.lr drops its value"),
        ("--model.position.base 5 --model.position null", "--model.position after --model.position.base drops"),
        ("--data.train a --data their.Data", "--data after --data.train drops its value: give --data first"),
    ],
)
def test_a_value_that_a_later_class_drops_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tree(words)


def test_values_after_a_class_and_of_the_same_class_are_kept() -> None:
    after = tree("--model.optimizer torch.optim.SGD --model.optimizer.lr 0.1")["model"]["optimizer"]
    assert after == {"class_path": "torch.optim.SGD", "init_args": {"lr": "0.1"}}
    same = tree("--model.optimizer.lr 0.1 --model.optimizer AdamW")["model"]["optimizer"]
    assert same["init_args"]["lr"] == "0.1"
    lists = tree("--trainer.callbacks+ their.A --trainer.callbacks.x 1 --trainer.callbacks+ their.B")
    assert lists["trainer"]["callbacks"][-2:] == [{"class_path": "their.A", "init_args": {"x": "1"}}, "their.B"]
