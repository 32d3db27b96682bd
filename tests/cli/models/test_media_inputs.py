"""Images and videos of a prompt, and boxes of an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from mmcomponents.cli.models.media_inputs import Media, check_boxes, draw_boxes
from mmcomponents.cli.user_error import UserError


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "white").save("photo.png")
    return "photo.png"


def test_placeholders_are_added_where_a_prompt_has_none(picture: str) -> None:
    media = Media()
    media.add_image(picture)
    media.add_image(picture)
    media.videos.append([media.images[0]])
    assert media.mark("What is it?") == "<image>\n<image>\n<video>\nWhat is it?"
    assert media.mark("<image> and <image>") == "<video>\n<image> and <image>"


def test_missing_and_broken_files_are_named(picture: str) -> None:
    with pytest.raises(UserError, match=r"phot\.png.*did you mean"):
        Media().add_image("phot.png")
    Path("broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image 'broken\.png' cannot be read"):
        Media().add_image("broken.png")
    with pytest.raises(UserError, match=r"video 'broken\.png' cannot be read"):
        Media().add_video("broken.png", 4)


@pytest.mark.parametrize(
    ("out", "images", "prompts", "message"),
    [
        ("out.png", 2, 1, "one image and one prompt, got 2 and 1"),
        ("nowhere/out.png", 1, 1, "there is no folder 'nowhere'"),
        (".", 1, 1, "is a folder"),
        ("out.txt", 1, 1, "suffix of an image format"),
    ],
)
def test_boxes_are_refused_before_the_model_runs(
    picture: str, out: str, images: int, prompts: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_boxes(out, images, prompts)


def test_boxes_are_drawn_and_their_absence_is_reported(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = Image.open(picture)
    draw_boxes("<ref>a dog</ref><box>[[100, 100, 900, 900]]</box>", image, "out.png")
    assert ImageChops.difference(Image.open("out.png").convert("RGB"), image).getbbox() is not None
    assert capsys.readouterr().err == ""
    draw_boxes("no dog", image, "none.png")
    assert "the answer contains no boxes" in capsys.readouterr().err
