"""Contract tests for parts, of this library and of others.

    slot, factory ── check_component ──► Report (passed, failed and by how much, not applicable and why)

A part is tested in a small InternVL3, in which it fills its slot. `check_record_kind` and `check_packer` test the parts
that data is made with. `pytest_plugin` is a plugin for pytest.
"""

from mmcomponents.testing.case import NeutralStart
from mmcomponents.testing.component_check import check_component
from mmcomponents.testing.composition import small_model, small_parts
from mmcomponents.testing.data_parts import check_packer, check_record_kind
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE, join, pack
from mmcomponents.testing.ranks import Ranks
from mmcomponents.testing.report import ContractError, Report, Result
from mmcomponents.testing.sample_packs import (
    MakePacks,
    box_packs,
    image_packs,
    preference_packs,
    step_packs,
    text_packs,
)

__all__ = [
    "IMAGE_TOKEN",
    "VOCAB_SIZE",
    "ContractError",
    "NeutralStart",
    "MakePacks",
    "Ranks",
    "Report",
    "Result",
    "box_packs",
    "check_component",
    "check_packer",
    "check_record_kind",
    "image_packs",
    "join",
    "pack",
    "preference_packs",
    "small_model",
    "small_parts",
    "step_packs",
    "text_packs",
]
