"""Short names of parts in the data section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recipe_standins import Alone

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.parts import resolve_data_parts, resolve_parts
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.data import PackedDataModule
from mmcomponents.data.chat.kinds import Chat, RecordKind
from mmcomponents.data.packing import BalancedPacker, Packer

Write = Callable[[str, str], Path]


@dataclass
class Group:
    """A group of settings.

    Attributes:
        packer: A packer.
        names: Texts.
    """

    packer: Packer | None = None
    names: list[str] | None = None


class Grouped:
    """Data with a part in a group, and one by its name in a mapping."""

    def __init__(self, group: Group, factory: Callable[[], Packer], text: str = "", kind: RecordKind | None = None):
        pass


def test_arguments_get_the_parts_of_the_slot_that_their_types_mention() -> None:
    section: dict[str, Any] = {
        "kinds": ["Chat", {"class_path": "Pair", "init_args": {}}, "mmcomponents.data.chat.kinds.Document"],
        "packer": "BalancedPacker",
        "tokenizer": "Chat",
    }
    resolve_data_parts(section, PackedDataModule, Recipe())
    kinds = "mmcomponents.data.chat.kinds"
    assert section == {
        "kinds": [
            {"class_path": f"{kinds}.Chat"},
            {"class_path": f"{kinds}.Pair", "init_args": {}},
            {"class_path": f"{kinds}.Document"},
        ],
        "packer": {"class_path": "mmcomponents.data.packing.BalancedPacker"},
        "tokenizer": "Chat",
    }
    packer = {"class_path": "mmcomponents.data.packing.BalancedPacker"}
    section = {"group": {"packer": "BalancedPacker", "names": ["Chat"]}, "factory": "BalancedPacker", "text": "Chat"}
    resolve_data_parts(section, Grouped, Recipe())
    assert section == {"group": {"packer": packer, "names": ["Chat"]}, "factory": packer, "text": "Chat"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kinds": ["Chat", "Documnt"]}, "data.kinds (r.yaml): no record_kind is called 'Documnt'; did you mean 'D"),
        ({"packer": "Chat"}, "data.packer (r.yaml): no packer is called 'Chat'"),
        ({"packer": "mmcomponents.data.chat.kinds.Chat"}, "mmcomponents.data.chat.kinds.Chat is not a packer, a "),
        ({"packer": {"class_path": "os.mkdir"}}, "data.packer (r.yaml): os.mkdir is not a packer, a subclass of "),
        ({"kinds": ["mmcomponents.data.chat.kinds.RecordKind"]}, "RecordKind is not a record_kind, a subclass of "),
        ({"packer": "recipe_standins.HalfPacker"}, "(r.yaml): recipe_standins.HalfPacker is abstract: it does no"),
        ({"kinds": "Chat"}, "data.kinds (r.yaml): a list is expected, such as [Chat]"),
        ({"kinds": {"class_path": "Chat"}}, "data.kinds (r.yaml): a list is expected, such as [Chat]"),
        ({"kinds": ["Chat", 5]}, "data.kinds (r.yaml): the name of a class, or a mapping with class_path and init_a"),
        ({"packer": 5}, "is expected, not 5"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_slot_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_data_parts(section, PackedDataModule, Recipe(origins={"data": "r.yaml"}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"projector": 5}, "model.projector: the name of a class, or a mapping with class_path and init_args, is expe"),
        ({"heads": {"lm": [5]}}, "model.heads.lm: the name of a class, or a mapping with class_path and init_args, is"),
        ({"sampler": "recipe_standins.HalfSampler"}, "model.sampler: recipe_standins.HalfSampler is abstract: it does"),
        ({"objective": "recipe_standins.HalfObjective"}, "Objective is abstract: it does not define counts, forward"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_model_is_one_line(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_parts({"model": model}, Recipe())
    assert message in str(caught.value)


def test_slots_of_the_data_are_not_looked_for_in_the_model() -> None:
    tree: dict[str, Any] = {"model": {"packer": "Nothing", "record_kind": "Nothing", "projector": "LinearProjector"}}
    resolve_parts(tree, Recipe())
    assert tree["model"]["packer"] == tree["model"]["record_kind"] == "Nothing"
    assert tree["model"]["projector"] == {"class_path": "mmcomponents.projectors.LinearProjector"}


def test_parts_of_other_packages_are_named_by_their_entry_points(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
    from mmcomponents.data.chat.kinds import Chat
    from mmcomponents.data.packing import BalancedPacker

    class Greeting(Chat):
        name = "greeting"

        def __init__(self, word: str = "hello") -> None:
            self.word = word

    class Loose(BalancedPacker):
        def __init__(self, slack: float = 0.5) -> None:
            self.slack = slack
    """
    write("greetings-1.0.dist-info/METADATA", "Name: greetings\nVersion: 1.0\n")
    entries = "[mmcomponents.components]\nrecord_kind.Greeting = greetings:Greeting\npacker.Loose = greetings:Loose\n"
    write("greetings-1.0.dist-info/entry_points.txt", entries)
    write("greetings.py", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(
        "r.yaml",
        """
        model: {}
        data:
          tokenizer: nowhere
          tokens_per_tile: 4
          kinds: [Chat, {class_path: Greeting, init_args: {word: hi}}]
          packer: Loose
        """,
    )
    cli = RecipeCLI(
        "generate", sort_flags(["--config", "r.yaml", "--data.packer.slack", "0.25"]), Alone, PackedDataModule
    )
    kinds: Any = cli.datamodule.kinds.kinds
    assert (type(kinds[0]), type(kinds[1]).__name__, kinds[1].word) == (Chat, "Greeting", "hi")
    assert (type(cli.datamodule.packer).__name__, cli.datamodule.packer.slack) == ("Loose", 0.25)
    flags = ["--config", "r.yaml", "--data.packer", "BalancedPacker", "--data.kinds+", "Pair"]
    cli = RecipeCLI("generate", sort_flags(flags), Alone, PackedDataModule)
    assert type(cli.datamodule.packer) is BalancedPacker
    assert [type(kind).__name__ for kind in cli.datamodule.kinds.kinds] == ["Chat", "Greeting", "Pair"]
