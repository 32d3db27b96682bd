"""Inspection of data before a run.

    Index, PackPlan ── survey, measure_packing ──► Report ──► tables, HTML page with samples as the model sees them

Nothing is trained or written except the page.
"""

from mmcomponents.data.inspection.histogram import Bin, Histogram
from mmcomponents.data.inspection.html_page import render_page
from mmcomponents.data.inspection.index_survey import RefusedSample, SourceCount, Survey, survey
from mmcomponents.data.inspection.inspection_report import Report, inspect_data
from mmcomponents.data.inspection.opened_part import Opened, open_part
from mmcomponents.data.inspection.pack_statistics import Balance, Packing, first_fit, measure_balance, measure_packing
from mmcomponents.data.inspection.sample_view import ShownSample, show_sample, show_samples

__all__ = [
    "Balance",
    "Bin",
    "Histogram",
    "Opened",
    "Packing",
    "RefusedSample",
    "Report",
    "ShownSample",
    "SourceCount",
    "Survey",
    "first_fit",
    "inspect_data",
    "measure_balance",
    "measure_packing",
    "open_part",
    "render_page",
    "show_sample",
    "show_samples",
    "survey",
]
