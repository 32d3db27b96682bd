"""What a user looks at before a training run: counts, expected packs, and samples as the model sees them."""

from mmcomponents.data.inspection.histogram import Bin, Histogram
from mmcomponents.data.inspection.opening import Opened, open_part
from mmcomponents.data.inspection.packing import Balance, Packing, first_fit, measure_balance, measure_packing
from mmcomponents.data.inspection.page import render_page
from mmcomponents.data.inspection.report import Report, inspect_data
from mmcomponents.data.inspection.shown import ShownSample, show_sample, show_samples
from mmcomponents.data.inspection.survey import RefusedSample, SourceCount, Survey, survey

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
