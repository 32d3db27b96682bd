"""Plots of evaluations and ablations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mmcomponents.evaluation.plot import draw_variants


def test_each_variant_with_runs_is_drawn(tmp_path: Path) -> None:
    values = {"base": [0.2, 0.3], "other": [0.5], "failed": []}
    bases = dict.fromkeys(values, "base")
    draw_variants(values, tmp_path / "a.png", "title", "exact_match", bases)
    tall = Image.open(tmp_path / "a.png").size[1]
    assert (np.asarray(Image.open(tmp_path / "a.png").convert("L")) < 250).any()
    draw_variants(values, tmp_path / "a.svg", "title", "exact_match", bases)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    draw_variants({"base": [0.2]}, tmp_path / "b.png", "title", "exact_match", bases)
    assert Image.open(tmp_path / "b.png").size[1] < tall


def test_equal_values_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_variants({"x": [1.0, 2.0]}, tmp_path / name, "title", "loss", {"x": "x"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
