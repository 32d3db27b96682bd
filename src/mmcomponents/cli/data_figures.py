"""The figures of `mmcomponents data inspect` as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from mmcomponents.data.inspection.text import plain

if TYPE_CHECKING:
    from mmcomponents.data.inspection import Balance, Histogram, Packing, Report, SourceCount, Survey

_BAR = 40
_LISTED = 12
"""Reasons that are listed."""


def figures(report: Report) -> Group:
    """All figures of an inspection."""
    found, total = report.survey, report.survey.total
    budget = f"{report.budgets.tokens:,} tokens"
    budget += "" if report.budgets.tiles is None else f" and {report.budgets.tiles:,} tiles"
    parts: list[RenderableType] = [
        _sources(found),
        *(Text(plain(note)) for note in found.notes),
        f"An epoch has {total.epoch_tokens:,.0f} tokens: text {found.text_share:.1%}, multimodal "
        f"{1 - found.text_share:.1%}.",
        "",
        _caption("tokens of a sample", found.tokens),
        _histogram(found.tokens),
        "",
        _caption("tiles of a sample", found.tiles),
        _histogram(found.tiles),
        "",
        f"Packs of {budget}, epoch {report.epoch}, {_planned(report.packing)}",
        _packs(report.packing),
        "",
        _balance(report.packing),
    ]
    if found.refusals:
        parts += ["", _refusals(found)]
    return Group(*parts)


def _sources(found: Survey) -> Table:
    table = Table(Column("source", overflow="fold"))
    heads = ("samples", "passes", "images", "videos", "tokens", "tiles", "share", "refused")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for source in found.sources:
        table.add_row(Text(plain(source.name)), *_row(source))
    if len(found.sources) > 1:
        table.add_section()
        table.add_row("all", *_row(found.total))
    return table


def _row(source: SourceCount) -> list[str]:
    counts = (f"{count:,}" for count in (source.images, source.videos, source.tokens, source.tiles))
    return [
        f"{source.samples:,}",
        f"{source.passes:.4g}",
        *counts,
        f"{source.share:.1%}",
        f"{source.refused:,}",
    ]


def _caption(name: str, found: Histogram) -> str:
    mean = f"{found.mean:,.0f}" if found.mean >= 100 else f"{found.mean:.1f}"
    return f"{name}: median {found.median:,}, mean {mean}, 95 in 100 up to {found.p95:,}, most {found.most:,}"


def _histogram(found: Histogram) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    most = max((row.count for row in found.bins), default=1) or 1
    for row in found.bins:
        table.add_row(row.label, Bar(most, 0, row.count, width=_BAR), f"{row.count:,}")
    return table


def _planned(packing: Packing) -> str:
    if packing.exact:
        return f"all {packing.blocks:,} blocks planned" if packing.blocks > 1 else "planned as one block"
    return f"from {packing.planned_blocks:,} of {packing.blocks:,} blocks"


def _packs(packing: Packing) -> Table:
    table = Table("packs an epoch", "samples a pack", "tokens filled")
    row = [
        f"{'' if packing.exact else 'about '}{packing.packs:,}",
        f"{packing.samples_per_pack:,.1f}",
        f"{packing.token_fill:.1%}",
    ]
    if packing.tile_fill is not None:
        table.add_column("tiles filled")
        row.append(f"{packing.tile_fill:.1%}")
    table.add_row(*row)
    for column in table.columns:
        column.justify = "right"
    return table


def _balance(packing: Packing) -> Table:
    table = Table(
        f"balance of {packing.packs_per_step} packs",
        title="How alike the packs of a step are: standard deviation and largest pack, over the mean",
        title_justify="left",
        title_style="",
    )
    for head in ("packs", "tokens spread", "tokens largest", "tiles spread", "tiles largest"):
        table.add_column(head, justify="right")
    table.add_row("as planned", *_loads(packing.planned))
    table.add_row("first fit, order of shards", *_loads(packing.first_fit))
    return table


def _loads(found: Balance) -> list[str]:
    tokens, tiles = (found.token_spread, found.token_peak), (found.tile_spread, found.tile_peak)
    return [
        f"{found.packs:,}",
        *(text for spread, peak in (tokens, tiles) for text in (f"{spread:.1%}", f"{peak:.3f}")),
    ]


def _refusals(found: Survey) -> Table:
    table = Table(
        Column("refused because of", overflow="fold"),
        Column("samples", justify="right"),
        Column("the first", overflow="fold"),
    )
    for row in found.refusals[:_LISTED]:
        table.add_row(Text(plain(row.reason)), f"{row.samples:,}", Text(plain(row.first.name)))
    if len(found.refusals) > _LISTED:
        rest = found.refusals[_LISTED:]
        table.add_row(f"{len(rest)} more reasons", f"{sum(row.samples for row in rest):,}", "")
    return table
