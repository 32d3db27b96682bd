"""A picture: the figure against the number of candidates, a line for each selector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_MARKERS = "osD^vPX*"
_FEW = 16
"""Candidates up to which each N has a marker."""
_GAP = 0.025
"""Between two intervals, as a share of the largest N."""


def draw_accuracy(
    figures: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path, title: str, metric: str
) -> None:
    """Draws the figures of a report.

    Args:
        figures: Selector -> N -> value, low, high; see `summary`.
        path: Of the PNG.
        title: What was measured.
        metric: What the figure is called.
    """
    figure = Figure(figsize=(7.5, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    intervals = None
    for number, (name, by_count) in enumerate(figures.items()):
        counts = [int(count) for count in by_count]
        values = [by_count[str(count)]["value"] for count in counts]
        few = len(counts) <= _FEW
        # lines that lie on one another stay visible: markers differ, and the lower lines are thicker
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
            # side by side behind the last N: bands around the lines would cover one another
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
    # without a version or a date in it, equal figures give equal files
    figure.savefig(path, metadata={"Software": None})
