"""What variants differ in from the base."""

from __future__ import annotations

from typing import Any

from mmcomponents.cli.ablation.ablation_differences import differences_of
from mmcomponents.cli.ablation.ablation_spec import make_ablation


def lines(tree: dict[str, Any], *over: str) -> list[str]:
    return differences_of(make_ablation(tree, ["quickstart"], [], over, None).variants)


def test_arguments_that_another_class_has_by_default_are_told_once() -> None:
    told = lines({}, "model.projector=MLPProjector,LinearProjector", "model.position=V2PE,RoPE")
    assert told == ["position=RoPE: model.position.base default (base: 10000.0)"]


def test_values_that_the_table_shows_are_left_out() -> None:
    assert lines({}, "model.optimizer.lr=1e-3,3e-4") == []
    assert lines({}, "model.projector=MLPProjector,my.package.Own") == []
    assert lines({}, "trainer.deterministic=true,false") == []


def test_named_settings_are_told() -> None:
    tree = {"over": {"loss": {"square": {}, "token": {"model.objective.weighting": "token"}}}}
    assert lines(tree) == ["loss=token: model.objective.weighting token (base: square)"]


def test_runs_with_recipes_of_their_own_are_told() -> None:
    (line,) = lines({"runs": {"base": {}, "whole": {"config": "hovle/tiny"}, "broken": {"config": "no/such"}}})
    assert line.startswith("run=whole: model.vision PatchStem (base: InternViT); model.vision.hidden_size 128 (base")
    assert "num_heads default" not in line  # PatchStem has no such argument
    assert "default_root_dir" not in line
    assert line.endswith("; and 1 more")
