"""Common representation of annotations of all forms, before their media are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import beginning, counted, kind_name

Clip = list[float]
"""Begin and end in seconds."""

CLIP_ENDS = (("start", "end"), ("start_time", "end_time"), ("video_start", "video_end"))
"""Pairs of keys that give the clip of a video if there is no "clip"."""

RESERVED = ("messages", "text", "chosen", "rejected", "source", "clips", "kinds", "annotation")
"""Keys of a record with a meaning in shards."""


@dataclass
class Draft:
    """A sample according to its annotation.

    Attributes:
        messages: Turns; empty for a document. Those of a pair end with the user's.
        text: Text of a document; None for other samples.
        answers: Chosen and rejected answer of a pair; None for other samples.
        images: Path or data: URL of each image, in the order of `<image>`.
        videos: Path or data: URL of each video, in the order of `<video>`.
        clips: Begin and end in seconds for each video; None: the complete video.
        kept: Other keys of the annotation.
        members: Path or data: URL of each further member of the sample's record kind, by suffix.
        objects: Names and boxes for the marks in the texts, see `other_programs.objects`.
        turns: Other keys of each turn.
        unknown: Keys that are neither used nor known to be harmless.
        is_record: Whether `kept` is the record of a kind of another package, which has no text or messages.
    """

    messages: list[dict[str, str]] = field(default_factory=list)
    text: str | None = None
    answers: tuple[str, str] | None = None
    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    clips: list[Clip | None] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    objects: Any = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    is_record: bool = False

    def texts(self) -> Iterator[str]:
        """Yields the texts that are trained on or asked."""
        if self.text is not None:
            yield self.text
        yield from (message["content"] for message in self.messages)
        yield from self.answers or ()

    def record(self, source: str) -> dict[str, Any]:
        """Returns the sample's JSON for a shard; other keys with reserved names are moved to "annotation"."""
        if self.is_record:
            clips = {"clips": self.clips} if any(clip is not None for clip in self.clips) else {}
            own = {"annotation": {"source": self.kept["source"]}} if "source" in self.kept else {}
            return {**own, **self.kept, **clips, "source": source}
        clashing = {key: value for key, value in self.kept.items() if key in RESERVED}
        record = {key: value for key, value in self.kept.items() if key not in RESERVED}
        if any(self.turns):
            clashing["turns"] = self.turns
        if clashing:
            record["annotation"] = clashing
        record["source"] = source
        if self.text is not None:
            record["text"] = self.text
        else:
            record["messages"] = self.messages
        if self.answers is not None:
            record["chosen"], record["rejected"] = self.answers
        if any(clip is not None for clip in self.clips):
            record["clips"] = self.clips
        return record


def check_answers(draft: Draft) -> None:
    """Checks that the answers of a pair differ.

    Raises:
        Refused: They are equal.
    """
    if draft.answers is not None and draft.answers[0] == draft.answers[1]:
        raise Refused("equal_answers", "the chosen and the rejected answer are equal")


def take_text(sample: Mapping[str, Any], key: str) -> str:
    """Returns a text of an annotation.

    Raises:
        Refused: The key is missing, or its value is not a text.
    """
    value = sample.get(key)
    if not isinstance(value, str):
        raise Refused("bad_field", f"{key!r} must be a text, not {_name(value)}")
    return value


def take_paths(sample: Mapping[str, Any], one: str, many: str) -> list[str]:
    """Returns the media under one of two keys of an annotation, given as a text or a list of texts.

    Raises:
        Refused: The value is neither, or both keys are present.
    """
    given = [key for key in (one, many) if sample.get(key) not in (None, "", [])]
    if not given:
        return []
    if len(given) == 2:
        raise Refused("bad_field", f"both {one!r} and {many!r} name media")
    value = sample[given[0]]
    paths = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict) and one.keys() <= {"bytes", "path", "url"}:  # as in data sets of the hub
            one = next((file for file in one.values() if file is not None), None)
        if one is None:
            continue
        if not isinstance(one, str) or not one:
            raise Refused("bad_field", f"{given[0]!r} must be a path or a list of paths, not {_name(one)}")
        paths.append(one)
    return paths


def take_clips(sample: Mapping[str, Any], videos: int) -> list[Clip | None]:
    """Returns the clip of each video, from "clips", or for a single video from "clip" or "start" and "end".

    Raises:
        Refused: A clip is not [begin, end], begins before 0 or is empty, or the number of clips is wrong.
    """
    clip, clips = sample.get("clip"), sample.get("clips")
    if clips is None:
        if clip is None and videos:
            clip = _start_and_end(sample, videos)
        if clip is None:
            return [None] * videos
        clips = clip if videos > 1 else [clip]
    if not isinstance(clips, list) or len(clips) != videos:
        raise Refused("bad_field", f"'clips' must be a list with one entry per video, of which there {_are(videos)}")
    return [_checked(one) for one in clips]


def _are(videos: int) -> str:
    return f"{'is' if videos == 1 else 'are'} {videos or 'none'}"


def _start_and_end(sample: Mapping[str, Any], videos: int) -> list[Any] | None:
    given = [ends for ends in CLIP_ENDS if any(sample.get(key) is not None for key in ends)]
    if not given:
        return None
    names = " and ".join(map(repr, given[0]))
    if len(given) > 1:
        raise Refused("bad_field", f"both {names} and {' and '.join(map(repr, given[1]))} give a clip")
    if videos > 1:
        raise Refused("bad_field", f"{names} beside {counted(videos, 'video')}: write 'clips', one per video")
    begin, end = (sample.get(key) for key in given[0])
    if not (_is_time(begin) and _is_time(end)):
        shown = beginning(f"{begin!r} and {end!r}")
        raise Refused("bad_field", f"{names} of a video must both be seconds, not {shown}")
    return [begin, end]


def _checked(clip: object) -> Clip | None:
    if clip is None:
        return None
    if not (isinstance(clip, list) and len(clip) == 2 and all(map(_is_time, clip))):
        raise Refused("bad_field", f"a clip must be [begin, end] in seconds, not {beginning(str(clip))}")
    begin, end = float(clip[0]), float(clip[1])
    if begin < 0:
        raise Refused("bad_field", f"the clip from {begin} s to {end} s begins before 0")
    if end <= begin:
        raise Refused("bad_field", f"the clip from {begin} s to {end} s is empty")
    return [begin, end]


def _is_time(value: object) -> bool:
    # more than a billion seconds is a mistake, and may be an integer too large for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _name(value: object) -> str:
    return "nothing" if value is None else kind_name(value)
