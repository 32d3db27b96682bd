from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from data.own_kinds import Heights, Moves, Sketch, moves
from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.kinds import Chat, Document, Kinds, Pair, RecordKind, Sample
from mmcomponents.data.chat.rendered_sample import RenderedSample, Span
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.data.inspection import Opened, ShownSample, inspect_data, open_part, render_page, show_sample, survey
from mmcomponents.data.inspection.pack_statistics import measure_packing
from mmcomponents.data.inspection.sample_view import show_samples
from mmcomponents.data.inspection.token_text import Piece
from mmcomponents.data.media.images import ImageError, TiledImage
from mmcomponents.extras import Extra

from .conftest import picture, png

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


class Shades(RecordKind):
    """Two segments, each with an image of pixels that the kind makes itself."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "shades" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        ramp = torch.arange(28.0 * 28).view(1, 1, 28, 28).expand(1, 3, 28, 28)
        images = [TiledImage(ramp - 1000, visual_tokens=3), TiledImage(torch.cat([ramp, ramp / 1000]), visual_tokens=8)]
        segments = [
            RenderedSample([0] * count, [IGNORE] * count, [Span(0, count, TokenType.IMAGE, 0)], [image])
            for image, count in zip(images, (3, 8), strict=True)
        ]
        segments[1].images.append(TiledImage(ramp))  # that no token refers to
        segments[1].extras["heights"] = Heights(torch.ones(1))
        return segments

    def empty(self) -> dict[str, Extra]:
        return {"heights": Heights(torch.ones(0))}


@pytest.fixture
def own(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Opened:
    """Samples of kinds of another package."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with ShardWriter(tmp_path, "own") as writer:
        files = [("png", png(56, 28))]
        writer.write("go", {"task": "Go there.", "source": "robot"}, files, {"moves.npy": moves(1, 2, 3, 4)})
        writer.write("sketch", {"sketch": 2, "source": "drawn"})
        writer.write("shades", {"shades": 2, "source": "drawn"})
        writer.write("two", {"text": "plain words", "task": "or a task"})
    kinds = [Chat(), Document(), Pair(), Moves(), Sketch(), Shades()]
    build_index(writer.paths[0], tokenizer, kinds=Kinds(kinds))
    settings = {"tile_size": 28, "max_tiles": 4, "pack_tokens": 300, "pack_tiles": 9, "num_workers": 0}
    module = PackedDataModule(str(tmp_path / "tokenizer"), 4, str(writer.paths[0]), kinds=kinds, **settings)
    return open_part(module, "train")


def test_samples_of_other_kinds_are_shown_with_their_tokens_and_own_images(own: Opened) -> None:
    shown = show_sample(own.packs, 0)
    assert (shown.kind, shown.source, shown.tiles, shown.answers) == ("moves", "robot", 3, [])
    assert ("other", "action", 2) in [(piece.kind, piece.text, piece.tokens) for piece in shown.text]
    assert shown.tokens == sum(piece.tokens for piece in shown.text)
    assert [image.name for image in shown.pictures] == ["image 1"]
    sketch = show_sample(own.packs, 1)
    assert (sketch.kind, sketch.tiles) == ("Sketch", 2)
    (image,) = sketch.pictures
    assert (image.name, image.visual_tokens, image.tiles) == ("image of the kind Sketch", "4", [])
    assert (image.num_tiles, image.detail) == (2, "2 × 2 ids in each tile")
    assert shown.fields == ["actions: values [2, 2], mask [2]"]
    assert sketch.fields == []
    (two,) = [found for found in map(partial(show_sample, own.packs), range(3)) if found.kind == "Shades"]
    assert (two.tiles, two.fields) == (4, ["heights of segment 2: value [1]"])
    assert [(image.name, image.visual_tokens, len(image.tiles)) for image in two.pictures] == [
        ("image of the kind Shades", "3", 1),
        ("image of the kind Shades", "8", 2),
        ("image of the kind Shades", "no", 1),
    ]
    # Whatever the pixels are, the smallest is black and the largest white.
    assert [image.tiles[-1].getextrema()[0] for image in two.pictures] == [(0, 255)] * 3
    assert [piece.text for piece in two.text if piece.kind == "image"] == ["1", "2"]


def test_a_page_shows_images_of_ids_and_fields(own: Opened) -> None:
    report = inspect_data(own, shown=10)
    page = render_page(report, show_samples(own.packs, range(3)), "own")
    assert "2 tiles of ids, 4 visual tokens" in page
    assert "image of the kind Sketch: 2 × 2 ids in each tile, 4 visual tokens" in page
    assert "actions: values [2, 2], mask [2]" in page
    assert "shown between their smallest and largest value" in page


def test_a_survey_counts_samples_of_other_kinds(own: Opened) -> None:
    found = survey(own.mixture)
    sources = {source.name: source for source in found.sources}
    assert (sources["robot"].samples, sources["robot"].tiles) == (1, 3)
    assert (sources["drawn"].samples, sources["drawn"].tiles) == (2, 6)
    (refusal,) = found.refusals
    assert refusal.reason == 'wrong JSON: the kinds document and moves both match its keys "task", "text"'
    packing = measure_packing(own.packs.plan)
    assert (packing.samples, packing.packs) == (3, 1)
    assert packing.tile_fill == pytest.approx(9 / 9)
