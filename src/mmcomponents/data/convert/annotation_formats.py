"""Readers of the supported forms of annotations, which are recognised by their keys.

    conversations   {"conversations": [{"from": "human", "value": …}, …], "image": PATH or [PATH, …], "video": PATH}
    preference      {"question": …, "chosen": …, "rejected": …, "image": …}
    messages        {"messages": [{"role": "user", "content": TEXT or PARTS}, …]}
    text            {"text": …}

    record          {…, "image": PATH, "members": {SUFFIX: PATH}}, with the keys of a kind of another package (--kinds)

The first two are InternVL's and MMPR's (arXiv 2504.10479, sections 2.3 and 3), the third is OpenAI's and XTuner's. A
rejected answer beside the turns makes a pair, see `other_programs.rejected_answers`; other forms of questions and
answers are in `other_programs.question_forms`. Each key is used, or known to be harmless, or the sample is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcomponents.data.chat.kinds import Kinds
from mmcomponents.data.convert.chat_messages import read_turn
from mmcomponents.data.convert.draft import CLIP_ENDS, Draft, take_clips, take_paths, take_text
from mmcomponents.data.convert.harmless_keys import SAMPLE_KEYS, TURN_KEYS, unknown_keys
from mmcomponents.data.convert.other_programs.marks import take_named_media
from mmcomponents.data.convert.other_programs.objects import take_objects
from mmcomponents.data.convert.other_programs.question_forms import as_messages
from mmcomponents.data.convert.other_programs.reasoning import REASONING_KEYS, with_reasoning
from mmcomponents.data.convert.other_programs.rejected_answers import KEYS, take_pair
from mmcomponents.data.convert.reading import Form, Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.unsupported import CHECKED, CHECKED_IN_TURNS, check_sample, check_turn
from mmcomponents.data.convert.wording import kind_name

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}

_MEDIA_KEYS = ("image", "images", "video", "videos", "clip", "clips")
_TURN_KEYS = ("from", "value", "role", "content", *REASONING_KEYS, *CHECKED_IN_TURNS)
_MEDIA_WORD = re.compile(r"image|img|picture|photo|video|frame|audio|sound|speech|media", re.I)
_FILE_WORD = re.compile(r"file|path|url", re.I)
_MEDIA_FILE = re.compile(
    r"^data:[a-z]+/|\.(?:png|jpe?g|webp|bmp|gif|tiff?|ppm|avif|jp2|heic|svg|mp4|webm|mkv|avi|mov|m4v|mpe?g|flv|ogv|wmv"
    r"|wav|mp3|flac|ogg|m4a|aac|pdf|npy|npz)$",
    re.I,
)
_ADDRESS = re.compile("^https?://", re.I)


def read_draft(sample: object, reading: Reading | None = None, kinds: Kinds | None = None) -> Draft:
    """Reads an annotation.

    Args:
        sample: A parsed line of JSON.
        reading: How annotations are read; None: with the defaults.
        kinds: Record kinds of the runs; None: the built-in ones.

    Raises:
        Refused: The annotation cannot be used.
    """
    if not isinstance(sample, Mapping):
        raise Refused("bad_json", f"{kind_name(sample)} instead of a JSON object")
    reading = reading or Reading()
    form = reading.form
    if form == "auto":
        if any(kind.matches(sample) for kind in (kinds.third_party if kinds is not None else ())):
            return _record(sample)
        sample = as_messages(sample)
        form = _recognise(sample, [] if kinds is None else kinds.third_party_names)
    elif (key := _KEYS[form]) not in sample:
        raise Refused("unknown_form", f"the form {form} needs the key {key!r}; {_keys(sample)}")
    _refuse_members(sample)
    read, known = _READERS[form]
    if form != "text":
        check_sample(sample)
    draft = read(sample, reading)
    if form != "text":
        _take_system(draft, sample)
        take_named_media(draft)
        draft.objects = take_objects(sample)
    taken = {*known, *_MEDIA_KEYS, *(("objects",) if draft.objects else ())}
    if draft.videos and sample.get("clip") is None and sample.get("clips") is None:
        taken |= {key for ends in CLIP_ENDS for key in ends}
    draft.kept = {key: value for key, value in sample.items() if key not in taken}
    _refuse_other_media(draft.kept, draft, files=draft.text is None)
    draft.unknown += unknown_keys(draft.kept, SAMPLE_KEYS, CHECKED if form != "text" else ())
    for turn in sample[known[0]] if form in ("conversations", "messages") else ():
        _refuse_other_media({key: value for key, value in turn.items() if key not in _TURN_KEYS}, draft)
        draft.unknown += [f"turns.{key}" for key in unknown_keys(turn, TURN_KEYS, _TURN_KEYS)]
    if draft.unknown and not reading.keep_unknown_keys:
        name = f"the key {draft.unknown[0][:80]!r}"
        raise Refused("unknown_key", f"{name} is neither used nor known to be harmless (--keep_unknown_keys keeps it)")
    return draft


def _take_system(draft: Draft, sample: Mapping[str, Any]) -> None:
    """Makes the system text beside the turns the first turn, in place."""
    if sample.get("system") in (None, ""):
        return
    text = take_text(sample, "system")
    own = draft.messages[0] if draft.messages and draft.messages[0]["role"] == "system" else None
    if own is None:
        draft.messages.insert(0, {"role": "system", "content": text})
    elif own["content"] != text:
        raise Refused("bad_field", "'system' differs from the system turn")


def _record(sample: Mapping[str, Any]) -> Draft:
    """Reads a record of another package's kind: its keys are kept, those of files are replaced by the files."""
    members = sample.get("members", {})
    if not isinstance(members, dict) or not all(isinstance(where, str) and where for where in members.values()):
        raise Refused("bad_field", "'members' must be {SUFFIX: PATH, …}")
    draft = _with_media(Draft(members=dict(members), is_record=True), sample)
    draft.kept = {key: value for key, value in sample.items() if key not in (*_MEDIA_KEYS, "members")}
    return draft


def _refuse_members(sample: Mapping[str, Any]) -> None:
    """Raises `Refused` for an annotation of a form that names files which no record kind of the call reads."""
    members = sample.get("members")
    if isinstance(members, dict) and (files := [key for key in members if "." in key]):
        raise Refused(
            "unknown_media",
            f"'members' names the file {files[0][:80]!r}, and no record kind of another package matches (--kinds)",
        )


def _keys(sample: Mapping[str, Any]) -> str:
    names = ", ".join(str(key)[:40] for key in list(sample)[:12])
    return f"its keys are {names}" if names else "it has no keys"


def _recognise(sample: Mapping[str, Any], kinds: Sequence[str] = ()) -> Form:
    if "messages" in sample:
        return "messages"
    if "conversations" in sample:
        return "conversations"
    if "chosen" in sample or "rejected" in sample:
        return "preference"
    if "text" in sample:
        return "text"
    wanted = ", ".join(_KEYS.values())
    others = f", and no kind matches ({', '.join(kinds)})" if kinds else ""
    more = "instruction, query or prompt with answers"
    raise Refused("unknown_form", f"none of the keys of a supported form ({wanted}, {more}){others}; {_keys(sample)}")


def _conversations(sample: Mapping[str, Any], reading: Reading) -> Draft:
    turns = sample["conversations"]
    if not isinstance(turns, list):
        raise Refused("bad_field", "'conversations' must be a list of turns")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise Refused("bad_field", f"turn {number} is not {{'from': ROLE, 'value': TEXT}}")
        role = _role(turn.get("from"), number)
        check_turn(turn, role, number)
        messages.append({"role": role, "content": with_reasoning(turn, turn["value"], role, number, reading.reasoning)})
    draft = Draft(messages)
    take_pair(draft, sample, reading)
    return _with_media(draft, sample)


def _preference(sample: Mapping[str, Any], _: Reading) -> Draft:
    draft = Draft([{"role": "user", "content": take_text(sample, "question")}], answers=_answers(sample))
    return _with_media(draft, sample)


def _messages(sample: Mapping[str, Any], reading: Reading) -> Draft:
    turns = sample["messages"]
    if not isinstance(turns, list):
        raise Refused("bad_field", "'messages' must be a list of turns")
    draft = Draft()
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise Refused("bad_field", f"turn {number} is not {{'role': ROLE, 'content': TEXT or PARTS}}")
        role = _role(turn.get("role"), number)
        check_turn(turn, role, number)
        read = read_turn(turn.get("content"), role, number)
        text = with_reasoning(turn, read.text, role, number, reading.reasoning)
        draft.messages.append({"role": role, "content": text})
        draft.images += read.images
        draft.videos += read.videos
        draft.unknown += read.unknown
    take_pair(draft, sample, reading)
    return _with_media(draft, sample)


def _text(sample: Mapping[str, Any], _: Reading) -> Draft:
    return _with_media(Draft(text=take_text(sample, "text")), sample)


def _answers(sample: Mapping[str, Any]) -> tuple[str, str]:
    return take_text(sample, "chosen"), take_text(sample, "rejected")


def _role(name: object, number: int) -> str:
    if not isinstance(name, str) or name not in ROLES:
        raise Refused("roles", f"turn {number} has the role {str(name)[:40]!r}, which is none of {', '.join(ROLES)}")
    return ROLES[name]


def _with_media(draft: Draft, sample: Mapping[str, Any]) -> Draft:
    images, videos = take_paths(sample, "image", "images"), take_paths(sample, "video", "videos")
    if (images and draft.images) or (videos and draft.videos):
        raise Refused("bad_field", "media both in parts of the turns and beside them")
    draft.images, draft.videos = draft.images or images, draft.videos or videos
    draft.clips = take_clips(sample, len(draft.videos))
    return draft


def _refuse_other_media(kept: Mapping[str, Any], draft: Draft, files: bool = True) -> None:
    """Raises `Refused` for a sample that would lose media, since their key is unknown.

    Args:
        kept: Keys and values to check.
        draft: The sample.
        files: Whether a key with a word for a file or URL may mean media. In documents it mostly gives the origin of
            the text.
    """
    known = {path.rpartition("/")[2] for path in draft.images + draft.videos}
    for key, value in kept.items():
        media = bool(_MEDIA_WORD.search(key))
        if not media and not (files and _FILE_WORD.search(key)):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                one = next((one[name] for name in ("url", "path", "bytes") if isinstance(one.get(name), str)), None)
            if not isinstance(one, str) or one.rpartition("/")[2] in known:
                continue
            if _MEDIA_FILE.search(one) or (media and _ADDRESS.search(one)):
                raise Refused("unknown_media", f"the unknown key {key!r} seems to give media: {one[:80]!r}")


FORM_KEYS = ("messages", "conversations", "chosen", "rejected", "text")
"""Keys by which a sample's form is recognised."""

_KEYS: dict[Form, str] = {
    "conversations": "conversations",
    "preference": "chosen",
    "messages": "messages",
    "text": "text",
}
_READERS: dict[Form, tuple[Callable[[Mapping[str, Any], Reading], Draft], tuple[str, ...]]] = {
    "conversations": (_conversations, ("conversations", "system", *KEYS)),
    "preference": (_preference, ("question", "system", "chosen", "rejected")),
    "messages": (_messages, ("messages", "system", *KEYS)),
    "text": (_text, ("text",)),
}
