r"""A turn in the form of chat messages: a text, or parts that are texts, images and videos.

Where the texts of a turn hold no placeholder, each image or video stands where its part does, as `<image>\n` or
`<video>\n`, which is how InternVL's own chat template writes it. Where they do, the parts only name the files, in the
order of the placeholders: XTuner's form, whose words for them are `<IMG_CONTEXT>` and `<VIDEO_CONTEXT>`.
"""

from __future__ import annotations

from typing import Any

from mmcomponents.data.annotations.refused import Refused
from mmcomponents.data.annotations.wording import counted, kind_name
from mmcomponents.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

_KINDS = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_PLACEHOLDERS = {"image": IMAGE_PLACEHOLDER, "video": VIDEO_PLACEHOLDER}
_CLIP_KEYS = ("start", "end", "clip", "video_start", "video_end")
_OTHER_WORDS = {"<IMG_CONTEXT>": IMAGE_PLACEHOLDER, "<VIDEO_CONTEXT>": VIDEO_PLACEHOLDER}


def read_turn(content: object, role: str, number: int) -> tuple[str, list[str], list[str]]:
    """The text of a turn, its images and its videos.

    Args:
        content: What the message holds.
        role: Of the turn.
        number: Of the turn, from 1 on.

    Raises:
        Refused: It is neither a text nor a list of parts, or placeholders and media differ.
    """
    if isinstance(content, str):
        return content, [], []
    if not isinstance(content, list):
        raise Refused("bad_field", f"turn {number}: the content is neither a text nor a list of parts")
    parts = [_part(part, number) for part in content]
    media = {kind: [value for other, value in parts if other == kind] for kind in _PLACEHOLDERS}
    if role != "user" and (media["image"] or media["video"]):
        raise Refused("placeholders", f"turn {number}, of the {role}, has media, which only the user may send")
    if media["image"] or media["video"]:
        parts = [(kind, _one_word(value) if kind == "text" else value) for kind, value in parts]
    texts = "".join(value for kind, value in parts if kind == "text")
    written = {kind: texts.count(word) for kind, word in _PLACEHOLDERS.items()}
    for kind, word in _PLACEHOLDERS.items():
        if written[kind] not in (0, len(media[kind])) and media[kind]:
            raise Refused(
                "placeholders",
                f"turn {number}: {written[kind]} {word} in its text, {counted(len(media[kind]), f'{kind} part')}",
            )
    text = "".join(
        value if kind == "text" else "" if written[kind] else f"{_PLACEHOLDERS[kind]}\n" for kind, value in parts
    )
    return text, media["image"], media["video"]


def _one_word(text: str) -> str:
    for other, word in _OTHER_WORDS.items():
        text = text.replace(other, word)
    return text


def _part(part: object, number: int) -> tuple[str, str]:
    """Kind and value of a part: a text, or where an image or a video is."""
    if not isinstance(part, dict):
        raise Refused("bad_field", f"turn {number}: a part is {kind_name(part)}, not an object with a type")
    name = part.get("type")
    if name == "text":
        if not isinstance(part.get("text"), str):
            raise Refused("bad_field", f"turn {number}: a part of type text has no text")
        return "text", part["text"]
    if not isinstance(name, str) or name not in _KINDS:
        raise Refused("unknown_media", f"turn {number}: a part of type {str(name)[:40]!r}, which is not known")
    kind = _KINDS[name]
    value: Any = next((part[key] for key in (name, f"{kind}_url", kind, "url", "path") if key in part), None)
    for key in _CLIP_KEYS if kind == "video" else ():
        if part.get(key) is not None or (isinstance(value, dict) and value.get(key) is not None):
            hint = "write 'clips' beside the messages, one entry a video"
            raise Refused("unsupported", f"turn {number}: a part of type {name} has {key!r}; {hint}")
    if isinstance(value, dict):
        value = next((value[key] for key in ("url", "path") if key in value), None)
    if not isinstance(value, str) or not value:
        raise Refused("bad_field", f"turn {number}: a part of type {name} names no file")
    return kind, value
