"""Questions to draw answers to, from shards or from JSONL files, with the answers that are held to be right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mmcomponents.data.annotations.media import MediaRoot
from mmcomponents.data.chat import Message, check_roles, place_image
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.frames import FrameSampling, MiddleFrames
from mmcomponents.data.images import decode_image
from mmcomponents.data.records import Clip, clips, parse_record, record_kind, source_of
from mmcomponents.data.samples import single_questions
from mmcomponents.data.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Member,
    find_shards,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.storage import is_remote, redact
from mmcomponents.data.video import read_video
from mmcomponents.inference.rollouts import Question

Files = Callable[[], list[tuple[str, bytes]]]
"""Reads the files of a question's media: suffix and bytes, as a shard stores them."""

FRAMES = MiddleFrames(16)


@dataclass(frozen=True)
class Asked:
    """A question with what is known about it.

    Attributes:
        question: What the model is asked.
        reference: The true answer, or a text that holds it; None: nobody knows it.
        source: Where it comes from, "" where the data do not say.
        kind: What kind of question it is, "" where the data do not say.
        files: Files of its media; None without media.
        images: How many of them are images.
        names: What an annotation calls its images.
        clips: Seconds of each video that count, as the record gives them.
    """

    question: Question
    reference: str | None
    source: str = ""
    kind: str = ""
    files: Files | None = None
    images: int = 0
    names: Sequence[str] = ()
    clips: Any = None


