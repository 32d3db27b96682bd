"""Marks of other programs in the texts of turns: media that the text names, and placeholders of other models."""

from __future__ import annotations

import re

from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.refused import Refused

_NAMED = re.compile(r"<(img|image|video|audio)>\s*([^<>\n]{1,4096}?)\s*</\1>")
"""A file or URL in the text, as in the data of Qwen-VL."""
_PLACEHOLDERS = re.compile(
    r"<\|(?:image|video|audio)(?:_pad|_\d+)?\|>|<\|vision_(?:start|end)\|>|<(?:start|end)_of_image>|<image_\d+>"
    r"|<image \d+>|<\|(?:object_ref|box|quad)_(?:start|end)\|>|<image_placeholder>|<ImageHere>"
    r"|\[IMG\]|<IMG_CONTEXT>|<VIDEO_CONTEXT>"
)
"""Placeholders and marks of Qwen2-VL, Phi-3.5-V, Gemma 3, LLaVA's and InternLM-XComposer's data, Pixtral, InternVL."""


def take_named_media(draft: Draft) -> None:
    """Makes media that the texts name media of the sample, in place, with placeholders where they were named.

    Raises:
        Refused: The sample has other media of this kind, an answer names one, or one is a sound; or a text has a
            placeholder of another model.
    """
    found: dict[str, list[str]] = {IMAGE_PLACEHOLDER: [], VIDEO_PLACEHOLDER: []}

    def place(match: re.Match[str]) -> str:
        kind, path = match.groups()
        if kind == "audio":
            raise Refused("unknown_media", f"a text names the sound {path[:80]!r}, which training does not support")
        placeholder = VIDEO_PLACEHOLDER if kind == "video" else IMAGE_PLACEHOLDER
        found[placeholder].append(path)
        return placeholder

    for message in draft.messages:
        named = _NAMED.search(message["content"])
        if named and message["role"] != "user":
            raise Refused("placeholders", f"the {message['role']}'s turn names {named[0][:80]!r}; only the user's may")
        text = _NAMED.sub(place, message["content"])
        if other := _PLACEHOLDERS.search(text):
            wanted = f"{IMAGE_PLACEHOLDER} or {VIDEO_PLACEHOLDER}"
            raise Refused("placeholders", f"a text has {other[0]}, a mark of another program; write {wanted}")
        message["content"] = text
    for answer in draft.answers or ():
        if marked := _NAMED.search(answer) or _PLACEHOLDERS.search(answer):
            raise Refused("placeholders", f"an answer has {marked[0][:80]!r}; only the user's turns may have media")
    for placeholder, own in ((IMAGE_PLACEHOLDER, draft.images), (VIDEO_PLACEHOLDER, draft.videos)):
        if found[placeholder] and own:
            raise Refused("bad_field", f"media both in the text ({found[placeholder][0][:80]!r}) and beside it")
        own += found[placeholder]
    draft.clips += [None] * (len(draft.videos) - len(draft.clips))
