"""Terminal tables of `mmcomponents data inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Column, Table

from mmcomponents.cli.terminal.tables import cell

if TYPE_CHECKING:
    from mmcomponents.data.inspection import Balance, Histogram, Packing, Report, SourceCount, Survey

_BAR = 40
_LISTED = 12
"""Most reasons that are listed."""


def figures(report: Report) -> Group:
    """Returns all figures of an inspection."""
    found, total = report.survey, report.survey.total
    budget = f"{report.budgets.tokens:,} tokens"
    budget += "" if report.budgets.tiles is None else f" and {report.budgets.tiles:,} tiles"
    parts: list[RenderableType] = [
        _sources(found),
        *(cell(note) for note in found.notes),
        f"An epoch has {total.epoch_tokens:,.0f} tokens: text {found.text_share:.1%}, multimodal "
        f"{1 - found.text_share:.1%}.",
        "",
        _caption("tokens per sample", found.tokens),
        _histogram(found.tokens),
        "",
        _caption("tiles per sample", found.tiles),
        _histogram(found.tiles),
        "",
        f"Packs of {budget}, epoch {report.epoch}, {_planned(report.packing)}",
        _packs(report.packing),
        "",
        _balance(report.packing),
    ]
    if found.refusals:
        parts += ["", _skipped(found)]
    return Group(*parts)


def _sources(found: Survey) -> Table:
    table = Table(Column("source", overflow="fold"))
    heads = ("samples", "passes", "images", "videos", "tokens", "tiles", "share", "skipped")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for source in found.sources:
        table.add_row(cell(source.name), *_counts(source))
    if len(found.sources) > 1:
        table.add_section()
        table.add_row("all", *_counts(found.total))
    return table


def _counts(source: SourceCount) -> list[str]:
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
    return f"{name}: median {found.median:,}, mean {mean}, 95th percentile {found.p95:,}, maximum {found.most:,}"


def _histogram(found: Histogram) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    most = max((bin_.count for bin_ in found.bins), default=1) or 1
    for bin_ in found.bins:
        table.add_row(bin_.label, Bar(most, 0, bin_.count, width=_BAR), f"{bin_.count:,}")
    return table


def _planned(packing: Packing) -> str:
    if packing.exact:
        return f"all {packing.blocks:,} blocks planned" if packing.blocks > 1 else "planned as one block"
    return f"from {packing.planned_blocks:,} of {packing.blocks:,} blocks"


def _packs(packing: Packing) -> Table:
    table = Table("packs per epoch", "samples per pack", "tokens filled")
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
        title="Balance of the packs of a step: standard deviation and largest pack, relative to the mean",
        title_justify="left",
        title_style="",
    )
    for head in ("packs", "tokens std", "tokens largest", "tiles std", "tiles largest"):
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


def _skipped(found: Survey) -> Table:
    table = Table(
        Column("skipped because of", overflow="fold"),
        Column("samples", justify="right"),
        Column("first sample", overflow="fold"),
    )
    for reason in found.refusals[:_LISTED]:
        table.add_row(cell(reason.reason), f"{reason.samples:,}", cell(reason.first.name))
    if rest := found.refusals[_LISTED:]:
        table.add_row(f"{len(rest)} more reasons", f"{sum(reason.samples for reason in rest):,}", "")
    return table
