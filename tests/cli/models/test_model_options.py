"""Names of the folders of outputs about a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.cli.models.model_options import default_folder
from mmcomponents.cli.recipes.flags import sort_flags


@pytest.mark.parametrize(
    ("folder", "ckpt_path", "name"),
    [
        ("models/InternVL3-8B/", None, "InternVL3-8B"),
        (None, "runs/a/checkpoints/last.ckpt", "a"),
        (None, "runs/a/checkpoints/step=40.ckpt", "a-step=40"),
        (None, "runs/b/last.ckpt", "b"),
        (None, None, "8b"),
    ],
)
def test_the_folder_is_named_after_the_model(folder: str | None, ckpt_path: str | None, name: str) -> None:
    flags = sort_flags(["--config", "internvl3/8b"])
    assert default_folder(folder, flags, ckpt_path) == Path("runs/evaluate", name)
