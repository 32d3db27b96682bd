from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoints_models import STYLES, hf_model, ids_and_pixels
from mmcomponents.checkpoints import CheckpointError, convert, read, save


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def test_a_model_comes_back_to_the_bit_through_every_format(hf: Any, hf_folder: Path, tmp_path: Path) -> None:
    at, steps = hf_folder, ("mmcomponents", "official", "mmcomponents", "transformers")
    for number, name in enumerate(steps):
        convert(read(at), tmp_path / str(number), name)
        at = tmp_path / str(number)
    first, last = _tensors(hf_folder), _tensors(at)
    assert set(first) == set(last)
    assert all(torch.equal(first[name], last[name]) and first[name].dtype == last[name].dtype for name in first)
    from transformers import AutoModelForImageTextToText

    again = AutoModelForImageTextToText.from_pretrained(at).eval()
    ids, pixels = ids_and_pixels(2)
    with torch.no_grad():
        expected = hf(input_ids=ids[None], pixel_values=pixels).logits
        assert torch.equal(again(input_ids=ids[None], pixel_values=pixels).logits, expected)
    official = json.loads((tmp_path / "1" / "config.json").read_text())
    assert official["ps_version"] == "v2"
    assert official["llm_config"]["tie_word_embeddings"] == hf.config.tie_word_embeddings


def test_bf16_stays_bf16(tmp_path: Path) -> None:
    hf_model(*STYLES[0]).bfloat16().save_pretrained(tmp_path / "hf")
    convert(read(tmp_path / "hf"), tmp_path / "out", "official")
    assert {v.dtype for v in _tensors(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_and_their_index(hf_folder: Path, tmp_path: Path) -> None:
    written: list[int] = []
    convert(read(hf_folder), tmp_path / "out", "official", max_shard=30_000, progress=written.append)
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) == len(written) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(written)
    assert {name: file.name for file in shards for name in load_file(file)} == index["weight_map"]
    convert(read(tmp_path / "out"), tmp_path / "back", "transformers")
    first, last = _tensors(hf_folder), _tensors(tmp_path / "back")
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_a_trained_model_is_saved_with_its_new_weights(hf_folder: Path, tmp_path: Path) -> None:
    checkpoint = read(hf_folder)
    model = checkpoint.load()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    save(model, tmp_path / "out", like=checkpoint, format="transformers")
    first, last = _tensors(hf_folder), _tensors(tmp_path / "out")
    assert set(first) == set(last)
    assert all(torch.equal(first[name] + 1, last[name]) for name in first)


def test_order_v1_is_refused_by_transformers_and_kept_by_the_others(hf_folder: Path, tmp_path: Path) -> None:
    convert(read(hf_folder), tmp_path / "official", "official")
    config = json.loads((tmp_path / "official" / "config.json").read_text())
    (tmp_path / "official" / "config.json").write_text(json.dumps(config | {"ps_version": "v1"}))
    convert(read(tmp_path / "official"), tmp_path / "ours", "mmcomponents")
    with pytest.raises(CheckpointError, match="order v1"):
        convert(read(tmp_path / "ours"), tmp_path / "hf2", "transformers")
    assert not (tmp_path / "hf2").exists()
    assert not (tmp_path / "hf2.part").exists()
    convert(read(tmp_path / "ours"), tmp_path / "again", "official")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["ps_version"] == "v1"


def test_what_only_the_source_knew_is_carried_over(hf_folder: Path, tmp_path: Path) -> None:
    convert(read(hf_folder), tmp_path / "official", "official")
    config = json.loads((tmp_path / "official" / "config.json").read_text())
    config |= {"design2": 3, "system_message": "Be brief.", "max_dynamic_patch": 6}
    config["vision_config"]["drop_path_rate"] = 0.1
    (tmp_path / "official" / "config.json").write_text(json.dumps(config))
    convert(read(tmp_path / "official"), tmp_path / "ours", "mmcomponents")
    convert(read(tmp_path / "ours"), tmp_path / "again", "official")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (again["design2"], again["system_message"], again["max_dynamic_patch"]) == (3, "Be brief.", 6)
    assert again["vision_config"]["drop_path_rate"] == 0.1
    assert again == config


def test_other_parts_are_named_when_a_format_cannot_hold_them(hf_folder: Path, tmp_path: Path) -> None:
    checkpoint = read(hf_folder)
    checkpoint.spec.parts["projector"] = {"class_path": "LinearProjector"}
    checkpoint.weights = {
        n: w for n, w in checkpoint.weights.items() if not n.startswith(("projector.norm", "projector.fc"))
    }
    with pytest.raises(CheckpointError, match=r"lacks projector\.linear"):
        convert(checkpoint, tmp_path / "out", "official")


def test_nothing_is_overwritten_and_names_are_checked(hf_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="already exists"):
        convert(read(hf_folder), hf_folder, "official")
    with pytest.raises(CheckpointError, match="no format is called 'gguf'; formats are mmcomponents, official"):
        convert(read(hf_folder), tmp_path / "out", "gguf")


def test_folders_beside_are_left_alone_and_a_failed_export_leaves_none(hf_folder: Path, tmp_path: Path) -> None:
    for name in ("out.part", "out.old", "out.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    before = {path.name for path in tmp_path.iterdir()}
    convert(read(hf_folder), tmp_path / "out", "official")
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    assert all((tmp_path / name / "mine").is_file() for name in ("out.part", "out.old", "out.new"))
    broken = read(hf_folder)
    del broken.weights["backbone.norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks backbone\.norm\.weight"):
        convert(broken, tmp_path / "other", "official")
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    assert (tmp_path / "out").stat().st_mode == tmp_path.stat().st_mode


def test_code_is_not_pointed_to_and_types_are_those_of_the_weights(hf_folder: Path, tmp_path: Path) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "theirs.Model"}
    config["text_config"] |= {"auto_map": {"AutoModel": "theirs.Text"}, "dtype": "bfloat16"}
    (hf_folder / "config.json").write_text(json.dumps(config))
    convert(read(hf_folder), tmp_path / "out", "transformers")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "auto_map" not in json.dumps(written)
    assert (written["dtype"], written["text_config"].get("dtype")) == ("float32", None)
