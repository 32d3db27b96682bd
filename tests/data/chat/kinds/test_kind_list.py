from __future__ import annotations

from typing import Any

import pytest
import torch

from data.own_kinds import Height, Moves
from mmcomponents.data.chat.kinds import Chat, Document, Kinds, Pair, RecordKind, ScoredSteps
from mmcomponents.data.errors import SampleError
from mmcomponents.extras import Actions, Boxes, Extra
from mmcomponents.movable import Exact

ASK = {"role": "user", "content": "How many?"}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"messages": [ASK]}, Chat),
        ({"text": "words", "more": 1}, Document),
        ({"messages": [ASK], "chosen": "3", "rejected": "4"}, Pair),
        ({"task": "pick it up"}, Moves),
        ({"height": 1.0, "of": "a tree"}, Height),
    ],
)
def test_each_record_has_one_kind(record: dict[str, Any], kind: type) -> None:
    assert type(Kinds([Chat(), Document(), Pair(), Moves(), Height()]).of(record)) is kind


def test_without_a_choice_the_kinds_are_the_built_in_ones() -> None:
    kinds = Kinds()
    assert [type(kind) for kind in kinds.kinds] == [Chat, Document, Pair]
    assert kinds.third_party == []
    assert not kinds.members
    assert kinds.empty() == {}
    assert kinds.path(kinds.kinds[0]) == ""


def test_kinds_of_other_packages_have_a_path() -> None:
    chat, own = Chat(), Moves(3)
    kinds = Kinds([chat, own])
    assert kinds.third_party == [own]
    assert kinds.members
    assert (kinds.path(chat), kinds.path(own)) == ("", "data.own_kinds.Moves")
    (empty,) = kinds.empty().values()
    assert isinstance(empty, Actions)
    assert empty.values.tensor.shape == (0, 3)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"no kind of record \(chat, document, pair\) matches its keys nothing: `mmcomponents data convert`"),
        ({"id": 1, "image": "a.jpg", "conversations": []}, r'keys "id", "image", "conversations": `mmcomponents data'),
        ({"id": 1}, r"kinds of other packages are named by data\.kinds"),
        ({str(number): number for number in range(9)}, '"5", …: `mmcomponents'),
        ({"k" * 100: 1}, f'keys "{"k" * 40}":'),
        ({"text": "a", "messages": []}, 'the kinds chat and document both match its keys "text", "messages"'),
        ({"text": 3}, r'"text" is not a text \(int\)'),
        ({"messages": {"role": "user"}}, r'"messages" is not a list \(dict\)'),
        ({"messages": 3}, r'wrong JSON: "messages" is not a list \(int\)'),
        ({"messages": [ASK], "chosen": "3"}, "a pair must have two texts"),
        ({"messages": [ASK], "chosen": "3", "rejected": None}, "a pair must have two texts"),
        ({"messages": [ASK], "chosen": "3", "rejected": "3"}, "are equal"),
    ],
)
def test_a_record_of_no_kind_is_described(record: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        Kinds().of(record)
    assert "\n" not in str(caught.value)


def test_a_record_of_two_kinds_is_refused_with_both() -> None:
    with pytest.raises(SampleError, match="the kinds document and moves both match its keys"):
        Kinds([Document(), Moves()]).of({"text": "a", "task": "b"})


def test_scored_steps_take_the_place_of_the_built_in_kinds() -> None:
    kinds = Kinds([ScoredSteps(["+", "-"])])
    assert kinds.third_party == []
    assert isinstance(kinds.of({"messages": [ASK]}), ScoredSteps)
    for record, name in (({"text": "a"}, "document"), ({"messages": [], "chosen": "a", "rejected": "b"}, "pair")):
        with pytest.raises(SampleError, match=f"a {name} has no verdicts"):
            kinds.of(record)
    assert list(kinds.empty()) == ["steps"]


class WithMembers(Moves):
    def __init__(self, members: Any) -> None:
        super().__init__()
        self.members = members  # type: ignore[misc]


class WithField(Moves):
    def __init__(self, name: str, extra: Any) -> None:
        super().__init__()
        self.extra = {name: extra}

    def empty(self) -> dict[str, Extra]:
        return self.extra


class Other(WithField):
    name = "Other"


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (lambda self: None, "RecordKind.empty of moves must return fields by name, not NoneType"),
        (lambda self: {}["a"], "RecordKind.empty of moves fails: KeyError: 'a'"),
    ],
)
def test_empty_returns_fields(empty: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moves, "empty", empty)
    with pytest.raises(ValueError, match=message):
        Kinds([Moves()])


@pytest.mark.parametrize("kinds", [[Chat(), Pair(), Chat()], [Moves(2), Chat(), Moves(3)]])
def test_a_kind_that_is_named_twice_is_refused(kinds: list[RecordKind]) -> None:
    with pytest.raises(ValueError, match=r"has two record kinds with the name (chat|moves): name each kind once"):
        Kinds(kinds)


def test_an_index_that_lacks_a_kind_is_known_by_its_problems() -> None:
    kinds = Kinds([Chat(), Moves(), Height()])
    assert kinds.flag == " --kinds Chat data.own_kinds.Moves data.own_kinds.Height"
    assert Kinds([Chat()]).flag == ""

    def problem(made: Kinds) -> str:
        with pytest.raises(SampleError) as caught:
            made.of({"odd": 1})
        return str(caught.value)

    assert kinds.indexed_without(problem(Kinds([Chat(), Moves()]))) == "chat, moves"
    assert kinds.indexed_without(problem(Kinds([Height(), Moves(), Chat(), Pair()]))) == ""
    assert kinds.indexed_without("another problem") == ""
    assert Kinds().indexed_without(problem(Kinds([Chat()]))) == ""


@pytest.mark.parametrize("members", ["moves.npy", ("json",), ("",), ("a/b.npy",), (3,)])
def test_members_are_suffixes_of_files(members: Any) -> None:
    with pytest.raises(ValueError, match="a tuple of suffixes is expected"):
        Kinds([WithMembers(members)])


def test_what_is_no_list_of_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.kinds is empty"):
        Kinds([])
    with pytest.raises(ValueError, match=r"data\.kinds takes instances of RecordKind, got <class"):
        Kinds([Moves])  # type: ignore[list-item]


def test_fields_of_two_kinds_with_one_name_are_of_one_class() -> None:
    boxes = Other("actions", Boxes.none())
    with pytest.raises(ValueError, match=r"the field actions of Other is Boxes, that of another kind Actions"):
        Kinds([Moves(), boxes])
    with pytest.raises(ValueError, match="the field pairs of moves is Boxes, not Pairs"):
        Kinds([WithField("pairs", Boxes.none())])
    with pytest.raises(ValueError, match="returns the field moves with items"):
        Kinds([WithField("moves", Actions(Exact(torch.zeros(1, 2)), torch.tensor([True])))])
