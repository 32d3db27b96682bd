from __future__ import annotations

import pytest

from data.own_kinds import Height, Moves
from mmcomponents.data.chat.kinds import Chat, Document, Pair, ScoredSteps
from mmcomponents.data.chat.kinds.named_kinds import named_kinds
from mmcomponents.registry import PartError


def test_kinds_by_name_and_by_path() -> None:
    assert [type(kind) for kind in named_kinds(None).kinds] == [Chat, Document, Pair]
    found = named_kinds(["Chat", "data.own_kinds.Moves", "data.own_kinds.Height"])
    assert [type(kind) for kind in found.kinds] == [Chat, Moves, Height]


def test_a_name_that_is_no_kind_is_refused() -> None:
    with pytest.raises(PartError, match=r"Chatt.*did you mean 'Chat'"):
        named_kinds(["Chatt"])
    with pytest.raises(PartError, match=r"torch\.nn\.Linear"):
        named_kinds(["torch.nn.Linear"])


def test_a_kind_that_needs_arguments_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"ScoredSteps cannot be built with these arguments \(.*words"):
        named_kinds(["ScoredSteps"])


def test_a_kind_whose_constructor_fails_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Moves) -> None:
        raise RuntimeError("no\nsuch file")

    monkeypatch.setattr(Moves, "__init__", fail)
    with pytest.raises(ValueError, match=r"Moves cannot be built \(RuntimeError: no such file\)$"):
        named_kinds(["data.own_kinds.Moves"])


def test_a_kind_with_arguments() -> None:
    (kind,) = named_kinds(["{class_path: ScoredSteps, init_args: {words: [good, bad]}}"]).kinds
    assert isinstance(kind, ScoredSteps)
    assert kind.words == ("good", "bad")
    listed = named_kinds(["[Chat, {class_path: ReasonedPicture, init_args: {picture_size: 36}}]"])
    assert [type(kind).__name__ for kind in listed.kinds] == ["Chat", "ReasonedPicture"]
    assert listed.flag == " --kinds Chat '{class_path: ReasonedPicture, init_args: {picture_size: 36}}'"
    with pytest.raises(ValueError, match=r"picture_size.*: name it as \{class_path: ReasonedPicture, init_args"):
        named_kinds(["ReasonedPicture"])
    for wrong in ("{class_path: 3}", "{class_path: Chat, args: {}}", "{class_path: Chat, init_args: 3, more: 4}"):
        with pytest.raises(ValueError, match=r"is not \{class_path: NAME"):
            named_kinds([wrong])
    with pytest.raises(ValueError, match="is no YAML"):
        named_kinds(["{class_path: ["])
