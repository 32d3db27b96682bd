"""HTML page of an inspection: one file with embedded images, without external resources and scripts.

Texts of the data are not trusted: Jinja escapes them, and the page's content security policy blocks scripts and
external resources.
"""

from __future__ import annotations

import base64
import io
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from mmcomponents.data.inspection.histogram import Histogram
from mmcomponents.data.inspection.inspection_report import Report
from mmcomponents.data.inspection.sample_view import ShownSample
from mmcomponents.plain_text import odd_marks

TEMPLATE = "template.html"
SMALL = 128
"""Tiles with sides up to this many pixels are stored losslessly and shown pixelated; larger ones are stored as JPEG."""
_QUALITY = 92


def render_page(report: Report, samples: list[ShownSample], title: str) -> str:
    """Renders the page.

    Args:
        report: The figures.
        samples: The samples to show; those with a problem are listed at the end.
        title: Title of the page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "number": _number, "percent": _percent, "url": data_url, "bars": bars}
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        report=report,
        survey=report.survey,
        packing=report.packing,
        samples=[sample for sample in samples if not sample.problem],
        unreadable=[sample for sample in samples if sample.problem],
        small=SMALL,
        title=title,
    )


def visible(text: str) -> Markup:
    """Escapes a text of the data; invisible characters become small marks."""
    mark = Markup('<span class="odd" title="{}">{}</span>')
    return Markup("").join(mark.format(name, part) if name else escape(part) for part, name in odd_marks(text))


def data_url(image: Image.Image) -> str:
    """Encodes an image as a data: URL."""
    file = io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def bars(histogram: Histogram) -> list[tuple[str, int, float]]:
    """Returns label, count and width in percent of each bar."""
    most = max((found.count for found in histogram.bins), default=1) or 1
    return [(found.label, found.count, 100 * found.count / most) for found in histogram.bins]


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
