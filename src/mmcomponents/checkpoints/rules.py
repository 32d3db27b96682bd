"""Rules that map weight names and tensors between a checkpoint format and this library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import torch
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.piece_checksums import PieceChecksums


@dataclass(frozen=True)
class Lazy:
    """Tensor that is read on demand.

    Attributes:
        meta: Shape and data type, as a tensor on the meta device.
        load: Reads the tensor.
        read_rows: Reads its rows from the first to the end (exclusive); None: they are read with the whole tensor.
        pieces: Checksums of the files that rows are read from, to which `read_rows` adds those of the rows.
    """

    meta: Tensor
    load: Callable[[], Tensor]
    read_rows: Callable[[int, int], Tensor] | None = None
    pieces: tuple[PieceChecksums, ...] = ()

    def rows(self, first: int, end: int) -> Tensor:
        """Returns the rows `first` to `end - 1` as `[end - first, …]`, reading no others if the file allows."""
        return self.load()[first:end] if self.read_rows is None else self.read_rows(first, end)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.meta.numel() * self.meta.element_size()


def lazy(tensor: Tensor) -> Lazy:
    """Wraps a tensor of any shape that is in memory."""
    return Lazy(torch.empty_like(tensor, device="meta"), lambda: tensor)


def cast(state: Mapping[str, Lazy], dtype: torch.dtype) -> dict[str, Lazy]:
    """Converts floating-point tensors to another data type."""

    def load(value: Lazy) -> Tensor:
        return value.load().to(dtype)

    return {
        name: Lazy(value.meta.to(dtype), partial(load, value)) if value.meta.is_floating_point() else value
        for name, value in state.items()
    }


class Op(Protocol):
    """Conversion of the tensors of a rule; it must support the meta device."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Converts the other format's tensors to this library's; a subclass gives the shapes of both."""
        ...

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Converts this library's tensors to the other format's; a subclass gives the shapes of both."""
        ...


class Same:
    """Identity, for a tensor that only changes its name."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Returns the tensors, of any shape, unchanged."""
        return theirs

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Returns the tensors, of any shape, unchanged."""
        return ours


class Thirds:
    """Conversion of queries, keys and values in three matrices to one matrix of this library."""

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Concatenates three tensors `[n, …]` along the first dimension to `[3 * n, …]`."""
        return [torch.cat(theirs)]

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Splits one tensor `[3 * n, …]` into three `[n, …]` along the first dimension."""
        return list(ours[0].chunk(3))


@dataclass(frozen=True)
class Grouped:
    """Conversion of InternLM2's `wqkv`: for each key head its queries, then the key, then the value.

    Attributes:
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads.
        head_dim: Width of a head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int

    def to_ours(self, theirs: list[Tensor]) -> list[Tensor]:
        """Splits one tensor into queries, keys and values.

        Args:
            theirs: One tensor `[(num_heads + 2 * num_kv_heads) * head_dim, …]`.

        Returns:
            `[num_heads * head_dim, …]` queries, `[num_kv_heads * head_dim, …]` keys and as many values.
        """
        queries = self.num_heads // self.num_kv_heads
        groups = theirs[0].unflatten(0, (self.num_kv_heads, queries + 2, self.head_dim))
        q, k, v = groups.split((queries, 1, 1), dim=1)
        return [t.flatten(0, 2) for t in (q, k, v)]

    def to_theirs(self, ours: list[Tensor]) -> list[Tensor]:
        """Joins queries, keys and values to one tensor.

        Args:
            ours: `[num_heads * head_dim, …]` queries, `[num_kv_heads * head_dim, …]` keys and as many values.

        Returns:
            One tensor `[(num_heads + 2 * num_kv_heads) * head_dim, …]`.
        """
        return [torch.cat([t.unflatten(0, (self.num_kv_heads, -1, self.head_dim)) for t in ours], dim=1).flatten(0, 2)]


@dataclass(frozen=True)
class Rule:
    """Name patterns of both formats. `{n}` matches a number, `{p}` weight or bias, `{rest}` any remainder of a name.

    Attributes:
        theirs: Names in the other format.
        ours: Names in this library.
        op: Conversion of the tensors.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    op: Op = Same()  # noqa: RUF009  (stateless)


def rename(theirs: str, ours: str) -> Rule:
    """Returns a rule for one tensor that only changes its name."""
    return Rule((theirs,), (ours,))


def to_ours(state: Mapping[str, Lazy], rules: Sequence[Rule], ignored: Iterable[str] = ()) -> dict[str, Lazy]:
    """Converts the tensors of another format to this library's names.

    Args:
        state: Tensors by the other format's names.
        rules: Rules, of which the first match applies.
        ignored: Regular expressions of names to ignore.

    Raises:
        CheckpointError: A name matches no rule, or a rule's other tensor is missing.
    """
    return _apply(state, [(rule.theirs, rule.ours, rule.op.to_ours) for rule in rules], ignored)


def to_theirs(state: Mapping[str, Lazy], rules: Sequence[Rule]) -> dict[str, Lazy]:
    """Converts tensors to the names of another format.

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

    owner = getattr(op, "__self__", None)
    if isinstance(owner, Same):
        return sources

    try:
        shapes = op([source.meta for source in sources])
    except RuntimeError as error:
        raise CheckpointError(f"weights do not have the shapes of the configuration: {error}") from error
    if isinstance(owner, Thirds) and len(sources) > 1 and all(source.read_rows is not None for source in sources):
        pieces = tuple(piece for source in sources for piece in source.pieces)
        return [Lazy(shapes[0], partial(load, 0), partial(_joined_rows, sources), pieces)]
    return [Lazy(meta, partial(load, place)) for place, meta in enumerate(shapes)]


def _joined_rows(sources: Sequence[Lazy], first: int, end: int) -> Tensor:
    """Reads rows of tensors that are concatenated along the first dimension."""
    pieces, begin = [], 0
    for source in sources:
        size = source.meta.shape[0]
        low, high = max(first - begin, 0), min(end - begin, size)
        if low < high:
            pieces.append(source.rows(low, high))
        begin += size
    return torch.cat(pieces)


@lru_cache(maxsize=512)
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{p\}", r"(?P<p>weight|bias)")
    return re.compile(escaped.replace(r"\{rest\}", r"(?P<rest>.+)"))


def _fill(template: str, match: re.Match[str]) -> str:
    return template.format(**match.groupdict())
