from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.inspection import Opened, ShownSample, show_sample
from mmcomponents.data.inspection.sample_view import show_samples
from mmcomponents.data.inspection.token_text import Piece
from mmcomponents.data.media.images import ImageError

from .conftest import picture

Open = Callable[..., Opened]
WIDE, TWO, FILM, PAIR, DOC, HOSTILE, TRUNCATED = 0, 1, 2, 3, 4, 5, 12


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_tiles_are_those_of_the_model_in_their_grid(open_mixed: Open) -> None:
    shown = show_sample(open_mixed().packs, WIDE)
    assert (shown.name, shown.source, shown.kind) == ("mix-000000/wide", "pictures", "chat")
    assert (shown.tiles, shown.targets) == (9, 1 + len("A slope."))  # few merges are learnt: a token each
    (image,) = shown.pictures
    assert (image.name, image.detail, image.columns, image.visual_tokens) == ("image 1", "112 × 56 pixels", 4, "4 × 9")
    assert image.delta == "the model's own delta"
    whole = Image.new("RGB", (112, 56))
    for number, tile in enumerate(image.tiles):
        whole.paste(tile, (number % 4 * 28, number // 4 * 28))
    assert np.array_equal(np.asarray(whole), np.asarray(picture(112, 56)))
    assert image.thumbnail is not None
    assert np.array_equal(np.asarray(image.thumbnail), np.asarray(picture(112, 56).resize((28, 28))))


@pytest.mark.parametrize("normalization", ["clip", "siglip"])
def test_colours_come_back_from_any_normalisation(open_mixed: Open, normalization: str) -> None:
    shown = show_sample(open_mixed(normalization=normalization).packs, PAIR)
    assert np.array_equal(np.asarray(shown.pictures[0].tiles[0]), np.asarray(picture(28, 28)))


def test_images_share_the_budget_and_have_their_own_deltas(open_mixed: Open) -> None:
    first, second = show_sample(open_mixed(delta_log2=[2]).packs, TWO).pictures
    assert (first.columns, len(first.tiles), first.thumbnail) == (1, 1, None)
    assert (second.columns, len(second.tiles), second.visual_tokens) == (1, 2, "4 × 3")
    assert first.delta == second.delta == "delta 1/4"
    assert show_sample(open_mixed(delta_log2=[0]).packs, TWO).pictures[0].delta == "delta 1"


def test_frames_have_their_numbers(open_mixed: Open) -> None:
    opened = open_mixed()
    shown = show_sample(opened.packs, FILM)
    image, *frames = shown.pictures
    assert (image.name, image.video, shown.tiles) == ("image 1", 0, 5)
    assert [(frame.name, frame.video, len(frame.tiles)) for frame in frames] == [
        (f"frame {number}", 1, 1) for number in (1, 2, 3, 4)
    ]
    for frame in frames:
        place = int(frame.detail.split()[1])
        assert frame.detail == f"frame {place} of the clip, at {place / 10:.2f} s"
        assert np.asarray(frame.tiles[0]).mean() == pytest.approx(8 * place, abs=4)  # each is brighter by 8
    assert [frame.detail for frame in show_sample(opened.packs, FILM, epoch=1).pictures] != [
        frame.detail for frame in shown.pictures
    ]
    assert "Frame-4: " in joined(shown.text)


def test_the_answers_of_a_pair_stand_apart_from_what_they_share(open_mixed: Open) -> None:
    shown = show_sample(open_mixed().packs, PAIR)
    assert shown.kind == "pair"
    assert joined(shown.text).endswith("How many?<|im_end|>\n")
    assert [joined(answer) for answer in shown.answers] == [
        "<|im_start|>assistant\nThere are three.<|im_end|>\n",
        "<|im_start|>assistant\nThere are<|im_end|>\n",
    ]
    assert not any(piece.supervised for piece in shown.text)


def test_a_document_is_supervised_but_for_its_pictures(open_mixed: Open) -> None:
    shown = show_sample(open_mixed().packs, DOC)
    assert shown.kind == "document"
    assert [(piece.text, piece.supervised) for piece in shown.text] == [
        ("Look: ", True),
        ("<img>", False),
        ("1", False),
        ("</img>", False),
        (" A tree.", True),
        ("<|endoftext|>", True),
    ]


def test_a_sample_that_cannot_be_read_says_why(open_mixed: Open) -> None:
    packs = open_mixed().packs
    with pytest.raises(ImageError, match="broken image"):
        show_sample(packs, TRUNCATED)
    told: list[tuple[str, int, int]] = []
    broken, whole = show_samples(packs, [TRUNCATED, HOSTILE], progress=lambda *what: told.append(what))
    assert isinstance(broken, ShownSample)
    assert (broken.name, broken.source, broken.text) == ("mix-000000/truncated", "broken", [])
    assert "broken image" in broken.problem
    assert whole.problem == ""
    assert told == [("rendering samples", 1, 2), ("rendering samples", 2, 2)]
