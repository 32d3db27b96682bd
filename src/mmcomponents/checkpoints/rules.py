"""Names of weights in one format and in ours, and what has to be done to the tensors on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import torch
from torch import Tensor

from mmcomponents.checkpoints.errors import CheckpointError


@dataclass(frozen=True)
class Lazy:
    """A tensor that is read when it is wanted.

    Attributes:
        meta: Shape and type, on the meta device.
        load: Reads it.
    """

    meta: Tensor
    load: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.meta.numel() * self.meta.element_size()


def lazy(tensor: Tensor) -> Lazy:
    """Wraps a tensor that is at hand."""
    return Lazy(torch.empty_like(tensor, device="meta"), lambda: tensor)


def cast(state: Mapping[str, Lazy], dtype: torch.dtype) -> dict[str, Lazy]:
    """The same tensors, floating-point ones in another type."""

    def load(value: Lazy) -> Tensor:
        return value.load().to(dtype)

    return {
        name: Lazy(value.meta.to(dtype), partial(load, value)) if value.meta.is_floating_point() else value
        for name, value in state.items()
    }


class Op(Protocol):
    """What is done to the tensors of a rule; it has to work on the meta device as well."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """From the other format's tensors to ours."""
        ...

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """The inverse."""
        ...


class Same:
    """One tensor that only changes its name."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Nothing to do."""
        return theirs

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Nothing to do."""
        return ours


class Thirds:
    """Queries, keys and values that we hold in one matrix and the other format in three."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Three tensors to one, row after row."""
        return [torch.cat(theirs)]

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """One tensor to three."""
        return list(ours[0].chunk(3))


@dataclass(frozen=True)
class Grouped:
    """InternLM2's `wqkv`: for each key head its queries, then the key, then the value.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of a head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """One tensor to queries, keys and values."""
        queries = self.num_heads // self.num_kv_heads
        groups = theirs[0].unflatten(0, (self.num_kv_heads, queries + 2, self.head_dim))
        q, k, v = groups.split((queries, 1, 1), dim=1)
        return [t.flatten(0, 2) for t in (q, k, v)]

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Queries, keys and values to one tensor."""
        return [torch.cat([t.unflatten(0, (self.num_kv_heads, -1, self.head_dim)) for t in ours], dim=1).flatten(0, 2)]


@dataclass(frozen=True)
class Rule:
    """Names on both sides. `{n}` stands for a number, `{p}` for weight or bias, `{rest}` for any end of a name.

    Attributes:
        theirs: Names in the other format.
        ours: Names in ours.
        op: What is done to the tensors.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    op: Op = Same()  # noqa: RUF009  (it has no state)


def rename(theirs: str, ours: str) -> Rule:
    """A rule for one tensor that only changes its name."""
    return Rule((theirs,), (ours,))


def to_ours(state: Mapping[str, Lazy], rules: Sequence[Rule], ignored: Iterable[str] = ()) -> dict[str, Lazy]:
    """Gives the tensors of another format our names.

    Args:
        state: By the other format's names.
        rules: The first one that matches holds.
        ignored: Regular expressions of names that mean nothing.

    Raises:
        CheckpointError: A name fits no rule, or a tensor that belongs to another one is missing.
    """
    return _apply(state, [(rule.theirs, rule.ours, rule.op.to_ours) for rule in rules], ignored)


def to_theirs(state: Mapping[str, Lazy], rules: Sequence[Rule]) -> dict[str, Lazy]:
    """Gives our tensors the names of another format.

    Raises:
        CheckpointError: As for `to_ours`.
    """
    return _apply(state, [(rule.ours, rule.theirs, rule.op.to_theirs) for rule in rules], ())


_Direction = tuple[tuple[str, ...], tuple[str, ...], Callable[[list[Tensor]], list[Tensor]]]


def _apply(state: Mapping[str, Lazy], rules: Sequence[_Direction], ignored: Iterable[str]) -> dict[str, Lazy]:
    skip = re.compile("|".join(ignored)) if ignored else None
    done: set[str] = set()
    found: dict[str, Lazy] = {}
    unknown = []
    for name in state:
        if name in done or (skip is not None and skip.fullmatch(name)):
            continue
        for sources, targets, op in rules:
            match = next((m for m in (_pattern(source).fullmatch(name) for source in sources) if m), None)
            if match is not None:
                names = [_fill(source, match) for source in sources]
                missing = [n for n in names if n not in state]
                if missing:
                    raise CheckpointError(f"the checkpoint has {name} and lacks {', '.join(missing)}")
                done.update(names)
                found.update(
                    zip((_fill(t, match) for t in targets), _converted([state[n] for n in names], op), strict=True)
                )
                break
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise CheckpointError(f"weights of unknown names: {', '.join(unknown[:4])}{more}")
    return found


def _converted(sources: list[Lazy], op: Callable[[list[Tensor]], list[Tensor]]) -> list[Lazy]:
    def load(place: int) -> Tensor:
        return op([source.load() for source in sources])[place]

    try:
        shapes = op([source.meta for source in sources])
    except RuntimeError as error:
        raise CheckpointError(f"weights do not have the shapes that the configuration says: {error}") from error
    return [Lazy(meta, partial(load, place)) for place, meta in enumerate(shapes)]


@lru_cache(maxsize=512)
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{p\}", r"(?P<p>weight|bias)")
    return re.compile(escaped.replace(r"\{rest\}", r"(?P<rest>.+)"))


def _fill(template: str, match: re.Match[str]) -> str:
    return template.format(**match.groupdict())
