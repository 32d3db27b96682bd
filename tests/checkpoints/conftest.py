"""Fixtures of the checkpoint tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoints_models import STYLES, hf_model


@pytest.fixture(params=STYLES, ids=lambda style: "-".join(map(str, style)))
def hf(request: pytest.FixtureRequest) -> Any:
    return hf_model(*request.param)


@pytest.fixture
def hf_folder(hf: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    hf.save_pretrained(folder)
    return folder
