"""Plots: the figure over the number of candidates, with one line per selector; a metric of several variants."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_MARKERS = "osD^vPX*"
_FEW = 16
"""Largest number of candidates for which each N has a marker."""
_GAP = 0.025
"""Distance between two intervals, relative to the largest N."""


def draw_accuracy(
    figures: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path, title: str, metric: str
) -> None:
    """Plots the figures of a report.

    Args:
        figures: Selector -> N -> value, low, high; see `summary`.
        path: Path of the PNG file.
        title: Title of the plot.
        metric: Label of the y-axis.
    """
    figure = Figure(figsize=(7.5, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    intervals = None
    for number, (name, by_count) in enumerate(figures.items()):
        counts = [int(count) for count in by_count]
        values = [by_count[str(count)]["value"] for count in counts]
        few = len(counts) <= _FEW
        # keeps coinciding lines visible: markers differ, and earlier lines are thicker
        (line,) = axes.plot(
            counts,
            values,
            label=name.replace("_", " "),
            marker=_MARKERS[number % len(_MARKERS)] if few else None,
            markersize=5,
            linewidth=1 + 0.5 * (len(figures) - number),
        )
        last = by_count[str(counts[-1])]
        if "low" in last:
            # side by side after the last N: bands around the lines would overlap
            place = counts[-1] + (number + 1) * _GAP * max(1, counts[-1])
            ends = [[last["value"] - last["low"]], [last["high"] - last["value"]]]
            axes.errorbar([place], [last["value"]], yerr=ends, color=line.get_color(), capsize=3, linewidth=1.2)
            intervals = f"bars: 95 % intervals at N = {counts[-1]}"
    axes.set_title(title)
    axes.set_xlabel("candidates N")
    axes.set_ylabel(metric)
    most = max((int(count) for by_count in figures.values() for count in by_count), default=1)
    ticks = range(1, most + 1) if most <= _FEW else MaxNLocator(integer=True).tick_values(1, most)
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= most])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(alpha=0.3)
    axes.legend(title=intervals, fontsize="small", title_fontsize="small")
    # no version in the metadata: equal figures give equal files
    figure.savefig(path, metadata={"Software": None})


def draw_variants(
    values: Mapping[str, Sequence[float]], path: Path, title: str, metric: str, bases: Mapping[str, str]
) -> None:
    """Plots a metric of several variants: a point for each run, mean and standard deviation of each variant.

    Args:
        values: Values of the runs of each variant.
        path: Path of the file, whose suffix is png or svg.
        title: Title of the plot.
        metric: Label of the x-axis.
        bases: Name of the variant that each is compared with, at whose mean there is a line.
    """
    drawn = {name: runs for name, runs in values.items() if runs}
    figure = Figure(figsize=(7.5, 1.4 + 0.42 * len(drawn)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for place, (name, runs) in enumerate(drawn.items()):
        colour, mean, base = "C0" if name == bases[name] else "C1", statistics.fmean(runs), drawn.get(bases[name])
        spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0
        axes.plot(runs, [place] * len(runs), "o", color=colour, alpha=0.35, markersize=5)
        axes.errorbar([mean], [place], xerr=[spread], fmt="D", color=colour, capsize=4, markersize=6)
        if base:
            axes.plot([statistics.fmean(base)] * 2, [place - 0.5, place + 0.5], "--", color="C0", linewidth=0.8)
    axes.set_yticks(range(len(drawn)), [*drawn])
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.set_title(title, fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    several = any(len(runs) > 1 for runs in drawn.values())
    bars = ", bars: standard deviation over seeds" if several else ""
    note = f"points: runs; diamonds: means{bars}; line: mean of the base"
    figure.supxlabel(note, fontsize="x-small", color="gray")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