@dataclass
class Questions:
    """The questions of some files.

    Attributes:
        asked: Those that can be asked.
        problems: "NAME: reason" of the others.
    """

    asked: list[Asked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Tells whether questions, references or their order have changed; contents of images play no part."""
        known = hashlib.sha256()
        for one in self.asked:
            fact = [one.question.key, [dict(m) for m in one.question.messages], one.reference, one.images]
            known.update(json.dumps(fact, sort_keys=True).encode())
        return known.hexdigest()[:16]


def read_questions(
    where: Sequence[str],
    *,
    image_root: str | None = None,
    answers: bool = True,
    limit: int | None = None,
    kinds: Collection[str] = (),
    instruction: str = "",
    frames: FrameSampling = FRAMES,
) -> Questions:
    """Reads questions; images are read later, when they are asked.

    Args:
        where: Shards (patterns, folders) of conversations, each of whose questions is asked by itself; or JSONL files
            with a "question", an "answer" and perhaps "images" or "image" (a path or a list of paths) and a "kind" on
            each line.
        image_root: The folder that paths of images start at; None: that of the JSONL file.
        answers: Whether each question needs an answer that is held to be right: "answer" of the record, else the last
            turn of the conversation. Without, none is read.
        limit: Questions at most; None: all.
        kinds: Questions of these kinds alone, as "kinds" of a conversation's record gives them; none: all.
        instruction: Text behind each question, such as one that says how an answer ends; "": none.
        frames: Which frames of a video are looked at.

    Raises:
        DataError: A file is missing or remote, there is no question in it, none is of these kinds, or two questions
            have one key.
    """
    found, keys, others = Questions(), dict[str, str](), set[str]()
    lines = [path for path in where if path.endswith(".jsonl")]
    shards = find_shards([path for path in where if path not in lines]) if len(lines) < len(where) else []
    readers = [(path, _lines(Path(path), image_root, answers)) for path in lines]
    readers += [(shard, _samples(shard, answers, frames)) for shard in shards]
    for path, reader in readers:
        before = len(found.asked) + len(found.problems)
        for name, make in reader:
            try:
                several = make()
            except SampleError as error:
                found.problems.append(f"{name}: {error}")
                continue
            for one in several:
                if limit is not None and len(found.asked) >= limit:
                    return found
                if kinds and one.kind not in kinds:
                    others.add(one.kind)
                    continue
                if keys.setdefault(one.question.key, path) != path:
                    raise DataError(
                        f"{redact(keys[one.question.key])} and {redact(path)} have a question with one key,"
                        f" {one.question.key}: rename one of the files"
                    )
                found.asked.append(_instructed(one, instruction) if instruction else one)
        if len(found.asked) + len(found.problems) == before and not others:
            raise DataError(f"there is no question in {redact(path)}")
    if others and not found.asked:
        there = ", ".join(sorted(filter(None, others))) or "not named"
        raise DataError(f"no question is of the kind {' or '.join(kinds)}; the kinds are {there}")
    return found


def _instructed(asked: Asked, instruction: str) -> Asked:
    *before, last = asked.question.messages
    told: Message = {"role": last["role"], "content": f"{last['content']}\n{instruction}"}
    return replace(asked, question=replace(asked.question, messages=[*before, told]))


def _lines(path: Path, image_root: str | None, answers: bool) -> Iterator[tuple[str, Callable[[], list[Asked]]]]:
    root = Path(image_root) if image_root is not None else path.parent
    if not path.is_file():
        raise DataError(f"there is no file of questions {path}")
    if not root.is_dir():
        raise DataError(f"there is no folder of images {root}")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                key = f"{path.stem}/{number:07d}"
                yield f"{path.name}:{number}", partial(_from_line, key, line, MediaRoot(root), answers)


def _from_line(key: str, line: bytes, root: MediaRoot, answers: bool) -> list[Asked]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"wrong JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError(f"wrong JSON: {type(record).__name__} where an object belongs")
    messages: list[Message] = [{"role": "user", "content": _column(record, "question")}]
    check_roles(messages, "user")
    column = "images" if "images" in record else "image"
    images = record.get(column) or []
    names = [images] if isinstance(images, str) else images
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SampleError(f'"{column}" is no path and no list of paths: {images!r:.80}')
    files = partial(_read_images, root, names) if names else None
    media = partial(_load, files, len(names), [], FRAMES) if files else None
    reference, kind = _column(record, "answer") if answers else None, str(record.get("kind") or "")
    return [Asked(Question(key, messages, media), reference, source_of(record), kind, files, len(names), names)]


def _column(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        has = ", ".join(json.dumps(str(key)[:40]) for key in list(record)[:6]) or "nothing"
        raise SampleError(f'no text as "{name}"' if name in record else f'no "{name}", but {has}')
    return value


def _read_images(root: MediaRoot, names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(file.suffix, file.data) for file in map(root.image, names)]


def _samples(shard: str, answers: bool, frames: FrameSampling) -> Iterator[tuple[str, Callable[[], list[Asked]]]]:
    if is_remote(shard):
        raise DataError(f"{redact(shard)} is remote: fetch it first, questions are read from local shards")
    stem = Path(shard).name.removesuffix(".tar")
    for key, members, problem in list_shard(shard):
        name = f"{stem}/{key}"
        yield name, partial(_from_sample, name, shard, members, problem, answers, frames)


def _from_sample(
    name: str, shard: str, members: Sequence[Member], problem: str, answers: bool, frames: FrameSampling
) -> list[Asked]:
    if problem:
        raise SampleError(problem)
    record = parse_record(read_members(shard, [json_member(members)])[0])
    if record_kind(record) != "chat":
        raise SampleError(f"a {record_kind(record)} asks no question: a conversation with an answer belongs here")
    messages: list[Message] = list(record["messages"])
    check_roles(messages, "assistant")
    pictures, films = media_members(members, IMAGE_SUFFIXES), media_members(members, VIDEO_SUFFIXES)
    cuts, kinds = clips(record, len(films)), record.get("kinds")
    system = [message for message in messages[:1] if message["role"] == "system"]
    if len(messages) - len(system) == 2 or films:  # what is said of a film in earlier turns may be needed
        turns = [(messages[:-1], messages[-1]["content"], len(pictures))]
        kinds = kinds[-1:] if isinstance(kinds, list) else None
    else:
        singles = single_questions(place_image(messages, len(pictures)))
        turns = [([*system, {"role": "user", "content": asked}], said, used) for asked, said, used in singles]
    shown: dict[int, tuple[Files, Callable[[], Any]]] = {}
    several = []
    for number, (asked, said, used) in enumerate(turns):
        if (used or films) and used not in shown:  # questions about the same images share them
            stored = partial(_read_stored, shard, [*pictures[:used], *films])
            shown[used] = stored, partial(_load, stored, used, cuts, frames)
        files, media = shown.get(used, (None, None))
        key = name if len(turns) == 1 else f"{name}#{number}"
        reference = None
        if answers:
            reference = _column(record, "answer") if "answer" in record and len(turns) == 1 else said
        kind = str(kinds[number]) if isinstance(kinds, list) and number < len(kinds) else ""
        question = Question(key, asked, media)
        several.append(Asked(question, reference, source_of(record), kind, files, used, clips=record.get("clips")))
    return several


def _read_stored(shard: str, members: Sequence[Member]) -> list[tuple[str, bytes]]:
    data = read_members(shard, members)
    return [(member.suffix.rpartition(".")[2], file) for member, file in zip(members, data, strict=True)]


def _load(
    files: Files, images: int, cuts: Sequence[Clip | None], frames: FrameSampling
) -> tuple[list[Image.Image], list[list[Image.Image]]]:
    data = [content for _, content in files()]
    films = [read_video(film, frames, cut) for film, cut in zip(data[images:], cuts, strict=True)]
    return [decode_image(file) for file in data[:images]], films
