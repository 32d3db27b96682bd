"""An inspection as one HTML file: images lie inside it, nothing is fetched, and no script runs.

What comes from the data is hostile: Jinja escapes all of it, and a content policy in the page forbids the rest.
"""

from __future__ import annotations

import base64
import io
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from mmcomponents.data.inspection.histogram import Histogram
from mmcomponents.data.inspection.report import Report
from mmcomponents.data.inspection.shown import ShownSample
from mmcomponents.data.inspection.text import odd_marks

TEMPLATE = "template.html"
SMALL = 128
"""Tiles up to this side are stored without loss and shown with their pixels; larger ones as JPEG of high quality."""
_QUALITY = 92


def render_page(report: Report, samples: list[ShownSample], title: str) -> str:
    """Makes the page.

    Args:
        report: The figures.
        samples: What is shown; those with a problem stand at the end.
        title: What was inspected.
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
    """Escapes a text of the data; characters that cannot be seen become small marks."""
    mark = Markup('<span class="odd" title="{}">{}</span>')
    return Markup("").join(mark.format(name, part) if name else escape(part) for part, name in odd_marks(text))


def data_url(image: Image.Image) -> str:
    """An image as an address that holds the image itself."""
    file = io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def bars(histogram: Histogram) -> list[tuple[str, int, float]]:
    """Label, count and width in percent of each bar."""
    most = max((found.count for found in histogram.bins), default=1) or 1
    return [(found.label, found.count, 100 * found.count / most) for found in histogram.bins]


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
