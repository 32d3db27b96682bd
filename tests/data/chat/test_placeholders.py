from __future__ import annotations

import pytest

from mmcomponents.data.chat.placeholders import frame_prompt, place_image, place_media, place_video
from mmcomponents.data.chat.special_tokens import ConversationError


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_the_text_of_frames() -> None:
    assert frame_prompt(1) == "Frame-1: <image>"
    assert frame_prompt(3) == "Frame-1: <image>\nFrame-2: <image>\nFrame-3: <image>"
    assert frame_prompt(2, "Frame{number}: <image>") == "Frame1: <image>\nFrame2: <image>"
    assert frame_prompt(2, "Frame{number}:<image>", " ") == "Frame1:<image> Frame2:<image>"
    assert frame_prompt(2, "{number}{x}{0}<image>") == "1{x}{0}<image>\n2{x}{0}<image>", "no other braces are read"
    with pytest.raises(ValueError, match="0 frames"):
        frame_prompt(0)
    for template, separator in (("Frame", "\n"), ("<image><image>", "\n"), ("<image>", "<image>"), ("x", "<image>")):
        with pytest.raises(ValueError, match="must have <image> once"):
            frame_prompt(2, template, separator)


def test_a_video_is_put_where_it_is_asked_for() -> None:
    chat = turns("look: <video>\nWhat?", "A film.", "and <video>")
    placed = place_video(chat, [2, 1], "F{number}:<image>")
    assert [turn["content"] for turn in placed] == [
        "look: F1:<image>\nF2:<image>\nWhat?",
        "A film.",
        "and F1:<image>",
    ]
    assert chat[0]["content"] == "look: <video>\nWhat?"
    system = [{"role": "system", "content": "s"}, *turns("What?")]
    assert place_video(system, [2])[1]["content"] == "Frame-1: <image>\nFrame-2: <image>\nWhat?"
    assert place_video(turns("What?"), []) == turns("What?")


@pytest.mark.parametrize("placeholder", ["<image>", "<video>"])
@pytest.mark.parametrize("user", ["Draw a cat.", "{0} A cat like this one."])
def test_what_the_assistant_shows_is_not_moved_to_the_user(placeholder: str, user: str) -> None:
    chat = turns(user.format(placeholder), f"Here: {placeholder}")
    media = {"images": ["i"], "videos": []} if placeholder == "<image>" else {"images": [], "videos": [["a"]]}
    with pytest.raises(ConversationError, match=rf"{placeholder} in turn 2, which is the assistant's: .*data\.kinds"):
        place_media(chat, **media)
    with pytest.raises(ConversationError, match=rf"{placeholder} in turn 1, which is the system's"):
        place_media([{"role": "system", "content": placeholder}, *turns("What?", "A.")], **media)


def test_without_images_a_placeholder_is_a_word_of_the_answer() -> None:
    chat = turns("Which tag shows a picture?", "<image>")
    assert place_media(chat, [], []) == (chat, [])


@pytest.mark.parametrize(
    ("text", "videos", "message"),
    [
        ("<video> <video>", 1, "2 <video>.*1 videos?"),
        ("<video>", 0, "1 <video>.*0 videos"),
        ("x", 2, "0 <video>.*2 videos"),
    ],
)
def test_videos_and_places_must_agree(text: str, videos: int, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        place_video(turns(text), [3] * videos)


def test_images_and_videos_in_the_order_of_the_text() -> None:
    chat = turns("<video> then <image>", "fine", "<image><video>")
    placed, order = place_media(chat, ["i", "j"], [["a", "b"], ["c"]], "{number}<image>", "")
    assert [turn["content"] for turn in placed] == ["1<image>2<image> then <image>", "fine", "<image>1<image>"]
    assert order == ["a", "b", "i", "j", "c"]
    placed, order = place_media(turns("What?"), ["i"], [["a", "b"]])
    assert placed[0]["content"] == "<image>\n<video>\nWhat?".replace("<video>", frame_prompt(2))
    assert order == ["i", "a", "b"]
    assert place_media(turns("What?"), [], []) == (turns("What?"), [])
    with pytest.raises(ConversationError, match=r"1 <image> placeholders in the user's turns, 2 images"):
        place_media(turns("<image> <video>"), ["i", "j"], [["a"]])
    odd = [{"role": "user", "content": None}, 3]
    assert place_media(odd, [], [])[0] == odd, "found out when the conversation is rendered"  # type: ignore[arg-type]


def test_a_single_image_needs_no_placeholder() -> None:
    assert place_image(turns("What?", "a", "b"), 1)[0]["content"] == "<image>\nWhat?"
    assert place_image(turns("a <image>"), 1) == turns("a <image>")
    assert place_image(turns("a"), 2) == turns("a")
