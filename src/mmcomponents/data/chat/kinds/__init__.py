r"""Record kinds: which JSON a sample may have, and how it becomes segments of a pack.

    record, images, videos, members ── RecordKind.render ──► RenderedSample (ids, labels, spans, images, extras)

    chat      {"messages": [{"role": "user", "content": "<image>\nHow many?"}, …], "source": "counting"}
    document  {"text": "Plain text with <image> placeholders.", "source": "books"}
    pair      {"messages": [… ending with a user turn], "chosen": "…", "rejected": "…", "source": "preferences"}
    boxes     {"boxes": [[left, top, right, bottom], …], "labels": [3, …], "size": [width, height], "source": "coco"}
    picture   {"caption": "a red bus", "source": "captions"}, to be made from its caption
    reasoned  {"request": "Generate an image of: a bus", "reasoning": "a bus <box>[[…]]</box> (red)"}, picture.png
    actions   {"goal": "go to the red disc", "actions": 8, "dataset": "tabletop-…", "source": "tabletop"}, actions.npy

`"clips": [[start, end] or null, …]` restricts each video to a range in seconds. Other keys are kept but not read. The
contract is `RecordKind` in `base.py`; `data.kinds` of a recipe names the kinds of other packages.
"""

from mmcomponents.data.chat.kinds.action_chunk import ActionChunk
from mmcomponents.data.chat.kinds.base import Measured, RecordKind, Sample, as_sample_error, ask, kind_name, render
from mmcomponents.data.chat.kinds.boxed_image import BoxedImage
from mmcomponents.data.chat.kinds.captioned_picture import CaptionedPicture
from mmcomponents.data.chat.kinds.chat_record import Chat
from mmcomponents.data.chat.kinds.document_record import Document
from mmcomponents.data.chat.kinds.kind_list import Kinds
from mmcomponents.data.chat.kinds.pair_record import Pair
from mmcomponents.data.chat.kinds.reasoned_picture import ReasonedPicture
from mmcomponents.data.chat.kinds.scored_steps import ScoredSteps

__all__ = [
    "ActionChunk",
    "BoxedImage",
    "CaptionedPicture",
    "Chat",
    "Document",
    "Kinds",
    "Measured",
    "Pair",
    "ReasonedPicture",
    "RecordKind",
    "Sample",
    "ScoredSteps",
    "as_sample_error",
    "ask",
    "kind_name",
    "render",
]
