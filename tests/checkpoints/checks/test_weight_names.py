"""Tests of the comparison of weights with a model."""

from __future__ import annotations

from typing import Any

import pytest

from mmcomponents.checkpoints import ModelSpec
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.weight_names import check_layers

NAMES = [f"backbone.layers.{n}.mlp.up_proj.weight" for n in range(2)] + ["vision.blocks.0.ls1", "vision.blocks.0.ls2"]


def _spec(decoder: Any, vision: Any, **more: Any) -> ModelSpec:
    return ModelSpec(
        {
            "backbone": {"class_path": "DecoderLM", "init_args": {"num_layers": decoder}},
            "vision": {"class_path": "mmcomponents.vision.InternViT", "init_args": {"num_layers": vision, **more}},
        }
    )


def test_layers_are_counted_in_the_names_of_the_weights() -> None:
    check_layers(_spec(2, 1), NAMES)
    with pytest.raises(CheckpointError, match="has 10000000 layers of the backbone and the weights have 2"):
        check_layers(_spec(10**7, 1), NAMES)
    with pytest.raises(CheckpointError, match="has 3 layers of the vision and the weights have 1"):
        check_layers(_spec(2, 3), NAMES)


def test_parts_whose_layers_are_not_known_are_not_counted() -> None:
    check_layers(_spec(2, 3, levels=[1]), NAMES)
    check_layers(_spec(2, "x"), NAMES)
    check_layers(ModelSpec({"backbone": {"class_path": "TransformersLM", "init_args": {"num_layers": 9}}}), NAMES)
