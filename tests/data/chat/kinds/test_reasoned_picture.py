"""Pictures to be made after a reasoning text. Contracts: tests/contracts/test_data_contracts.py."""

from __future__ import annotations

import pytest
import torch

import got
from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.kinds import ReasonedPicture
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.images import TiledImage
from mmcomponents.heads import Condition


def test_the_answer_is_the_reasoning_and_the_queries_of_the_picture() -> None:
    how = got.renderer()
    (segment,) = ReasonedPicture(got.SIDE, got.QUERIES).render(got.sample(), how)
    segment.check()
    ids, text = list(segment.input_ids), how.tokenizer
    (span,) = segment.spans
    assert (span.type, span.count) == (TokenType.QUERY, got.QUERIES)
    asked = "<|im_start|>user\nGenerate an image of: a red bus<|im_end|>\n<|im_start|>assistant\n"
    assert text.decode(ids[: span.start]) == f"{asked}{got.TEXT}<img>"
    assert ids[span.start : span.start + span.count] == [0, 1, 2, 3]
    assert text.decode(ids[span.start + span.count :]) == "</img><|im_end|>\n"
    assert text.decode([label for label in segment.labels if label != IGNORE]) == f"{got.TEXT}<img></img><|im_end|>"
    pictures, boxes = segment.extras["pictures"], segment.extras["drawn_boxes"]
    assert pictures.target.tensor[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert torch.equal(pictures.reference.tensor, torch.full((1, 3, 16, 16), -1.0))
    assert boxes.box.tensor.tolist() == [[0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 0.25]]
    assert boxes.colour.tensor.tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


def test_an_image_is_read_and_is_the_reference() -> None:
    how = got.renderer()
    file = got.png("blue")
    small = TiledImage(torch.zeros(1, 3, 8, 8))  # tiles of the encoder may have another size than pictures
    (segment,) = ReasonedPicture(got.SIDE, got.QUERIES).render(got.sample(images=(small,), files=(file,)), how)
    assert [span.type for span in segment.spans] == [TokenType.IMAGE, TokenType.QUERY]
    blue = torch.tensor([-1.0, -1.0, 1.0])[:, None, None].expand(3, 16, 16)
    torch.testing.assert_close(segment.extras["pictures"].reference.tensor[0], blue)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": got.png(side=12)}, "the picture has 12 x 12 pixels, and pictures are made with 16 x 16"),
        ({"picture": b"none"}, "not an image"),
        (
            {"images": (TiledImage(torch.zeros(1, 3, 16, 16)),), "files": (got.png(side=8),)},
            "reference picture has 8 x 8 pixels, and pictures are made with 16 x 16",
        ),
        ({"images": (TiledImage(torch.zeros(1, 3, 16, 16)),) * 2}, "got 2 images and videos"),
    ],
)
def test_pictures_of_another_size_are_skipped_with_both_numbers(change: dict[str, object], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        ReasonedPicture(got.SIDE, got.QUERIES).render(got.sample(**change), got.renderer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"request": " ", "reasoning": ""}, "the request has no text"),
        ({"request": "a bus", "reasoning": None}, '"reasoning" is not a text'),
        (
            {"request": "a bus", "reasoning": "<box>[[0, 0, 1200, 10]]</box> (red)"},
            r"the box \[0, 0, 1200, 10\] is partly outside of the picture, 0 to 1000",
        ),
    ],
)
def test_records_are_checked(record: dict[str, object], message: str) -> None:
    kind = ReasonedPicture(16)
    assert kind.matches(record)
    with pytest.raises(SampleError, match=message):
        kind.check(record)


def test_parts_of_other_sizes_are_refused_with_both_numbers() -> None:
    head: Condition = got.CONDITION(8, None)
    ReasonedPicture(16, 4).check_parts({"heads.picture": head, "heads.autoencoder": got.CODER(8, None)})
    with pytest.raises(ValueError, match=r"heads\.picture \(Condition\) has num_queries 4, and ReasonedPicture .* 5"):
        ReasonedPicture(16, 5).check_parts({"heads.picture": head})
    with pytest.raises(ValueError, match="has picture_size 16, and ReasonedPicture in data"):
        ReasonedPicture(32, 4).check_parts({"heads.autoencoder": got.CODER(8, None)})
