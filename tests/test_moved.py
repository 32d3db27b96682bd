"""Files and imports of earlier versions: each former path leads to its present place, with a warning that names it."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import pytest
import torch

import mmcomponents
import tiny
from mmcomponents import moved
from mmcomponents.checkpoints import ModelSpec
from mmcomponents.checkpoints.export_folder import format_named, weights_of, write
from mmcomponents.cli.recipes.recipe import load
from mmcomponents.moved import current_path


def test_every_present_path_exists() -> None:
    for module in {*moved._MODULES.values(), *moved._PACKAGES.values()}:
        importlib.import_module(f"mmcomponents.{module}")
    for name, module in moved._EXPORTED.items():
        assert hasattr(importlib.import_module(f"mmcomponents.{module}"), name.rpartition(".")[2]), name


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("inference.Autoregressive", "generation.sampler.Autoregressive"),
        ("inference.sampler.Autoregressive", "generation.sampler.Autoregressive"),
        ("inference.selectors.BestOfN", "evaluation.selectors.BestOfN"),
        ("projectors.mlp.MLPProjector", "projectors.mlp_projector.MLPProjector"),
        ("data.RandomFrames", "data.media.frames.RandomFrames"),
        ("training.watch.GradientWatch", "training.gradients.gradient_watch.GradientWatch"),
        ("training.checkpoint.FinalCheckpoint", "training.final_checkpoint.FinalCheckpoint"),
    ],
)
def test_a_class_that_has_moved_is_found_and_named(former: str, present: str) -> None:
    with pytest.warns(FutureWarning, match=f"mmcomponents.{former} has moved to mmcomponents.{present}"):
        path = current_path(f"mmcomponents.{former}")
    assert path == f"mmcomponents.{present}"
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize("path", ["mmcomponents.training.AnswerReport", "mmcomponents.data.Index", "torch.optim.SGD"])
def test_other_paths_stay(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert current_path(path) == path


def test_a_saved_recipe_keeps_its_meaning(tmp_path: Path) -> None:
    saved = tmp_path / "recipe.yaml"
    saved.write_text(
        "extends: quickstart\n"
        "model: {sampler: {class_path: mmcomponents.inference.Autoregressive, init_args: {max_new_tokens: 7}}}\n"
        "trainer: {callbacks: [{class_path: mmcomponents.training.watch.GradientWatch}]}\n"
    )
    with pytest.warns(FutureWarning, match="has moved"):
        tree = load([str(saved)]).resolved()
    sampler = {"class_path": "mmcomponents.generation.sampler.Autoregressive", "init_args": {"max_new_tokens": 7}}
    assert tree["model"]["sampler"] == sampler
    assert tree["trainer"]["callbacks"] == [
        {"class_path": "mmcomponents.training.gradients.gradient_watch.GradientWatch"}
    ]


def test_an_exported_folder_with_former_paths_is_loaded(tmp_path: Path) -> None:
    model, folder = tiny.model(), tmp_path / "model"
    spec = ModelSpec(
        {
            "projector": {"class_path": "mmcomponents.projectors.mlp.MLPProjector", "init_args": {}},
            **{slot: {"class_path": name, "init_args": arguments} for slot, (name, arguments) in PARTS.items()},
            "heads": {"lm": {"class_path": "mmcomponents.heads.LMHead", "init_args": {}}},
        },
        vocab_size=tiny.VOCAB,
        image_token_id=tiny.IMAGE_TOKEN,
    )
    with pytest.warns(FutureWarning, match=r"projectors\.mlp\.MLPProjector has moved"):
        write(folder, spec, weights_of(model.state_dict(), spec), format_named("mmcomponents"))
    written = json.loads((folder / "config.json").read_text())
    assert written["model"]["projector"]["class_path"] == "mmcomponents.projectors.mlp.MLPProjector"
    with pytest.warns(FutureWarning, match=r"projectors\.mlp\.MLPProjector has moved"):
        loaded = mmcomponents.load(folder)
    ids, pixels = (
        torch.tensor([1, *[tiny.IMAGE_TOKEN] * tiny.VISUAL_TOKENS, 3]),
        torch.randn(1, 3, tiny.TILE, tiny.TILE),
    )
    torch.testing.assert_close(loaded.logits(ids, pixels), model.logits(ids, pixels), rtol=1e-5, atol=1e-5)


PARTS = {
    "vision": (
        "InternViT",
        {
            "hidden_size": tiny.VISION,
            "num_layers": 2,
            "num_heads": 3,
            "intermediate_size": 40,
            "image_size": tiny.TILE,
            "patch_size": tiny.PATCH,
        },
    ),
    "merger": ("PixelUnshuffle", {}),
    "embedder": ("TokenEmbedder", {}),
    "position": ("V2PE", {"delta": 0.25}),
    "backbone": (
        "DecoderLM",
        {
            "hidden_size": tiny.WIDTH,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "intermediate_size": 48,
        },
    ),
}


def test_former_imports_still_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"mmcomponents\.inference\.generate has moved to"):
        from mmcomponents.inference import generate
    with pytest.warns(DeprecationWarning, match="split_steps has moved to"):
        from mmcomponents.inference import split_steps
    with pytest.warns(DeprecationWarning, match="ExactMatch has moved to"):
        from mmcomponents.inference.evaluation.metrics import ExactMatch
    with pytest.warns(DeprecationWarning, match="Runtime has moved to"):
        from mmcomponents.batch import Runtime
    from mmcomponents.data.index import Index
    from mmcomponents.evaluation import split_steps as present_steps
    from mmcomponents.evaluation.metrics import ExactMatch as PresentMatch
    from mmcomponents.generation import generate as present
    from mmcomponents.nn.runtime import Runtime as PresentRuntime

    assert (generate, split_steps, ExactMatch, Runtime) == (present, present_steps, PresentMatch, PresentRuntime)
    assert Index is mmcomponents.data.Index


@pytest.mark.parametrize("module", ["mmcomponents.inference", "mmcomponents.data", "mmcomponents.batch"])
def test_unknown_names_are_attribute_errors(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing
