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

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mmcomponents.data.chat.kinds import Kinds
from mmcomponents.data.convert.draft import CLIP_ENDS, Draft, take_clips, take_paths, take_text
from mmcomponents.data.convert.harmless_keys import SAMPLE_KEYS, unknown_keys
from mmcomponents.data.convert.other_programs.marks import take_named_media
from mmcomponents.data.convert.other_programs.objects import take_objects
from mmcomponents.data.convert.other_programs.question_forms import as_messages
from mmcomponents.data.convert.other_programs.rejected_answers import KEYS, take_pair
from mmcomponents.data.convert.reading import Form, Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.turns import take_turn
from mmcomponents.data.convert.unknown_media import refuse_other_media
from mmcomponents.data.convert.unsupported import CHECKED, check_sample
from mmcomponents.data.convert.wording import kind_name

_MEDIA_KEYS = ("image", "images", "video", "videos", "clip", "clips")


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
    if form == "auto" and any(kind.matches(sample) for kind in (kinds.third_party if kinds is not None else ())):
        return _record(sample)
    sample = {key: value for key, value in sample.items() if value is not None}  # null says nothing
    if form == "auto":
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
    taken = {*known, *_MEDIA_KEYS, "objects"}
    if draft.videos and "clip" not in sample and "clips" not in sample:
        taken |= {key for ends in CLIP_ENDS for key in ends}
    kept = {key: value for key, value in sample.items() if key not in taken}
    rest = {} if draft.objects is None else draft.objects.rest
    refuse_other_media(kept, draft, files=draft.text is None)
    for turn in draft.turns:
        refuse_other_media(turn, draft)
    unknown = unknown_keys(kept, SAMPLE_KEYS, CHECKED if form != "text" else ())
    draft.unknown += [key for key in unknown if not _says_nothing_new(kept[key], draft)]
    draft.unknown += [f"objects.{key}" for key in unknown_keys(rest, frozenset())]
    draft.kept = {**kept, **({"objects": rest} if rest else {})}
    if draft.unknown and not reading.keep_unknown_keys:
        name = f"the key {draft.unknown[0][:80]!r}"
        raise Refused("unknown_key", f"{name} is neither used nor known to be harmless (--keep_unknown_keys keeps it)")
    return draft


def _says_nothing_new(value: object, draft: Draft) -> bool:
    """Whether a text repeats one of the sample's texts, as "prompt" beside the turns, or all, as Alpaca's "text"."""
    texts = [text.strip() for text in draft.texts()]
    return isinstance(value, str) and (value.strip() in texts or all(text in value for text in texts))


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


def _conversation(sample: Mapping[str, Any], reading: Reading, key: str) -> Draft:
    turns = sample[key]
    if not isinstance(turns, list):
        raise Refused("bad_field", f"{key!r} must be a list of turns")
    read = [take_turn(turn, number, reading) for number, turn in enumerate(turns, start=1)]
    draft = Draft([turn.message for turn in read], turns=[turn.rest for turn in read])
    draft.images = [image for turn in read for image in turn.images]
    draft.videos = [video for turn in read for video in turn.videos]
    draft.unknown = [name for turn in read for name in turn.unknown]
    take_pair(draft, sample, read, reading)
    return _with_media(draft, sample)


def _preference(sample: Mapping[str, Any], _: Reading) -> Draft:
    draft = Draft([{"role": "user", "content": take_text(sample, "question")}], answers=_answers(sample))
    return _with_media(draft, sample)


def _text(sample: Mapping[str, Any], _: Reading) -> Draft:
    return _with_media(Draft(text=take_text(sample, "text")), sample)


def _answers(sample: Mapping[str, Any]) -> tuple[str, str]:
    return take_text(sample, "chosen"), take_text(sample, "rejected")


def _with_media(draft: Draft, sample: Mapping[str, Any]) -> Draft:
    images, videos = take_paths(sample, "image", "images"), take_paths(sample, "video", "videos")
    if (images and draft.images) or (videos and draft.videos):
        raise Refused("bad_field", "media both in parts of the turns and beside them")
    draft.images, draft.videos = draft.images or images, draft.videos or videos
    draft.clips = take_clips(sample, len(draft.videos))
    return draft


FORM_KEYS = ("messages", "conversations", "chosen", "rejected", "text")
"""Keys by which a sample's form is recognised."""

_KEYS: dict[Form, str] = {
    "conversations": "conversations",
    "preference": "chosen",
    "messages": "messages",
    "text": "text",
}
_READERS: dict[Form, tuple[Callable[[Mapping[str, Any], Reading], Draft], tuple[str, ...]]] = {
    "conversations": (partial(_conversation, key="conversations"), ("conversations", "system", *KEYS)),
    "preference": (_preference, ("question", "system", "chosen", "rejected")),
    "messages": (partial(_conversation, key="messages"), ("messages", "system", *KEYS)),
    "text": (_text, ("text",)),
}
