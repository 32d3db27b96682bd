"""Contract tests of every registered record kind and packer."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmcomponents import registry
from mmcomponents.data.chat.kinds import (
    ActionChunk,
    BoxedImage,
    CaptionedPicture,
    Chat,
    Document,
    Pair,
    ReasonedPicture,
    RecordKind,
    Sample,
    ScoredSteps,
)
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.packing import BalancedPacker
from mmcomponents.data.packing.base import Packer
from mmcomponents.testing import check_packer, check_record_kind

IMAGE = TiledImage.of_tiles(1)
ASK = [{"role": "user", "content": "<image>\nHow many?"}]
TWO = [*ASK, {"role": "assistant", "content": "+"}, {"role": "user", "content": "Sure?"}]
ANSWERED = [*TWO, {"role": "assistant", "content": "-"}]
_FILE = io.BytesIO()
np.save(_FILE, np.ones((4, 2), np.float32))
CHUNK = _FILE.getvalue()
_PNG = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(_PNG, "png")
REASONED = {"request": "a red bus", "reasoning": "a bus <box>[[0, 0, 500, 500]]</box> (red)"}
OWN_SYSTEM = [{"role": "system", "content": "Count."}, {"role": "user", "content": "1 + 1?"}, ANSWERED[1]]

KINDS: dict[str, tuple[RecordKind, list[Sample]]] = {
    "Chat": (
        Chat(),
        [
            Sample({"messages": ANSWERED}, [IMAGE]),
            Sample({"messages": OWN_SYSTEM}),
            Sample({"messages": ANSWERED[2:]}),
            Sample({"messages": ANSWERED[2:]}, videos=[[IMAGE]]),
        ],
    ),
    "BoxedImage": (
        BoxedImage(),
        [
            Sample({"boxes": [[1, 2, 3, 4], [0, 0, 8, 6]], "labels": [0, 2], "size": [8, 6]}, [IMAGE]),
            Sample({"boxes": [], "labels": [], "size": [8, 6]}, [IMAGE]),
        ],
    ),
    "CaptionedPicture": (
        CaptionedPicture(0.5),
        [Sample({"caption": "a red bus"}, [IMAGE], key=(0, 0, n, 0), is_training=True) for n in range(3)],
    ),
    "ActionChunk": (
        ActionChunk(4, 2),
        [
            Sample({"goal": "go left", "actions": 4}, [IMAGE], members={"actions.npy": CHUNK}),
            Sample({"goal": "go to the right", "actions": 2}, [IMAGE], members={"actions.npy": CHUNK}),
        ],
    ),
    "ReasonedPicture": (
        ReasonedPicture(16, 4),
        [
            Sample(REASONED, members={"picture.png": _PNG.getvalue()}),
            Sample(REASONED | {"reasoning": ""}, [IMAGE], members={"picture.png": _PNG.getvalue()}),
        ],
    ),
    "Document": (Document(), [Sample({"text": "A <image> and a <image>."}, [IMAGE, IMAGE]), Sample({"text": "words"})]),
    "Pair": (Pair(), [Sample({"messages": ASK, "chosen": "3", "rejected": "30"}, [IMAGE])]),
    "ScoredSteps": (ScoredSteps(["+", "-"]), [Sample({"messages": ANSWERED}, [IMAGE])]),
}
PACKERS: dict[str, Packer] = {"BalancedPacker": BalancedPacker()}


@pytest.mark.parametrize("name", KINDS)
def test_record_kinds(name: str) -> None:
    kind, samples = KINDS[name]
    assert len(check_record_kind(kind, samples).results) == 5


@pytest.mark.parametrize("name", PACKERS)
def test_packers(name: str) -> None:
    check_packer(PACKERS[name])


@pytest.mark.parametrize(("slot", "cases"), [("record_kind", KINDS), ("packer", PACKERS)])
def test_every_registered_part_has_a_case(slot: str, cases: dict[str, object]) -> None:
    own = {part.name for part in registry.available(slot) if part.package == "mmcomponents"}
    assert own
    assert own == set(cases)
