"""The record kinds of a run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmcomponents.batch import Pairs, Steps
from mmcomponents.data.chat.kinds.base import RecordKind, as_sample_error, kind_name
from mmcomponents.data.chat.kinds.chat_record import Chat
from mmcomponents.data.chat.kinds.document_record import Document
from mmcomponents.data.chat.kinds.pair_record import Pair
from mmcomponents.data.chat.kinds.scored_steps import ScoredSteps
from mmcomponents.data.errors import SampleError
from mmcomponents.extras import Extra

_FIELDS: dict[str, type[Extra]] = {"pairs": Pairs, "steps": Steps}
"""Names of the common fields of a pack, and their classes."""

_KEYS_NAMED = 6
_COLLECTED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_NO_KIND = "wrong JSON: no kind of record ("


class Kinds:
    """The kinds of a run, of which exactly one must match a record.

    Args:
        kinds: Instances; None: conversations, documents and pairs of answers.

    Attributes:
        kinds: Instances, in the order in which they are asked.
        third_party: Those that a run has to name: of other packages, and built-in ones besides conversations, documents
            and pairs, such as `BoxedImage`.
        third_party_names: Names of the kinds of other packages.
        members: Suffixes of the members that samples of any kind have. Such a file is no image or video of a sample,
            whatever its kind.

    Raises:
        ValueError: There is no kind, one is no `RecordKind`, two have the same name, the members that one declares are
            no suffixes, or the empty fields of kinds are no fields, have items or are of different classes.
    """

    def __init__(self, kinds: Sequence[RecordKind] | None = None) -> None:
        self.kinds: list[RecordKind] = [Chat(), Document(), Pair()] if kinds is None else list(kinds)
        if not self.kinds:
            raise ValueError("data.kinds is empty: name the record kinds of the run, or null for the built-in ones")
        if wrong := [kind for kind in self.kinds if not isinstance(kind, RecordKind)]:
            raise ValueError(f"data.kinds takes instances of RecordKind, got {wrong[0]!r:.80}")
        names = [kind_name(kind) for kind in self.kinds]
        if twice := [name for number, name in enumerate(names) if name in names[:number]]:
            raise ValueError(f"data.kinds has two record kinds with the name {twice[0]}: name each kind once")
        self.third_party = [kind for kind in self.kinds if not isinstance(kind, Chat | Document | Pair | ScoredSteps)]
        self.third_party_names = [kind_name(kind) for kind in self.third_party]
        for kind in self.third_party:
            _check_members(kind)
        self.members = frozenset(suffix for kind in self.kinds for suffix in kind.members)
        self._empty = _empty_fields(self.kinds)

    def of(self, record: Mapping[str, Any]) -> RecordKind:
        """Returns the kind of a record, which is checked.

        Raises:
            SampleError: No kind matches, two match, or the record is malformed.
        """
        found = [kind for kind in self.kinds if self._matches(kind, record)]
        if len(found) != 1:
            raise SampleError(self._not_one(record, found))
        if found[0] not in self.third_party:
            found[0].check(record)
        else:
            with as_sample_error(found[0], "check"):
                found[0].check(record)
        return found[0]

    def empty(self) -> dict[str, Extra]:
        """Returns the fields of a pack without samples."""
        return dict(self._empty)

    def path(self, kind: RecordKind) -> str:
        """Returns the dotted path of a kind that a run has to name, "" for others."""
        return f"{type(kind).__module__}.{type(kind).__qualname__}" if kind in self.third_party else ""

    @property
    def flag(self) -> str:
        """The option of `mmcomponents data index` that names the kinds, after a space; "" if all are built in."""
        return f" --kinds {' '.join(map(self._written, self.kinds))}" if self.third_party else ""

    def _written(self, kind: RecordKind) -> str:
        own = type(kind).__module__.startswith("mmcomponents.")  # the registry has these by their short names
        name = type(kind).__name__ if own else self.path(kind)
        given = inspect.signature(type(kind)).parameters.values()
        needed = [one.name for one in given if one.default is one.empty and one.kind not in _COLLECTED]
        known = {one: getattr(kind, one, None) for one in needed}
        values = ", ".join(f"{one}: {v if isinstance(v, int | float | str) else '…'}" for one, v in known.items())
        return f"'{{class_path: {name}, init_args: {{{values}}}}}'" if needed else name

    def indexed_without(self, problem: str) -> str:
        """Returns the kinds, joined by ", ", that an index was made with if it lacks one of this run.

        Args:
            problem: A problem of a sample in the index. For another one than "no kind matches", the result is "".
        """
        if not self.third_party or not problem.startswith(_NO_KIND):
            return ""
        made = problem.removeprefix(_NO_KIND).partition(")")[0]
        return made if {*self.third_party_names} - {*made.split(", ")} else ""

    def _matches(self, kind: RecordKind, record: Mapping[str, Any]) -> bool:
        # Called for each record and kind: a context manager would take most of the time.
        if kind not in self.third_party:
            return kind.matches(record)
        with as_sample_error(kind, "recognise"):
            return kind.matches(record)

    def _not_one(self, record: Mapping[str, Any], found: Sequence[RecordKind]) -> str:
        keys = ", ".join(json.dumps(key[:40]) for key in list(record)[:_KEYS_NAMED]) or "nothing"
        keys += ", …" if len(record) > _KEYS_NAMED else ""
        if found:
            return f"wrong JSON: the kinds {' and '.join(map(kind_name, found))} both match its keys {keys}"
        return (
            f"{_NO_KIND}{', '.join(map(kind_name, self.kinds))}) matches its keys {keys}:"
            " `mmcomponents data convert` makes shards from annotations in other formats; kinds of other packages are"
            " named by data.kinds and by --kinds of `mmcomponents data index`"
        )


def _check_members(kind: RecordKind) -> None:
    """Checks the members that a kind declares.

    Raises:
        ValueError: They are no suffixes of files beside the JSON.
    """
    members = kind.members
    valid = isinstance(members, tuple | list) and all(isinstance(suffix, str) and suffix for suffix in members)
    if not valid or any(suffix == "json" or "/" in suffix for suffix in members):
        raise ValueError(
            f"the record kind {kind_name(kind)} declares the members {members!r}: a tuple of suffixes is expected, such"
            " as ('actions.npy',)"
        )


def _empty_fields(kinds: Sequence[RecordKind]) -> dict[str, Extra]:
    """Returns the fields of a pack without samples.

    Raises:
        ValueError: A kind returns no fields, a field has items, or two kinds give the same name to fields of different
            classes.
    """
    found: dict[str, Extra] = {}
    for kind in kinds:
        try:
            own = kind.empty()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"RecordKind.empty of {kind_name(kind)} fails: {reason}") from error
        if not isinstance(own, Mapping):
            raise ValueError(
                f"RecordKind.empty of {kind_name(kind)} must return fields by name, not {type(own).__name__}"
            )
        for name, extra in own.items():
            if not isinstance(extra, _FIELDS.get(name, Extra)):
                expected = _FIELDS.get(name, Extra).__name__
                raise ValueError(f"the field {name} of {kind_name(kind)} is {type(extra).__name__}, not {expected}")
            if any(len(tensor) for tensor in extra.tensors()):
                raise ValueError(f"RecordKind.empty of {kind_name(kind)} returns the field {name} with items")
            if type(found.setdefault(name, extra)) is not type(extra):
                other = type(found[name]).__name__
                raise ValueError(
                    f"the field {name} of {kind_name(kind)} is {type(extra).__name__}, that of another kind {other}"
                )
    return found
