r"""Reader of turns in the form of chat messages: a text, or parts that are texts, images and videos.

If the texts of a turn have no placeholder, each image or video part is replaced by `<image>\n` or `<video>\n`, as in
InternVL's own chat template. If they have, the parts only give the files, in the order of the placeholders. This is
XTuner's form, with the placeholders `<IMG_CONTEXT>` and `<VIDEO_CONTEXT>`. Parts without a file, as in TRL's data, only
give the places of the media beside the messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from mmcomponents.data.convert.harmless_keys import PART_KEYS, unknown_keys
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import counted, kind_name

_KINDS = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_PLACEHOLDERS = {"image": IMAGE_PLACEHOLDER, "video": VIDEO_PLACEHOLDER}
_CLIP_KEYS = ("start", "end", "clip", "video_start", "video_end")
_OTHER_PLACEHOLDERS = {"<IMG_CONTEXT>": IMAGE_PLACEHOLDER, "<VIDEO_CONTEXT>": VIDEO_PLACEHOLDER}


@dataclass(frozen=True)
class Content:
    """Content of a turn.

    Attributes:
        text: Its text, with placeholders.
        images: Path or URL of each image that its parts give.
        videos: Path or URL of each video that its parts give.
        rest: Other keys of each part.
        unknown: Names of those that are neither used nor known to be harmless.
    """

    text: str
    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    rest: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read_content(content: object, role: str, number: int) -> Content:
    """Reads the text, the images and the videos of a turn.

    Args:
        content: Content of the message.
        role: Role of the turn.
        number: Number of the turn, from 1.

    Raises:
        Refused: The content is neither a text nor a list of parts, or placeholders and media differ in number.
    """
    if isinstance(content, str):
        return Content(content)
    if not isinstance(content, list):
        raise Refused("bad_field", f"turn {number}: the content is neither a text nor a list of parts")
    read = [_part(part, number) for part in content]
    parts = [(kind, value) for kind, value, _ in read]
    media = {kind: [value for other, value in parts if other == kind] for kind in _PLACEHOLDERS}
    if role != "user" and (media["image"] or media["video"]):
        raise Refused("placeholders", f"turn {number}, of the {role}, has media, which only the user's turns may have")
    if media["image"] or media["video"]:
        parts = [(kind, _own_placeholders(value) if kind == "text" else value) for kind, value in parts]
    texts = "".join(value for kind, value in parts if kind == "text")
    written = {kind: texts.count(placeholder) for kind, placeholder in _PLACEHOLDERS.items()}
    for kind, placeholder in _PLACEHOLDERS.items():
        if written[kind] not in (0, len(media[kind])) and media[kind]:
            parts_found = counted(len(media[kind]), f"{kind} part")
            raise Refused("placeholders", f"turn {number}: {written[kind]} {placeholder} in its text, {parts_found}")
    text = "".join(
        value if kind == "text" else "" if written[kind] else f"{_PLACEHOLDERS[kind]}\n" for kind, value in parts
    )
    files = {kind: [value for value in values if value] for kind, values in media.items()}
    for kind, values in media.items():
        if 0 < len(files[kind]) < len(values):
            raise Refused("bad_field", f"turn {number}: some parts of type {kind} have a file, some have none")
    rest = [others for _, _, others in read]
    unknown = [key for others in rest for key in unknown_keys(others, PART_KEYS)]
    return Content(text, files["image"], files["video"], rest, unknown)


def _own_placeholders(text: str) -> str:
    for other, placeholder in _OTHER_PLACEHOLDERS.items():
        text = text.replace(other, placeholder)
    return text


def _part(part: object, number: int) -> tuple[str, str, dict[str, Any]]:
    """Reads a part.

    Returns:
        Its kind; its text, or the path or URL of its image or video, "" if it has none; its other keys.
    """
    if not isinstance(part, dict):
        raise Refused("bad_field", f"turn {number}: a part is {kind_name(part)}, not an object with a type")
    given = {key: value for key, value in part.items() if value is not None}  # null says nothing
    name = given.pop("type", None)
    if name == "text":
        if not isinstance(given.get("text"), str):
            raise Refused("bad_field", f"turn {number}: a part of type text has no text")
        return "text", given.pop("text"), given
    if not isinstance(name, str) or name not in _KINDS:
        raise Refused("unknown_media", f"turn {number}: a part of the unknown type {str(name)[:40]!r}")
    kind = _KINDS[name]
    values = [given.pop(key) for key in dict.fromkeys((name, f"{kind}_url", kind, "url", "path")) if key in given]
    inner = [dict(value) for value in values if isinstance(value, dict)]
    values += [value.pop(key) for value in inner for key in ("url", "path") if value.get(key) is not None]
    rest = {key: value for one in (given, *inner) for key, value in one.items() if value is not None}
    for key in _CLIP_KEYS if kind == "video" else ():
        if key in rest:
            hint = "write 'clips' beside the messages, one entry per video"
            raise Refused("unsupported", f"turn {number}: a part of type {name} has {key!r}; {hint}")
    files = [value for value in values if not isinstance(value, dict) and value != ""]
    if any(isinstance(value, list) for value in files):
        raise Refused("unsupported", f"turn {number}: a part of type {name} has a list of files; give one file")
    if not all(isinstance(value, str) for value in files):
        raise Refused("bad_field", f"turn {number}: a part of type {name} has no file")
    if len(set(files)) > 1:
        raise Refused("bad_field", f"turn {number}: a part of type {name} has {len(set(files))} files")
    return kind, files[0] if files else "", rest
