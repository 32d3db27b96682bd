from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.placeholders import frame_prompt
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.loading.prompts import prompt_batch
from mmcomponents.data.media.images import NORMALIZATIONS, ImageError, pixels
from mmcomponents.data.media.tiling import Tiling

ROWS = 4


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> SampleRenderer:
    return SampleRenderer(tokenizer, ROWS, Tiling(1, 6, 28))


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def film(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (280, 28), (20 * number, 0, 0)) for number in range(count)]


def test_images_share_the_tiles_and_each_frame_has_one(renderer: SampleRenderer) -> None:
    wide = Image.new("RGB", (280, 28))
    assert [len(image.pixels) for image in renderer.tile([wide])] == [7]
    assert [len(image.pixels) for image in renderer.tile([wide] * 2)] == [4, 4], "three each, and thumbnails"
    assert [len(image.pixels) for image in renderer.tile([wide] * 9)] == [1] * 9
    assert [len(image.pixels) for image in renderer.tile_frames(film(9))] == [1] * 9
    at_least = SampleRenderer(renderer.tokenizer, ROWS, Tiling(2, 6, 28))
    assert [len(image.pixels) for image in at_least.tile_frames(film(2))] == [1, 1]


def test_a_film_and_images_in_one_prompt(renderer: SampleRenderer) -> None:
    frames, wide = film(3), Image.new("RGB", (280, 28))
    placed, images = renderer.place(ask("<image> before <video>\nand <image>?"), [wide, wide], [frames])
    assert [len(image.pixels) for image in images] == [4, 1, 1, 1, 4]
    assert placed[0]["content"] == f"<image> before {frame_prompt(3)}\nand <image>?"
    chat = renderer.prompt(placed, images)
    assert [count for _, count in chat.image_spans] == [ROWS * tiles for tiles in (4, 1, 1, 1, 4)]
    tile = [frames[1].resize((28, 28))]
    assert torch.equal(images[2].pixels, pixels(tile, *NORMALIZATIONS["imagenet"]))
    text = renderer.tokenizer.decode(chat.input_ids).replace("<IMG_CONTEXT>", "")
    assert (
        "<img></img> before Frame-1: <img></img>\nFrame-2: <img></img>\nFrame-3: <img></img>\nand <img></img>?" in text
    )
    named = SampleRenderer(renderer.tokenizer, ROWS, frame_template="Frame{number}:<image>")
    assert named.place(ask("What?"), videos=[film(2)])[0][0]["content"] == "Frame1:<image>\nFrame2:<image>\nWhat?"
    with pytest.raises(ConversationError, match="1 <video> placeholders in the user's turns, 0 videos"):
        renderer.place(ask("<video> What?"))


def test_a_pack_of_prompts_with_films(renderer: SampleRenderer) -> None:
    frames, image = film(3), Image.new("RGB", (28, 28))
    asks = [ask("one"), ask("<video>\ntwo"), ask("<image> three <video>"), ask("four")]
    batch = prompt_batch(asks, [[], [], [image], [image]], renderer, videos=[[frames], [frames], [frames], []])
    assert batch.num_segments == 4
    assert batch.images is not None
    assert len(batch.images.pixels) == 4, "the film and the image are there once"
    assert batch.layout.grid[:, 0].tolist() == [1, 1, 1, 1], "each frame is an image of its own"
    segments = batch.layout.segment_of_token()
    rows = [batch.visual_index[(segments == s) & (batch.visual_index >= 0)].tolist() for s in range(4)]
    assert rows[0] == rows[1] == list(range(3 * ROWS))
    assert rows[2] == [*range(3 * ROWS, 4 * ROWS), *range(3 * ROWS)]
    assert rows[3] == list(range(3 * ROWS, 4 * ROWS))
    with pytest.raises(ValueError, match="4 conversations, 1 lists of videos"):
        prompt_batch(asks, None, renderer, videos=[[frames]])


def test_every_kind_of_image_is_cut_alike(renderer: SampleRenderer) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(stored).save(buffer, "png", exif=exif)
    upright = Image.fromarray(np.rot90(stored, -1))
    expected = renderer.tile([upright])[0].pixels
    assert torch.equal(renderer.tile([Image.open(buffer)])[0].pixels, expected)
    assert torch.equal(renderer.decode([buffer.getvalue()])[0].pixels, expected)
    clear = renderer.tile([Image.new("RGBA", (28, 28), (0, 0, 0, 0))])[0].pixels
    assert torch.equal(clear, renderer.tile([Image.new("RGB", (28, 28), "white")])[0].pixels)
    with pytest.raises(ImageError, match="image too large"):
        renderer.tile([Image.new("1", (10_000, 10_000))])


def test_control_text_is_refused_where_that_is_chosen(tokenizer: PreTrainedTokenizerFast) -> None:
    strict = SampleRenderer(tokenizer, ROWS, control_text="refuse")
    assert SampleRenderer(tokenizer, ROWS).prompt(ask("<|im_end|>"), []).input_ids
    for render in (strict.prompt, strict.chat):
        turns = [*ask("a <|im_end|>")] + ([{"role": "assistant", "content": "b"}] if render == strict.chat else [])
        with pytest.raises(ConversationError, match=r"message 1, of the user, .* <\|im_end\|>"):
            render(turns, [])
    assert strict.prompt(ask("<ref>a</ref>"), []).input_ids


def test_settings_are_checked(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="encode, refuse, not 'x'"):
        SampleRenderer(tokenizer, ROWS, control_text="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have <image> once"):
        SampleRenderer(tokenizer, ROWS, frame_template="Frame")
